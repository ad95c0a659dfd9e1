//! What a pilot says of itself, and what its readers look at without waiting for it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::config::{self, Config, Mode};
use crate::engine::{Counters, DeviceReport, EngineReport, Kind, OverlayCount};

/// The mode of the daemon and of each overlay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeReport {
    /// What carries known unicast now: `kernel`, `xdp`, or `mixed` where overlays differ.
    pub mode: String,
    /// Each overlay.
    pub overlays: Vec<OverlayMode>,
    /// Why xdp mode is not there although it is asked for.
    pub trouble: Option<String>,
    /// Switches so far.
    pub switched: u64,
    /// The latest switches, the newest first.
    pub switches: Vec<Switch>,
    /// The fast path, where it flies.
    pub engine: Option<EngineReport>,
}

impl ModeReport {
    /// Whether a device of the fast path is at XDP without sockets: the in-kernel engine's, by `hook = "xdp"`.
    pub fn redirects_without_sockets(&self, device: &DeviceReport) -> bool {
        let at_xdp = device.regime.as_deref().is_some_and(|regime| regime != "tc");
        let in_kernel = match (device.vni, &self.engine) {
            (Some(vni), _) => {
                self.overlays.iter().any(|overlay| overlay.vni == vni && overlay.engine == Kind::InKernel)
            }
            // Where both engines fly, only userspace has the underlay at XDP.
            (None, Some(engine)) => !engine.kinds.contains(&Kind::Userspace),
            (None, None) => false,
        };
        at_xdp && in_kernel
    }
}

/// The mode of one overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayMode {
    /// Its VNI.
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
    /// What was asked for: `auto`, `kernel` or `xdp`.
    pub asked: Mode,
    /// What carries known unicast now: `kernel` or `xdp`.
    pub mode: Mode,
    /// The engine that was asked for: `auto`, `userspace` or `inkernel`.
    pub asked_engine: config::Engine,
    /// The engine that carries it in xdp mode.
    pub engine: Kind,
    /// Why this engine, where it was left open.
    pub why: Option<String>,
}

/// A change of mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Seconds ago.
    pub age_s: u64,
    /// What happened, in words.
    pub what: String,
}

/// How things were after the last change, for readers.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) config: Arc<Config>,
    pub(super) overlays: Vec<OverlayMode>,
    pub(super) trouble: Option<String>,
    pub(super) switches: Vec<(Instant, String)>,
    pub(super) switched: u64,
    pub(super) engines: Vec<Counters>,
    pub(super) landed: Vec<OverlayCount>,
}

impl Shown {
    pub(super) fn mode(&self) -> &'static str {
        match self.overlays.iter().filter(|overlay| overlay.mode == Mode::Xdp).count() {
            0 => "kernel",
            xdp if xdp == self.overlays.len() => "xdp",
            _ => "mixed",
        }
    }

    pub(super) fn report(&self) -> ModeReport {
        let reports = self.engines.iter().filter_map(Counters::read);
        let switch =
            |(at, what): &(Instant, String)| Switch { age_s: at.elapsed().as_secs(), what: what.clone() };
        ModeReport {
            mode: self.mode().to_owned(),
            trouble: self.trouble.clone(),
            switched: self.switched,
            switches: self.switches.iter().rev().map(switch).collect(),
            engine: reports.reduce(EngineReport::join),
            overlays: self.overlays.clone(),
        }
    }

    pub(super) fn carried(&self) -> Vec<OverlayCount> {
        let mut counts = self.landed.clone();
        add(&mut counts, self.engines.iter().flat_map(Counters::overlays));
        counts
    }
}

/// Adds up what is of the same overlay and the same kind of engine.
pub(super) fn add(counts: &mut Vec<OverlayCount>, more: impl IntoIterator<Item = OverlayCount>) {
    let of = |count: &OverlayCount| (count.vni, count.port, count.engine);
    for more in more {
        match counts.iter_mut().find(|count| of(count) == of(&more)) {
            Some(count) => count.carried.add(more.carried),
            None => counts.push(more),
        }
    }
}
