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

/// What came of a reading.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Finished {
    /// Whether rows were not found that were not in doubt already.
    pub(super) doubts: bool,
    /// MACs for which there was no room.
    pub(super) refused: usize,
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
    fresh: HashMap<OverlayId, Fdb>,
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
        let (begun, fresh) = (Instant::now(), fresh.collect());
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
        let Some(fresh) = self.fresh.get_mut(&overlay).filter(|fresh| fresh.is_about(row)) else { return };
        if present {
            self.put(overlay, row, mirror, limits);
        } else {
            fresh.row(row, false);
        }
        self.told.extend(key(overlay, row).map(|key| (key, self.pieces)));
    }

    /// Puts a row into its table. Whatever else was read, there is room for what the `mirror` has.
    fn put(&mut self, overlay: OverlayId, row: &Row, mirror: &Mirror, limits: Limits) -> bool {
        let Some(fresh) = self.fresh.get_mut(&overlay) else { return true };
        let stays = mirror.fdb(overlay).zip(row.mac()).is_some_and(|(used, mac)| used.knows(mac));
        let learned = if stays { usize::MAX } else { limits.learned };
        let fits = fresh.has_room_for(row, Limits { learned, ..limits });
        if fits {
            fresh.row(row, true);
        }
        fits
    }

    /// Puts the tables in the place of those in use. What those have and was not found is kept until another reading
    /// has told, unless it is in doubt already.
    pub(super) fn finish(self, mirror: &mut Mirror, limits: Limits, work: &mut Work) -> Finished {
        let mut finished = Finished::default();
        for (overlay, mut fresh) in self.fresh {
            if let Some(used) = mirror.fdb(overlay) {
                finished.doubts |= fresh.keep_doubtful(used);
                finished.refused += fresh.limit_learned(limits.learned, used);
            }
            work.take(mirror.dumped(overlay, fresh));
        }
        finished
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
        assert!(!reading.finish(&mut mirror, LIMITS, &mut Work::default()).doubts);
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
        // There is room for it, until notifications tell of another one.
        piece(&mirror, &mut reading, &behind(4, 6, Life::Dynamic));
        tell(&mut mirror, &mut reading, &behind(3, 6, Life::Dynamic), true);
        piece(&mirror, &mut reading, &behind(3, 6, Life::Dynamic));
        assert!(!reading.read(OVERLAY, &behind(5, 6, Life::Dynamic), &mirror, LIMITS));
        let finished = reading.finish(&mut mirror, LIMITS, &mut Work::default());
        assert_eq!(finished, Finished { doubts: false, refused: 1 });
        let fdb = mirror.fdb(OVERLAY).unwrap();
        assert_eq!((fdb.target(mac(3)), fdb.learned(), fdb.len()), (Some(Target::Port(6)), 1, 1));
    }
}
