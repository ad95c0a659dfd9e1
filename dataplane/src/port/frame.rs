//! Who owns which frame: tokens for the frames in our hands, and a table of all of them.
//!
//! A frame is in exactly one place at any moment:
//!
//! ```text
//!            refill               packet arrives          receive
//!   Free ───────────▶ Rx(socket) ═══════════════▶ (same) ───────▶ Worker (a `Frame` token exists)
//!    ▲                                                             │    │
//!    │                              release (dropped)              │    │ transmit
//!    ├─────────────────────────────────────────────────────────────┘    ▼
//!    └──────────────────────────────────────────────── reap ──── Tx(socket)
//! ```
//!
//! The table is the authority: a token is minted only for a frame that the table believes the kernel
//! had, so even a kernel that returned a frame twice could not make two tokens for it.
//! It also makes a closed socket's frames recoverable: in copy mode the kernel parks frames of the fill
//! ring on a list of its own (`xsk_buff_pool.free_list`), so reading the rings back would not find all.

use std::sync::atomic::{AtomicU32, Ordering};

use thiserror::Error;

/// Index of a socket among those that share one UMEM; 0 is the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketSlot(u16);

impl SocketSlot {
    /// The first socket: the underlay queue, which owns the UMEM's file descriptor.
    pub const UNDERLAY: Self = Self(0);

    /// The second one: the first container's.
    #[cfg(feature = "in-memory")]
    pub(crate) const FIRST_PORT: Self = Self(1);

    /// Most sockets that one UMEM can serve; the table packs the number into 13 bits.
    pub const LIMIT: usize = 1 << 13;

    /// The slot with this number, unless it is [`Self::LIMIT`] or above.
    pub fn new(number: usize) -> Option<Self> {
        if number < Self::LIMIT { u16::try_from(number).ok().map(Self) } else { None }
    }

    /// The slot's number.
    pub fn number(self) -> usize {
        usize::from(self.0)
    }
}

/// A frame in the worker's hands: the right to read and write its bytes.
///
/// Not `Clone`: giving it to a ring or back to the free list consumes it. A token that is merely
/// dropped leaves its frame in place `Worker` for good, which [`FrameTable::audit`] reports.
#[must_use = "a dropped token loses its frame"]
#[derive(Debug)]
pub struct Frame {
    index: u32,
    umem: u32,
}

impl Frame {
    /// The frame's number within its UMEM.
    pub fn index(&self) -> usize {
        self.index as usize
    }
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the free list.
    Free,
    /// Lent to the kernel for reception by this socket: fill ring, RX ring or in between.
    Rx(SocketSlot),
    /// Held as a [`Frame`] token.
    Worker,
    /// Lent to the kernel for transmission by this socket: TX ring, in flight or completion ring.
    Tx(SocketSlot),
    /// Given up: the kernel may still write to it.
    WrittenOff,
}

/// [`Place`] in two bytes, so that the table of 16384 frames fits the second-level cache with ease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed(u16);

impl Packed {
    const FREE: Self = Self(0);
    const WORKER: Self = Self(1);
    const WRITTEN_OFF: Self = Self(2);
    const RX: u16 = 1 << 13;
    const TX: u16 = 1 << 14;

    fn rx(slot: SocketSlot) -> Self {
        Self(Self::RX | slot.0)
    }

    fn tx(slot: SocketSlot) -> Self {
        Self(Self::TX | slot.0)
    }

    fn unpack(self) -> Place {
        let slot = SocketSlot(self.0 & (Self::RX - 1));
        match self {
            _ if self.0 & Self::TX != 0 => Place::Tx(slot),
            _ if self.0 & Self::RX != 0 => Place::Rx(slot),
            Self::WORKER => Place::Worker,
            Self::WRITTEN_OFF => Place::WrittenOff,
            _ => Place::Free,
        }
    }
}

/// How many frames a socket's rings hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lent {
    /// Lent for reception.
    pub rx: usize,
    /// Lent for transmission.
    pub tx: usize,
}

/// How many frames are where; the sum is the size of the UMEM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameCensus {
    /// On the free list.
    pub free: usize,
    /// Lent to the kernel for reception.
    pub rx: usize,
    /// In the worker's hands.
    pub worker: usize,
    /// Lent to the kernel for transmission.
    pub tx: usize,
    /// Given up.
    pub written_off: usize,
    /// Times the kernel returned a frame it did not have, or an address outside the frame.
    pub violations: u64,
}

