//! What the underlay's program knows of a frame: is it a tunnel's, for us, of a known source and destination?
//!
//! A tag that the NIC has already taken off (feature `rx-vlan-hw-parse`) cannot be seen by an XDP program; a tc
//! program sees it beside the data (`tc.rs`).

use vxdp_ebpf::{Address, Family, FdbKey, OverlayKey, Place, Row, Settings, Verdict, tunnel_port_bit};

use super::frame::{Ethernet, Ipv4, Ipv6, Packet, Udp, Vxlan, header, ipv4, ipv6, number};
use super::maps::{FDB, OVERLAYS, SETTINGS, TUNNEL_PORTS, VTEPS};

const ETHERNET: usize = size_of::<Ethernet>();
const UDP: usize = size_of::<Udp>();
const VXLAN: usize = size_of::<Vxlan>();

const PROTOCOL_UDP: u16 = 17;

/// What the IP header tells the rest.
struct Outer {
    source: Address,
    /// Where the UDP header starts.
    udp: usize,
    /// Bytes behind the IP header, by its length field.
    payload: usize,
}

/// A frame that is known completely.
pub(super) struct Arrival {
    pub(super) settings: &'static Settings,
    /// Number of its segment.
    pub(super) overlay: u16,
    /// Where the inner frame starts.
    pub(super) inner: usize,
    /// Where it ends, by the length fields.
    pub(super) end: usize,
    /// The row of its inner source, with the key of it.
    pub(super) source: (FdbKey, *mut Row),
    /// The VTEP that sent it.
    pub(super) vtep: u32,
    /// The port it is for.
    pub(super) port: u32,
}

/// Everything but whether somebody carries it.
#[inline(always)]
pub(super) fn known(packet: &impl Packet) -> Result<Arrival, Verdict> {
    let settings = SETTINGS.get(0).filter(|settings| settings.enabled != 0).ok_or(Verdict::Disabled)?;
    let outer = outer(packet, settings)?;
    let (overlay, start) = segment(packet, &outer)?;
    let inner = header::<Ethernet>(packet, start).ok_or(Verdict::BadLength)?;
    if inner.destination.is_group() {
        return Err(Verdict::Multicast);
    }
    let destination = FdbKey { overlay, mac: inner.destination.octets() };
    // SAFETY: the map is not preallocated, so a row lives until the program ends.
    let destination = unsafe { FDB.get(destination) }.ok_or(Verdict::UnknownDestination)?;
    let Place::Local(port) = destination.place() else {
        return Err(Verdict::WrongSide);
    };
    let key = FdbKey { overlay, mac: inner.source.octets() };
    let source = FDB.get_ptr_mut(key).ok_or(Verdict::UnknownSource)?;
    // SAFETY: as above.
    let Place::Remote(number) = unsafe { &*source }.place() else {
        return Err(Verdict::MovedSource);
    };
    let vtep = VTEPS.get(number).ok_or(Verdict::MovedSource)?;
    if vtep.address != outer.source {
        return Err(Verdict::MovedSource);
    }
    let end = outer.udp + outer.payload;
    Ok(Arrival { settings, overlay, inner: start, end, source: (key, source), vtep: number, port })
}

/// Ethernet and IP: addressed to us, plain, whole.
#[inline(always)]
fn outer(packet: &impl Packet, settings: &Settings) -> Result<Outer, Verdict> {
    let ethernet = header::<Ethernet>(packet, 0).ok_or(Verdict::NotOurs)?;
    let ethertype = ethernet.ethertype.get();
    if matches!(ethertype, 0x8100 | 0x88a8) {
        return Err(Verdict::OuterTag);
    }
    if ethertype != settings.ethertype || ethernet.destination.octets() != settings.local_mac {
        return Err(Verdict::NotOurs);
    }
    if ethertype == const { Family::V4.ethertype() } {
        outer_v4(packet, settings)
    } else {
        outer_v6(packet, settings)
    }
}

