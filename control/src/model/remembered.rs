//! Rows that are wanted beside the static ones: answers to misses, and what an operator added.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};
use vxdp_dataplane::wire::{MacAddr, Vni};

use crate::api::Station;
use crate::config::{Config, Install, Overlay, Remote};
use crate::kernel::as_text;
use crate::kernel::desired::Row;
use crate::misses::{Answer, Missed};
use crate::segment::Segment;

/// One line of the file that remembers what `fdb add` and `fdb del` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    /// Added, in place of an earlier one of the same MAC.
    Add(Station),
    /// Deleted.
    Del {
        /// Its overlay.
        vni: u32,
        /// UDP port of its overlay.
        port: u16,
        /// Its MAC.
        #[serde(with = "as_text")]
        mac: MacAddr,
    },
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Segmented {
    installed: BTreeSet<Row>,
    added: BTreeMap<MacAddr, Station>,
}

/// Rows wanted beside the static ones, by overlay.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Remembered {
    segments: BTreeMap<Segment, Segmented>,
}

/// The rows of a remote that an operator added.
pub fn rows_of(station: &Station) -> Vec<Row> {
    Row::of_remote(&Remote {
        mac: station.mac,
        addresses: station.addresses.clone(),
        vtep: station.vtep,
        install: Install::Static,
    })
}

impl Remembered {
    /// Takes a note into account.
    pub fn read(&mut self, note: Note) {
        match note {
            Note::Add(station) => {
                // Without its port a note cannot say which of two overlays it means; we never write one.
                if let (Ok(vni), Some(port)) = (Vni::new(station.vni), station.port) {
                    self.add(Segment { vni, port }, station);
                }
            }
            Note::Del { vni, port, mac } => {
                if let Ok(vni) = Vni::new(vni) {
                    self.delete(Segment { vni, port }, mac);
                }
            }
        }
    }

    /// The notes that lead here from nothing.
    pub fn notes(&self) -> impl Iterator<Item = Note> + '_ {
        self.segments.values().flat_map(|segment| segment.added.values().cloned().map(Note::Add))
    }

    /// An operator added a remote; returns the one it replaces.
    pub fn add(&mut self, segment: Segment, station: Station) -> Option<Station> {
        self.segments.entry(segment).or_default().added.insert(station.mac, station)
    }

    /// An operator deleted a remote that was added.
    pub fn delete(&mut self, segment: Segment, mac: MacAddr) -> Option<Station> {
        self.segments.get_mut(&segment)?.added.remove(&mac)
    }

    /// The remote that an operator added.
    pub fn added(&self, segment: Segment, mac: MacAddr) -> Option<&Station> {
        self.segments.get(&segment)?.added.get(&mac)
    }

    /// How many remotes an operator added.
    pub fn added_count(&self, segment: Segment) -> usize {
        self.segments.get(&segment).map_or(0, |segment| segment.added.len())
    }

    /// A miss is being answered.
    pub fn installed(&mut self, segment: Segment, answer: Answer) {
        self.segments.entry(segment).or_default().installed.extend(answer.rows());
    }

    /// The answer did not reach the kernel.
    pub fn not_installed(&mut self, segment: Segment, answer: Answer) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            for row in answer.rows() {
                segment.installed.remove(&row);
            }
        }
    }

    /// Takes out the rows that a miss brought in for `mac`.
    pub fn uninstall(&mut self, segment: Segment, mac: MacAddr) -> Vec<Row> {
        let Some(segment) = self.segments.get_mut(&segment) else { return Vec::new() };
        let (gone, kept) =
            std::mem::take(&mut segment.installed).into_iter().partition(|row| mac_of(row) == Some(mac));
        segment.installed = kept;
        let gone: BTreeSet<Row> = gone;
        gone.into_iter().collect()
    }

    /// Rows that stand in the kernel when the daemon starts: an earlier daemon may have installed them on a
    /// miss. Those stay which the configuration would install on a miss today.
    pub fn found(&mut self, overlay: &Overlay, rows: impl IntoIterator<Item = Row>) {
        let on_miss = overlay.remotes.iter().filter(|remote| remote.install == Install::OnMiss);
        let on_miss: HashSet<Row> = on_miss.flat_map(Row::of_remote).collect();
        let found = rows.into_iter().filter(|row| on_miss.contains(row));
        self.segments.entry(Segment::of(overlay)).or_default().installed.extend(found);
    }

    /// Forgets what another configuration does not want or says itself; returns what an operator had added.
    pub fn keep_only(&mut self, config: &Config) -> Vec<Station> {
        let mut dropped = Vec::new();
        for (segment, mut rows) in std::mem::take(&mut self.segments) {
            let Some(overlay) = config.overlays.iter().find(|overlay| Segment::of(overlay) == segment) else {
                dropped.extend(rows.added.into_values());
                continue;
            };
            let remotes = overlay.remotes.iter().map(|remote| remote.mac);
            let configured = remotes.chain(overlay.containers.iter().map(|container| container.mac));
            dropped.extend(configured.filter_map(|mac| rows.added.remove(&mac)));
            let installed = std::mem::take(&mut rows.installed);
            self.segments.insert(segment, rows);
            self.found(overlay, installed);
        }
        dropped
    }

    /// All rows, by overlay.
    pub fn rows(&self) -> Vec<(Segment, Vec<Row>)> {
        let of = |segment: &Segmented| {
            let added = segment.added.values().flat_map(rows_of);
            segment.installed.iter().copied().chain(added).collect()
        };
        self.segments.iter().map(|(segment, rows)| (*segment, of(rows))).collect()
    }

    /// Whether some overlay has such a row.
    pub fn knows(&self, key: Missed) -> bool {
        self.segments.values().any(|segment| match key {
            Missed::Mac(mac) => segment.added.contains_key(&mac),
            Missed::Address(address) => {
                segment.added.values().any(|station| station.addresses.contains(&address))
            }
        })
    }

    /// Whether the row was installed on a miss.
    pub fn is_installed(&self, segment: Segment, row: &Row) -> bool {
        self.segments.get(&segment).is_some_and(|segment| segment.installed.contains(row))
    }

    /// Whether an operator added the row.
    pub fn is_added(&self, segment: Segment, row: &Row) -> bool {
        let added = self.segments.get(&segment).zip(mac_of(row)).and_then(|(s, mac)| s.added.get(&mac));
        added.is_some_and(|station| rows_of(station).contains(row))
    }
}

