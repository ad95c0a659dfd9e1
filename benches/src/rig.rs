//! A generator in container 1 and a sink in container 2, and trials between them.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use vxdp_lab::Place;

use crate::cpu;
use crate::frame::{self, Ends};
use crate::generator::{self, Generator, Pace};
use crate::sink::{Counter, Sink};
use crate::subject::{DEVICE, Entrance, Polling, Subject};

/// What a rig sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Traffic {
    /// Bytes of a frame, from the destination MAC on, without frame check sequence.
    pub frame: usize,
    /// Flows: different UDP source ports.
    pub flows: u32,
    /// Different destination MACs, a power of two.
    pub destinations: u32,
    /// Who makes them.
    pub generator: generator::Kind,
}

/// Generator and sink, set up on a subject.
pub struct Rig {
    generator: Box<dyn Generator>,
    sink: Box<dyn Counter>,
    // Goes last: what polls was needed until then.
    _polling: Option<Polling>,
}

/// What became of the frames of a trial.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// Frames that left the generator.
    pub sent: u64,
    /// Frames that reached the sink.
    pub received: u64,
    /// Time it took to send them.
    pub elapsed: Duration,
    /// Time that all processors were busy meanwhile, together.
    pub busy: Duration,
}

impl Trial {
    /// Frames per second that left.
    pub fn sent_rate(&self) -> f64 {
        self.sent as f64 / self.elapsed.as_secs_f64()
    }

    /// Frames per second that arrived.
    pub fn received_rate(&self) -> f64 {
        self.received as f64 / self.elapsed.as_secs_f64()
    }

    /// Share of the frames that did not arrive.
    pub fn loss(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { self.sent.saturating_sub(self.received) as f64 / self.sent as f64 }
    }
}

impl Rig {
    /// Sets it up on a subject of a lab.
    pub fn open(subject: &Subject, traffic: Traffic) -> Result<Self> {
        let [c1, c2] = &subject.containers;
        let sink = Sink::open(c2, DEVICE, subject.kind.sink_hook())?;
        Self::towards(Box::new(sink), (c1, DEVICE), subject.entrance.as_ref(), &Ends::LAB, traffic)
    }

    /// Sets a generator on a container's device, whose frames enter the host at `entrance`, before a sink that is
    /// there already.
    pub fn towards(
        sink: Box<dyn Counter>,
        (container, device): (&Place, &str),
        entrance: Option<&Entrance>,
        ends: &Ends,
        traffic: Traffic,
    ) -> Result<Self> {
        let kind = traffic.generator;
        let polling = (kind == generator::Kind::Live).then(|| Polling::switch_on(entrance)).transpose()?;
        let generator = kind.open(container, device, &frame::measuring(traffic.frame, ends)?, traffic)?;
        Ok(Self { generator, sink, _polling: polling })
    }

    /// Sends for `duration` and counts what arrives.
    pub fn trial(&mut self, pace: Pace, duration: Duration) -> Result<Trial> {
        let before = self.sink.frames()?;
        let moment = cpu::Moment::now()?;
        let generator = self.generator.as_mut();
        // A thread of its own, because programs that we start later would inherit where it may run.
        let sent = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                pin_to_last_processor()?;
                generator.run(pace, duration)
            });
            sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let busy = moment.busy()?;
        let received = self.sink.drained()? - before;
        Ok(Trial { sent: sent.frames, received, elapsed: sent.elapsed, busy })
    }
}

/// Keeps the generator where it is, so that two trials differ in the subject only.
fn pin_to_last_processor() -> Result<()> {
    let mut only = CpuSet::new();
    only.set(last_processor()?)?;
    sched_setaffinity(Pid::from_raw(0), &only).context("while pinning the generator")
}

/// The processor on which generators run: the last one that we may use.
pub(crate) fn last_processor() -> Result<usize> {
    let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0))?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    last.context("there is no processor to run on")
}