#[inline(always)]
fn outer_v4(packet: &impl Packet, settings: &Settings) -> Result<Outer, Verdict> {
    const IP: usize = size_of::<Ipv4>();
    let ip = header::<Ipv4>(packet, ETHERNET).ok_or(Verdict::NotOurs)?;
    if ip.ttl_protocol.get() & 0xff != PROTOCOL_UDP || ipv4(ip.destination) != settings.local_address {
        return Err(Verdict::NotOurs);
    }
    match ip.version_ihl_tos.get() >> 8 {
        0x45 => {}
        0x46..=0x4f => return Err(Verdict::IpOptions),
        _ => return Err(Verdict::NotOurs),
    }
    // More fragments, or an offset; "don't fragment" is fine.
    if ip.flags_fragment.get() & 0x3fff != 0 {
        return Err(Verdict::Fragment);
    }
    if !ip.checksum_holds() {
        return Err(Verdict::HeaderChecksum);
    }
    let total = usize::from(ip.total_length.get());
    // Ethernet padding may follow the datagram.
    if total < IP || ETHERNET + total > packet.length() {
        return Err(Verdict::BadLength);
    }
    Ok(Outer { source: ipv4(ip.source), udp: ETHERNET + IP, payload: total - IP })
}

#[inline(always)]
fn outer_v6(packet: &impl Packet, settings: &Settings) -> Result<Outer, Verdict> {
    const IP: usize = size_of::<Ipv6>();
    let ip = header::<Ipv6>(packet, ETHERNET).ok_or(Verdict::NotOurs)?;
    if ip.version_class_flow[0].get() >> 12 != 6 || ipv6(ip.destination) != settings.local_address {
        return Err(Verdict::NotOurs);
    }
    match ip.next_header_hop_limit.get() >> 8 {
        PROTOCOL_UDP => {}
        44 => return Err(Verdict::Fragment),
        // Hop-by-hop, routing, authentication, destination options: UDP may follow.
        0 | 43 | 51 | 60 => return Err(Verdict::IpOptions),
        _ => return Err(Verdict::NotOurs),
    }
    let payload = usize::from(ip.payload_length.get());
    if ETHERNET + IP + payload > packet.length() {
        return Err(Verdict::BadLength);
    }
    Ok(Outer { source: ipv6(ip.source), udp: ETHERNET + IP, payload })
}

/// UDP and VXLAN: the segment's number, and where the inner frame starts.
#[inline(always)]
fn segment(packet: &impl Packet, outer: &Outer) -> Result<(u16, usize), Verdict> {
    let udp = header::<Udp>(packet, outer.udp).ok_or(Verdict::NotOurs)?;
    let port = udp.destination_port.get();
    let (word, bit) = tunnel_port_bit(port);
    if TUNNEL_PORTS.get(word).copied().unwrap_or(0) & bit == 0 {
        return Err(Verdict::NotOurs);
    }
    // A zero checksum or any other is the worker's to judge.
    if usize::from(udp.length.get()) != outer.payload || outer.payload < UDP + VXLAN + ETHERNET {
        return Err(Verdict::BadLength);
    }
    let vxlan = header::<Vxlan>(packet, outer.udp + UDP).ok_or(Verdict::BadLength)?;
    let vni_reserved = number(vxlan.vni_reserved);
    if number(vxlan.flags) != 0x0800_0000 || vni_reserved & 0xff != 0 {
        return Err(Verdict::Flags);
    }
    let key = OverlayKey::new(vni_reserved >> 8, port);
    // SAFETY: the map is not preallocated, so a value lives until the program ends.
    let overlay = unsafe { OVERLAYS.get(key) }.ok_or(Verdict::UnknownVni)?;
    if overlay.enabled == 0 {
        return Err(Verdict::Disabled);
    }
    Ok((overlay.overlay, outer.udp + UDP + VXLAN))
}
