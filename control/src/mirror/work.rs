//! What notifications leave to do, gathered over a burst of them, so that it is done once.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::state::{Change, Effects};

/// What a burst of notifications asks for.
#[derive(Default)]
pub(super) struct Work {
    /// Table changes so far.
    pub(super) changes: Vec<Change>,
    /// VTEPs whose route is asked for.
    pub(super) ask_route: Vec<IpAddr>,
    /// Whether every route is asked for.
    pub(super) routes: bool,
    /// Whether the host's namespace is dumped.
    pub(super) host: bool,
    /// Positions of the overlays' namespaces whose devices are looked at.
    pub(super) devices: BTreeSet<usize>,
    /// Positions of the overlays' namespaces of which notifications were lost.
    pub(super) lost: BTreeSet<usize>,
}

impl Work {
    /// Adds what a change of the mirror brought about.
    pub(super) fn take(&mut self, effects: Effects) {
        self.changes.extend(effects.changes);
        self.ask_route.extend(effects.ask_route);
    }
}
