//! Which namespace's tables are read, one after the other and beside the notices: first those that we lost track
//! of, then those that an audit has left to read.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use vxdp_dataplane::OverlayId;

use super::due::{Due, reading_of};
use super::fact::Fact;
use super::fdb::Fdb;
use super::follow::{Failure, Follower, LIMITS, Namespace, empty_fdb};
use super::message::Row;
use super::reading::{Finished, Reading};
use super::rows::Piece;
use super::work::Work;

/// Times something is read in turn because the kernel said that what it gave does not fit together
/// (`NLM_F_DUMP_INTR`). Of what changes that often the last reading is better than none, and an audit comes in any
/// case.
pub(super) const ATTEMPTS: u32 = 4;

/// Why tables are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// We do not know what is in them: at the start, after lost notifications, with a device made anew.
    Lost,
    /// An audit.
    Audit,
}

/// Which reading it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    /// Whether it is the one that decides about what an earlier one did not find.
    decides: bool,
    attempt: u32,
}

impl Turn {
    const FIRST: Self = Self { decides: false, attempt: 1 };
    const SECOND: Self = Self { decides: true, attempt: 1 };
}

/// The reading under way, and those to come, by the namespace's position.
#[derive(Default)]
pub(super) struct Readings {
    lost: BTreeMap<usize, (Due, Turn)>,
    audit: BTreeMap<usize, Turn>,
    now: Option<(Reading, Occasion, Turn)>,
    /// How long a reading takes.
    takes: BTreeMap<usize, Duration>,
}

impl Readings {
    /// Notifications of this namespace were lost.
    ///
    /// A reading that has begun goes on to its end: were it begun anew each time, losses that come faster than a
    /// large table is read would keep it from ever ending. One more follows, whatever is lost until then.
    /// `takes` is how long a reading takes at least.
    pub(super) async fn lost(&mut self, namespace: usize, takes: Duration) {
        let known = self.takes.entry(namespace).or_default();
        *known = takes.max(*known);
        // One that is wanted already has heard of this loss as of any notification.
        let due = self.after_storm(namespace);
        self.lost.entry(namespace).or_insert((due, Turn::FIRST)).1 = Turn::FIRST;
        self.make_way().await;
    }

    /// A device of this namespace was made anew: what was read so far is of the old one.
    pub(super) async fn made_anew(&mut self, namespace: usize) {
        self.lost.insert(namespace, (Due::now(Instant::now()), Turn::FIRST));
        if let Some((reading, ..)) = self.now.take_if(|(reading, ..)| reading.namespace == namespace) {
            reading.end().await;
        }
        self.make_way().await;
    }

    /// An audit's reading comes after those of lost tables.
    async fn make_way(&mut self) {
        if let Some((reading, ..)) = self.now.take_if(|(_, occasion, _)| *occasion == Occasion::Audit) {
            self.audit.insert(reading.namespace, Turn::FIRST);
            reading.end().await;
        }
    }

    /// All of these are to be audited.
    pub(super) fn audit(&mut self, namespaces: impl Iterator<Item = usize>) {
        self.audit.extend(namespaces.map(|namespace| (namespace, Turn::FIRST)));
    }

    /// A notification of this namespace came.
    pub(super) fn heard(&mut self, namespace: usize) {
        if let Some((due, _)) = self.lost.get_mut(&namespace) {
            due.heard(Instant::now());
        }
    }

    /// A reading of this namespace has come to its end. The next one leaves as much time for a storm.
    fn ended(&mut self, namespace: usize, took: Duration) {
        self.takes.insert(namespace, took);
        let due = self.after_storm(namespace);
        if let Some((wanted, _)) = self.lost.get_mut(&namespace) {
            *wanted = due;
        }
    }

    fn after_storm(&self, namespace: usize) -> Due {
        let takes = self.takes.get(&namespace).copied().unwrap_or_default();
        Due::after_storm(Instant::now(), takes)
    }

    /// Whether none is under way and none to come.
    pub(super) fn is_idle(&self) -> bool {
        self.now.is_none() && self.lost.is_empty() && self.audit.is_empty()
    }

    /// Namespaces whose tables we do not know.
    fn behind(&self) -> u64 {
        let now = self.now.as_ref().filter(|(_, occasion, _)| *occasion == Occasion::Lost);
        let now = now.is_some_and(|(reading, ..)| !self.lost.contains_key(&reading.namespace));
        self.lost.len() as u64 + u64::from(now)
    }

    /// The next piece of the one under way, or `None` as soon as one is due. Cancelling the wait loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Option<Piece>> {
        if let Some((reading, ..)) = &mut self.now {
            return reading.next().await.map(Some);
        }
        match self.lost.values().map(|(due, _)| due.at).min() {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
        Ok(None)
    }

    /// The reading under way, if it is of this namespace.
    pub(super) fn of(&mut self, namespace: usize) -> Option<&mut Reading> {
        self.now.as_mut().map(|(reading, ..)| reading).filter(|reading| reading.namespace == namespace)
    }

