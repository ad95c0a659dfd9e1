//! `throughput`: the no-drop rate, and what a path delivers when it gets more than it can carry.

use anyhow::Result;

use crate::figure::{Sample, Unit};
use crate::rig::Traffic;
use crate::session::Session;

pub(super) fn run(session: &mut Session, index: usize, traffic: Traffic) -> Result<Vec<Sample>> {
    let (rate, overload) = session.search(index, traffic)?;
    let note = session.bottleneck(traffic, overload.received_rate())?;
    Ok(vec![
        Sample { note: note.clone(), ..Sample::new("no-drop rate", Unit::FramesPerSecond, rate) },
        Sample {
            note,
            ..Sample::new("delivered under overload", Unit::FramesPerSecond, overload.received_rate())
        },
        Sample::context("offered as overload", Unit::FramesPerSecond, overload.sent_rate()),
    ])
}