/// The MAC a row is about.
fn mac_of(row: &Row) -> Option<MacAddr> {
    match row {
        Row::Neighbour { mac, .. } | Row::Fdb { mac, .. } | Row::Bridge { mac } => Some(*mac),
        Row::Flood { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{config, overlay, station};

    fn segment() -> Segment {
        Segment::of(&overlay(42))
    }

    fn answer() -> Answer {
        let remote = &overlay(42).remotes[0];
        Answer::Station { mac: remote.mac, vtep: remote.vtep }
    }

    #[test]
    fn notes_lead_to_the_same_memory() {
        let mut memory = Remembered::default();
        memory.add(segment(), station(9));
        memory.add(segment(), station(10));
        memory.delete(segment(), station(9).mac);
        let mut again = Remembered::default();
        for note in memory.notes() {
            again.read(serde_json::from_str(&serde_json::to_string(&note).expect("JSON")).expect("a note"));
        }
        assert_eq!(again.rows(), memory.rows());
        assert_eq!(again.added_count(segment()), 1);
    }

    #[test]
    fn a_row_that_stands_is_kept_only_if_a_miss_would_bring_it() {
        let mut spec = overlay(42);
        spec.remotes[0].install = Install::OnMiss;
        let mut memory = Remembered::default();
        for row in answer().rows() {
            memory.found(&spec, [row]);
            assert!(memory.is_installed(segment(), &row));
        }
        let other = Row::Bridge { mac: station(9).mac };
        memory.found(&spec, [other]);
        assert!(!memory.is_installed(segment(), &other));
    }

    #[test]
    fn another_configuration_forgets_what_it_does_not_know() {
        let mut config = config();
        config.overlays[0].remotes[0].install = Install::OnMiss;
        let mut memory = Remembered::default();
        memory.installed(segment(), answer());
        memory.keep_only(&config);
        assert_eq!(memory.rows()[0].1.len(), 2);
        memory.add(segment(), station(3));
        assert_eq!(memory.keep_only(&config), [station(3)]);
        memory.add(segment(), station(9));
        config.overlays[0].remotes.clear();
        assert_eq!(memory.keep_only(&config), []);
        assert_eq!(memory.rows()[0].1.len(), 3);
        config.overlays.clear();
        assert_eq!(memory.keep_only(&config), [station(9)]);
        assert_eq!(memory, Remembered::default());
    }

    #[test]
    fn what_a_miss_brought_in_is_taken_out_by_mac() {
        let mut memory = Remembered::default();
        memory.installed(segment(), answer());
        assert_eq!(memory.uninstall(segment(), station(9).mac), []);
        assert_eq!(memory.uninstall(segment(), overlay(42).remotes[0].mac).len(), 2);
        assert!(memory.rows().iter().all(|(_, rows)| rows.is_empty()));
    }
}
