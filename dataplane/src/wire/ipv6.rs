//! IPv6 headers (RFC 8200, section 3) and the walk over extension headers (section 4).

use std::net::Ipv6Addr;

use super::IpProtocol;
use super::checksum::Sum;

/// The fixed IPv6 header.
///
/// ```text
///  0                                 4
/// |ver| traffic class | flow label   |
/// | payload length | next | hop limit|  4, 6, 7
/// | source (16)                      |  8
/// | destination (16)                 | 24
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Header<'a>(&'a [u8; Ipv6Header::LEN]);

/// Where the payload of an IPv6 packet begins, behind its extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv6Payload {
    /// Protocol number of the payload.
    pub protocol: u8,
    /// Its offset behind the fixed header.
    pub offset: usize,
    /// Whether the packet is a fragment.
    pub fragment: bool,
    /// Whether a routing header with segments left stands before it: the destination in the fixed header is
    /// then not the one of the pseudo-header (RFC 8200, section 8.1).
    pub routed: bool,
}

impl<'a> Ipv6Header<'a> {
    /// Bytes.
    pub const LEN: usize = 40;
    /// Offset of the payload length.
    pub const PAYLOAD_LENGTH: usize = 4;
    /// Offset of the next header.
    pub const NEXT_HEADER: usize = 6;
    /// Offset of the hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Offset of the source address.
    pub const SOURCE: usize = 8;
    /// Offset of the destination address.
    pub const DESTINATION: usize = 24;
    /// Extension headers walked before giving up. The kernel allows any number; ordinary packets have at most
    /// two, and every further one is work that a sender may demand of us.
    const MAX_EXTENSIONS: usize = 8;

    /// The header at the front and what follows it; `None` when the bytes are too few.
    /// Nothing else is checked.
    pub fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        bytes.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// Must be 6.
    pub fn version(self) -> u8 {
        self.0[0] >> 4
    }

    /// Traffic class: DSCP, and ECN in the two low bits.
    pub fn traffic_class(self) -> u8 {
        (self.0[0] << 4) | (self.0[1] >> 4)
    }

    /// Bytes behind this header, extension headers included.
    pub fn payload_len(self) -> usize {
        usize::from(u16::from_be_bytes([self.0[4], self.0[5]]))
    }

    /// Kind of the header that follows.
    pub fn next_header(self) -> u8 {
        self.0[Self::NEXT_HEADER]
    }

    /// Hop limit.
    pub fn hop_limit(self) -> u8 {
        self.0[Self::HOP_LIMIT]
    }

    /// Source address.
    pub fn source(self) -> Ipv6Addr {
        Ipv6Addr::from(self.at::<8>())
    }

    /// Destination address.
    pub fn destination(self) -> Ipv6Addr {
        Ipv6Addr::from(self.at::<24>())
    }

    fn at<const OFFSET: usize>(self) -> [u8; 16] {
        std::array::from_fn(|i| self.0[OFFSET + i])
    }

    /// Sum of source and destination, for a pseudo-header.
    #[inline]
    pub fn address_sum(self) -> Sum {
        self.0.last_chunk::<32>().map_or(Sum::ZERO, Sum::of_header)
    }

    /// Finds the payload behind hop-by-hop options, routing, destination options and the fragment header.
    /// `None` when they are cut short or too many.
    pub fn payload(self, rest: &[u8]) -> Option<Ipv6Payload> {
        let mut found =
            Ipv6Payload { protocol: self.next_header(), offset: 0, fragment: false, routed: false };
        for _ in 0..=Self::MAX_EXTENSIONS {
            let length = match found.protocol {
                IpProtocol::HOP_BY_HOP | IpProtocol::ROUTING | IpProtocol::DESTINATION_OPTIONS => {
                    usize::from(*rest.get(found.offset + 1)?) * 8 + 8
                }
                IpProtocol::FRAGMENT => 8,
                _ => return Some(found),
            };
            let header = rest.get(found.offset..found.offset + length)?;
            if found.protocol == IpProtocol::FRAGMENT {
                // Offset and the M flag; both zero is an atomic fragment (RFC 6946), still not finished here.
                found.fragment = true;
            }
            if found.protocol == IpProtocol::ROUTING && header.get(3).is_some_and(|left| *left != 0) {
                found.routed = true;
            }
            found.protocol = *header.first()?;
            found.offset += length;
        }
        None
    }
}
