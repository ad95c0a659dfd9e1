//! The in-kernel engine at tc: `vxdp_tc_port` encapsulates, `vxdp_tc_underlay` decapsulates, and two small ones
//! carry packets between the namespaces of the NIC and of the bridge.
//!
//! A packet keeps its offloads: `bpf_skb_adjust_room` notes where the inner headers are, so that a whole TCP
//! burst is one packet up to the NIC, and a checksum that the container left to its device stays with it.
//!
//! `bpf_redirect` knows devices of its own namespace only. `bpf_redirect_peer` hands a packet to the other end
//! of a veth, as received there, without a queue in between, and runs that end's program at once. So a veth
//! with an end in each namespace, the uplink, is a door:
//!
//! ```text
//!  container │ overlay                       │ host
//!  eth1 ────▶ veth2 [port] ══peer══▶ uplink ─┼▶ uplink [depart] ──▶ NIC
//!  eth1 ◀══peer══ [arrive] uplink ◀──────────┼══peer══ [underlay] NIC ◀──
//! ```
//!
//! `skb->mark` comes through such a door (`skb_scrub_packet` with `xnet` false, net/core/filter.c), and says which
//! port a packet is for.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_SHOT, TC_ACT_UNSPEC,
    bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_peer};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use vxdp_ebpf::{Family, UPLINK_MARK, Verdict};

use super::carry::{arrival, congestion, hit, next_ident, tally_decap, tally_encap};
use super::encap::{Headers, updated};
use super::frame::{Be16, Ethernet, Ipv4, Ipv6, Packet as _, header, pointer};
use super::inner::{self, ecn};
use super::maps::{PORT_NUMBER, PORTS, SETTINGS};
use super::port::Departure;
use super::{alive, count, port};

const ETHERNET: usize = size_of::<Ethernet>();

/// Bytes that are to be readable in place: outer headers, inner Ethernet, one tag, IP header with options and
/// transport header at their longest fit, for all that ever needs more than half of it.
const READABLE: u32 = 192;

/// What `bpf_skb_adjust_room` is told: outer IPv4 and UDP, an Ethernet header inside, segments as they are.
const ENCAP: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO
    | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
    | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
    | BPF_F_ADJ_ROOM_ENCAP_L2_ETH) as u64
    | (ETHERNET as u64) << 56;

/// Encapsulates a container's frame and sends it to the host's end of the uplink.
#[classifier]
pub(crate) fn vxdp_tc_port(ctx: TcContext) -> i32 {
    match depart(&ctx) {
        Ok(uplink) => {
            count(Verdict::Redirected);
            ctx.set_mark(UPLINK_MARK);
            // SAFETY: the helper has no preconditions.
            unsafe { bpf_redirect_peer(uplink, 0) as i32 }
        }
        Err(verdict) => {
            count(verdict);
            TC_ACT_UNSPEC
        }
    }
}

/// Decapsulates a frame of the tunnel and sends it to the overlay's end of the uplink.
#[classifier]
pub(crate) fn vxdp_tc_underlay(ctx: TcContext) -> i32 {
    match arrive(&ctx) {
        Ok((uplink, port)) => {
            count(Verdict::Redirected);
            ctx.set_mark(UPLINK_MARK | port);
            // SAFETY: the helper has no preconditions.
            unsafe { bpf_redirect_peer(uplink, 0) as i32 }
        }
        Err(verdict) => {
            count(verdict);
            TC_ACT_UNSPEC
        }
    }
}

/// In the host's namespace: an encapsulated packet goes to the NIC.
#[classifier]
pub(crate) fn vxdp_tc_depart(ctx: TcContext) -> i32 {
    let Some(settings) = SETTINGS.get(0).filter(|_| skb(&ctx).mark == UPLINK_MARK) else {
        return TC_ACT_SHOT;
    };
    ctx.set_mark(0);
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_redirect(settings.underlay, 0) as i32 }
}

/// In the overlay's namespace: a decapsulated frame goes to its container.
#[classifier]
pub(crate) fn vxdp_tc_arrive(ctx: TcContext) -> i32 {
    let number = skb(&ctx).mark ^ UPLINK_MARK;
    let (Some(port), Some(frame)) = (PORTS.get(number), header::<Ethernet>(&ctx, 0)) else {
        return TC_ACT_SHOT;
    };
    ctx.set_mark(0);
    if frame.destination.octets() == port.mac {
        // SAFETY: the helper has no preconditions.
        return unsafe { bpf_redirect_peer(port.index, 0) as i32 };
    }
    // For a MAC behind the container's own one: the device itself must see that the frame is not for it, which
    // the short way does not let it.
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_redirect(port.index, 0) as i32 }
}

