//! Audits: everything is looked at again without an occasion, because drift heals only if someone looks.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::fact::Fact;
use super::follow::{Failure, Follower};
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
    /// When the next one begins.
    pub(super) at: Instant,
    /// When the one under way began.
    begun: Option<Instant>,
    /// When tables were read last.
    read: Instant,
}

impl Audit {
    pub(super) fn new(rhythm: Rhythm) -> Self {
        Self { rhythm, at: Instant::now() + rhythm.every, begun: None, read: Instant::now() }
    }

    /// The tables of a namespace were read from `begun` until now: that is the work of an audit as well.
    pub(super) fn not_before(&mut self, begun: Instant) {
        self.read = Instant::now();
        self.at = self.at.max(self.read + begun.elapsed() * self.rhythm.share);
    }

    /// Puts the one that is due off, if what there is to read now has come since the last reading.
    fn put_off(&mut self, takes: Duration) -> bool {
        self.at = self.at.max(self.read + takes * self.rhythm.share);
        self.at > Instant::now()
    }

    /// The next audit, if reading everything took from `begun` until now.
    fn after(&mut self, begun: Instant) {
        self.at = Instant::now() + self.rhythm.every.max(begun.elapsed() * self.rhythm.share);
    }
}

impl Follower {
    /// Looks at the host's namespace at once; the tables are read from now on.
    pub(super) async fn begin_audit(&mut self, out: &mut Vec<Fact>) -> Result<(), Failure> {
        let takes = (0..self.namespaces.len()).map(|namespace| self.reading_takes(namespace)).sum();
        if self.audit.put_off(takes) {
            return Ok(());
        }
        self.audit.begun = Some(Instant::now());
        self.readings.audit(0..self.namespaces.len());
        self.found(Work { host: true, routes: true, ..Work::default() }, out).await
    }

    /// Ends the audit under way once everything has been read.
    pub(super) fn end_audit(&mut self) {
        if self.readings.is_idle()
            && let Some(begun) = self.audit.begun.take()
        {
            self.counters.audits.fetch_add(1, Relaxed);
            self.audit.after(begun);
        }
    }

    /// Does the work, of which everything that changes had not been told.
    pub(super) async fn found(&mut self, work: Work, out: &mut Vec<Fact>) -> Result<(), Failure> {
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
