//! IPv4 headers (RFC 791, section 3.1).

use std::net::Ipv4Addr;

use super::checksum::Sum;

/// The fixed part of an IPv4 header.
///
/// ```text
///  0       1        2                4
/// |ver|ihl| tos     | total length   |
/// | identification  |flg| frag offset|  flags: 0x4000 DF, 0x2000 MF
/// | ttl   | proto   | checksum       |
/// | source                           | 12
/// | destination                      | 16
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Header<'a>(&'a [u8; Ipv4Header::LEN]);

impl<'a> Ipv4Header<'a> {
    /// Bytes of the fixed part.
    pub const LEN: usize = 20;
    /// Offset of type of service (RFC 2474: DSCP; RFC 3168: ECN in the two low bits).
    pub const TOS: usize = 1;
    /// Offset of the total length.
    pub const TOTAL_LENGTH: usize = 2;
    /// Offset of the identification.
    pub const IDENT: usize = 4;
    /// Offset of flags and fragment offset.
    pub const FRAGMENT: usize = 6;
    /// Offset of the time to live.
    pub const TTL: usize = 8;
    /// Offset of the protocol.
    pub const PROTOCOL: usize = 9;
    /// Offset of the header checksum.
    pub const CHECKSUM: usize = 10;
    /// Offset of the source address.
    pub const SOURCE: usize = 12;
    /// Offset of the destination address.
    pub const DESTINATION: usize = 16;
    /// Don't fragment, in the word at [`Self::FRAGMENT`].
    pub const DF: u16 = 0x4000;

    /// The header at the front and what follows its fixed part; `None` when the bytes are too few.
    /// Nothing else is checked.
    pub fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        bytes.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// Must be 4.
    pub fn version(self) -> u8 {
        self.0[0] >> 4
    }

    /// Bytes of the header with its options (IHL).
    pub fn header_len(self) -> usize {
        usize::from(self.0[0] & 0x0f) * 4
    }

    /// Type of service.
    pub fn tos(self) -> u8 {
        self.0[Self::TOS]
    }

    /// Bytes of header and payload.
    pub fn total_len(self) -> usize {
        usize::from(u16::from_be_bytes([self.0[2], self.0[3]]))
    }

    /// The don't-fragment flag.
    pub fn dont_fragment(self) -> bool {
        self.fragment_word() & Self::DF != 0
    }

    /// Whether this is a fragment: more follow, or it is not the first.
    pub fn is_fragment(self) -> bool {
        self.fragment_word() & 0x3fff != 0
    }

    fn fragment_word(self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]])
    }

    /// Time to live.
    pub fn ttl(self) -> u8 {
        self.0[Self::TTL]
    }

    /// Protocol number of the payload.
    pub fn protocol(self) -> u8 {
        self.0[Self::PROTOCOL]
    }

    /// Source address.
    pub fn source(self) -> Ipv4Addr {
        Ipv4Addr::from([self.0[12], self.0[13], self.0[14], self.0[15]])
    }

    /// Destination address.
    pub fn destination(self) -> Ipv4Addr {
        Ipv4Addr::from([self.0[16], self.0[17], self.0[18], self.0[19]])
    }

    /// Sum of source and destination, for a pseudo-header.
    #[inline]
    pub fn address_sum(self) -> Sum {
        self.0.last_chunk::<8>().map_or(Sum::ZERO, Sum::of_header)
    }

    /// Whether the checksum of a header without options is right.
    pub fn is_intact(self) -> bool {
        Sum::of_header(self.0).is_intact()
    }
}
