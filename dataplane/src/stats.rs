//! A worker's counters: written by one thread, read by any.

use std::sync::Arc;

use crossbeam::utils::CachePadded;

use crate::worker::Counter;
use crate::{DropReason, PortId, VtepId};

/// VTEPs that get a counter of their own; frames of later ones are counted in the totals only.
///
/// 4096 VTEPs cost 128 KiB per worker, of which only the used lines ever enter a cache. Fewer would leave large
/// fabrics without figures per peer; more would only cost address space.
pub const COUNTED_VTEPS: usize = 4096;

/// Ports that get a counter of their own, see [`COUNTED_VTEPS`]: more veths than one host carries containers.
pub const COUNTED_PORTS: usize = 4096;

/// Frames and bytes of inner Ethernet frames (without the outer headers, so that both paths compare).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flow {
    /// Frames.
    pub frames: u64,
    /// Bytes, from the inner destination MAC to the end of the inner packet.
    pub bytes: u64,
}

impl Flow {
    /// One more frame of `bytes` bytes.
    pub(crate) fn count(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }
}

#[derive(Default)]
struct FlowCounter {
    frames: Counter,
    bytes: Counter,
}

impl FlowCounter {
    fn add(&self, flow: Flow) {
        self.frames.add(flow.frames);
        self.bytes.add(flow.bytes);
    }

    fn get(&self) -> Flow {
        Flow { frames: self.frames.get(), bytes: self.bytes.get() }
    }
}

/// Both directions of one VTEP or port.
#[derive(Default)]
struct Both {
    encap: FlowCounter,
    decap: FlowCounter,
}

/// The totals of one worker.
#[derive(Default)]
struct Totals {
    encap: FlowCounter,
    decap: FlowCounter,
    drops: [Counter; DropReason::COUNT],
}

/// The counters of one worker: what it gave a verdict to, never reset.
///
/// `encap` counts frames sent towards the underlay, `decap` frames sent towards a container; a frame that then
/// found no way out is counted under [`DropReason::FullRing`] or [`DropReason::DevReady`] as well.
/// Figures are read without a lock: each is exact, a set of them may be a batch apart.
pub struct Stats {
    totals: CachePadded<Totals>,
    vteps: Box<[Both]>,
    ports: Box<[Both]>,
}

impl Stats {
    fn new() -> Self {
        let both = |count| (0..count).map(|_| Both::default()).collect();
        Self { totals: CachePadded::default(), vteps: both(COUNTED_VTEPS), ports: both(COUNTED_PORTS) }
    }

    /// Frames encapsulated.
    pub fn encap(&self) -> Flow {
        self.totals.encap.get()
    }

    /// Frames decapsulated.
    pub fn decap(&self) -> Flow {
        self.totals.decap.get()
    }

    /// Frames dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.totals.drops.get(reason.index()).map_or(0, Counter::get)
    }

    /// Frames dropped for any reason.
    pub fn all_drops(&self) -> u64 {
        self.totals.drops.iter().map(Counter::get).sum()
    }

    /// Frames encapsulated towards and decapsulated from this VTEP; absent beyond [`COUNTED_VTEPS`].
    pub fn vtep(&self, vtep: VtepId) -> Option<(Flow, Flow)> {
        self.vteps.get(vtep.index()).map(|both| (both.encap.get(), both.decap.get()))
    }

    /// Frames that came from this port and were encapsulated, and frames decapsulated towards it; absent
    /// beyond [`COUNTED_PORTS`].
    pub fn port(&self, port: PortId) -> Option<(Flow, Flow)> {
        self.ports.get(port.index()).map(|both| (both.encap.get(), both.decap.get()))
    }
}

/// A worker's private state: the writing end of its [`Stats`] and its own source of IPv4 identifications.
pub struct Local {
    stats: Arc<Stats>,
    pub(crate) ident: u16,
}

impl Local {
    /// State for one worker. `seed` sets where its IPv4 identifications begin; give each worker another one.
    pub fn new(seed: u16) -> Self {
        Self { stats: Arc::new(Stats::new()), ident: seed }
    }

    /// The reading end, for control.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Counts frames that were dropped outside of [`process`](crate::process), as for a full transmit ring.
    pub fn count_drops(&mut self, reason: DropReason, frames: u64) {
        if let Some(counter) = self.stats.totals.drops.get(reason.index()) {
            counter.add(frames);
        }
    }

    pub(crate) fn count_encap(&mut self, vtep: VtepId, port: PortId, flow: Flow) {
        if let Some(both) = self.stats.vteps.get(vtep.index()) {
            both.encap.add(flow);
        }
        if let Some(both) = self.stats.ports.get(port.index()) {
            both.encap.add(flow);
        }
        self.stats.totals.encap.add(flow);
    }

    pub(crate) fn count_decap(&mut self, vtep: VtepId, port: PortId, flow: Flow) {
        if let Some(both) = self.stats.vteps.get(vtep.index()) {
            both.decap.add(flow);
        }
        if let Some(both) = self.stats.ports.get(port.index()) {
            both.decap.add(flow);
        }
        self.stats.totals.decap.add(flow);
    }
}
