//! The ledger: what this configuration created on the host, and therefore may remove again.
//!
//! A file of JSON lines beside the API socket, in `/run` like the kernel state that it describes.
//! The first line names the format, each further line adds or removes one entry.
//! An entry is written *before* its object is created and taken out after the object is gone, so whoever
//! is killed in between leaves an entry too many, never one too few.
//! Opening rewrites the file to its shortest form (new file, then rename), and so do long sessions.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::desired::Row;
use super::observed::Observed;
use super::place::{LinkAt, Place, as_text};

/// Version of the format; a file of another version is refused.
const VERSION: u32 = 1;

/// Removed entries that may pile up in the file before it is rewritten. Fewer: a busy daemon rewrites a
/// big ledger often. More: a ledger of a few rows grows to some hundred kilobytes.
const DEAD_LINES: usize = 4096;

/// What this configuration created.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    /// Open for appending; `None` until the first entry, so that looking leaves no file behind.
    file: Option<File>,
    dead: usize,
    created: Created,
}

/// The entries.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Created {
    /// Named namespaces, with their inode once known.
    pub netns: BTreeMap<String, Option<u64>>,
    /// Devices (of a veth both ends), with their index once known.
    pub links: BTreeMap<LinkAt, Option<u32>>,
    /// Addresses.
    pub addresses: BTreeSet<(LinkAt, IpNet)>,
    /// Rows by vxlan device.
    pub rows: BTreeMap<LinkAt, HashSet<Row>>,
}

/// One object that was created.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "object", rename_all = "kebab-case")]
pub enum Entry {
    /// A named namespace.
    Netns {
        /// File name under `/run/netns`.
        name: String,
        /// Its identity; absent until it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inode: Option<u64>,
    },
    /// A device.
    Link {
        /// Which.
        at: LinkAt,
        /// Its index; absent until it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        index: Option<u32>,
    },
    /// An address.
    Address {
        /// Device.
        at: LinkAt,
        /// Address and prefix length.
        #[serde(with = "as_text")]
        address: IpNet,
    },
    /// A row.
    Row {
        /// The vxlan device.
        at: LinkAt,
        /// The row.
        row: Row,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Ledger { version: u32 },
    Add(Entry),
    Remove(Entry),
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Reading or writing failed.
    #[error("cannot {what} the ledger {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A line is not what we write.
    #[error(
        "the ledger {} is damaged at line {line}: {reason}; if it cannot be restored, move it away: what it \
         named then counts as made by somebody else, is adopted by `vxdp run` and left standing by `vxdp down`",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl Ledger {
    /// Reads the ledger at `path`; a missing file is an empty ledger.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let mut ledger = Self { path: path.to_owned(), file: None, dead: 0, created: Created::default() };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ledger),
            Err(error) => return Err(ledger.failed("read")(error)),
        };
        ledger.created = parse(&text).map_err(|(line, reason)| LedgerError::Damaged {
            path: path.to_owned(),
            line,
            reason,
        })?;
        ledger.rewrite()?;
        Ok(ledger)
    }

    /// The entries.
    pub fn created(&self) -> &Created {
        &self.created
    }

    /// Adds entries, in the file first.
    pub(super) fn add(&mut self, entries: &[Entry]) -> Result<(), LedgerError> {
        self.append(entries, Line::Add)?;
        for entry in entries {
            self.created.insert(entry.clone());
        }
        Ok(())
    }

    /// Takes entries out, if they are in.
    pub(super) fn remove(&mut self, entries: &[Entry]) -> Result<(), LedgerError> {
        let entries: Vec<Entry> = entries.iter().filter(|entry| self.created.has(entry)).cloned().collect();
        if entries.is_empty() {
            return Ok(());
        }
        self.append(&entries, Line::Remove)?;
        for entry in &entries {
            self.created.remove(entry);
        }
        self.dead += 2 * entries.len();
        if self.created == Created::default() || self.dead > DEAD_LINES.max(self.created.len()) {
            self.rewrite()?;
        }
        Ok(())
    }

    /// Takes out what is not there any more, or is not what was created: its namespace or device is
    /// another one of the same name, its row says something else.
    pub(super) fn forget_gone(&mut self, observed: &Observed) -> Result<(), LedgerError> {
        let gone = self.created.gone(observed);
        self.remove(&gone)
    }

