//! The measurements, one file each.

mod cost;
mod latency;
mod throughput;

use std::time::Duration;

use anyhow::Result;

use crate::figure::{Conditions, Sample};
use crate::rig::Traffic;
use crate::session::{Session, Settings};

/// What can be measured of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Measurement {
    /// No-drop rate (RFC 2544) by bisection, and what is delivered under overload.
    Throughput,
    /// Processor time for a frame, at a rate below every subject's no-drop rate.
    Cost,
    /// Round trips of a UDP request: back to back, one a millisecond, and beside other traffic.
    Latency,
}

/// One thing that a measurement measures of each subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Under this traffic.
    Traffic(Traffic),
    /// Round trips in this way.
    RoundTrips(latency::Way),
}

impl Case {
    /// As a figure names it.
    pub fn conditions(&self) -> Conditions {
        match self {
            Self::Traffic(traffic) => {
                Conditions::default().with("frame", traffic.frame).with("flows", traffic.flows)
            }
            Self::RoundTrips(way) => Conditions::default().with("load", way.as_str()),
        }
    }
}

impl Measurement {
    /// All, in the order in which they are run: later ones use what earlier ones found out.
    pub const ALL: [Self; 3] = [Self::Throughput, Self::Cost, Self::Latency];

    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Cost => "cost",
            Self::Latency => "latency",
        }
    }

    /// What it measures of each subject.
    pub fn cases(self, settings: &Settings) -> Vec<Case> {
        match self {
            Self::Throughput => traffics(settings).map(Case::Traffic).collect(),
            Self::Cost => cost::traffics(settings).into_iter().map(Case::Traffic).collect(),
            Self::Latency => latency::Way::ALL.map(Case::RoundTrips).to_vec(),
        }
    }

    /// About how long one case of one subject takes.
    pub fn time(self, settings: &Settings) -> Duration {
        match self {
            // The overload, and about seven steps of bisection of which half are tried again.
            Self::Throughput => settings.trial * 12,
            Self::Cost => cost::length(settings) * 2,
            Self::Latency => latency::length(settings),
        }
    }

    /// Measures one case of subject number `index`.
    pub fn run(self, session: &mut Session, index: usize, case: &Case) -> Result<Vec<Sample>> {
        match (self, case) {
            (Self::Throughput, Case::Traffic(traffic)) => throughput::run(session, index, *traffic),
            (Self::Cost, Case::Traffic(traffic)) => cost::run(session, index, *traffic),
            (Self::Latency, Case::RoundTrips(way)) => latency::run(session, index, *way),
            _ => unreachable!("`cases` gives each measurement its own kind"),
        }
    }
}

/// Every frame length with every number of flows.
fn traffics(settings: &Settings) -> impl Iterator<Item = Traffic> {
    let of = |&flows: &u32| settings.frames.iter().map(move |&frame| Traffic { frame, flows });
    settings.flows.iter().flat_map(of)
}
