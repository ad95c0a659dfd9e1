//! The measurements, one file each.

mod cost;
mod failover;
pub(crate) mod latency;
mod scale;
mod tcp;
pub(crate) mod throughput;

use std::time::Duration;

use anyhow::Result;

use crate::figure::{Conditions, Sample};
use crate::rig::Traffic;
use crate::session::{Session, Settings};
use crate::subject::Kind;

/// What can be measured of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Measurement {
    /// No-drop rate (RFC 2544) by bisection, and what is delivered under overload.
    Throughput,
    /// Processor time for a frame, at a rate below every subject's no-drop rate.
    Cost,
    /// Round trips of a UDP request: back to back, one a millisecond, and beside other traffic.
    Latency,
    /// TCP: bulk throughput of one and of four connections, and requests one after the other.
    Tcp,
    /// Datagrams lost, and the longest gap, while modes are switched and daemons stop, hang and die.
    Failover,
    /// Throughput with many rows in the tables, and with many overlays.
    Scale,
}

/// One thing that a measurement measures of each subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Under this traffic.
    Traffic(Traffic),
    /// Round trips in this way.
    RoundTrips(latency::Way),
    /// This over TCP.
    Tcp(tcp::Way),
    /// While this happens.
    Event(failover::Event),
    /// With this much.
    Size(scale::Size),
}

impl Case {
    /// As a figure names it.
    pub fn conditions(&self) -> Conditions {
        match self {
            Self::Traffic(traffic) => {
                let conditions =
                    Conditions::default().with("frame", traffic.frame).with("flows", traffic.flows);
                conditions.with("generator", traffic.generator.as_str())
            }
            Self::RoundTrips(way) => Conditions::default().with("load", way.as_str()),
            Self::Tcp(way) => way
                .conditions()
                .into_iter()
                .fold(Conditions::default(), |all, (name, value)| all.with(name, value)),
            Self::Event(event) => Conditions::default().with("event", event.as_str()),
            Self::Size(size) => size
                .conditions()
                .iter()
                .fold(Conditions::default(), |all, (name, value)| all.with(name, value)),
        }
    }
}

impl Measurement {
    /// All, in the order in which they are run: later ones use what earlier ones found out.
    pub const ALL: [Self; 6] =
        [Self::Throughput, Self::Cost, Self::Latency, Self::Tcp, Self::Failover, Self::Scale];

    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Cost => "cost",
            Self::Latency => "latency",
            Self::Tcp => "tcp",
            Self::Failover => "failover",
            Self::Scale => "scale",
        }
    }

    /// Whether it has a place in a run of two minutes.
    pub fn is_quick(self) -> bool {
        !matches!(self, Self::Failover | Self::Scale)
    }

    /// What it measures of each subject.
    pub fn cases(self, settings: &Settings) -> Vec<Case> {
        match self {
            Self::Throughput => traffics(settings).into_iter().map(Case::Traffic).collect(),
            Self::Cost => cost::traffics(settings).into_iter().map(Case::Traffic).collect(),
            Self::Latency => latency::Way::ALL.map(Case::RoundTrips).to_vec(),
            Self::Tcp => tcp::Way::ALL.map(Case::Tcp).to_vec(),
            Self::Failover => failover::Event::ALL.map(Case::Event).to_vec(),
            Self::Scale => scale::sizes(settings).into_iter().map(Case::Size).collect(),
        }
    }

    /// About how long one case of one subject takes.
    pub fn time(self, settings: &Settings) -> Duration {
        match self {
            // The overload, and about seven steps of bisection of which half are tried again.
            Self::Throughput => settings.trial * 12,
            Self::Cost => cost::length(settings) * 2,
            Self::Latency => latency::length(settings),
            Self::Tcp => tcp::length(settings),
            Self::Failover => failover::LENGTH,
            Self::Scale => scale::length(settings),
        }
    }

    /// Whether `case` makes sense for a subject of this kind.
    pub fn applies(case: &Case, kind: Kind) -> bool {
        match case {
            Case::Event(event) => event.happens_to(kind),
            Case::Size(_) => kind.mode().is_some(),
            _ => true,
        }
    }

    /// Measures one case of subject number `index`.
    pub fn run(self, session: &mut Session, index: usize, case: &Case) -> Result<Vec<Sample>> {
        match (self, case) {
            (Self::Throughput, Case::Traffic(traffic)) => throughput::run(session, index, *traffic),
            (Self::Cost, Case::Traffic(traffic)) => cost::run(session, index, *traffic),
            (Self::Latency, Case::RoundTrips(way)) => latency::run(session, index, *way),
            (Self::Tcp, Case::Tcp(way)) => tcp::run(session, index, *way),
            (Self::Failover, Case::Event(event)) => failover::run(session, index, *event),
            (Self::Scale, Case::Size(size)) => scale::run(session, index, *size),
            _ => unreachable!("`cases` gives each measurement its own kind"),
        }
    }
}

/// Every frame length with every number of flows from every generator.
fn traffics(settings: &Settings) -> Vec<Traffic> {
    let mut all = Vec::new();
    for &generator in &settings.generators {
        for &flows in &settings.flows {
            all.extend(settings.frames.iter().map(|&frame| Traffic {
                frame,
                flows,
                destinations: 1,
                generator,
            }));
        }
    }
    all
}
