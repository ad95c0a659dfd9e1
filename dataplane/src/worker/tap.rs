//! Taps: copies of frames for somebody who watches. A watcher who is slow loses copies, never traffic.
//!
//! A worker without taps pays one predictable branch for each batch and each run of frames that leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::Sender;

use crate::{BATCH, DropReason, Family, Ingress, Nanos, Slot, Verdict};

/// Whether the bytes of a frame are of interest.
pub type Filter = Box<dyn Fn(&[u8]) -> bool + Send>;

/// Which way a frame passed a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// From the device to the worker.
    Enters,
    /// From the worker to the device.
    Leaves,
}

/// A frame as it passed a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The beginning of the worker's turn, so that frames of one batch share it.
    pub at: Nanos,
    /// The watcher's number for the device.
    pub interface: u32,
    /// Which way it passed.
    pub way: Way,
    /// The worker's queue.
    pub queue: u32,
    /// Why it went no further, if it was dropped here.
    pub dropped: Option<DropReason>,
    /// Its whole length in bytes.
    pub len: usize,
    /// Its first bytes: an inner frame at ports, an outer one at the underlay.
    pub bytes: Box<[u8]>,
}

/// Which devices are of interest, by the watcher's numbers for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// The underlay.
    pub underlay: Option<u32>,
    /// The ports, by their index.
    pub ports: Vec<Option<u32>>,
}

impl Interfaces {
    fn number(&self, ingress: Ingress) -> Option<u32> {
        match ingress {
            Ingress::Underlay => self.underlay,
            Ingress::Port(id) => self.ports.get(id.index()).copied().flatten(),
        }
    }
}

/// What one watcher wants of one worker.
pub struct Tap {
    /// The worker's queue, as it is to be noted with each frame.
    pub queue: u32,
    /// Address family of the underlay, which says where the frames of ports begin.
    pub family: Family,
    /// Where to look.
    pub interfaces: Interfaces,
    /// The ways of interest.
    pub ways: Vec<Way>,
    /// Which frames at ports; all without one.
    pub at_ports: Option<Filter>,
    /// Which frames at the underlay; all without one.
    pub at_underlay: Option<Filter>,
    /// Most bytes of a frame to copy.
    pub snap: usize,
    /// Where copies go; what finds no room is lost.
    pub seen: Sender<Seen>,
    /// Copies that were lost.
    pub lost: Arc<AtomicU64>,
}

impl Tap {
    /// A copy of the frame, if it is of interest.
    fn copy(&self, at: Nanos, place: Ingress, way: Way, frame: &[u8]) -> Option<Seen> {
        let interface = self.interfaces.number(place)?;
        let filter = if place == Ingress::Underlay { &self.at_underlay } else { &self.at_ports };
        if !self.ways.contains(&way) || filter.as_ref().is_some_and(|wanted| !wanted(frame)) {
            return None;
        }
        let bytes = frame[..frame.len().min(self.snap)].into();
        Some(Seen { at, interface, way, queue: self.queue, dropped: None, len: frame.len(), bytes })
    }

    fn give(&self, seen: Seen) {
        if self.seen.try_send(seen).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// All taps of a worker; never without one.
pub(super) struct Taps {
    taps: Vec<Tap>,
    /// Copies of a batch that has no verdicts yet: tap, position in the batch, copy.
    judged_later: Vec<(usize, usize, Seen)>,
    now: Nanos,
}

impl Taps {
    /// `None` without taps.
    pub(super) fn new(taps: Vec<Tap>) -> Option<Box<Self>> {
        let taps = Self { taps, judged_later: Vec::with_capacity(BATCH), now: Nanos(0) };
        (!taps.taps.is_empty()).then(|| Box::new(taps))
    }

    /// Copies a batch as it came in.
    pub(super) fn entering(&mut self, now: Nanos, batch: &[Slot<'_>]) {
        self.now = now;
        self.judged_later.clear();
        for (position, slot) in batch.iter().enumerate() {
            for (number, tap) in self.taps.iter().enumerate() {
                let skipped = match slot.ingress {
                    Ingress::Underlay => 0,
                    Ingress::Port(_) => tap.family.encap_room(),
                };
                // A frame without the room is a mistake of somebody's, and shown as it is.
                let frame = slot.data.get(skipped..).unwrap_or(slot.data);
                if let Some(seen) = tap.copy(now, slot.ingress, Way::Enters, frame) {
                    self.judged_later.push((number, position, seen));
                }
            }
        }
    }

    /// The batch has its verdicts: hands the copies out.
    pub(super) fn judged(&mut self, batch: &[Slot<'_>]) {
        for (tap, position, mut seen) in self.judged_later.drain(..) {
            if let Some(Verdict::Drop(reason)) = batch.get(position).map(|slot| slot.verdict) {
                seen.dropped = Some(reason);
            }
            self.taps[tap].give(seen);
        }
    }

    /// Copies a frame that is about to leave by `place`, or that found no room there.
    pub(super) fn leaving(&mut self, place: Ingress, frame: &[u8], dropped: Option<DropReason>) {
        for tap in &self.taps {
            if let Some(seen) = tap.copy(self.now, place, Way::Leaves, frame) {
                tap.give(Seen { dropped, ..seen });
            }
        }
    }
}
