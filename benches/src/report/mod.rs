//! What people and programs get to read of a run.

pub mod against;
mod chart;
mod html;
mod machine;
mod markdown;
pub mod output;
pub mod progress;
mod ratio;
mod section;
pub mod table;
mod warning;

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::figure::Figure;
use crate::rig::Traffic;

pub use html::html;
pub use machine::Machine;
pub use markdown::markdown;

/// A run: what it measured, and where.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When it began (RFC 3339, UTC).
    pub began: String,
    /// The benchmark's arguments.
    pub arguments: Vec<String>,
    /// The commit of the sources, `-dirty` with changes to it; none where they are not at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The machine it ran on.
    pub machine: Machine,
    /// The machine of the sink, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<Machine>,
    /// What the generator can do into the sink with nothing in between.
    pub calibrations: Vec<Calibration>,
    /// Everything measured.
    pub figures: Vec<Figure>,
    /// What could not be measured, and why.
    #[serde(default)]
    pub troubles: Vec<String>,
}

/// What the generator can do into the sink with nothing in between.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Which generator.
    #[serde(default)]
    pub generator: String,
    /// Bytes of a frame.
    pub frame: usize,
    /// Flows.
    pub flows: u32,
    /// Frames per second.
    pub rate: f64,
}

impl Run {
    /// A run that begins now, on this machine.
    pub fn begin() -> Self {
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        Self {
            began: now.to_string(),
            arguments: std::env::args().skip(1).collect(),
            commit: commit(),
            machine: Machine::here(),
            ..Self::default()
        }
    }

    /// Notes a calibration.
    pub fn calibrated(&mut self, traffic: Traffic, rate: f64) {
        let generator = traffic.generator.as_str().to_owned();
        self.calibrations.push(Calibration { generator, frame: traffic.frame, flows: traffic.flows, rate });
    }
}

/// What `git` calls the sources that this program was built from.
fn commit() -> Option<String> {
    let describe = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--exclude=*"];
    let output = Command::new("git").args(describe).stderr(Stdio::null()).output().ok()?;
    let name = String::from_utf8(output.stdout).ok()?;
    Some(name.trim().to_owned()).filter(|name| output.status.success() && !name.is_empty())
}

/// Which figures are compared with which, in words, for readers of every form of the report.
const METHOD: &str = "Everything was measured in turns (A B A B) within one run; each figure is the median of \
its repetitions with half their range. Only ratios within this run mean anything: `×` is the ratio to the \
reference, `≈` says that the ranges overlap, so that the run shows no difference, `void` that repetitions lie \
too far apart to compare, `?` marks such a figure, `*` one with a remark among the warnings.";
