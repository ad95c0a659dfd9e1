//! What the follower is told to follow, what it tells, and what it can be asked.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};
use vxdp_dataplane::wire::{MacAddr, Vni};
use vxdp_dataplane::{OverlayId, PortId};

use super::state::Change;
use crate::netns::Netns;

/// An overlay as the follower finds it.
#[derive(Debug, Clone)]
pub struct Source {
    /// Namespace of its bridge and vxlan device.
    pub netns: Netns,
    /// Its VNI.
    pub vni: Vni,
    /// Its UDP port.
    pub port: u16,
    /// Name of the bridge.
    pub bridge: String,
    /// Name of the vxlan device.
    pub vxlan: String,
    /// Names of the container ports on the bridge.
    pub ports: Vec<String>,
    /// MACs of the containers behind them.
    pub macs: Vec<MacAddr>,
}

/// What the fast path must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Table changes, in order.
    Changes(Vec<Change>),
    /// A container port of an overlay is on its bridge.
    PortAppeared {
        /// The overlay.
        overlay: OverlayId,
        /// Position of the port in [`Source::ports`].
        port: usize,
        /// Index of its device.
        device: u32,
    },
    /// A container port is gone.
    PortVanished {
        /// The overlay.
        overlay: OverlayId,
        /// Position of the port in [`Source::ports`].
        port: usize,
        /// Index its device had.
        device: u32,
    },
    /// All tables have been read: the first time, or since notifications were lost or a device was made anew.
    CaughtUp,
    /// The underlay device, at first and whenever it changed; `None`: it is gone.
    Underlay(Option<UnderlayLink>),
    /// The follower cannot go on; the fast path must be switched off.
    Lost(String),
}

/// The same facts, with changes that follow on each other in one.
pub fn merged(facts: impl IntoIterator<Item = Fact>) -> Vec<Fact> {
    let mut merged: Vec<Fact> = Vec::new();
    for fact in facts {
        match (merged.last_mut(), fact) {
            (Some(Fact::Changes(before)), Fact::Changes(mut more)) => before.append(&mut more),
            (_, fact) => merged.push(fact),
        }
    }
    merged
}

/// The underlay device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayLink {
    /// Its index.
    pub device: u32,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether our VTEP address is this host's, on whatever device. While it is not, the kernel takes no datagram
    /// for it, and sends none from it.
    pub addressed: bool,
}

/// What the fast path asks of the follower.
#[derive(Debug)]
pub enum Ask {
    /// A port takes frames: MACs behind its device may be carried.
    PortUp {
        /// The overlay.
        overlay: OverlayId,
        /// Index of its device.
        device: u32,
        /// Its number.
        port: PortId,
    },
    /// A port takes no more frames.
    PortDown {
        /// The overlay.
        overlay: OverlayId,
        /// Index of its device.
        device: u32,
    },
    /// The fast path used these MACs: their rows must not age out of the kernel.
    Used(Vec<(OverlayId, MacAddr)>),
}

/// Counters of a follower: it writes, anybody reads.
#[derive(Debug, Default)]
pub struct FollowCounters {
    pub(super) events: AtomicU64,
    pub(super) overflows: AtomicU64,
    pub(super) dumps: AtomicU64,
    pub(super) audits: AtomicU64,
    pub(super) drift: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) behind: AtomicU64,
}

/// The counters of a follower at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// Notifications of the kernel.
    pub events: u64,
    /// Times the kernel lost some, which was answered by a new dump.
    pub overflows: u64,
    /// Dumps of a namespace, the first ones and those of audits included.
    pub dumps: u64,
    /// Times everything was dumped without an occasion.
    pub audits: u64,
    /// Changes that an audit found and no notification had told.
    pub drift: u64,
    /// Times a row was left to the kernel because the tables are full; each look at all rows counts it again.
    pub refused: u64,
    /// Namespaces whose tables are not known and being read, at the start or after an overflow: the kernel carries
    /// what comes to light only then.
    #[serde(default)]
    pub behind: u64,
}

impl FollowCounters {
    /// Counts a row that is left to the kernel because the programs' tables are full.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// The counters now.
    pub fn read(&self) -> Followed {
        Followed {
            events: self.events.load(Relaxed),
            overflows: self.overflows.load(Relaxed),
            dumps: self.dumps.load(Relaxed),
            audits: self.audits.load(Relaxed),
            drift: self.drift.load(Relaxed),
            refused: self.refused.load(Relaxed),
            behind: self.behind.load(Relaxed),
        }
    }
}

impl Followed {
    /// Together with another follower's.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            events: self.events + other.events,
            overflows: self.overflows + other.overflows,
            dumps: self.dumps + other.dumps,
            audits: self.audits + other.audits,
            drift: self.drift + other.drift,
            refused: self.refused + other.refused,
            behind: self.behind + other.behind,
        }
    }
}

impl Source {
    /// The names of all its devices.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        [&self.bridge, &self.vxlan].into_iter().chain(&self.ports).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_merged_up_to_the_next_fact_of_another_kind() {
        let change = |last| Change::Mac {
            overlay: OverlayId::new(0),
            mac: MacAddr::new([2, 0, 0, 0, 0, last]),
            place: None,
        };
        let facts = [
            Fact::Changes(vec![change(1)]),
            Fact::Changes(vec![change(2), change(3)]),
            Fact::CaughtUp,
            Fact::Changes(vec![change(4)]),
        ];
        let wanted = [
            Fact::Changes(vec![change(1), change(2), change(3)]),
            Fact::CaughtUp,
            Fact::Changes(vec![change(4)]),
        ];
        assert_eq!(merged(facts), wanted);
        assert_eq!(merged([]), []);
    }
}
