//! The sink: a program on container 2's `eth1` that counts measuring frames and drops them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode, tc};
use vxdp_ebpf::bench::{self, Counted, map, program};
use vxdp_lab::Place;

/// Frames are on their way as long as the counter moved within this time.
const QUIET: Duration = Duration::from_millis(15);
/// No queue holds frames longer than this.
const DRAINED: Duration = Duration::from_millis(500);

/// Where the sink's program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// In the driver: the cheapest.
    Xdp,
    /// Behind the driver, at tc: for what `bpf_redirect_peer` hands over, which passes no XDP hook of the device.
    Tc,
}

impl Hook {
    /// For a figure's regime.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// Counts measuring frames, here or on another host.
pub trait Counter: Send {
    /// Measuring frames so far.
    fn frames(&mut self) -> Result<u64>;

    /// Waits until no frame comes any more; the frames so far.
    fn drained(&mut self) -> Result<u64>;
}

/// Counts and drops while it exists; everything that is not a measuring frame passes.
pub struct Sink {
    // Holds the program and its link.
    _object: Ebpf,
    counted: PerCpuArray<MapData, u64>,
}

impl Sink {
    /// Attaches to `device` of `place`.
    pub fn open(place: &Place, device: &str, hook: Hook) -> Result<Self> {
        let mut object = Ebpf::load(bench::OBJECT).context("while loading the sink")?;
        let counted = PerCpuArray::try_from(object.take_map(map::COUNTED).context("no map")?)?;
        match hook {
            Hook::Xdp => {
                let xdp: &mut Xdp = object.program_mut(program::SINK).context("no program")?.try_into()?;
                xdp.load().context("while loading the sink")?;
                place.enter(|| xdp.attach(device, XdpMode::Driver).context("while attaching the sink"))?;
            }
            Hook::Tc => {
                let tc: &mut SchedClassifier =
                    object.program_mut(program::SINK_TC).context("no program")?.try_into()?;
                tc.load().context("while loading the sink")?;
                place.enter(|| {
                    // Before Linux 6.6 a filter needs it; it may be there.
                    let _ = tc::qdisc_add_clsact(device);
                    tc.attach(device, TcAttachType::Ingress).context("while attaching the sink")
                })?;
            }
        }
        Ok(Self { _object: object, counted })
    }
}

impl Counter for Sink {
    fn frames(&mut self) -> Result<u64> {
        Ok(self.counted.get(&(Counted::Frames as u32), 0)?.iter().sum())
    }

    fn drained(&mut self) -> Result<u64> {
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
}