/// Encapsulates; the uplink to send by.
#[inline(always)]
fn depart(ctx: &TcContext) -> Result<u32, Verdict> {
    make_readable(ctx);
    // The length is judged when the headers are known.
    let Departure { settings, port, source, vtep_number, vtep } = port::known(ctx, |_, _| true)?;
    if skb(ctx).vlan_present != 0 {
        return Err(Verdict::NotPlain);
    }
    if port.udp_checksum != 0 || settings.ethertype != const { Family::V4.ethertype() } {
        return Err(Verdict::OuterChecksum);
    }
    let ethernet = *header::<Ethernet>(ctx, 0).ok_or(Verdict::BadLength)?;
    let inner = inner::look(ctx, ethernet.ethertype.get(), ETHERNET)?;
    let length = ctx.length();
    let (longest, segment) = (port.max_frame as usize, skb(ctx).gso_size as usize);
    // Of a burst, each segment has to fit, and all of it the length fields of the outer headers.
    let fits = if segment == 0 {
        length <= longest
    } else {
        ETHERNET + inner.headers + segment <= longest && length <= const { 0xffff - Headers::ROOM }
    };
    if !fits {
        return Err(Verdict::TooBig);
    }
    alive(0, settings)?;
    let ident = next_ident(if segment == 0 { 1 } else { length / segment + 1 });
    let headers = Headers::new(settings, port, vtep, ethernet, &inner, length, ident);
    ctx.adjust_room_by(Headers::ROOM as i32, ENCAP)?;
    let Some(place) = pointer::<Headers>(ctx, 0) else { return Err(Verdict::Refused) };
    // SAFETY: inside the packet and even; the verifier checks the bounds.
    unsafe { place.write(headers) };
    hit(source, settings);
    tally_encap(vtep_number, PORT_NUMBER.load(), length);
    Ok(port.uplink_inside)
}

/// Decapsulates; the uplink to send by and the port's number.
#[inline(always)]
fn arrive(ctx: &TcContext) -> Result<(u32, u32), Verdict> {
    make_readable(ctx);
    if skb(ctx).vlan_present != 0 {
        return Err(Verdict::OuterTag);
    }
    let (arrival, port, length) = arrival(ctx)?;
    let at = const { Headers::ROOM };
    if skb(ctx).gso_size == 0 && length > port.max_frame as usize {
        return Err(Verdict::TooBig);
    }
    let ethertype = header::<Ethernet>(ctx, at).ok_or(Verdict::BadLength)?.ethertype.get();
    let change = congestion(ctx, ethertype)?;
    alive(0, arrival.settings)?;
    if let Some(mark) = change {
        set_congestion(ctx, ethertype, mark);
    }
    let frame = *header::<Ethernet>(ctx, at).ok_or(Verdict::BadLength)?;
    let family = if ethertype == 0x86dd { u64::from(BPF_F_ADJ_ROOM_DECAP_L3_IPV6) } else { 0 };
    ctx.adjust_room_by(-(at as i32), u64::from(BPF_F_ADJ_ROOM_FIXED_GSO) | family)?;
    let Some(place) = pointer::<Ethernet>(ctx, 0) else { return Err(Verdict::Refused) };
    // SAFETY: inside the packet and even; the verifier checks the bounds.
    unsafe { place.write(frame) };
    hit(arrival.source, arrival.settings);
    tally_decap(arrival.vtep, arrival.port, length);
    Ok((port.uplink_outside, arrival.port))
}

/// Writes a codepoint into the inner packet. Nothing else changes, so the kernel would do the same should the
/// packet go there after all.
#[inline(always)]
fn set_congestion(ctx: &TcContext, ethertype: u16, mark: u8) {
    /// Keeps a checksum that the NIC computed over the packet true.
    const RECOMPUTE: u64 = aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM as u64;
    let at = const { Headers::ROOM + ETHERNET };
    if ethertype == 0x0800 {
        let Some(ip) = header::<Ipv4>(ctx, at) else { return };
        let (old, checksum) = (ip.version_ihl_tos, ip.checksum);
        let new = Be16::new(old.get() & !u16::from(ecn::MASK) | u16::from(mark));
        let checksum = updated(checksum, old, new);
        let _ = ctx.store(at, &new, RECOMPUTE);
        let _ = ctx.store(at + 10, &checksum, RECOMPUTE);
    } else {
        let Some(ip) = header::<Ipv6>(ctx, at) else { return };
        let old = ip.version_class_flow[0].get();
        let new = Be16::new(old & !(u16::from(ecn::MASK) << 4) | u16::from(mark) << 4);
        let _ = ctx.store(at, &new, RECOMPUTE);
    }
}

#[inline(always)]
fn skb(ctx: &TcContext) -> &__sk_buff {
    // SAFETY: the context is the program's own; the verifier turns each field into a read of the kernel's.
    unsafe { &*ctx.as_ptr().cast::<__sk_buff>() }
}

/// Gets the headers of a scattered packet together.
#[inline(always)]
fn make_readable(ctx: &TcContext) {
    let readable = ctx.data_end() - ctx.data();
    if readable < READABLE as usize && readable < ctx.length() {
        // Where this fails the headers are not found, and the packet passes.
        let _ = ctx.pull_data(if ctx.len() < READABLE { ctx.len() } else { READABLE });
    }
}

trait AdjustRoom {
    fn adjust_room_by(&self, bytes: i32, flags: u64) -> Result<(), Verdict>;
}

impl AdjustRoom for TcContext {
    /// Behind the Ethernet header. On an error the packet is as it was.
    #[inline(always)]
    fn adjust_room_by(&self, bytes: i32, flags: u64) -> Result<(), Verdict> {
        self.adjust_room(bytes, BPF_ADJ_ROOM_MAC, flags).map_err(|_| Verdict::Refused)
    }
}
