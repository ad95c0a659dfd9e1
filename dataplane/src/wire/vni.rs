//! The VXLAN Network Identifier.

use std::fmt;

/// A VXLAN Network Identifier: 24 bits that name a segment (RFC 7348, section 5).
///
/// Zero is allowed, as in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

/// The number does not fit in 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a VNI; expected 0 to 16777215 (24 bits)")]
pub struct InvalidVni(pub u64);

impl Vni {
    /// The largest VNI.
    pub const MAX: Self = Self(0x00ff_ffff);

    /// Checks that `number` fits in 24 bits.
    pub const fn new(number: u32) -> Result<Self, InvalidVni> {
        if number <= Self::MAX.0 { Ok(Self(number)) } else { Err(InvalidVni(number as u64)) }
    }

    /// The three bytes as they stand on the wire.
    pub const fn from_wire([a, b, c]: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, a, b, c]))
    }

    /// The three bytes as they stand on the wire.
    pub const fn to_wire(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vni({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_25_bits_is_refused() {
        assert_eq!(Vni::new(0x0100_0000), Err(InvalidVni(0x0100_0000)));
        assert!(Vni::new(0x00ff_ffff).is_ok());
    }

    #[test]
    fn the_wire_form_is_big_endian() {
        assert_eq!(Vni::new(0x01_02_03).map(Vni::to_wire), Ok([1, 2, 3]));
        assert_eq!(Vni::from_wire([0, 0, 42]).get(), 42);
    }
}
