//! The two programs and what they have in common.
//!
//! What they cost, by `BPF_PROG_TEST_RUN` over a million runs (Linux 6.18 with the JIT, one core of a virtual
//! machine, the small tables of the tests), with the 29 ns that a run takes when the switch is off: 30 to 37 ns
//! for a frame that is no tunnel datagram, 160 ns for a redirected one; 31 ns for a container's broadcast,
//! 120 ns for its known unicast up to the redirection. A hash lookup takes about 30 of these, the clock 20.

mod frame;
mod maps;
mod port;
mod underlay;

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::XdpContext;
use vxdp_ebpf::{Settings, Verdict};

use maps::{COUNTERS, HEARTBEATS, XSKS};

/// Whether the worker of the frame's queue is alive and has a socket: the last question about a frame,
/// so that the counters of these two verdicts say how many frames the fast path would have carried.
#[inline(always)]
fn worker(ctx: &XdpContext, settings: &Settings) -> Result<(), Verdict> {
    let queue = ctx.rx_queue_index();
    let beat = HEARTBEATS.get(queue).copied().unwrap_or(0);
    // The coarse clock lags `CLOCK_MONOTONIC` by up to a tick, so a fresh heartbeat may lie in its future.
    // SAFETY: the helper has no preconditions.
    let age = unsafe { bpf_ktime_get_coarse_ns() }.saturating_sub(beat);
    if beat == 0 || age >= settings.heartbeat_max_age_ns {
        return Err(Verdict::StaleHeartbeat);
    }
    // The kernel takes a closed socket out of the map by itself.
    if XSKS.get(queue).is_none() {
        return Err(Verdict::NoSocket);
    }
    Ok(())
}

#[inline(always)]
fn count(verdict: Verdict) {
    if let Some(counter) = COUNTERS.get_ptr_mut(verdict as u32) {
        // SAFETY: the pointer is into this CPU's own value, and an XDP program is not interrupted by another.
        unsafe { *counter += 1 };
    }
}
