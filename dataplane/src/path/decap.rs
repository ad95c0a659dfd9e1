//! Decapsulation: what comes from the NIC is judged as the kernel judges it, then stripped.
//!
//! The XDP program has let only completely known frames through; here nothing is taken on trust from it, since
//! a row may have changed since it looked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ecn::{self, Decapsulated, Ecn};
use super::unfinished;
use crate::table::{OverlayId, Tables, View, VtepId, ZeroUdp6};
use crate::wire::checksum::Sum;
use crate::wire::{
    EthHeader, EtherType, Inner, IpProtocol, Ipv4Header, Ipv6Header, MacAddr, Network, UdpHeader, VxlanHeader,
};
use crate::{DropReason, Family, PortId};

/// An outer packet that is addressed to us and well-formed: where everything is in it.
struct Outer {
    /// As [`crate::table::address_number`] has it.
    source: u128,
    dsfield: u8,
    /// Offset of the UDP header.
    udp: usize,
    /// Bytes of IP payload: what the IP header says, checked against the frame.
    available: usize,
}

/// A frame that may be delivered. Small, for a batch of them is written before any is read again.
#[derive(Clone, Copy)]
pub(super) struct Admitted {
    /// Where the inner frame ends.
    end: u32,
    overlay: OverlayId,
    outer_ecn: Ecn,
    /// The VTEP that sent it.
    pub(super) vtep: VtepId,
    /// The container that gets it.
    pub(super) port: PortId,
}

/// Judges headers and looks up rows, without touching a byte.
#[inline(always)]
pub(super) fn admit(data: &[u8], view: &mut View<'_>) -> Result<Admitted, DropReason> {
    let outer = outer(data, view.tables)?;
    let datagram = data.get(outer.udp..).unwrap_or_default();
    let (udp, payload) = UdpHeader::parse(datagram).ok_or(DropReason::PktTooSmall)?;
    // A UDP length short of the IP payload cuts the rest off, as in `udp_rcv` (net/ipv4/udp.c).
    let length = udp.length();
    if length > outer.available || length < UdpHeader::LEN + VxlanHeader::LEN + EthHeader::LEN {
        return Err(DropReason::PktTooSmall);
    }
    let (vxlan, frame) = VxlanHeader::parse(payload).ok_or(DropReason::PktTooSmall)?;
    if !vxlan.is_plain() {
        return Err(DropReason::VxlanInvalidHdr);
    }
    let overlay = view
        .segment(vxlan.vni(), udp.destination_port())
        .ok_or_else(|| no_segment(view.tables, udp.destination_port()))?;
    let (eth, _) = EthHeader::parse(frame).ok_or(DropReason::PktTooSmall)?;
    let vtep = sender(view, overlay, eth.source(), outer.source)?;
    let port = view.local(overlay, eth.destination()).ok_or(DropReason::UnknownDestination)?;
    let inner_length = length - UdpHeader::LEN - VxlanHeader::LEN;
    let row = view.port(port).filter(|row| row.overlay == overlay).ok_or(DropReason::UnknownPort)?;
    // A VLAN tag may exceed the MTU (`is_skb_forwardable`, net/core/dev.c).
    if inner_length > usize::from(row.mtu) + EthHeader::LEN + 4 {
        return Err(DropReason::PktTooBig);
    }
    // Both lengths are 16-bit numbers, so their sum fits.
    let end = (outer.udp + length) as u32;
    Ok(Admitted { end, overlay, outer_ecn: Ecn::of(outer.dsfield), vtep, port })
}

#[inline(always)]
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

#[inline(always)]
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
        source: u128::from(u32::from(ip.source())),
        dsfield: ip.tos(),
        udp: EthHeader::LEN + Ipv4Header::LEN,
        available: ip.total_len() - Ipv4Header::LEN,
    })
}

#[inline(always)]
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
        source: u128::from(ip.source()),
        dsfield: ip.traffic_class(),
        udp: EthHeader::LEN + Ipv6Header::LEN,
        available: ip.payload_len(),
    })
}

/// The VTEP behind which the inner source is, if the frame came from there.
#[inline(always)]
fn sender(view: &mut View<'_>, overlay: OverlayId, mac: MacAddr, source: u128) -> Result<VtepId, DropReason> {
    let mut came_from_there = false;
    let found = view.remote_sender(overlay, mac, |vtep| {
        came_from_there = vtep.number == source;
        came_from_there
    });
    match found {
        Some(vtep) if came_from_there => Ok(vtep),
        found => Err(no_sender(view.tables, overlay, mac, source, found)),
    }
}

#[cold]
#[inline(never)]
fn no_sender(
    tables: &Tables,
    overlay: OverlayId,
    mac: MacAddr,
    source: u128,
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
pub(super) fn strip(data: &mut [u8], admitted: &Admitted, view: &View<'_>) -> Result<usize, DropReason> {
    let (start, end) = (view.family.encap_room(), admitted.end as usize);
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
    verify_udp(data, admitted, view)?;
    let frame = data.get_mut(start..end).ok_or(DropReason::PktTooSmall)?;
    // So it does with congestion marks: a tagged frame is no IP to it (`vxlan_rcv`, `IP_ECN_decapsulate`).
    if admitted.outer_ecn.may_change_inner()
        && let Some(dsfield) = ecn::dsfield(frame, &inner).filter(|_| inner.tags == 0)
    {
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
fn verify_udp(data: &[u8], admitted: &Admitted, view: &View<'_>) -> Result<(), DropReason> {
    let family = view.family;
    let start = family.encap_room() - UdpHeader::LEN - VxlanHeader::LEN;
    let segment = data.get(start..admitted.end as usize).ok_or(DropReason::PktTooSmall)?;
    let (udp, _) = UdpHeader::parse(segment).ok_or(DropReason::PktTooSmall)?;
    if udp.checksum() == [0, 0] {
        let accepts =
            || view.overlay(admitted.overlay).is_some_and(|row| row.policy.zero_udp6 == ZeroUdp6::Accept);
        return if family == Family::V4 || accepts() { Ok(()) } else { Err(DropReason::UdpCsum) };
    }
    let packet = data.get(EthHeader::LEN..).unwrap_or_default();
    let addresses = match family {
        Family::V4 => Ipv4Header::parse(packet).map(|(ip, _)| ip.address_sum()),
        Family::V6 => Ipv6Header::parse(packet).map(|(ip, _)| ip.address_sum()),
    };
    let addresses = addresses.ok_or(DropReason::PktTooSmall)?;
    let pseudo = unfinished::pseudo_header(addresses, IpProtocol::UDP, segment.len());
    if udp.checksum() == pseudo.folded() || pseudo.plus(Sum::of(segment)).is_intact() {
        Ok(())
    } else {
        Err(DropReason::UdpCsum)
    }
}
