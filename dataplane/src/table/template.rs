//! The outer headers towards one VTEP, ready but for what differs from frame to frame.

use std::net::IpAddr;

use super::row::{NextHop, Underlay};
use crate::Family;
use crate::wire::checksum::Sum;
use crate::wire::{EtherType, IpProtocol, Ipv4Header, Ipv6Header};

/// Room of the larger family.
const ROOM: usize = Family::V6.encap_room();

/// The outer headers towards one VTEP: Ethernet and IP are filled in but for lengths, tos, ttl and flags; UDP
/// and VXLAN are zero, since ports and VNI are the overlay's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Template {
    bytes: [u8; ROOM],
    /// Largest outer IP packet, in bytes.
    pub(crate) mtu: u16,
    /// Hop limit of the route.
    pub(crate) hop_limit: u8,
    /// Sum of the IPv4 header as it stands, without a checksum.
    pub(crate) header_sum: Sum,
    /// Sum of the addresses, for the UDP pseudo-header.
    pub(crate) address_sum: Sum,
}

impl Template {
    /// The headers from `ours` to `vtep`, if both are of one family.
    pub(crate) fn new(ours: &Underlay, vtep: IpAddr, next_hop: &NextHop) -> Option<Self> {
        let mut bytes = [0; ROOM];
        let (link, rest) = bytes.split_first_chunk_mut::<14>()?;
        link[..6].copy_from_slice(&next_hop.mac.octets());
        link[6..12].copy_from_slice(&ours.mac.octets());
        let (header_sum, address_sum) = match (ours.local, vtep) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                link[12..].copy_from_slice(&EtherType::IPV4.0.to_be_bytes());
                let ip = rest.first_chunk_mut::<{ Ipv4Header::LEN }>()?;
                ip[0] = 0x45;
                ip[Ipv4Header::PROTOCOL] = IpProtocol::UDP;
                ip[Ipv4Header::SOURCE..][..4].copy_from_slice(&source.octets());
                ip[Ipv4Header::DESTINATION..][..4].copy_from_slice(&destination.octets());
                (Sum::of(ip), Sum::of(&ip[Ipv4Header::SOURCE..]))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                link[12..].copy_from_slice(&EtherType::IPV6.0.to_be_bytes());
                let ip = rest.first_chunk_mut::<{ Ipv6Header::LEN }>()?;
                ip[0] = 0x60;
                ip[Ipv6Header::NEXT_HEADER] = IpProtocol::UDP;
                ip[Ipv6Header::SOURCE..][..16].copy_from_slice(&source.octets());
                ip[Ipv6Header::DESTINATION..][..16].copy_from_slice(&destination.octets());
                (Sum::ZERO, Sum::of(&ip[Ipv6Header::SOURCE..]))
            }
            _ => return None,
        };
        let (mtu, hop_limit) = (next_hop.mtu, next_hop.hop_limit);
        Some(Self { bytes, mtu, hop_limit, header_sum, address_sum })
    }

    /// The first `N` bytes.
    pub(crate) fn head<const N: usize>(&self) -> Option<&[u8; N]> {
        self.bytes.first_chunk()
    }
}
