//! Decapsulation: what comes from the NIC is judged as the kernel judges it, then stripped.
//!
//! The XDP program has let only completely known frames through; here nothing is taken on trust from it, since
//! a row may have changed since it looked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ecn::{self, Decapsulated, Ecn};
use super::unfinished;
use crate::table::{OverlayId, Tables, VtepId, ZeroUdp6};
use crate::wire::checksum::Sum;
use crate::wire::{
    EthHeader, EtherType, Inner, IpProtocol, Ipv4Header, Ipv6Header, MacAddr, Network, UdpHeader, VxlanHeader,
};
use crate::{DropReason, PortId};

/// An outer packet that is addressed to us and well-formed: where everything is in it.
struct Outer {
    source: IpAddr,
    dsfield: u8,
    /// Offset of the UDP header.
    udp: usize,
    /// Sum of the addresses, for the UDP pseudo-header.
    addresses: Sum,
}

/// A frame that may be delivered.
#[derive(Clone, Copy)]
pub(super) struct Admitted {
    /// Where the inner frame lies.
    start: usize,
    end: usize,
    /// Offset of the UDP header.
    udp: usize,
    addresses: Sum,
    outer_ecn: Ecn,
    zero_udp6: ZeroUdp6,
    /// The VTEP that sent it.
    pub(super) vtep: VtepId,
    /// The container that gets it.
    pub(super) port: PortId,
}

/// Judges headers and looks up rows, without touching a byte.
#[inline]
pub(super) fn admit(data: &[u8], tables: &Tables, second: u32) -> Result<Admitted, DropReason> {
    let outer = outer(data, tables)?;
    let datagram = data.get(outer.udp..).unwrap_or_default();
    let (udp, payload) = UdpHeader::parse(datagram).ok_or(DropReason::PktTooSmall)?;
    // A UDP length short of the IP payload cuts the rest off, as in `udp_rcv` (net/ipv4/udp.c).
    let (length, available) = (udp.length(), outer.available(data)?);
    if length > available || length < UdpHeader::LEN + VxlanHeader::LEN + EthHeader::LEN {
        return Err(DropReason::PktTooSmall);
    }
    let (vxlan, frame) = VxlanHeader::parse(payload).ok_or(DropReason::PktTooSmall)?;
    if !vxlan.is_plain() {
        return Err(DropReason::VxlanInvalidHdr);
    }
    let overlay = tables
        .segment(vxlan.vni(), udp.destination_port())
        .ok_or_else(|| no_segment(tables, udp.destination_port()))?;
    let (eth, _) = EthHeader::parse(frame).ok_or(DropReason::PktTooSmall)?;
    let vtep = sender(tables, overlay, eth.source(), outer.source, second)?;
    let port = tables.local(overlay, eth.destination()).ok_or(DropReason::UnknownDestination)?;
    let start = outer.udp + UdpHeader::LEN + VxlanHeader::LEN;
    let end = outer.udp + length;
    let row = tables.port(port).filter(|row| row.overlay == overlay).ok_or(DropReason::UnknownPort)?;
    // A VLAN tag may exceed the MTU (`is_skb_forwardable`, net/core/dev.c).
    if end - start > usize::from(row.mtu) + EthHeader::LEN + 4 {
        return Err(DropReason::PktTooBig);
    }
    let zero_udp6 = tables.overlay(overlay).map_or(ZeroUdp6::Drop, |overlay| overlay.policy.zero_udp6);
    let outer_ecn = Ecn::of(outer.dsfield);
    let Outer { udp, addresses, .. } = outer;
    Ok(Admitted { start, end, udp, addresses, outer_ecn, zero_udp6, vtep, port })
}

