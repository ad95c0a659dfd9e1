//! `throughput`: the no-drop rate, and what a path delivers when it gets more than it can carry.

use anyhow::Result;

use crate::figure::{Sample, Unit};
use crate::rig::{Traffic, Trial};
use crate::session::{Session, Settings};

/// What has to be said of a path that ran in the generator's own context, as far as the first queue, or whose
/// end did (a packet socket sends as any program does: the kernel's whole path is part of the system call's
/// softirq). There is no overload to speak of then, and no search.
const SLOWED: &str = "nothing is lost under overload: the path runs in the generator's context and slows it down, \
                      and this is the rate that it was slowed down to";

pub(super) fn run(session: &mut Session, index: usize, traffic: Traffic) -> Result<Vec<Sample>> {
    let (rate, overload) = session.search(index, traffic)?;
    let bottleneck = session.bottleneck(traffic, overload.received_rate())?;
    Ok(samples(rate, &overload, bottleneck.or_else(|| remark(&overload, &session.settings))))
}

/// What a search found, with what has to be said of it.
pub(crate) fn samples(rate: f64, overload: &Trial, note: Option<String>) -> Vec<Sample> {
    vec![
        Sample { note: note.clone(), ..Sample::new("no-drop rate", Unit::FramesPerSecond, rate) },
        Sample {
            note,
            ..Sample::new("delivered under overload", Unit::FramesPerSecond, overload.received_rate())
        },
        Sample::context("offered as overload", Unit::FramesPerSecond, overload.sent_rate()),
    ]
}

/// What has to be said of a path that lost nothing under overload.
pub(crate) fn remark(overload: &Trial, settings: &Settings) -> Option<String> {
    (overload.loss() <= settings.search.tolerance).then(|| SLOWED.to_owned())
}
