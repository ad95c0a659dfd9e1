//! The worker's packets: the published tables and the pure path through them.

use std::sync::Arc;

use super::turn::Forward;
use crate::table::Reader;
use crate::{DropReason, Local, Nanos, Slot, Stats, process};

/// Encapsulates and decapsulates by the tables as published last, loaded once per batch.
pub struct FastPath {
    tables: Reader,
    local: Local,
}

impl FastPath {
    /// The path by these tables, with a worker's own state.
    pub fn new(tables: Reader, local: Local) -> Self {
        Self { tables, local }
    }

    /// The counters of what becomes of packets.
    pub fn stats(&self) -> Arc<Stats> {
        self.local.stats()
    }
}

impl Forward for FastPath {
    fn process(&mut self, now: Nanos, batch: &mut [Slot<'_>]) {
        process(now, batch, &self.tables.load(), &mut self.local);
    }

    fn dropped(&mut self, reason: DropReason, frames: u64) {
        self.local.count_drops(reason, frames);
    }
}
