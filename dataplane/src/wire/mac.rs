//! A 48-bit Ethernet address.

use std::fmt;
use std::str::FromStr;

/// A 48-bit Ethernet address (IEEE 802-2014, section 8), in wire order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr([u8; 6]);

/// The text is not six pairs of hexadecimal digits separated by colons.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address; expected six pairs of hexadecimal digits, as in 02:42:0a:00:00:02")]
pub struct InvalidMac(String);

impl MacAddr {
    /// `00:00:00:00:00:00`: in a VXLAN FDB, the row for destinations that have no row of their own.
    pub const ZERO: Self = Self([0; 6]);
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The address with these octets, first on the wire first.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The octets in wire order.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether the group bit is set: multicast and broadcast.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether all octets are zero.
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// Whether a station may own this address: neither a group address nor zero
    /// (the kernel's `is_valid_ether_addr`, `include/linux/etherdevice.h`).
    pub fn is_valid_station(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidMac(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(invalid)?;
            let hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            if !hex {
                return Err(invalid());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_address_parses_back() {
        let mac = MacAddr::new([0x02, 0x42, 0x0a, 0, 0, 0xfe]);
        assert_eq!(mac.to_string(), "02:42:0a:00:00:fe");
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }

    #[test]
    fn text_that_is_not_six_pairs_is_refused() {
        for text in [
            "",
            "02:42",
            "02:42:0a:00:00:0",
            "02:42:0a:00:00:02:03",
            "+2:42:0a:00:00:02",
            "0x:42:0a:00:00:02",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }
}
