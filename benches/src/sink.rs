//! The sink: an XDP program on container 2's `eth1` that counts measuring frames and drops them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{Xdp, XdpMode};
use vxdp_ebpf::bench::{self, Counted, Trace, map, program};
use vxdp_lab::Place;

/// Frames are on their way as long as the counter moved within this time.
const QUIET: Duration = Duration::from_millis(15);
/// No queue holds frames longer than this.
const DRAINED: Duration = Duration::from_millis(500);

/// Counts and drops while it exists; everything that is not a measuring frame passes.
pub struct Sink {
    // Holds the program and its link.
    _object: Ebpf,
    counted: PerCpuArray<MapData, u64>,
    trace: Array<MapData, u64>,
}

/// What the sink saw of the order and the times of frames.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Frames.
    pub frames: u64,
    /// Frames behind one with a higher number.
    pub late: u64,
    /// Longest time between two frames.
    pub longest_gap: Duration,
}

impl Sink {
    /// Attaches to `device` of `place`.
    pub fn open(place: &Place, device: &str, mode: XdpMode) -> Result<Self> {
        let mut object = Ebpf::load(bench::OBJECT).context("while loading the sink")?;
        let counted = PerCpuArray::try_from(object.take_map(map::COUNTED).context("no map")?)?;
        let trace = Array::try_from(object.take_map(map::TRACE).context("no map")?)?;
        let xdp: &mut Xdp = object.program_mut(program::SINK).context("no program")?.try_into()?;
        xdp.load().context("while loading the sink")?;
        place.enter(|| xdp.attach(device, mode).context("while attaching the sink"))?;
        Ok(Self { _object: object, counted, trace })
    }

    /// Measuring frames so far.
    pub fn frames(&self) -> Result<u64> {
        Ok(self.counted.get(&(Counted::Frames as u32), 0)?.iter().sum())
    }

    /// Waits until no frame comes any more; the frames so far.
    pub fn drained(&self) -> Result<u64> {
        let start = Instant::now();
        let (mut last, mut since) = (self.frames()?, start);
        loop {
            std::thread::sleep(QUIET / 5);
            let now = self.frames()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            if since.elapsed() >= QUIET || start.elapsed() >= DRAINED {
                return Ok(now);
            }
        }
    }

    /// From now on notes order and times of frames, afresh.
    pub fn start_trace(&mut self) -> Result<()> {
        for entry in [Trace::Enabled, Trace::Next, Trace::Late, Trace::Last, Trace::LongestGap] {
            self.trace.set(entry as u32, 0, 0)?;
        }
        Ok(self.trace.set(Trace::Enabled as u32, 1, 0)?)
    }

    /// Ends the trace; `before` are the [`frames`](Self::frames) at its start.
    pub fn stop_trace(&mut self, before: u64) -> Result<Seen> {
        self.trace.set(Trace::Enabled as u32, 0, 0)?;
        let entry = |entry: Trace| self.trace.get(&(entry as u32), 0);
        Ok(Seen {
            frames: self.frames()? - before,
            late: entry(Trace::Late)?,
            longest_gap: Duration::from_nanos(entry(Trace::LongestGap)?),
        })
    }
}
