//! `cost`: processor time of the whole machine for one frame.
//!
//! All subjects get the same rate, below the no-drop rate of each. The generator, the sink and the idle
//! machine are measured at that rate on the plain wire, and subtracted; what remains is the path between the
//! containers, less one veth.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::figure::{Sample, Unit};
use crate::generator::Pace;
use crate::rig::Traffic;
use crate::session::{Session, Settings};
use crate::subject::Kind;

/// Share of the lowest no-drop rate at which all are measured: high enough that batches form as they do in
/// use, low enough that no subject loses a frame.
const SHARE: f64 = 0.7;

/// The kernel gives idle times in hundredths of a second: this many trials make that a hundredth of the result.
const TRIALS: u32 = 4;

/// Processors that may be busy while nothing is measured; more than these, and the difference of two trials is
/// not the path's any more.
const STRANGE: f64 = 0.1;

/// The shortest and the longest frame, in one flow.
pub(super) fn traffics(settings: &Settings) -> Vec<Traffic> {
    let ends = [settings.frames.iter().min(), settings.frames.iter().max()];
    let generator = settings.generators.iter().copied().find(|generator| generator.sleeps());
    // Another one is refused when it is measured.
    let generator = generator.unwrap_or(settings.generators[0]);
    let of = |&frame: &usize| Traffic { frame, flows: 1, destinations: 1, generator };
    let mut traffics = ends.into_iter().flatten().map(of).collect::<Vec<_>>();
    traffics.dedup();
    traffics
}

pub(super) fn length(settings: &Settings) -> Duration {
    settings.trial * TRIALS
}

pub(super) fn run(session: &mut Session, index: usize, traffic: Traffic) -> Result<Vec<Sample>> {
    let generator = traffic.generator;
    ensure!(
        generator.sleeps(),
        "the generator `{}` never sleeps: processor time needs another one",
        generator.as_str()
    );
    let rate = session.lowest_no_drop_rate(traffic)? * SHARE;
    ensure!(rate > 0.0, "one of the subjects has no rate without drops: there is nothing to compare at");
    let (pace, length) = (Pace::Rate(rate), length(&session.settings));
    let strange = session.strange_work()?;
    let trial = session.rig(index, traffic)?.trial(pace, length)?;
    let empty = session.calibrated_trial(traffic, pace, length)?;
    let per_frame = |busy: Duration, frames: u64| busy.as_nanos() as f64 / frames.max(1) as f64;
    let cost = per_frame(trial.busy, trial.received) - per_frame(empty.busy, empty.received);
    let lost = trial.loss();
    let note = if strange > STRANGE {
        Some(format!("others kept {strange:.1} processors busy"))
    } else if lost > 0.01 {
        Some(format!("{:.1} % of the frames were lost", lost * 100.0))
    } else if cost <= 0.0 {
        Some("too little to be told from the generator and the sink".to_owned())
    } else {
        let polls = session.subjects[index].kind == Kind::Ovs;
        polls.then(|| "it polls without a pause, whatever the rate".to_owned())
    };
    Ok(vec![
        Sample { note, ..Sample::new("processor time", Unit::ProcessorTime, cost.max(0.0)) },
        Sample::context("at", Unit::FramesPerSecond, trial.sent_rate()),
        Sample::context("generator and sink", Unit::ProcessorTime, per_frame(empty.busy, empty.received)),
    ])
}
