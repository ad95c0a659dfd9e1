//! Reading a namespace's forwarding tables anew, piece by piece, beside the tables that are in use.

use std::collections::HashMap;
use std::io;

use tokio::time::Instant;
use vxdp_dataplane::OverlayId;
use vxdp_dataplane::wire::MacAddr;

use super::fdb::{Fdb, Limits};
use super::message::Row;
use super::rows::{AHEAD, Piece, Rows};
use super::state::Mirror;
use super::work::Work;
use crate::netns::Netns;

/// A table that fills up, to take the place of the one in use.
struct Fresh {
    fdb: Fdb,
    /// Learned MACs that the table in use does not have.
    newcomers: usize,
}

/// A row, whatever it says: an overlay's, of this MAC, on its vxlan device or on its bridge.
type Key = (OverlayId, MacAddr, bool);

/// Tables that fill up, to take the place of those in use.
///
/// What notifications tell meanwhile is taken in as well, and wins over what was read before they told it.
pub(super) struct Reading {
    /// Position of the namespace.
    pub(super) namespace: usize,
    pub(super) begun: Instant,
    rows: Rows,
    fresh: HashMap<OverlayId, Fresh>,
    /// Pieces so far.
    pieces: u64,
    /// Rows that notifications told of, and before which piece.
    told: HashMap<Key, u64>,
}

impl Reading {
    /// Begins to read the namespace at this position into these tables, which are empty.
    pub(super) fn begin(
        namespace: usize,
        netns: &Netns,
        fresh: impl Iterator<Item = (OverlayId, Fdb)>,
    ) -> io::Result<Self> {
        Ok(Self::of(namespace, Rows::of(netns)?, fresh))
    }

    fn of(namespace: usize, rows: Rows, fresh: impl Iterator<Item = (OverlayId, Fdb)>) -> Self {
        let begun = Instant::now();
        let fresh = fresh.map(|(overlay, fdb)| (overlay, Fresh { fdb, newcomers: 0 })).collect();
        Self { namespace, begun, rows, fresh, pieces: 0, told: HashMap::new() }
    }

    /// The next piece. Cancelling the wait loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Piece> {
        self.rows.next().await
    }

    /// The next rows are those of another piece.
    pub(super) fn turn(&mut self) {
        self.pieces += 1;
        let pieces = self.pieces;
        self.told.retain(|_, at| *at + AHEAD >= pieces);
    }

    /// Takes in a row that was read. `false`: there is no room for it.
    pub(super) fn read(&mut self, overlay: OverlayId, row: &Row, mirror: &Mirror, limits: Limits) -> bool {
        key(overlay, row).is_none_or(|key| self.told.contains_key(&key))
            || self.put(overlay, row, mirror, limits)
    }

    /// Takes in what a notification told of a row, after the `mirror` has.
    pub(super) fn told(
        &mut self,
        overlay: OverlayId,
        row: &Row,
        present: bool,
        mirror: &Mirror,
        limits: Limits,
    ) {
        let Some(fresh) = self.fresh.get_mut(&overlay).filter(|fresh| fresh.fdb.is_about(row)) else {
            return;
        };
        if present {
            self.put(overlay, row, mirror, limits);
        } else {
            fresh.fdb.row(row, false);
        }
        self.told.extend(key(overlay, row).map(|key| (key, self.pieces)));
    }

    /// Puts a row into its table, as far as there is room beside what the `mirror` has.
    fn put(&mut self, overlay: OverlayId, row: &Row, mirror: &Mirror, limits: Limits) -> bool {
        let Some(Fresh { fdb, newcomers }) = self.fresh.get_mut(&overlay) else { return true };
        let used = mirror.fdb(overlay);
        let stays = used.zip(row.mac()).is_some_and(|(used, mac)| used.knows(mac));
        // Learned MACs that are mirrored keep their place, and the rest is for others. By the order of the dump
        // alone, a flood of made-up MACs would push known ones out.
        let room = *newcomers < limits.learned.saturating_sub(used.map_or(0, Fdb::learned));
        let limits = Limits { learned: if stays || room { usize::MAX } else { 0 }, ..limits };
        if !fdb.has_room_for(row, limits) {
            return false;
        }
        let learned = fdb.learned();
        fdb.row(row, true);
        if !stays && fdb.learned() > learned {
            *newcomers += 1;
        }
        true
    }

    /// Puts the tables in the place of those in use; whether rows of those were not found and not in doubt already,
    /// which are kept until another reading has told.
    pub(super) fn finish(self, mirror: &mut Mirror, work: &mut Work) -> bool {
        let mut doubts = false;
        for (overlay, Fresh { mut fdb, .. }) in self.fresh {
            doubts |= mirror.fdb(overlay).is_some_and(|used| fdb.keep_doubtful(used));
            work.take(mirror.dumped(overlay, fdb));
        }
        doubts
    }

    /// Gives it up.
    pub(super) async fn end(self) {
        self.rows.end().await;
    }
}

