//! Where an object of the overlay is: which namespace, which device.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::netns::Netns;

/// A network namespace, named so that a later process finds the same one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The named namespace `/run/netns/NAME` of an overlay.
    Named(String),
    /// A container's namespace: where it was found, and its identity, because a path may come to name
    /// another one (a pid is used again, a container is started again).
    Container {
        /// What was opened.
        path: PathBuf,
        /// Inode of the namespace.
        inode: u64,
    },
}

impl Place {
    /// The container's namespace `netns`.
    pub fn of_container(netns: &Netns) -> Self {
        Self::Container { path: netns.path().to_owned(), inode: netns.inode() }
    }

    /// Opens the namespace; `None` if it is gone.
    pub(super) fn open(&self) -> io::Result<Option<Netns>> {
        let opened = match self {
            Self::Named(name) => Netns::named(name),
            Self::Container { path, .. } => Netns::open(path, &self.to_string()),
        };
        let netns = match opened {
            Ok(netns) => netns,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        match self {
            Self::Container { inode, .. } if netns.inode() != *inode => Ok(None),
            _ => Ok(Some(netns)),
        }
    }
}

/// Whether opening a namespace failed because it is not there (ESRCH: its process is just ending).
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "namespace {name}"),
            Self::Container { path, .. } => write!(f, "container {}", short(path)),
        }
    }
}

/// `c1` for `/run/netns/c1`, `pid 7` for `/proc/7/ns/net`.
fn short(path: &Path) -> String {
    let text = path.to_string_lossy();
    if let Some(pid) = text.strip_prefix("/proc/").and_then(|rest| rest.strip_suffix("/ns/net")) {
        return format!("pid {pid}");
    }
    path.file_name().map_or_else(|| text.to_string(), |name| name.to_string_lossy().into_owned())
}

/// A device: its namespace and its name there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LinkAt {
    /// Namespace.
    pub place: Place,
    /// Device name.
    pub name: String,
}

impl LinkAt {
    /// The device `name` in `place`.
    pub fn new(place: &Place, name: impl fmt::Display) -> Self {
        Self { place: place.clone(), name: name.to_string() }
    }
}

impl fmt::Display for LinkAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.name, self.place)
    }
}

/// Serde of lists of values that print and parse as text.
pub(crate) mod as_texts {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<T: Display, S: Serializer>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Vec<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let words = Vec::<String>::deserialize(from)?;
        words.iter().map(|word| word.parse().map_err(de::Error::custom)).collect()
    }
}

/// Serde of values that print and parse as text.
pub(crate) mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}
