//! A number by which a daemon knows again what it, or one before it that was killed, has put into the kernel.

use std::fmt;
use std::path::Path;

/// Made from a path that no other daemon of the host has, such as its API socket's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(u32);

impl Owner {
    /// The owner with this path.
    pub fn of(path: &Path) -> Self {
        // 32-bit FNV-1a (draft-eastlake-fnv): the number must not change with the standard library's hasher.
        let bytes = path.as_os_str().as_encoded_bytes();
        let hash = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        Self(bytes.iter().fold(0x811c_9dc5, hash))
    }

    /// The number; never 0, which the kernel takes for none.
    pub fn number(self) -> u32 {
        self.0.max(1)
    }
}

/// Eight hexadecimal digits.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Owner;
    use std::path::Path;

    #[test]
    fn a_number_is_the_paths_own_and_stays_the_same() {
        // Test vectors of draft-eastlake-fnv, appendix C.
        assert_eq!(Owner::of(Path::new("a")).to_string(), "e40c292c");
        assert_eq!(Owner::of(Path::new("foobar")).to_string(), "bf9cf968");
    }
}
