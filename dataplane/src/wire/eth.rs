//! Ethernet headers and VLAN tags (IEEE 802.3, clause 3; IEEE 802.1Q, clause 9).

use super::MacAddr;

/// An EtherType (IEEE 802.3, clause 3.2.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(0x0800);
    /// IPv6 (RFC 2464, section 3).
    pub const IPV6: Self = Self(0x86dd);
    /// Customer VLAN tag (IEEE 802.1Q, table 9-1).
    pub const VLAN: Self = Self(0x8100);
    /// Service VLAN tag, 802.1ad (IEEE 802.1Q, table 9-1).
    pub const SERVICE_VLAN: Self = Self(0x88a8);

    /// Whether a VLAN tag follows.
    pub const fn is_tag(self) -> bool {
        matches!(self, Self::VLAN | Self::SERVICE_VLAN)
    }
}

/// An Ethernet header: destination, source, EtherType.
#[derive(Clone, Copy, Debug)]
pub struct EthHeader<'a>(&'a [u8; EthHeader::LEN]);

impl<'a> EthHeader<'a> {
    /// Bytes.
    pub const LEN: usize = 14;
    /// Offset of the EtherType.
    pub const ETHER_TYPE: usize = 12;

    /// The header at the front and what follows it; `None` when the bytes are too few.
    pub fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        bytes.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// Bytes 0 to 5.
    pub fn destination(self) -> MacAddr {
        let [a, b, c, d, e, f, ..] = *self.0;
        MacAddr::new([a, b, c, d, e, f])
    }

    /// Bytes 6 to 11.
    pub fn source(self) -> MacAddr {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.0;
        MacAddr::new([a, b, c, d, e, f])
    }

    /// Bytes 12 and 13.
    pub fn ether_type(self) -> EtherType {
        EtherType(u16::from_be_bytes([self.0[12], self.0[13]]))
    }
}
