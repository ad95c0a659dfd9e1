//! The programs and what they have in common.
//!
//! What they cost, by `BPF_PROG_TEST_RUN` over a million runs (Linux 6.18 with the JIT, one core of a virtual
//! machine, the small tables of the tests), with the 29 ns that a run takes when the switch is off: 30 to 37 ns
//! for a frame that is no tunnel datagram, 160 ns for a redirected one; 31 ns for a container's broadcast,
//! 120 ns for its known unicast up to the redirection. A hash lookup takes about 30 of these, the clock 20.

mod carry;
mod encap;
mod entropy;
mod frame;
mod inner;
mod maps;
mod port;
mod tc;
mod underlay;
mod xdp;
mod xsk;

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use vxdp_ebpf::{Settings, Verdict};

use maps::{COUNTERS, HEARTBEATS};

/// Whether the worker of a queue has shown itself lately; for the in-kernel engine, which has no workers, the
/// daemon in the place of the first one.
#[inline(always)]
fn alive(queue: u32, settings: &Settings) -> Result<(), Verdict> {
    let beat = HEARTBEATS.get(queue).copied().unwrap_or(0);
    // The coarse clock lags `CLOCK_MONOTONIC` by up to a tick, so a fresh heartbeat may lie in its future.
    // SAFETY: the helper has no preconditions.
    let age = unsafe { bpf_ktime_get_coarse_ns() }.saturating_sub(beat);
    if beat == 0 || age >= settings.heartbeat_max_age_ns {
        return Err(Verdict::StaleHeartbeat);
    }
    Ok(())
}

#[inline(always)]
fn count(verdict: Verdict) {
    if let Some(counter) = COUNTERS.get_ptr_mut(verdict as u32) {
        // SAFETY: the pointer is into this CPU's own value, and programs run in soft interrupts, which do not interrupt each other.
        unsafe { *counter += 1 };
    }
}
