//! The in-kernel engine at XDP: `vxdp_xdp_port` encapsulates and sends to the NIC, `vxdp_xdp_underlay` decapsulates
//! and sends to the container, before the kernel has made a socket buffer of the frame.
//!
//! The way out is a DEVMAP, whose entries are devices of any namespace. A frame that a sender's kernel has left
//! unfinished says so beside its bytes, which an XDP program does not see, and which a frame that passes keeps: so
//! those pass (`inner::is_unfinished`), and control has the containers finish their frames themselves.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use vxdp_ebpf::{Family, Verdict};

use super::carry::{arrival, congestion, hit, next_ident, tally_decap, tally_encap};
use super::encap::{Headers, updated};
use super::frame::{Be16, Ethernet, Ipv4, Ipv6, Packet as _, header, pointer};
use super::inner::{self, ecn};
use super::maps::{PORT_DEVICES, PORT_NUMBER, UNDERLAY_DEVICE};
use super::port::Departure;
use super::{alive, count, port};

const ETHERNET: usize = size_of::<Ethernet>();

/// Encapsulates a container's frame and sends it to the NIC.
#[xdp]
pub(crate) fn vxdp_xdp_port(ctx: XdpContext) -> u32 {
    match depart(&ctx) {
        Ok(()) => {
            count(Verdict::Redirected);
            UNDERLAY_DEVICE.redirect(0, 0).unwrap_or(XDP_ABORTED)
        }
        Err(verdict) => {
            count(verdict);
            XDP_PASS
        }
    }
}

/// Decapsulates a frame of the tunnel and sends it to its container.
#[xdp]
pub(crate) fn vxdp_xdp_underlay(ctx: XdpContext) -> u32 {
    match arrive(&ctx) {
        Ok(port) => {
            count(Verdict::Redirected);
            PORT_DEVICES.redirect(port, 0).unwrap_or(XDP_ABORTED)
        }
        Err(verdict) => {
            count(verdict);
            XDP_PASS
        }
    }
}

#[inline(always)]
fn depart(ctx: &XdpContext) -> Result<(), Verdict> {
    let Departure { settings, port, source, vtep_number, vtep } =
        port::known(ctx, |ctx, longest| ctx.length() <= longest as usize)?;
    if port.udp_checksum != 0 || settings.ethertype != const { Family::V4.ethertype() } {
        return Err(Verdict::OuterChecksum);
    }
    let ethernet = *header::<Ethernet>(ctx, 0).ok_or(Verdict::BadLength)?;
    let ethertype = ethernet.ethertype.get();
    let inner = inner::look(ctx, ethertype, ETHERNET)?;
    if inner::is_unfinished(ctx, ethertype, ETHERNET) {
        return Err(Verdict::Unfinished);
    }
    alive(0, settings)?;
    if UNDERLAY_DEVICE.get(0).is_none() {
        return Err(Verdict::NoDevice);
    }
    let length = ctx.length();
    let headers = Headers::new(settings, port, vtep, ethernet, &inner, length, next_ident(1));
    move_head(ctx, -const { Headers::ROOM as i32 })?;
    let Some(place) = pointer::<Headers>(ctx, 0) else { return Err(Verdict::Refused) };
    // SAFETY: inside the packet and even; the verifier checks the bounds.
    unsafe { place.write(headers) };
    hit(source, settings);
    tally_encap(vtep_number, PORT_NUMBER.load(), length);
    Ok(())
}

/// The number of the port that the inner frame is for.
#[inline(always)]
fn arrive(ctx: &XdpContext) -> Result<u32, Verdict> {
    let (arrival, port, length) = arrival(ctx)?;
    let at = const { Headers::ROOM };
    if length > port.max_frame as usize {
        return Err(Verdict::TooBig);
    }
    let ethertype = header::<Ethernet>(ctx, at).ok_or(Verdict::BadLength)?.ethertype.get();
    let change = congestion(ctx, ethertype)?;
    if ethertype == 0x86dd && inner::has_extensions(ctx, at + ETHERNET) {
        return Err(Verdict::NotPlain);
    }
    if inner::is_unfinished(ctx, ethertype, at + ETHERNET) {
        return Err(Verdict::Unfinished);
    }
    alive(0, arrival.settings)?;
    if PORT_DEVICES.get(arrival.port).is_none() {
        return Err(Verdict::NoDevice);
    }
    if let Some(mark) = change {
        set_congestion(ctx, ethertype, mark);
    }
    move_head(ctx, at as i32)?;
    hit(arrival.source, arrival.settings);
    tally_decap(arrival.vtep, arrival.port, length);
    Ok(arrival.port)
}

/// Moves the frame's start, forward by `bytes`. On an error the frame is as it was.
#[inline(always)]
fn move_head(ctx: &XdpContext, bytes: i32) -> Result<(), Verdict> {
    // SAFETY: the context is the program's own, and no reference into the frame is used afterwards.
    match unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), bytes) } {
        0 => Ok(()),
        _ => Err(Verdict::NoHeadroom),
    }
}

/// Writes a codepoint into the inner packet. Nothing else changes, so the kernel would do the same should the
/// packet go there after all.
#[inline(always)]
fn set_congestion(ctx: &XdpContext, ethertype: u16, mark: u8) {
    let at = const { Headers::ROOM + ETHERNET };
    // SAFETY: both pointers are inside the packet and even; the verifier checks the bounds.
    unsafe {
        if ethertype == 0x0800 {
            let Some(ip) = pointer::<Ipv4>(ctx, at) else { return };
            let old = (*ip).version_ihl_tos;
            let new = Be16::new(old.get() & !u16::from(ecn::MASK) | u16::from(mark));
            (*ip).version_ihl_tos = new;
            (*ip).checksum = updated((*ip).checksum, old, new);
        } else {
            let Some(ip) = pointer::<Ipv6>(ctx, at) else { return };
            let old = (*ip).version_class_flow[0].get();
            let new = old & !(u16::from(ecn::MASK) << 4) | u16::from(mark) << 4;
            (*ip).version_class_flow[0] = Be16::new(new);
        }
    }
}
