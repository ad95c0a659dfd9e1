//! How many MACs an overlay may have, and whose place is sure.

use vxdp_dataplane::wire::MacAddr;

use super::{Entry, Fdb};
use crate::mirror::message::{Life, Row};

/// How many MACs of an overlay are mirrored; more stay with the kernel, so that addresses which anybody can
/// make up do not grow this process without bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All of them.
    pub macs: usize,
    /// Those that were only learned from traffic. What was configured keeps its place whatever is learned.
    pub learned: usize,
}

impl Fdb {
    /// The same with a place for these MACs whatever else is learned: the containers of the configuration, which
    /// are learned as everybody is.
    pub fn expecting(self, macs: &[MacAddr]) -> Self {
        Self { expected: macs.to_vec(), ..self }
    }

    /// Whether the row's MAC is mirrored, or can be.
    pub fn has_room_for(&self, row: &Row, limits: Limits) -> bool {
        let life = match row {
            Row::Bridge(row) => row.life,
            Row::Tunnel(row) => row.life,
            Row::Neighbour(_) => return false,
        };
        let room = life != Life::Dynamic || self.learned < limits.learned;
        let has_place = |mac| self.knows(mac) || self.expected.contains(&mac);
        (room && self.len() < limits.macs) || row.mac().is_some_and(has_place)
    }

    /// Forgets learned MACs beyond `most` that `used`, in whose place this table comes, does not have; how many.
    pub fn limit_learned(&mut self, most: usize, used: &Self) -> usize {
        let excess = self.learned.saturating_sub(most);
        let goes = |(mac, entry): &(&MacAddr, &Entry)| {
            entry.is_learned() && !used.knows(**mac) && !self.expected.contains(mac)
        };
        let going: Vec<MacAddr> =
            self.entries.iter().filter(goes).take(excess).map(|(mac, _)| *mac).collect();
        for mac in &going {
            self.entries.remove(mac);
        }
        self.learned -= going.len();
        going.len()
    }
}