    fn append(&mut self, entries: &[Entry], line: fn(Entry) -> Line) -> Result<(), LedgerError> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            self.rewrite_as(&self.created)?;
            let file = OpenOptions::new().append(true).open(&self.path);
            self.file = Some(file.map_err(self.failed("open"))?);
        }
        let text: String = entries.iter().map(|entry| line(entry.clone()).text()).collect();
        let mut file = self.file.as_ref().expect("opened above");
        file.write_all(text.as_bytes()).map_err(self.failed("write"))
    }

    /// Writes the shortest form; an empty ledger leaves no file.
    fn rewrite(&mut self) -> Result<(), LedgerError> {
        self.file = None;
        self.dead = 0;
        if self.created != Created::default() {
            return self.rewrite_as(&self.created);
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove")(error)),
            _ => Ok(()),
        }
    }

    fn rewrite_as(&self, created: &Created) -> Result<(), LedgerError> {
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory).map_err(self.failed("make the directory of"))?;
        }
        let mut text = Line::Ledger { version: VERSION }.text();
        text.extend(created.entries().map(|entry| Line::Add(entry).text()));
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&temporary)?.write_all(text.as_bytes())?;
            fs::rename(&temporary, &self.path)
        };
        write().map_err(self.failed("write"))
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> LedgerError + use<> {
        let path = self.path.clone();
        move |source| LedgerError::Io { what, path: path.clone(), source }
    }
}

impl Line {
    fn text(&self) -> String {
        let mut text = serde_json::to_string(self).expect("plain data with text keys serialises");
        text.push('\n');
        text
    }
}

/// Replays the lines. A last line without its end is one that was being written when its writer was
/// killed: nothing had been created for it yet, so it does not count.
fn parse(text: &[u8]) -> Result<Created, (usize, String)> {
    let text = std::str::from_utf8(text).map_err(|error| (1, error.to_string()))?;
    let mut created = Created::default();
    let mut known_version = false;
    let whole_lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    for (number, line) in (1..).zip(whole_lines) {
        let line = serde_json::from_str(line).map_err(|error| (number, error.to_string()))?;
        match line {
            Line::Ledger { version: VERSION } if number == 1 => known_version = true,
            Line::Ledger { version } => return Err((number, format!("version {version} is not known here"))),
            _ if !known_version => return Err((number, "the first line must name the version".into())),
            Line::Add(entry) => created.insert(entry),
            Line::Remove(entry) => created.remove(&entry),
        }
    }
    Ok(created)
}

impl Created {
    /// Whether the device is ours to remove.
    pub fn owns(&self, at: &LinkAt) -> bool {
        self.links.contains_key(at)
    }

    /// Whether the named namespace is ours to remove.
    pub fn owns_netns(&self, name: &str) -> bool {
        self.netns.contains_key(name)
    }