/// The table contradicts itself: a frame was lost or doubled.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AuditError {
    /// A frame is on the free list, but its place is another one; or it is there twice.
    #[error("frame {index} is on the free list {times} times, and its place is {place:?}")]
    FreeList {
        /// The frame.
        index: usize,
        /// How often the free list holds it.
        times: usize,
        /// What the table says.
        place: Place,
    },
    /// A socket's counters differ from the frames that name it.
    #[error("socket {slot} counts {counted:?}, but the table holds {found:?}")]
    Socket {
        /// The socket.
        slot: usize,
        /// Its counters.
        counted: Lent,
        /// Frames in the table that name it.
        found: Lent,
    },
    /// The number of tokens is not the number of frames that should be in the worker's hands.
    #[error("{found} frames should be in the worker's hands, {held} are")]
    Worker {
        /// Frames in place `Worker`.
        found: usize,
        /// Tokens that exist, as the caller counts them.
        held: usize,
    },
}

/// The place of every frame of one UMEM, and its free list.
#[derive(Debug)]
pub struct FrameTable {
    umem: u32,
    place: Vec<Packed>,
    free: Vec<u32>,
    lent: Vec<Lent>,
    violations: u64,
}

impl FrameTable {
    /// A table of `frames` frames, all free.
    pub fn new(frames: u32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            umem: NEXT.fetch_add(1, Ordering::Relaxed),
            place: vec![Packed::FREE; frames as usize],
            free: (0..frames).rev().collect(),
            lent: Vec::new(),
            violations: 0,
        }
    }

    /// Number of frames in the UMEM.
    pub fn len(&self) -> usize {
        self.place.len()
    }

    /// Whether the UMEM has no frames.
    pub fn is_empty(&self) -> bool {
        self.place.is_empty()
    }

    /// The UMEM's number, which its tokens carry.
    pub(super) fn umem(&self) -> u32 {
        self.umem
    }

    /// Frames on the free list.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Frames that `slot`'s rings hold.
    pub fn lent(&self, slot: SocketSlot) -> Lent {
        self.lent.get(slot.number()).copied().unwrap_or_default()
    }

    /// Puts a frame the worker is done with on the free list.
    pub fn release(&mut self, frame: Frame) {
        let index = self.own(&frame);
        self.place[index] = Packed::FREE;
        self.free.push(frame.index);
    }

    /// Checks the table against itself and against the number of tokens that the caller holds.
    pub fn audit(&self, held: usize) -> Result<FrameCensus, AuditError> {
        let mut times = vec![0_usize; self.place.len()];
        for &index in &self.free {
            times[index as usize] += 1;
        }
        let mut census = FrameCensus { violations: self.violations, ..FrameCensus::default() };
        let mut found = vec![Lent::default(); self.lent.len()];
        for (index, place) in self.place.iter().map(|packed| packed.unpack()).enumerate() {
            if times[index] != usize::from(place == Place::Free) {
                return Err(AuditError::FreeList { index, times: times[index], place });
            }
            match place {
                Place::Free => census.free += 1,
                Place::Worker => census.worker += 1,
                Place::WrittenOff => census.written_off += 1,
                Place::Rx(slot) => {
                    census.rx += 1;
                    found[slot.number()].rx += 1;
                }
                Place::Tx(slot) => {
                    census.tx += 1;
                    found[slot.number()].tx += 1;
                }
            }
        }
        for (slot, (counted, found)) in self.lent.iter().copied().zip(found).enumerate() {
            if counted != found {
                return Err(AuditError::Socket { slot, counted, found });
            }
        }
        if census.worker != held {
            return Err(AuditError::Worker { found: census.worker, held });
        }
        Ok(census)
    }

    /// Takes every frame back that the closed socket `slot` had, and says how many there were.
    ///
    /// Only for a socket that is closed, when nothing in the kernel reads or writes its frames any more.
    pub(crate) fn reclaim(&mut self, slot: SocketSlot) -> usize {
        let reclaimed = self.replace(slot, Packed::FREE);
        self.free.extend(&reclaimed);
        reclaimed.len()
    }

    /// Gives every frame up that the closed socket `slot` had, and says how many there were.
    ///
    /// For a socket whose hardware may still write to its frames (zero-copy).
    pub(crate) fn write_off(&mut self, slot: SocketSlot) -> usize {
        self.replace(slot, Packed::WRITTEN_OFF).len()
    }

    fn replace(&mut self, slot: SocketSlot, new: Packed) -> Vec<u32> {
        let mut found = Vec::new();
        for (index, place) in (0..).zip(&mut self.place) {
            if *place == Packed::rx(slot) || *place == Packed::tx(slot) {
                *place = new;
                found.push(index);
            }
        }
        if let Some(lent) = self.lent.get_mut(slot.number()) {
            *lent = Lent::default();
        }
        found
    }

    /// Makes room for the counters of `slot`, so that lending to it allocates nothing.
    pub(crate) fn admit(&mut self, slot: SocketSlot) {
        if self.lent.len() <= slot.number() {
            self.lent.resize(slot.number() + 1, Lent::default());
        }
    }

    /// Takes a free frame and lends it to `slot` for reception.
    pub(super) fn lend_free(&mut self, slot: SocketSlot) -> Option<usize> {
        let index = self.free.pop()? as usize;
        self.place[index] = Packed::rx(slot);
        self.lent[slot.number()].rx += 1;
        Some(index)
    }

    /// A frame that `slot` received: mints its token, if the kernel had the frame.
    pub(super) fn received(&mut self, slot: SocketSlot, index: usize) -> Option<Frame> {
        if self.place.get(index) != Some(&Packed::rx(slot)) {
            self.violations += 1;
            return None;
        }
        self.place[index] = Packed::WORKER;
        self.lent[slot.number()].rx -= 1;
        Some(Frame { index: index as u32, umem: self.umem })
    }

    /// Lends a frame to `slot` for transmission.
    pub(super) fn lend_tx(&mut self, slot: SocketSlot, frame: Frame) -> usize {
        let index = self.own(&frame);
        self.place[index] = Packed::tx(slot);
        self.lent[slot.number()].tx += 1;
        index
    }

    /// A transmission of `slot` that is complete: its frame is free again, if the kernel had it.
    pub(super) fn completed(&mut self, slot: SocketSlot, index: usize) {
        if self.place.get(index) != Some(&Packed::tx(slot)) {
            self.violations += 1;
            return;
        }
        self.place[index] = Packed::FREE;
        self.lent[slot.number()].tx -= 1;
        self.free.push(index as u32);
    }

    /// Gives a received frame up whose descriptor makes no sense.
    pub(super) fn distrust(&mut self, frame: Frame) {
        let index = self.own(&frame);
        self.place[index] = Packed::WRITTEN_OFF;
        self.violations += 1;
    }

    /// The index of a token's frame, after a check that it is one of ours.
    ///
    /// # Panics
    /// If the token belongs to another UMEM, which only a bug in this crate can bring about.
    pub(super) fn own(&self, frame: &Frame) -> usize {
        assert_eq!(frame.umem, self.umem, "a frame belongs to one UMEM");
        frame.index()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table_with_socket() -> (FrameTable, SocketSlot) {
        let mut table = FrameTable::new(4);
        let slot = SocketSlot::new(3).expect("3 is below the limit");
        table.admit(slot);
        (table, slot)
    }

    #[test]
    fn a_frame_goes_round_through_all_places() {
        let (mut table, slot) = table_with_socket();
        let index = table.lend_free(slot).expect("four are free");
        assert_eq!(table.lent(slot), Lent { rx: 1, tx: 0 });
        let frame = table.received(slot, index).expect("the kernel had it");
        assert_eq!(table.audit(1).map(|census| (census.free, census.worker)), Ok((3, 1)));
        assert_eq!(table.lend_tx(slot, frame), index);
        assert_eq!(table.lent(slot), Lent { rx: 0, tx: 1 });
        table.completed(slot, index);
        assert_eq!(table.audit(0).map(|census| census.free), Ok(4));
    }

    #[test]
    fn a_frame_returned_twice_gives_one_token_and_a_violation() {
        let (mut table, slot) = table_with_socket();
        let index = table.lend_free(slot).expect("four are free");
        let frame = table.received(slot, index).expect("the kernel had it");
        assert!(table.received(slot, index).is_none());
        table.completed(slot, index);
        table.completed(slot, 4_000_000);
        table.release(frame);
        assert_eq!(table.audit(0).map(|census| (census.free, census.violations)), Ok((4, 3)));
    }

    #[test]
    fn a_lost_token_fails_the_audit() {
        let (mut table, slot) = table_with_socket();
        let index = table.lend_free(slot).expect("four are free");
        let _lost = table.received(slot, index);
        assert_eq!(table.audit(0), Err(AuditError::Worker { found: 1, held: 0 }));
    }

    #[test]
    fn a_closed_socket_gives_back_what_it_had_and_no_more() {
        let (mut table, slot) = table_with_socket();
        let other = SocketSlot::new(2).expect("2 is below the limit");
        let _ = (table.lend_free(slot), table.lend_free(other));
        let index = table.lend_free(slot).expect("two are free");
        let frame = table.received(slot, index).expect("the kernel had it");
        table.lend_tx(slot, frame);
        assert_eq!(table.reclaim(slot), 2);
        assert_eq!(table.write_off(other), 1);
        let census = table.audit(0).expect("consistent");
        assert_eq!((census.free, census.written_off), (3, 1));
    }

    #[test]
    #[should_panic(expected = "one UMEM")]
    fn a_token_of_another_umem_is_refused() {
        let (mut mine, slot) = table_with_socket();
        let (mut theirs, _) = table_with_socket();
        let index = mine.lend_free(slot).expect("four are free");
        theirs.release(mine.received(slot, index).expect("the kernel had it"));
    }
}
