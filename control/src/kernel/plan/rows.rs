//! Planning the rows of one vxlan device: in one pass over hash sets, for there may be a million.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use vxdp_dataplane::wire::MacAddr;

use super::{Note, Planner};
use crate::kernel::desired::{DesiredOverlay, Row};
use crate::kernel::observed::{FdbRow, Rows};
use crate::kernel::place::LinkAt;
use crate::kernel::step::Step;

/// What a row is found by; two rows with one key contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Neighbour(IpAddr),
    Fdb(MacAddr),
    Bridge(MacAddr),
    Flood(IpAddr),
}

impl Key {
    pub(super) fn of(row: &Row) -> Self {
        match *row {
            Row::Neighbour { address, .. } => Self::Neighbour(address),
            Row::Fdb { mac, .. } => Self::Fdb(mac),
            Row::Bridge { mac } => Self::Bridge(mac),
            Row::Flood { vtep } => Self::Flood(vtep),
        }
    }
}

/// The rows in their order, of contradicting ones the last.
fn resolved(overlay: &DesiredOverlay) -> Vec<Row> {
    let flood = overlay.spec.flood.iter().map(|&vtep| Row::Flood { vtep });
    let all: Vec<Row> = overlay.rows.iter().copied().chain(flood).collect();
    let last: HashMap<Key, usize> = all.iter().enumerate().map(|(at, row)| (Key::of(row), at)).collect();
    let wins = |&(at, ref row): &(usize, Row)| last.get(&Key::of(row)) == Some(&at);
    all.into_iter().enumerate().filter(wins).map(|(_, row)| row).collect()
}

impl Planner<'_> {
    pub(super) fn rows(&mut self, overlay: &DesiredOverlay, at: &LinkAt) {
        let nothing = Rows::default();
        let device = Arc::new(at.clone());
        let tunnel = (overlay.spec.vni, overlay.spec.port);
        let wanted = resolved(overlay);
        let mut steps = Vec::new();
        let mut notes = Vec::new();
        let seen = self.standing(at).map_or(&nothing, |link| &link.rows);
        for &row in &wanted {
            if seen.has(&row) {
                continue;
            }
            if let Row::Fdb { mac, .. } = row
                && matches!(seen.fdb.get(&mac), Some(FdbRow { vtep: None, .. }))
            {
                notes.push(Note::NexthopGroup { at: at.clone(), row });
                continue;
            }
            steps.push(Step::AddRow { at: device.clone(), tunnel, row, was: seen.in_place_of(&row) });
        }
        self.plan.steps.extend(steps);
        self.plan.notes.extend(notes);
        self.wanted.rows.entry(at.clone()).or_default().extend(wanted.iter().map(Key::of));
    }
}
