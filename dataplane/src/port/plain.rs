//! Rings and frames in plain memory, for measuring a worker without a kernel (feature `in-memory`).
//!
//! The tests' ports (`mem.rs`) watch every frame and allocate for each; these do neither, and answer
//! every kick like a veth that sends and completes at once.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use super::{Batch, Frame, FrameTable, KernelCounters, Kick, Port, SocketSlot, Umem};
use crate::BATCH;

/// Bytes of a frame's place.
const ROOM: usize = 2048;
/// Four shares of a batch each, and the batch in the worker's hands: the fewest that a worker with one port
/// takes ([`crate::worker::Shares`]).
const FRAMES: usize = 5 * BATCH;

/// Frames in one piece of memory.
pub(crate) struct Memory {
    table: FrameTable,
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

impl Memory {
    /// Frames for a worker with one port.
    pub(crate) fn new() -> Self {
        let table = FrameTable::new(FRAMES as u32);
        Self { table, bytes: vec![0; FRAMES * ROOM], lengths: vec![0; FRAMES] }
    }
}

impl Umem for Memory {
    fn table(&self) -> &FrameTable {
        &self.table
    }

    fn table_mut(&mut self) -> &mut FrameTable {
        &mut self.table
    }

    fn bytes<'a>(&'a mut self, batch: &'a mut [Frame], sink: &mut dyn FnMut(&'a mut [u8])) {
        let mut places = self.bytes.chunks_exact_mut(ROOM);
        let mut all: [Option<&mut [u8]>; FRAMES] = std::array::from_fn(|_| places.next());
        for frame in batch {
            let index = self.table.own(frame);
            if let Some(place) = all[index].take() {
                sink(&mut place[..self.lengths[index]]);
            }
        }
    }

    fn set_len(&mut self, frame: &mut Frame, len: usize) {
        self.lengths[self.table.own(frame)] = len.min(ROOM);
    }

    fn capacity(&self) -> usize {
        ROOM
    }
}

/// Four rings with indices of frames.
pub(crate) struct Rings {
    slot: SocketSlot,
    fill: VecDeque<usize>,
    rx: VecDeque<usize>,
    tx: VecDeque<usize>,
    completion: VecDeque<usize>,
    /// Packets sent so far.
    pub(crate) sent: u64,
}

impl Rings {
    /// The rings of the socket in this slot.
    pub(crate) fn new(slot: SocketSlot) -> Self {
        let [fill, rx, tx, completion] = std::array::from_fn(|_| VecDeque::with_capacity(BATCH));
        Self { slot, fill, rx, tx, completion, sent: 0 }
    }

    /// A packet arrives; answers whether a frame was there for it.
    pub(crate) fn deliver(&mut self, umem: &mut Memory, packet: &[u8]) -> bool {
        let Some(index) = self.fill.pop_front() else { return false };
        umem.bytes[index * ROOM..][..packet.len()].copy_from_slice(packet);
        umem.lengths[index] = packet.len();
        self.rx.push_back(index);
        true
    }
}

impl Port for Rings {
    type Umem = Memory;

    fn set_slot(&mut self, slot: SocketSlot) {
        self.slot = slot;
    }

    fn refill(&mut self, umem: &mut Memory, target: usize) -> usize {
        let missing = target.saturating_sub(umem.table.lent(self.slot).rx);
        for done in 0..missing {
            let Some(index) = umem.table.lend_free(self.slot) else { return missing - done };
            self.fill.push_back(index);
        }
        0
    }

    fn receive(&mut self, umem: &mut Memory, limit: usize, batch: &mut Batch) -> usize {
        let count = limit.min(batch.remaining_capacity()).min(self.rx.len());
        batch.extend(self.rx.drain(..count).filter_map(|index| umem.table.received(self.slot, index)));
        count
    }

    fn rx_waiting(&mut self) -> usize {
        self.rx.len()
    }

    fn transmit(&mut self, umem: &mut Memory, batch: &mut Batch) -> usize {
        let count = batch.len().min(self.tx_room());
        self.tx.extend(batch.drain(..count).map(|frame| umem.table.lend_tx(self.slot, frame)));
        count
    }

    fn tx_room(&mut self) -> usize {
        BATCH - self.tx.len()
    }

    fn tx_waiting(&mut self) -> usize {
        self.tx.len()
    }

    fn reap(&mut self, umem: &mut Memory) -> usize {
        let count = self.completion.len();
        self.completion.drain(..).for_each(|index| umem.table.completed(self.slot, index));
        count
    }

    fn needs_kick(&self) -> bool {
        true
    }

    fn kick(&mut self) -> Kick {
        self.sent += self.tx.len() as u64;
        self.completion.append(&mut self.tx);
        Kick::Done
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn kernel_counters(&self) -> KernelCounters {
        KernelCounters::default()
    }

    fn zero_copy(&self) -> bool {
        false
    }
}
