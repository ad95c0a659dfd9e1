//! What happened between two answers of the daemon: counters become rates.
//!
//! Counters begin anew with each engine and with each daemon. What cannot be compared has no rate, for one
//! interval; a rate that is shown is never negative and never the total of a lifetime.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::api::status::Status;
use crate::engine::{Carried, EngineReport, Frames};

/// What carries frames.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Carrier {
    /// A path of an overlay: VNI, UDP port, name.
    Path(u32, u16, String),
    /// A container's port, with the VNI of its overlay.
    Port(String, u32),
    /// A VTEP.
    Vtep(IpAddr),
}

/// Why a frame was not carried by the fast path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Reason {
    pub(super) fate: Fate,
    /// Where: a device, or none for the workers.
    pub(super) device: Option<String>,
    pub(super) vni: Option<u32>,
    /// As in `docs/counters.md`.
    pub(super) name: String,
}

/// What became of such a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Fate {
    Dropped,
    Lost,
    Passed,
}

impl Fate {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Lost => "lost",
            Self::Passed => "passed",
        }
    }
}

/// The counters of one answer.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    at: Instant,
    pid: u32,
    flies: bool,
    carried: HashMap<Carrier, Carried>,
    /// Without those that are zero.
    pub(super) reasons: HashMap<Reason, u64>,
}

/// A flow in one direction, per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Flow {
    pub(super) frames: f64,
    pub(super) bits: f64,
}

/// A flow in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Flows {
    pub(super) encap: Flow,
    pub(super) decap: Flow,
}

/// What is known of the time between two samples.
#[derive(Debug, Clone, Default)]
pub(super) struct Rates {
    pub(super) carried: HashMap<Carrier, Flows>,
    pub(super) reasons: HashMap<Reason, f64>,
}

impl Sample {
    pub(super) fn of(status: &Status, at: Instant) -> Self {
        let engine = status.modes.engine.as_ref();
        let (mut carried, mut reasons) = (HashMap::<_, Carried>::new(), HashMap::new());
        for overlay in &status.overlays {
            for path in &overlay.paths {
                let carrier = Carrier::Path(overlay.vni, overlay.port, path.path.clone());
                carried.entry(carrier).or_default().add(path.carried);
            }
        }
        for device in engine.into_iter().flat_map(|engine| &engine.devices) {
            if let Some(vni) = device.vni {
                carried.entry(Carrier::Port(device.device.clone(), vni)).or_default().add(device.carried);
            }
        }
        for vtep in engine.into_iter().flat_map(|engine| &engine.peers) {
            carried.entry(Carrier::Vtep(vtep.address)).or_default().add(vtep.carried);
        }
        for (reason, frames) in engine.into_iter().flat_map(reasons_of) {
            *reasons.entry(reason).or_default() += frames;
        }
        Self { at, pid: status.pid, flies: engine.is_some(), carried, reasons }
    }

    /// The rates since `before`; none where nothing can be compared: another daemon, or no time between.
    pub(super) fn since(&self, before: &Self) -> Option<Rates> {
        let seconds = self.at.checked_duration_since(before.at)?.as_secs_f64();
        if self.pid != before.pid || seconds <= 0.0 {
            return None;
        }
        let flows = |(carrier, now): (&Carrier, &Carried)| {
            let then = before.carried.get(carrier)?;
            let encap = flow(then.encap, now.encap, seconds)?;
            Some((carrier.clone(), Flows { encap, decap: flow(then.decap, now.decap, seconds)? }))
        };
        let rate = |(reason, now): (&Reason, &u64)| {
            // A reason without a frame is left out of reports, an engine with its counters is not.
            let then = before.reasons.get(reason).copied().or(before.flies.then_some(0))?;
            Some((reason.clone(), now.checked_sub(then)? as f64 / seconds))
        };
        Some(Rates {
            carried: self.carried.iter().filter_map(flows).collect(),
            reasons: self.reasons.iter().filter_map(rate).collect(),
        })
    }
}

fn reasons_of(engine: &EngineReport) -> Vec<(Reason, u64)> {
    let mut reasons = Vec::new();
    for device in &engine.devices {
        let mut add = |fate, name: &String, frames| {
            let (device, vni) = (Some(device.device.clone()), device.vni);
            reasons.push((Reason { fate, device, vni, name: name.clone() }, frames));
        };
        let passed = device.verdicts.iter().filter(|count| count.verdict != "redirected");
        passed.for_each(|count| add(Fate::Passed, &count.verdict, count.frames));
        device.lost.iter().for_each(|count| add(Fate::Lost, &count.loss, count.frames));
    }
    for drop in &engine.drops {
        let reason = Reason { fate: Fate::Dropped, device: None, vni: None, name: drop.reason.clone() };
        reasons.push((reason, drop.frames));
    }
    reasons
}

