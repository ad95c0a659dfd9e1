//! `vxdp_port`: picks a container's frames to known remote MACs off the host's end of its veth.
//!
//! It makes room for the outer headers, and the worker fills it. A VLAN tag that the container's end left
//! to the hardware (feature `tx-vlan-hw-insert`, on by default for a veth) is no part of the frame's data: from here
//! the frame looks untagged and would arrive untagged. The metadata kfunc that could tell
//! (`bpf_xdp_metadata_rx_vlan_tag`) needs a program bound to its device, which the loader library cannot
//! make; so control switches `tx-vlan-hw-insert` and `tx-vlan-stag-hw-insert` off on the container's end,
//! and tags are ordinary bytes of the frame.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use vxdp_ebpf::{FdbKey, Place, Verdict};

use super::frame::{Be16, Ethernet, Ipv6, header, length};
use super::maps::{FDB, PORT_NUMBER, PORTS, SETTINGS, VTEPS, XSKS};
use super::{count, worker};

const ETHERNET: usize = size_of::<Ethernet>();

/// An 802.1Q or 802.1ad tag behind the MACs: its number, then the EtherType of what it tags.
#[repr(C)]
struct Tag {
    control: Be16,
    ethertype: Be16,
}

/// The start of an ICMPv6 message (RFC 4443, section 2.1).
#[repr(C)]
struct Icmpv6 {
    type_code: Be16,
}

#[xdp]
pub(crate) fn vxdp_port(ctx: XdpContext) -> u32 {
    match known(&ctx).and_then(|room| make(&ctx, room)) {
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

/// Moves the head: the last step, because a frame that passes must be untouched.
#[inline(always)]
fn make(ctx: &XdpContext, room: u32) -> Result<(), Verdict> {
    // SAFETY: the context is the program's own, and no reference into the frame is used afterwards.
    if unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), -(room as i32)) } != 0 {
        return Err(Verdict::NoHeadroom);
    }
    Ok(())
}

/// The room to make for the outer headers.
#[inline(always)]
fn known(ctx: &XdpContext) -> Result<u32, Verdict> {
    let settings = SETTINGS.get(0).filter(|settings| settings.enabled != 0).ok_or(Verdict::Disabled)?;
    let number = PORT_NUMBER.load();
    let port = PORTS.get(number).filter(|port| port.enabled != 0).ok_or(Verdict::Disabled)?;
    let frame = header::<Ethernet>(ctx, 0).ok_or(Verdict::BadLength)?;
    if frame.destination.is_group() {
        return Err(Verdict::Multicast);
    }
    let destination = FdbKey { overlay: port.overlay, mac: frame.destination.octets() };
    // SAFETY: the map is not preallocated, so a row lives until the program ends.
    let destination = unsafe { FDB.get(destination) }.ok_or(Verdict::UnknownDestination)?;
    let Place::Remote(vtep) = destination.place() else {
        return Err(Verdict::WrongSide);
    };
    let source = FdbKey { overlay: port.overlay, mac: frame.source.octets() };
    // SAFETY: as above.
    let source = unsafe { FDB.get(source) }.ok_or(Verdict::UnknownSource)?;
    if !matches!(source.place(), Place::Local(at) if at == number) {
        return Err(Verdict::MovedSource);
    }
    if asks_neighbour(ctx, frame) {
        return Err(Verdict::Neighbour);
    }
    if length(ctx) > port.max_frame as usize {
        return Err(Verdict::TooBig);
    }
    if VTEPS.get(vtep).is_none_or(|vtep| vtep.resolved == 0) {
        return Err(Verdict::UnresolvedVtep);
    }
    worker(ctx, settings)?;
    Ok(settings.room)
}

/// Whether the vxlan device's `proxy` looks at the frame: ARP, or a neighbour solicitation right behind
/// the IPv6 header, unicast ones too (`vxlan_xmit`, drivers/net/vxlan/vxlan_core.c). The kernel has taken
/// one tag off by then, so this looks behind one.
#[inline(always)]
fn asks_neighbour(ctx: &XdpContext, frame: &Ethernet) -> bool {
    match frame.ethertype.get() {
        0x8100 | 0x88a8 => match header::<Tag>(ctx, ETHERNET) {
            Some(tag) => asks(ctx, tag.ethertype.get(), ETHERNET + size_of::<Tag>()),
            // A tag cut short: the kernel drops it.
            None => true,
        },
        ethertype => asks(ctx, ethertype, ETHERNET),
    }
}

#[inline(always)]
fn asks(ctx: &XdpContext, ethertype: u16, payload: usize) -> bool {
    const NEIGHBOUR_SOLICITATION: u16 = 135 << 8;
    match ethertype {
        0x0806 => true,
        0x86dd => {
            header::<Ipv6>(ctx, payload).is_some_and(|ip| ip.next_header_hop_limit.get() >> 8 == 58)
                && header::<Icmpv6>(ctx, payload + size_of::<Ipv6>())
                    .is_some_and(|message| message.type_code.get() == NEIGHBOUR_SOLICITATION)
        }
        _ => false,
    }
}
