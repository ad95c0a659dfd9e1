//! What the fast path of a host has counted, and whether that is what a row of a table says.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use vxdp_control::api::{Request, client, status::Status};
use vxdp_control::engine::EngineReport;
use vxdp_ebpf::Verdict;
use vxdp_lab::Host;

use crate::row::Way;

/// The workers' counters of carried frames.
pub(crate) const ENCAP: &str = "encap";
/// The other direction.
pub(crate) const DECAP: &str = "decap";

/// Every counter of one device's program and of the workers that may have moved, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counters(BTreeMap<String, u64>);

/// The report of the fast path on `host`.
pub(crate) fn engine(host: &Host) -> Result<EngineReport> {
    let status: Status = client::ask(&host.file("/run/vxdp/vxdp.sock"), &Request::Status)?;
    status.modes.engine.context("no fast path")
}

/// The counters of the program on `device` and of the workers.
pub(crate) fn of_device(host: &Host, device: &str, vni: Option<u32>) -> Result<Counters> {
    let engine = engine(host)?;
    let program = engine.devices.iter().find(|report| report.device == device && report.vni == vni);
    let verdicts = program.with_context(|| format!("{device} has no program"))?.verdicts.iter();
    let verdicts = verdicts.map(|count| (count.verdict.clone(), count.frames));
    let drops = engine.drops.iter().map(|drop| (drop.reason.clone(), drop.frames));
    let carried = [(ENCAP.to_owned(), engine.encap.frames), (DECAP.to_owned(), engine.decap.frames)];
    Ok(Counters(verdicts.chain(drops).chain(carried).collect()))
}

impl Counters {
    /// What moved between `earlier` and now.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let moved = |(name, count): (&String, &u64)| {
            let moved = count - earlier.0.get(name).copied().unwrap_or(0);
            (moved > 0).then(|| (name.clone(), moved))
        };
        Self(self.0.iter().filter_map(moved).collect())
    }

    /// How the counters that moved differ from those that `frames` frames on `way`, and the fence behind them,
    /// must move; `carried` is the counter of the direction. What leaves a container has a question in its fence.
    pub(crate) fn stray(mut self, way: Way, frames: u64, carried: &'static str) -> Option<String> {
        let mut wanted =
            BTreeMap::from([(Verdict::Redirected.name(), 1), (Verdict::Multicast.name(), 1), (carried, 1)]);
        wanted.extend((carried == ENCAP).then_some((Verdict::Neighbour.name(), 1)));
        let mut count = |name| *wanted.entry(name).or_default() += frames;
        match way {
            Way::Fast => {
                count(Verdict::Redirected.name());
                count(carried);
            }
            Way::Kernel(verdict) => count(verdict.name()),
            Way::Dropped(reason) => {
                count(Verdict::Redirected.name());
                count(reason.name());
            }
        }
        // Neighbours talk on the wire by themselves.
        let background = Verdict::NotOurs.name();
        if let (Some(moved), least) =
            (self.0.get_mut(background), wanted.get(background).copied().unwrap_or(0))
        {
            *moved = least.min(*moved);
        }
        self.0.retain(|_, moved| *moved > 0);
        let wanted = wanted.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        (self.0 != wanted).then(|| format!("counters moved by {:?} instead of {wanted:?}", self.0))
    }
}
