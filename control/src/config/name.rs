//! Names of network devices and namespaces, checked as the kernel would.

use std::fmt;

/// Name of a network device: 1 to 15 bytes without `/`, `:`, `%` or white space, not `.`, `..`, `all` or
/// `default` (the kernel's `dev_valid_name` and `dev_get_valid_name`, `net/core/dev.c`).
///
/// The kernel takes `%d` for a number that it chooses, judges white space byte by byte in Latin-1 (so that
/// the byte a0 inside `à` counts as a space), and refuses `all` and `default`, whose sysctl directories are
/// taken (`sysctl_dev_name_is_allowed`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

/// Why a name of a device was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing in it.
    #[error("an empty name; expected at least one character")]
    Empty,
    /// Longer than the kernel's limit.
    #[error("`{name}` has {length} bytes; at most {max} are allowed")]
    TooLong {
        /// The name.
        name: String,
        /// Its length in bytes.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// A character that the kernel or the file system refuses.
    #[error("`{0}` has a character that the kernel does not allow in a name")]
    Character(String),
    /// A name that means something else to the kernel.
    #[error("`{0}` has a meaning of its own and cannot be a name")]
    Reserved(String),
}

impl IfName {
    /// `IFNAMSIZ - 1`.
    pub const MAX: usize = 15;

    /// Checks the name as the kernel would.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        check_name(name, Self::MAX, |b| {
            matches!(b, b'/' | b':' | b'%' | 0 | 0x0b | 0xa0) || b.is_ascii_whitespace()
        })?;
        if name == "all" || name == "default" {
            return Err(InvalidName::Reserved(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Name of a network namespace under `/run/netns`: a plain file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NsName(String);

impl NsName {
    /// `NAME_MAX`.
    pub const MAX: usize = 255;

    /// Checks that the name is a plain file name.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        check_name(name, Self::MAX, |b| b == b'/' || b == 0)?;
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_name(name: &str, max: usize, refused: impl Fn(u8) -> bool) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty);
    }
    if name.len() > max {
        return Err(InvalidName::TooLong { name: name.to_owned(), length: name.len(), max });
    }
    if name == "." || name == ".." {
        return Err(InvalidName::Reserved(name.to_owned()));
    }
    if name.bytes().any(refused) {
        return Err(InvalidName::Character(name.to_owned()));
    }
    Ok(())
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_refuses_are_refused() {
        for name in
            ["", ".", "..", "all", "default", "a/b", "a:b", "a b", "a\tb", "veth%d", "à", "sixteen-bytes-xx"]
        {
            assert!(IfName::new(name).is_err(), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a\0b"] {
            assert!(NsName::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn names_that_the_kernel_takes_are_taken() {
        for name in ["eth0", "fifteen-bytes-x", "é", "v2a-0123456"] {
            assert_eq!(IfName::new(name).map(|name| name.to_string()).as_deref(), Ok(name));
        }
        assert!(NsName::new("a namespace: with 100% of everything").is_ok());
    }
}