fn flow(then: Frames, now: Frames, seconds: f64) -> Option<Flow> {
    let frames = now.frames.checked_sub(then.frames)? as f64 / seconds;
    Some(Flow { frames, bits: now.bytes.checked_sub(then.bytes)? as f64 * 8.0 / seconds })
}

impl Rates {
    /// What a path carries of all overlays together; none while nothing is known of it.
    pub(super) fn path(&self, name: &str) -> Option<Flows> {
        let of_path = |(carrier, flows): (&Carrier, &Flows)| match carrier {
            Carrier::Path(_, _, path) if path == name => Some(*flows),
            _ => None,
        };
        self.carried.iter().filter_map(of_path).reduce(Flows::and)
    }

    /// Frames per second of all paths in both directions.
    pub(super) fn frames(&self) -> f64 {
        let paths = self.carried.iter().filter(|(carrier, _)| matches!(carrier, Carrier::Path(..)));
        paths.map(|(_, flows)| flows.encap.frames + flows.decap.frames).sum()
    }

    /// Frames per second that a device left to the kernel.
    pub(super) fn passed(&self, device: &str, vni: Option<u32>) -> f64 {
        let of_device = |reason: &Reason| {
            reason.fate == Fate::Passed && reason.device.as_deref() == Some(device) && reason.vni == vni
        };
        self.reasons.iter().filter(|(reason, _)| of_device(reason)).map(|(_, rate)| rate).sum()
    }
}

impl Flows {
    fn and(self, other: Self) -> Self {
        Self { encap: self.encap.and(other.encap), decap: self.decap.and(other.decap) }
    }
}

impl Flow {
    fn and(self, other: Self) -> Self {
        Self { frames: self.frames + other.frames, bits: self.bits + other.bits }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::example::{carried, status};
    use crate::engine::DropCount;

    /// The rates between two answers that are `seconds` apart.
    fn rates(before: &Status, now: &Status, seconds: u64) -> Option<Rates> {
        let start = Instant::now();
        Sample::of(now, start + Duration::from_secs(seconds)).since(&Sample::of(before, start))
    }

    fn path(name: &str) -> Carrier {
        Carrier::Path(42, 4789, name.to_owned())
    }

    #[test]
    fn rates_are_per_second_and_in_bits() {
        let rates = rates(&status(100), &status(300), 2).expect("comparable");
        let flows = rates.carried[&path("userspace")];
        assert_eq!(flows.encap, Flow { frames: 100.0, bits: 100.0 * 98.0 * 8.0 });
        assert_eq!(rates.carried[&Carrier::Vtep([192, 168, 10, 22].into())].encap.frames, 100.0);
        assert_eq!(rates.carried[&Carrier::Port("veth2".into(), 42)].encap.frames, 100.0);
        assert_eq!(rates.frames(), 400.0, "two paths, two directions");
        assert_eq!(rates.passed("veth2", Some(42)), 100.0);
    }

    #[test]
    fn another_daemon_has_no_rates_although_its_counters_are_higher() {
        let restarted = Status { pid: 4712, ..status(1_000_000) };
        assert!(rates(&status(100), &restarted, 1).is_none());
    }

    #[test]
    fn counters_that_begin_anew_have_no_rate_and_the_others_have_one() {
        let mut now = status(5);
        now.overlays[0].paths[0].carried = carried(110);
        let rates = rates(&status(100), &now, 1).expect("the same daemon");
        assert_eq!(rates.carried.get(&path("userspace")), None);
        assert_eq!(rates.carried[&path("kernel")].encap.frames, 10.0);
        assert_eq!(rates.path("userspace"), None);
        assert!(rates.reasons.values().all(|rate| *rate >= 0.0));
    }

    #[test]
    fn what_appears_with_a_lifetime_of_counts_has_no_rate_at_first() {
        let mut before = status(1_000_000);
        before.overlays[0].paths.clear();
        before.modes.engine = None;
        let rates = rates(&before, &status(1_000_001), 1).expect("the same daemon");
        assert!(rates.carried.is_empty() && rates.reasons.is_empty(), "{rates:?}");
    }

    #[test]
    fn the_first_drop_of_a_reason_has_a_rate() {
        let mut now = status(100);
        let engine = now.modes.engine.as_mut().expect("one");
        engine.drops.push(DropCount { reason: "FULL_RING".into(), frames: 6 });
        let rates = rates(&status(100), &now, 2).expect("comparable");
        let full = Reason { fate: Fate::Dropped, device: None, vni: None, name: "FULL_RING".into() };
        assert_eq!(rates.reasons[&full], 3.0);
    }
}
