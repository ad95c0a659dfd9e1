//! `vxdp_underlay`: picks the tunnel's known unicast frames off the NIC.
//!
//! A frame is not changed here; the worker takes the outer headers off. A tag that the NIC has already
//! taken off (feature `rx-vlan-hw-parse`) cannot be seen from here.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use vxdp_ebpf::{Address, Family, FdbKey, OverlayKey, Place, Settings, Verdict, tunnel_port_bit};

use super::frame::{Ethernet, Ipv4, Ipv6, Udp, Vxlan, header, ipv4, ipv6, length, number};
use super::maps::{FDB, OVERLAYS, PORTS, SETTINGS, TUNNEL_PORTS, VTEPS, XSKS};
use super::{count, worker};

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

#[xdp]
pub(crate) fn vxdp_underlay(ctx: XdpContext) -> u32 {
    match known(&ctx) {
        Ok(()) => {
            count(Verdict::Redirected);
            XSKS.redirect(ctx.rx_queue_index(), u64::from(XDP_PASS)).unwrap_or(XDP_PASS)
        }
        Err(verdict) => {
            count(verdict);
            XDP_PASS
        }
    }
}

#[inline(always)]
fn known(ctx: &XdpContext) -> Result<(), Verdict> {
    let settings = SETTINGS.get(0).filter(|settings| settings.enabled != 0).ok_or(Verdict::Disabled)?;
    let outer = outer(ctx, settings)?;
    let (overlay, inner) = segment(ctx, &outer)?;
    let inner_length = outer.payload - UDP - VXLAN;
    let inner = header::<Ethernet>(ctx, inner).ok_or(Verdict::BadLength)?;
    if inner.destination.is_group() {
        return Err(Verdict::Multicast);
    }
    let destination = FdbKey { overlay, mac: inner.destination.octets() };
    // SAFETY: the map is not preallocated, so a row lives until the program ends.
    let destination = unsafe { FDB.get(destination) }.ok_or(Verdict::UnknownDestination)?;
    let Place::Local(port) = destination.place() else {
        return Err(Verdict::WrongSide);
    };
    let source = FdbKey { overlay, mac: inner.source.octets() };
    // SAFETY: as above.
    let source = unsafe { FDB.get(source) }.ok_or(Verdict::UnknownSource)?;
    let Place::Remote(vtep) = source.place() else {
        return Err(Verdict::MovedSource);
    };
    let vtep = VTEPS.get(vtep).ok_or(Verdict::MovedSource)?;
    if vtep.address != outer.source {
        return Err(Verdict::MovedSource);
    }
    // The bridge lets more pass than an AF_XDP socket can send into the port: a second tag, for one.
    let fits = PORTS.get(port).is_some_and(|port| inner_length <= port.max_frame as usize);
    if !fits || length(ctx) > settings.max_frame as usize {
        return Err(Verdict::TooBig);
    }
    worker(ctx, settings)
}

/// Ethernet and IP: addressed to us, plain, whole.
#[inline(always)]
fn outer(ctx: &XdpContext, settings: &Settings) -> Result<Outer, Verdict> {
    let ethernet = header::<Ethernet>(ctx, 0).ok_or(Verdict::NotOurs)?;
    let ethertype = ethernet.ethertype.get();
    if matches!(ethertype, 0x8100 | 0x88a8) {
        return Err(Verdict::OuterTag);
    }
    if ethertype != settings.ethertype || ethernet.destination.octets() != settings.local_mac {
        return Err(Verdict::NotOurs);
    }
    if ethertype == const { Family::V4.ethertype() } {
        outer_v4(ctx, settings)
    } else {
        outer_v6(ctx, settings)
    }
}

#[inline(always)]
fn outer_v4(ctx: &XdpContext, settings: &Settings) -> Result<Outer, Verdict> {
    const IP: usize = size_of::<Ipv4>();
    let ip = header::<Ipv4>(ctx, ETHERNET).ok_or(Verdict::NotOurs)?;
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
    if total < IP || ETHERNET + total > length(ctx) {
        return Err(Verdict::BadLength);
    }
    Ok(Outer { source: ipv4(ip.source), udp: ETHERNET + IP, payload: total - IP })
}

#[inline(always)]
fn outer_v6(ctx: &XdpContext, settings: &Settings) -> Result<Outer, Verdict> {
    const IP: usize = size_of::<Ipv6>();
    let ip = header::<Ipv6>(ctx, ETHERNET).ok_or(Verdict::NotOurs)?;
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
    if ETHERNET + IP + payload > length(ctx) {
        return Err(Verdict::BadLength);
    }
    Ok(Outer { source: ipv6(ip.source), udp: ETHERNET + IP, payload })
}

/// UDP and VXLAN: the segment's number, and where the inner frame starts.
#[inline(always)]
fn segment(ctx: &XdpContext, outer: &Outer) -> Result<(u16, usize), Verdict> {
    let udp = header::<Udp>(ctx, outer.udp).ok_or(Verdict::NotOurs)?;
    let port = udp.destination_port.get();
    let (word, bit) = tunnel_port_bit(port);
    if TUNNEL_PORTS.get(word).copied().unwrap_or(0) & bit == 0 {
        return Err(Verdict::NotOurs);
    }
    // A zero checksum or any other is the worker's to judge.
    if usize::from(udp.length.get()) != outer.payload || outer.payload < UDP + VXLAN + ETHERNET {
        return Err(Verdict::BadLength);
    }
    let vxlan = header::<Vxlan>(ctx, outer.udp + UDP).ok_or(Verdict::BadLength)?;
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