    /// The next one; `calm` says whether no notice waits.
    fn wanted(&mut self, calm: bool) -> Option<(usize, Occasion, Turn)> {
        if self.lost.is_empty() {
            let first = self.audit.pop_first();
            return first.map(|(namespace, turn)| (namespace, Occasion::Audit, turn));
        }
        let now = Instant::now();
        let namespace = *self.lost.iter().find(|(_, (due, _))| due.is(now, calm))?.0;
        let (_, turn) = self.lost.remove(&namespace)?;
        Some((namespace, Occasion::Lost, turn))
    }

    fn want(&mut self, namespace: usize, occasion: Occasion, turn: Turn) {
        let due = self.after_storm(namespace);
        // Where notifications were lost meanwhile a first one is wanted already.
        match occasion {
            Occasion::Lost => _ = self.lost.entry(namespace).or_insert((due, turn)),
            Occasion::Audit => _ = self.audit.entry(namespace).or_insert(turn),
        }
    }

    /// Gives everything up.
    pub(super) async fn end(&mut self) {
        if let Some((reading, ..)) = self.now.take() {
            reading.end().await;
        }
    }
}

impl Follower {
    /// How long a reading of this namespace takes at least, by what we know of it.
    pub(super) fn reading_takes(&self, namespace: usize) -> Duration {
        let overlays = self.namespaces[namespace].overlays.iter();
        reading_of(overlays.filter_map(|overlay| self.mirror.fdb(*overlay)).map(Fdb::len).sum())
    }

    /// Begins the next reading where none is under way.
    pub(super) async fn go_on_reading(&mut self, out: &mut Vec<Fact>) -> Result<(), Failure> {
        let calm = self.is_calm();
        while self.readings.now.is_none()
            && let Some((namespace, occasion, turn)) = self.readings.wanted(calm)
        {
            // An audit finds devices that nobody told of; what that leads to comes before the rest of it.
            if occasion == Occasion::Audit
                && self.devices_of(namespace).await? != self.namespaces[namespace].devices
            {
                self.readings.want(namespace, occasion, turn);
                self.found(Work { devices: [namespace].into(), ..Work::default() }, out).await?;
                continue;
            }
            self.readings.now = Some((self.begin_reading(namespace)?, occasion, turn));
        }
        let behind = self.readings.behind();
        if self.counters.behind.swap(behind, Relaxed) > 0 && behind == 0 {
            out.push(Fact::CaughtUp);
        }
        Ok(())
    }

    fn begin_reading(&mut self, namespace: usize) -> Result<Reading, Failure> {
        self.counters.dumps.fetch_add(1, Relaxed);
        let Namespace { overlays, devices, .. } = &self.namespaces[namespace];
        let source = |overlay: OverlayId| &self.sources[usize::from(overlay.get())];
        let empty = |overlay: OverlayId| {
            let vxlan = devices.get(&source(overlay).vxlan).copied().unwrap_or(0);
            (overlay, empty_fdb(source(overlay), vxlan))
        };
        // All overlays of a namespace name the same one.
        let netns = &source(overlays[0]).netns;
        Ok(Reading::begin(namespace, netns, overlays.iter().copied().map(empty))?)
    }

    /// Takes what [`Readings::next`] gave.
    pub(super) async fn take_piece(&mut self, piece: Piece, out: &mut Vec<Fact>) -> Result<(), Failure> {
        let Some((mut reading, occasion, turn)) = self.readings.now.take() else { return Ok(()) };
        if let Piece::End { .. } = piece {
            self.readings.ended(reading.namespace, reading.begun.elapsed());
        }
        match piece {
            Piece::Rows(rows) => {
                self.take_rows(&mut reading, &rows);
                self.readings.now = Some((reading, occasion, turn));
                Ok(())
            }
            Piece::End { torn: true } if turn.attempt < ATTEMPTS => {
                let again = Turn { attempt: turn.attempt + 1, ..turn };
                self.readings.want(reading.namespace, occasion, again);
                Ok(())
            }
            Piece::End { .. } => self.finish(reading, occasion, turn, out).await,
        }
    }

    fn take_rows(&self, reading: &mut Reading, rows: &[Row]) {
        reading.turn();
        for row in rows {
            if let Some(overlay) = self.overlay_of(reading.namespace, row)
                && !reading.read(overlay, row, &self.mirror, LIMITS)
            {
                self.counters.refused.fetch_add(1, Relaxed);
            }
        }
    }

    async fn finish(
        &mut self,
        reading: Reading,
        occasion: Occasion,
        turn: Turn,
        out: &mut Vec<Fact>,
    ) -> Result<(), Failure> {
        let (namespace, begun) = (reading.namespace, reading.begun);
        let mut work = Work::default();
        let Finished { doubts, refused } = reading.finish(&mut self.mirror, LIMITS, &mut work);
        self.counters.refused.fetch_add(refused as u64, Relaxed);
        // Two readings are enough for one loss or audit: new doubts of the second one are left to the next audit.
        if doubts && !turn.decides {
            self.readings.want(namespace, occasion, Turn::SECOND);
        }
        self.audit.not_before(begun);
        match occasion {
            Occasion::Lost => self.settle(work, out).await,
            Occasion::Audit => self.found(work, out).await,
        }
    }
}