fn key(overlay: OverlayId, row: &Row) -> Option<Key> {
    Some((overlay, row.mac()?, matches!(row, Row::Tunnel(_))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::fdb::Target;
    use crate::mirror::message::{BridgeRow, Life};
    use vxdp_dataplane::wire::Vni;

    const OVERLAY: OverlayId = OverlayId::new(0);
    const LIMITS: Limits = Limits { macs: 10, learned: 1 };

    fn mac(last: u8) -> MacAddr {
        MacAddr::new([2, 0x42, 10, 0, 0, last])
    }

    fn behind(last: u8, port: u32, life: Life) -> Row {
        Row::Bridge(BridgeRow { bridge: 4, port, mac: mac(last), vlan: None, life })
    }

    fn begun() -> (Mirror, Reading) {
        let fdb = || Fdb::new(Vni::from_wire([0, 0, 42]), 4789, 5);
        let mirror = Mirror::new(2, vec![fdb()], LIMITS);
        (mirror, Reading::of(0, Rows::none(), std::iter::once((OVERLAY, fdb()))))
    }

    /// As the follower does.
    fn tell(mirror: &mut Mirror, reading: &mut Reading, row: &Row, present: bool) {
        mirror.row(OVERLAY, row, present);
        reading.told(OVERLAY, row, present, mirror, LIMITS);
    }

    fn piece(mirror: &Mirror, reading: &mut Reading, row: &Row) {
        reading.turn();
        assert!(reading.read(OVERLAY, row, mirror, LIMITS));
    }

    fn target(mut mirror: Mirror, reading: Reading) -> Option<Target> {
        assert!(!reading.finish(&mut mirror, &mut Work::default()));
        mirror.fdb(OVERLAY)?.target(mac(3))
    }

    #[test]
    fn what_was_told_wins_over_what_was_read_before() {
        let (mut mirror, mut reading) = begun();
        piece(&mirror, &mut reading, &behind(3, 6, Life::Static));
        tell(&mut mirror, &mut reading, &behind(3, 7, Life::Static), true);
        assert_eq!(target(mirror, reading), Some(Target::Port(7)));
    }

    #[test]
    fn what_was_told_wins_over_a_piece_that_the_kernel_had_ready() {
        let (mut mirror, mut reading) = begun();
        tell(&mut mirror, &mut reading, &behind(3, 7, Life::Static), true);
        tell(&mut mirror, &mut reading, &behind(3, 7, Life::Static), false);
        for _ in 0..AHEAD {
            piece(&mirror, &mut reading, &behind(3, 7, Life::Static));
        }
        assert_eq!(target(mirror, reading), None);
    }

    #[test]
    fn what_is_read_later_is_newer_than_what_was_told() {
        let (mut mirror, mut reading) = begun();
        tell(&mut mirror, &mut reading, &behind(3, 7, Life::Static), true);
        // As long as the last word on it is not lost, it says the same.
        for _ in 0..=AHEAD {
            piece(&mirror, &mut reading, &behind(3, 6, Life::Static));
        }
        assert_eq!(target(mirror, reading), Some(Target::Port(6)));
    }

    #[test]
    fn learned_macs_that_the_mirror_has_keep_their_place() {
        let (mut mirror, mut reading) = begun();
        mirror.row(OVERLAY, &behind(3, 6, Life::Dynamic), true);
        reading.turn();
        assert!(!reading.read(OVERLAY, &behind(4, 6, Life::Dynamic), &mirror, LIMITS));
        assert!(reading.read(OVERLAY, &behind(3, 6, Life::Dynamic), &mirror, LIMITS));
        assert_eq!(target(mirror, reading), Some(Target::Port(6)));
    }
}