    /// Whether the object is in the ledger, however much is known of it.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Netns { name, .. } => self.owns_netns(name),
            Entry::Link { at, .. } => self.owns(at),
            Entry::Address { at, address } => self.addresses.contains(&(at.clone(), *address)),
            Entry::Row { at, row } => self.rows.get(at).is_some_and(|rows| rows.contains(row)),
        }
    }

    /// The namespaces that entries are in.
    pub(super) fn places(&self) -> BTreeSet<Place> {
        let links = self.links.keys().chain(self.addresses.iter().map(|(at, _)| at)).chain(self.rows.keys());
        let named = self.netns.keys().map(|name| Place::Named(name.clone()));
        links.map(|at| at.place.clone()).chain(named).collect()
    }

    fn len(&self) -> usize {
        let rows: usize = self.rows.values().map(HashSet::len).sum();
        self.netns.len() + self.links.len() + self.addresses.len() + rows
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let netns = self.netns.iter().map(|(name, &inode)| Entry::Netns { name: name.clone(), inode });
        let links = self.links.iter().map(|(at, &index)| Entry::Link { at: at.clone(), index });
        let addresses = self.addresses.iter();
        let addresses = addresses.map(|(at, address)| Entry::Address { at: at.clone(), address: *address });
        let rows = self
            .rows
            .iter()
            .flat_map(|(at, rows)| rows.iter().map(|&row| Entry::Row { at: at.clone(), row }));
        netns.chain(links).chain(addresses).chain(rows)
    }

    fn insert(&mut self, entry: Entry) {
        match entry {
            Entry::Netns { name, inode } => {
                self.netns.insert(name, inode);
            }
            Entry::Link { at, index } => {
                self.links.insert(at, index);
            }
            Entry::Address { at, address } => {
                self.addresses.insert((at, address));
            }
            Entry::Row { at, row } => {
                self.rows.entry(at).or_default().insert(row);
            }
        }
    }

    /// Removes an entry; with a device go its rows and addresses.
    fn remove(&mut self, entry: &Entry) {
        match entry {
            Entry::Netns { name, .. } => {
                self.netns.remove(name);
            }
            Entry::Link { at, .. } => {
                self.links.remove(at);
                self.rows.remove(at);
                self.addresses.retain(|(of, _)| of != at);
            }
            Entry::Address { at, address } => {
                self.addresses.remove(&(at.clone(), *address));
            }
            Entry::Row { at, row } => {
                if let Some(rows) = self.rows.get_mut(at) {
                    rows.remove(row);
                    if rows.is_empty() {
                        self.rows.remove(at);
                    }
                }
            }
        }
    }

    fn gone(&self, observed: &Observed) -> Vec<Entry> {
        let here = |entry: &Entry| match entry {
            Entry::Netns { name, inode } => {
                let space = observed.spaces.get(&Place::Named(name.clone()));
                let stale = inode.is_none() && observed.stale.contains(name);
                stale || space.is_some_and(|space| inode.is_none_or(|inode| inode == space.inode))
            }
            Entry::Link { at, index } => {
                observed.link(at).is_some_and(|link| index.is_none_or(|index| index == link.index))
            }
            Entry::Address { at, address } => {
                observed.link(at).is_some_and(|link| link.addresses.contains(address))
            }
            Entry::Row { at, row } => observed.link(at).is_some_and(|link| link.rows.has(row)),
        };
        self.entries().filter(|entry| !here(entry)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn link(name: &str, index: Option<u32>) -> Entry {
        Entry::Link { at: LinkAt::new(&Place::Named("overlay".into()), name), index }
    }

    fn row(last: u8) -> Entry {
        let mac = vxdp_dataplane::wire::MacAddr::new([2, 0, 0, 0, 0, last]);
        let row = Row::Fdb { mac, vtep: [192, 0, 2, 1].into() };
        Entry::Row { at: LinkAt::new(&Place::Named("overlay".into()), "vxlan1"), row }
    }

    #[test]
    fn what_was_added_is_read_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("vxdp.ledger");
        let mut ledger = Ledger::open(&path).expect("an empty ledger");
        let address = Entry::Address {
            at: LinkAt::new(&Place::Container { path: "/run/netns/c1".into(), inode: 7 }, "eth1"),
            address: "2001:db8::1/64".parse().expect("a prefix"),
        };
        let netns = Entry::Netns { name: "overlay".into(), inode: Some(1) };
        ledger.add(&[netns, link("vxlan1", None), link("veth2", Some(4)), address]).expect("written");
        ledger.add(&[row(1), row(2), link("vxlan1", Some(3))]).expect("written");
        ledger.remove(&[row(1), link("veth2", None)]).expect("written");
        let again = Ledger::open(&path).expect("the same ledger");
        assert_eq!(again.created(), ledger.created());
        assert_eq!(again.created().links.values().collect::<Vec<_>>(), [&Some(3)]);
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_emptied_ledger_leaves_no_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("vxdp.ledger");
        let mut ledger = Ledger::open(&path).expect("an empty ledger");
        ledger.add(&[row(1)]).expect("written");
        assert!(path.exists());
        ledger.remove(&[row(1)]).expect("written");
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0);
    }

    #[test]
    fn a_line_cut_short_does_not_count() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("vxdp.ledger");
        let mut ledger = Ledger::open(&path).expect("an empty ledger");
        ledger.add(&[row(1), row(2)]).expect("written");
        let text = fs::read(&path).expect("a file");
        fs::write(&path, &text[..text.len() - 5]).expect("cut");
        let again = Ledger::open(&path).expect("a usable ledger");
        assert_eq!(again.created().len(), 1);
    }

    #[test]
    fn a_damaged_line_is_named_and_the_file_left_as_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("vxdp.ledger");
        for (text, line) in [
            ("{\"ledger\":{\"version\":1}}\nnonsense\n", 2),
            ("{\"ledger\":{\"version\":9}}\n", 1),
            ("{\"add\":{\"object\":\"netns\",\"name\":\"x\"}}\n", 1),
        ] {
            fs::write(&path, text).expect("written");
            let error = Ledger::open(&path).expect_err("damaged");
            assert!(error.to_string().contains(&format!("vxdp.ledger is damaged at line {line}")), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("a file"), text);
        }
    }
}
