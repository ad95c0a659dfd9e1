//! `vxdp_port` and `vxdp_underlay`: XDP programs that hand known frames to the worker of their queue.
//!
//! `vxdp_port` makes room for the outer headers, and the worker fills it. `vxdp_underlay` changes nothing; the
//! worker takes the outer headers off.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use vxdp_ebpf::{Settings, Verdict};

use super::frame::Packet as _;
use super::maps::{PORTS, XSKS};
use super::{alive, count, port, underlay};

#[xdp]
pub(crate) fn vxdp_port(ctx: XdpContext) -> u32 {
    redirected(&ctx, depart(&ctx))
}

#[xdp]
pub(crate) fn vxdp_underlay(ctx: XdpContext) -> u32 {
    redirected(&ctx, arrive(&ctx))
}

#[inline(always)]
fn redirected(ctx: &XdpContext, judged: Result<(), Verdict>) -> u32 {
    match judged {
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
fn depart(ctx: &XdpContext) -> Result<(), Verdict> {
    let departure = port::known(ctx, |ctx, longest| ctx.length() <= longest as usize)?;
    worker(ctx, departure.settings)?;
    // The head moves last, because a frame that passes must be untouched.
    // SAFETY: the context is the program's own, and no reference into the frame is used afterwards.
    if unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), -(departure.settings.room as i32)) } != 0 {
        return Err(Verdict::NoHeadroom);
    }
    Ok(())
}

#[inline(always)]
fn arrive(ctx: &XdpContext) -> Result<(), Verdict> {
    let arrival = underlay::known(ctx)?;
    // The bridge lets more pass than an AF_XDP socket can send into the port: a second tag, for one.
    let length = arrival.end - arrival.inner;
    let fits = PORTS.get(arrival.port).is_some_and(|port| length <= port.max_frame as usize);
    if !fits || ctx.length() > arrival.settings.max_frame as usize {
        return Err(Verdict::TooBig);
    }
    worker(ctx, arrival.settings)
}

/// Whether the worker of the frame's queue is alive and has a socket: the last question about a frame,
/// so that the counters of these two verdicts say how many frames the fast path would have carried.
#[inline(always)]
fn worker(ctx: &XdpContext, settings: &Settings) -> Result<(), Verdict> {
    let queue = ctx.rx_queue_index();
    alive(queue, settings)?;
    // The kernel takes a closed socket out of the map by itself.
    if XSKS.get(queue).is_none() {
        return Err(Verdict::NoSocket);
    }
    Ok(())
}
