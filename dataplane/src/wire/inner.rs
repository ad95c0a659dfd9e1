//! Looks into an inner frame once: where its IP header is, behind VLAN tags, and what follows it.

use super::{EthHeader, EtherType, IpProtocol, Ipv4Header, Ipv6Header};

/// VLAN tags looked through: as many as the kernel looks through (`skb_protocol`, include/linux/if_vlan.h; found
/// on Linux 6.18 by comparing, `tests/tests/differential`).
const MAX_TAGS: usize = 6;

/// What an inner frame carries, as far as the tunnel cares. Offsets are from the inner destination MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner {
    /// VLAN tags before the network header: 0 to 6.
    pub tags: usize,
    /// The network layer.
    pub network: Network,
}

/// The network layer of an inner frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// An IPv4 header at this offset.
    V4 {
        /// Offset of the header.
        at: usize,
        /// What follows.
        transport: Transport,
    },
    /// An IPv6 header at this offset.
    V6 {
        /// Offset of the header.
        at: usize,
        /// What follows.
        transport: Transport,
    },
    /// The EtherType says IP, the bytes end before the fixed header does.
    Truncated,
    /// Neither IPv4 nor IPv6.
    Other,
}

/// The transport layer, where the whole of it lies in the frame and is no fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// A whole TCP or UDP segment.
    Segment {
        /// TCP or UDP ([`IpProtocol`]).
        protocol: u8,
        /// Offset of its header.
        at: usize,
        /// Offset just behind its last byte.
        end: usize,
    },
    /// Another protocol, a fragment, or lengths that do not agree with the frame.
    Other,
}

impl Inner {
    /// Looks into a frame of any content.
    #[inline(always)]
    pub fn parse(frame: &[u8]) -> Self {
        let other = |tags| Self { tags, network: Network::Other };
        let Some((eth, _)) = EthHeader::parse(frame) else {
            return other(0);
        };
        let (mut ether_type, mut at, mut tags) = (eth.ether_type(), EthHeader::LEN, 0);
        while ether_type.is_tag() {
            // A tag is two bytes of TCI and the next EtherType.
            match frame.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
                Some([_, _, a, b]) if tags < MAX_TAGS => {
                    ether_type = EtherType(u16::from_be_bytes([*a, *b]));
                    at += 4;
                    tags += 1;
                }
                _ => return other(tags),
            }
        }
        let packet = frame.get(at..).unwrap_or_default();
        let network = match ether_type {
            EtherType::IPV4 => v4(packet, at),
            EtherType::IPV6 => v6(packet, at),
            _ => Network::Other,
        };
        Self { tags, network }
    }
}

#[inline(always)]
fn v4(packet: &[u8], at: usize) -> Network {
    let Some((ip, _)) = Ipv4Header::parse(packet) else {
        return Network::Truncated;
    };
    let sane = ip.version() == 4 && ip.header_len() >= Ipv4Header::LEN && !ip.is_fragment();
    let transport = if sane {
        transport(ip.protocol(), at, ip.header_len(), ip.total_len(), packet.len())
    } else {
        Transport::Other
    };
    Network::V4 { at, transport }
}

fn v6(packet: &[u8], at: usize) -> Network {
    let Some((ip, rest)) = Ipv6Header::parse(packet) else {
        return Network::Truncated;
    };
    let payload =
        ip.payload(rest).filter(|payload| ip.version() == 6 && !payload.fragment && !payload.routed);
    let transport = payload.map_or(Transport::Other, |payload| {
        let header = Ipv6Header::LEN + payload.offset;
        transport(payload.protocol, at, header, Ipv6Header::LEN + ip.payload_len(), packet.len())
    });
    Network::V6 { at, transport }
}

/// The segment between `header` and `total` bytes of a packet that has `available` and begins at `at`.
#[inline(always)]
fn transport(protocol: u8, at: usize, header: usize, total: usize, available: usize) -> Transport {
    let least = match protocol {
        IpProtocol::TCP => 20,
        IpProtocol::UDP => 8,
        _ => return Transport::Other,
    };
    if total > available || header + least > total {
        return Transport::Other;
    }
    Transport::Segment { protocol, at: at + header, end: at + total }
}
