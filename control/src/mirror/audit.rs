//! Audits: everything is looked at again without an occasion, beside the following, because drift heals only if
//! someone looks.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;
use vxdp_dataplane::OverlayId;

use super::fact::Fact;
use super::follow::{Failure, Follower};
use super::message::Row;
use super::reading::{Doubts, Reading};
use super::work::Work;

/// How often audits are.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// Shortest time between two of them.
    pub every: Duration,
    /// How many times an audit's own duration lies between two: an audit of a large table must not become the
    /// daemon's main occupation.
    pub share: u32,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { every: Duration::from_secs(30), share: 50 }
    }
}

/// The audit that is due or under way.
pub(super) struct Audit {
    rhythm: Rhythm,
    /// When it begins, or began.
    pub(super) at: Instant,
    /// Namespaces that it has not read yet.
    namespaces: BTreeSet<usize>,
    reading: Option<Reading>,
    doubts: Doubts,
}

impl Audit {
    pub(super) fn new(rhythm: Rhythm) -> Self {
        let at = Instant::now() + rhythm.every;
        Self { rhythm, at, namespaces: BTreeSet::new(), reading: None, doubts: Doubts::default() }
    }

    /// The next audit, if reading everything took from `begun` until now.
    pub(super) fn after(&mut self, begun: Instant) {
        self.at = Instant::now() + self.rhythm.every.max(begun.elapsed() * self.rhythm.share);
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.reading.is_some()
    }

    /// The next rows of the namespace that is read; never, where none is.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<Row>>> {
        match &mut self.reading {
            Some(reading) => reading.next().await,
            None => std::future::pending().await,
        }
    }

    /// A notification told of a row, which the reading may have passed already.
    pub(super) fn changed(&mut self, namespace: usize, overlay: OverlayId, row: &Row) {
        let Some(mac) = row.mac() else { return };
        self.doubts.told(overlay, mac);
        if let Some(reading) = &mut self.reading
            && reading.namespace == namespace
            && !reading.changed(overlay, mac)
        {
            self.give_up();
        }
    }

    /// This namespace is read anew for another reason.
    pub(super) fn overtaken(&mut self, namespace: usize) {
        if self.reading.as_ref().is_some_and(|reading| reading.namespace == namespace) {
            self.give_up();
        }
    }

    /// Leaves everything to the next audit.
    fn give_up(&mut self) {
        self.reading = None;
        self.namespaces.clear();
        self.after(self.at);
    }
}

impl Follower {
    /// Looks at the host's namespace at once, and begins with the tables.
    pub(super) async fn begin_audit(&mut self, out: &mut Vec<Fact>) -> Result<(), Failure> {
        self.audit.at = Instant::now();
        self.audit.namespaces = (0..self.namespaces.len()).collect();
        self.found(Work { host: true, routes: true, ..Work::default() }, out).await?;
        self.audit_next(out).await
    }

    /// Takes what [`Audit::next`] gave.
    pub(super) async fn audited(
        &mut self,
        rows: Option<Vec<Row>>,
        out: &mut Vec<Fact>,
    ) -> Result<(), Failure> {
        let Some(mut reading) = self.audit.reading.take() else { return Ok(()) };
        if let Some(rows) = rows {
            self.take_rows(&mut reading, &rows);
            self.audit.reading = Some(reading);
            return Ok(());
        }
        if reading.is_torn() {
            self.audit.give_up();
            return Ok(());
        }
        if reading.keep_doubtful(&self.mirror, &mut self.audit.doubts) {
            self.audit.namespaces.insert(reading.namespace);
        }
        let mut work = Work::default();
        reading.finish(&mut self.mirror, &mut work);
        self.found(work, out).await?;
        self.audit_next(out).await
    }

    /// Goes on with the next namespace, or ends the audit.
    pub(super) async fn audit_next(&mut self, out: &mut Vec<Fact>) -> Result<(), Failure> {
        while let Some(namespace) = self.audit.namespaces.pop_first() {
            if self.devices_of(namespace).await? == self.namespaces[namespace].devices {
                self.audit.reading = Some(self.begin_reading(namespace).await?);
                return Ok(());
            }
            let work = Work { namespaces: [namespace].into(), ..Work::default() };
            self.found(work, out).await?;
        }
        self.counters.audits.fetch_add(1, Relaxed);
        let begun = self.audit.at;
        self.audit.after(begun);
        Ok(())
    }

    /// Does the work, of which everything that changes had not been told.
    async fn found(&mut self, work: Work, out: &mut Vec<Fact>) -> Result<(), Failure> {
        let mut facts = Vec::new();
        self.settle(work, &mut facts).await?;
        let changes = facts.iter().map(|fact| match fact {
            Fact::Changes(changes) => changes.len() as u64,
            _ => 1,
        });
        self.counters.drift.fetch_add(changes.sum(), Relaxed);
        out.append(&mut facts);
        Ok(())
    }
}
