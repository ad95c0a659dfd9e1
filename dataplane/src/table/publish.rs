//! Hands new tables to the workers without a lock, and frees old ones where it does not hurt.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::{Change, TableError, Tables};

/// The writing end, on the control thread.
///
/// A worker that drops the last handle of old tables would free a million rows between two frames, so the
/// publisher keeps each old snapshot until no worker uses it any more.
pub struct Publisher {
    current: Arc<ArcSwap<Tables>>,
    retired: Vec<Arc<Tables>>,
}

/// The reading end, one per worker.
#[derive(Clone)]
pub struct Reader {
    current: Arc<ArcSwap<Tables>>,
}

/// Tables on loan for one batch. Give them back before going to sleep: they cannot be freed until then.
pub struct Loaded(Guard<Arc<Tables>>);

impl Deref for Loaded {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.0
    }
}

impl Publisher {
    /// Publishes the first tables.
    pub fn new(tables: Tables) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(tables)), retired: Vec::new() }
    }

    /// A reading end.
    pub fn reader(&self) -> Reader {
        Reader { current: Arc::clone(&self.current) }
    }

    /// The tables as published last.
    pub fn tables(&self) -> Arc<Tables> {
        self.current.load_full()
    }

    /// Publishes other tables; workers use them from their next batch on.
    pub fn publish(&mut self, tables: Tables) {
        // After the swap, loans of the old tables count in its `Arc`: the writer has paid their debts.
        let old = self.current.swap(Arc::new(tables));
        self.retired.push(old);
        self.free_retired();
    }

    /// Publishes the current tables with changes; on an error, nothing changes.
    pub fn change(&mut self, changes: &[Change]) -> Result<(), TableError> {
        let tables = self.tables().with_changes(changes)?;
        self.publish(tables);
        Ok(())
    }

    /// Frees the old tables that no worker uses any more; answers how many are still in use.
    pub fn free_retired(&mut self) -> usize {
        self.retired.retain(|tables| Arc::strong_count(tables) > 1);
        self.retired.len()
    }
}

impl Reader {
    /// The tables as published last.
    #[inline]
    pub fn load(&self) -> Loaded {
        Loaded(self.current.load())
    }
}