impl Outer {
    /// Bytes of IP payload: what the IP header says, which [`outer`] has checked against the frame.
    #[inline]
    fn available(&self, data: &[u8]) -> Result<usize, DropReason> {
        let ip = data.get(EthHeader::LEN..).unwrap_or_default();
        match self.source {
            IpAddr::V4(_) => {
                let (ip, _) = Ipv4Header::parse(ip).ok_or(DropReason::PktTooSmall)?;
                Ok(ip.total_len() - Ipv4Header::LEN)
            }
            IpAddr::V6(_) => {
                let (ip, _) = Ipv6Header::parse(ip).ok_or(DropReason::PktTooSmall)?;
                Ok(ip.payload_len())
            }
        }
    }
}

#[inline]
fn outer(data: &[u8], tables: &Tables) -> Result<Outer, DropReason> {
    let ours = tables.underlay();
    let (eth, packet) = EthHeader::parse(data).ok_or(DropReason::PktTooSmall)?;
    if eth.destination() != ours.mac {
        return Err(DropReason::Otherhost);
    }
    match (eth.ether_type(), ours.local) {
        (EtherType::IPV4, IpAddr::V4(local)) => outer_v4(packet, local),
        (EtherType::IPV6, IpAddr::V6(local)) => outer_v6(packet, local),
        _ => Err(DropReason::UnhandledProto),
    }
}

#[inline]
fn outer_v4(packet: &[u8], local: Ipv4Addr) -> Result<Outer, DropReason> {
    let (ip, _) = Ipv4Header::parse(packet).ok_or(DropReason::PktTooSmall)?;
    if ip.version() != 4 || ip.header_len() < Ipv4Header::LEN {
        return Err(DropReason::IpInhdr);
    }
    if ip.header_len() > Ipv4Header::LEN {
        return Err(DropReason::OuterOptions);
    }
    if !ip.is_intact() {
        return Err(DropReason::IpCsum);
    }
    if ip.total_len() > packet.len() {
        return Err(DropReason::PktTooSmall);
    }
    if ip.total_len() < Ipv4Header::LEN {
        return Err(DropReason::IpInhdr);
    }
    if ip.destination() != local {
        return Err(DropReason::Otherhost);
    }
    if ip.is_fragment() {
        return Err(DropReason::OuterFragment);
    }
    if ip.protocol() != IpProtocol::UDP {
        return Err(DropReason::UnhandledProto);
    }
    Ok(Outer {
        source: IpAddr::V4(ip.source()),
        dsfield: ip.tos(),
        udp: EthHeader::LEN + Ipv4Header::LEN,
        addresses: Sum::of(ip.addresses()),
    })
}

#[inline]
fn outer_v6(packet: &[u8], local: Ipv6Addr) -> Result<Outer, DropReason> {
    let (ip, rest) = Ipv6Header::parse(packet).ok_or(DropReason::PktTooSmall)?;
    if ip.version() != 6 {
        return Err(DropReason::IpInhdr);
    }
    if ip.payload_len() > rest.len() {
        return Err(DropReason::PktTooSmall);
    }
    if ip.destination() != local {
        return Err(DropReason::Otherhost);
    }
    match ip.next_header() {
        IpProtocol::UDP => {}
        IpProtocol::FRAGMENT => return Err(DropReason::OuterFragment),
        IpProtocol::HOP_BY_HOP | IpProtocol::ROUTING | IpProtocol::DESTINATION_OPTIONS => {
            return Err(DropReason::OuterOptions);
        }
        _ => return Err(DropReason::UnhandledProto),
    }
    Ok(Outer {
        source: IpAddr::V6(ip.source()),
        dsfield: ip.traffic_class(),
        udp: EthHeader::LEN + Ipv6Header::LEN,
        addresses: Sum::of(ip.addresses()),
    })
}

