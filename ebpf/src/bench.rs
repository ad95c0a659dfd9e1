//! What the benchmarks' programs and userspace share: names, counters, and the compiled object.
//!
//! The programs are the binary `bench/main.rs`, built by `cargo xtask ebpf` and committed as `bench.bpf.o`.

/// The destination port of every measuring frame: discard (RFC 863). The sink leaves all others alone.
pub const MEASURING_PORT: u16 = 9;

/// The source port of the first flow; the next ones follow.
pub const FIRST_SOURCE_PORT: u16 = 10_000;

/// Where a frame's sequence number stands, eight bytes in host order: right behind Ethernet, IPv4 and UDP.
pub const SEQUENCE_OFFSET: usize = 14 + 20 + 8;

/// Names of the maps in the object.
pub mod map {
    /// Array of `u64` by [`Generator`](super::Generator).
    pub const GENERATOR: &str = "GENERATOR";
    /// DEVMAP of one: the device whose peer receives the frames.
    pub const DEVICE: &str = "DEVICE";
    /// Per-CPU array of `u64` by [`Counted`](super::Counted).
    pub const COUNTED: &str = "COUNTED";
}

/// Names of the programs in the object.
pub mod program {
    /// Sends its own frame: for `BPF_PROG_TEST_RUN` with live frames.
    pub const GENERATE: &str = "vxdp_generate";
    /// Counts measuring frames and drops them, at XDP.
    pub const SINK: &str = "vxdp_sink";
    /// The same at tc: `bpf_redirect_peer` hands packets over behind every XDP hook of the device, generic or not.
    pub const SINK_TC: &str = "vxdp_sink_tc";
}

/// State of the generator. Times are nanoseconds of `CLOCK_MONOTONIC`.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generator {
    /// Frames sent so far, and the next sequence number.
    Sent,
    /// Number of flows less one; the number is a power of two.
    FlowMask,
    /// When it began; 0 before its first run, which writes it.
    Start,
    /// From when on it sends nothing; before its first run, for how long it is to send.
    End,
    /// Frames in [`PERIOD`]; 0 = as fast as it can.
    Rate,
    /// Fewer frames than these do not make a burst.
    Burst,
    /// More frames than these are not caught up with.
    Debt,
    /// Frames of this run that were sent, or forgiven because they would have come too late.
    Done,
    /// Frames left of the burst.
    Credit,
}

impl Generator {
    /// Entries of the map.
    pub const COUNT: u32 = 9;
}

/// The time for which [`Generator::Rate`] is given: 2^30 ns, so that the program can divide by shifting.
pub const PERIOD: u64 = 1 << PERIOD_BITS;

/// The same as a power of two.
pub const PERIOD_BITS: u32 = 30;

/// What the sink counts.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Measuring frames.
    Frames,
    /// Their bytes, from the destination MAC on.
    Bytes,
}

impl Counted {
    /// Entries of the map.
    pub const COUNT: u32 = 2;
}

#[cfg(not(target_arch = "bpf"))]
pub use crate::object::BENCH_OBJECT as OBJECT;
