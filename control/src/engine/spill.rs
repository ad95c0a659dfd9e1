//! Rows for which the programs' tables had no room: the kernel carries their frames until there is some.

use std::collections::BTreeMap;

use vxdp_dataplane::OverlayId;
use vxdp_dataplane::wire::MacAddr;

use super::compile::MapWrite;
use crate::mirror::state::Place;
use crate::xdp::{TableError, Tables};

/// MACs that wait for room, with their places. The mirror's limits bound their number.
#[derive(Debug, Default)]
pub(super) struct Waiting(BTreeMap<(OverlayId, MacAddr), Place>);

impl Waiting {
    /// Does a write; whether there was room for it.
    pub(super) fn write(&mut self, maps: &mut Tables, write: MapWrite) -> Result<bool, TableError> {
        let fits = match maps.write(write) {
            Ok(()) => true,
            Err(TableError::Full { .. }) => false,
            Err(error) => return Err(error),
        };
        if let MapWrite::Mac { overlay, mac, place } = write {
            match place.filter(|_| !fits) {
                Some(place) => self.0.insert((overlay, mac), place),
                None => self.0.remove(&(overlay, mac)),
            };
        }
        Ok(fits)
    }

    /// Gives those that wait what room there is now.
    pub(super) fn try_again(&mut self, maps: &mut Tables) -> Result<(), TableError> {
        while let Some(entry) = self.0.first_entry() {
            let ((overlay, mac), place) = (*entry.key(), *entry.get());
            match maps.set_mac(overlay, mac, place) {
                Ok(()) => drop(entry.remove()),
                Err(TableError::Full { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdp::{BpfFs, Capacity, Programs};
    use vxdp_dataplane::PortId;

    const OVERLAY: OverlayId = OverlayId::new(0);

    fn row(number: u8, place: Option<Place>) -> MapWrite {
        MapWrite::Mac { overlay: OVERLAY, mac: MacAddr::new([2, 0, 0, 0, 0, number]), place }
    }

    #[test]
    #[ignore = "needs root"]
    fn a_row_that_found_no_room_takes_the_place_of_one_that_goes() {
        const ROWS: u8 = 8;
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("bpf");
        let bpffs = BpfFs::open(&root).expect("root mounts");
        let capacity = Capacity { rows: ROWS.into(), vteps: 1, ports: 1, overlays: 1 };
        let mut maps = Programs::new(bpffs, capacity).expect("loading").tables().expect("the maps");
        let (mut waiting, place) = (Waiting::default(), Some(Place::Local(PortId::new(0))));
        let mut write = |maps: &mut Tables, write| waiting.write(maps, write).expect("the map");
        for number in 0..ROWS {
            assert!(write(&mut maps, row(number, place)));
        }
        for late in [ROWS, ROWS + 1, ROWS + 2] {
            assert!(!write(&mut maps, row(late, place)), "no room");
        }
        // One that goes itself waits no longer.
        assert!(write(&mut maps, row(ROWS, None)));
        waiting.try_again(&mut maps).expect("the map");
        assert_eq!((maps.rows().1, waiting.0.len()), (8, 2), "still no room");
        waiting.write(&mut maps, row(0, None)).expect("the map");
        waiting.try_again(&mut maps).expect("the map");
        assert_eq!((maps.rows().1, waiting.0.len()), (8, 1), "one takes the place");
        waiting.write(&mut maps, row(1, None)).expect("the map");
        waiting.try_again(&mut maps).expect("the map");
        assert_eq!((maps.rows().1, waiting.0.len()), (8, 0));
        drop(maps);
        BpfFs::remove(&root).expect("unmounting");
    }
}