/// The VTEP behind which the inner source is, if the frame came from there.
#[inline]
fn sender(
    tables: &Tables,
    overlay: OverlayId,
    mac: MacAddr,
    source: IpAddr,
    second: u32,
) -> Result<VtepId, DropReason> {
    let mut came_from_there = false;
    let found = tables.remote_sender(overlay, mac, second, |vtep| {
        came_from_there = tables.vtep(vtep).is_some_and(|row| row.address == source);
        came_from_there
    });
    match found {
        Some(vtep) if came_from_there => Ok(vtep),
        found => Err(no_sender(tables, overlay, mac, source, found)),
    }
}

#[cold]
#[inline(never)]
fn no_sender(
    tables: &Tables,
    overlay: OverlayId,
    mac: MacAddr,
    source: IpAddr,
    found: Option<VtepId>,
) -> DropReason {
    if !mac.is_valid_station() {
        DropReason::MacInvalidSource
    } else if tables.local(overlay, mac).is_some() {
        DropReason::LocalMac
    } else if !tables.knows_vtep(source) {
        DropReason::UnknownVtep
    } else if found.is_some() {
        DropReason::VxlanEntryExists
    } else {
        DropReason::UnknownSource
    }
}

#[cold]
#[inline(never)]
fn no_segment(tables: &Tables, port: u16) -> DropReason {
    if tables.has_udp_port(port) { DropReason::VxlanVniNotFound } else { DropReason::NoSocket }
}

/// Verifies checksums, carries congestion marks inside, and moves the inner frame to the front.
/// Answers its length.
#[inline]
pub(super) fn strip(data: &mut [u8], admitted: &Admitted) -> Result<usize, DropReason> {
    let Admitted { start, end, .. } = *admitted;
    let frame = data.get_mut(start..end).ok_or(DropReason::PktTooSmall)?;
    let inner = Inner::parse(frame);
    // A kernel peer without a wire in between leaves this to us. It computes an outer checksum as it will be
    // with the inner one finished (`lco_csum`, include/linux/skbuff.h), so this comes first.
    unfinished::finish(frame, &inner);
    // The kernel pulls the fixed header of an untagged IP packet (`pskb_inet_may_pull`, include/net/ip_tunnels.h)
    // and leaves what is behind a tag to the receiver.
    if inner.network == Network::Truncated && inner.tags == 0 {
        return Err(DropReason::PktTooSmall);
    }
    verify_udp(data, admitted)?;
    let frame = data.get_mut(start..end).ok_or(DropReason::PktTooSmall)?;
    if let Some(dsfield) = ecn::dsfield(frame, &inner) {
        match Ecn::decapsulated(admitted.outer_ecn, Ecn::of(dsfield)) {
            Decapsulated::Unchanged => {}
            Decapsulated::Set(ecn) => ecn::set(frame, &inner, ecn),
            Decapsulated::Drop => return Err(DropReason::IpTunnelEcn),
        }
    }
    data.copy_within(start..end, 0);
    Ok(end - start)
}

/// Verifies the outer UDP checksum.
///
/// A kernel peer without a wire in between leaves this one unfinished, too: then it is the folded sum of the
/// pseudo-header (see [`unfinished`] for why that value may be trusted).
#[inline]
fn verify_udp(data: &[u8], admitted: &Admitted) -> Result<(), DropReason> {
    let segment = data.get(admitted.udp..admitted.end).ok_or(DropReason::PktTooSmall)?;
    let (udp, _) = UdpHeader::parse(segment).ok_or(DropReason::PktTooSmall)?;
    if udp.checksum() == [0, 0] {
        let v6 = admitted.udp > EthHeader::LEN + Ipv4Header::LEN;
        return if v6 && admitted.zero_udp6 == ZeroUdp6::Drop { Err(DropReason::UdpCsum) } else { Ok(()) };
    }
    let pseudo = unfinished::pseudo_header(admitted.addresses, IpProtocol::UDP, segment.len());
    if udp.checksum() == pseudo.folded() || pseudo.plus(Sum::of(segment)).is_intact() {
        Ok(())
    } else {
        Err(DropReason::UdpCsum)
    }
}
