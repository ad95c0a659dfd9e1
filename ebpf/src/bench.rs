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
    /// Array of `u64` by [`Trace`](super::Trace).
    pub const TRACE: &str = "TRACE";
}

/// Names of the programs in the object.
pub mod program {
    /// Sends its own frame: for `BPF_PROG_TEST_RUN` with live frames.
    pub const GENERATE: &str = "vxdp_generate";
    /// Counts measuring frames and drops them.
    pub const SINK: &str = "vxdp_sink";
}

/// State of the generator. Times are nanoseconds of `CLOCK_MONOTONIC`.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generator {
    /// Frames sent so far, and the next sequence number.
    Sent,
    /// Number of flows less one; the number is a power of two.
    FlowMask,
    /// When it began.
    Start,
    /// From when on it sends nothing.
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

/// What the sink notes about the order and the times of frames, while it is told to. Frames have to come
/// from one queue: two CPUs would write over each other.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// Not 0 while the other entries are kept.
    Enabled,
    /// The sequence number after the highest seen; 0 before the first frame.
    Next,
    /// Frames whose number was lower than one seen before.
    Late,
    /// When the last frame came, nanoseconds of `CLOCK_MONOTONIC`; 0 before the first.
    Last,
    /// Longest time between two frames in nanoseconds.
    LongestGap,
}

impl Trace {
    /// Entries of the map.
    pub const COUNT: u32 = 5;
}

#[cfg(not(target_arch = "bpf"))]
pub use crate::object::BENCH_OBJECT as OBJECT;
