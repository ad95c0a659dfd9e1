//! Ports in memory, whose kernel side is played by a test.
//!
//! [`MemKernel`] does to the rings what the kernel does: it takes frames from the fill ring when a packet
//! arrives, hoards them when the RX ring is full, takes a few descriptors per kick, completes them late or
//! refuses them. It knows which frames it was lent, and panics when one comes twice or is not its own.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::open::RingSizes;
use super::{Batch, Frame, FrameTable, KernelCounters, Kick, Port, SocketSlot, Umem};

/// Frames in ordinary memory.
#[derive(Debug)]
pub(crate) struct MemUmem {
    table: FrameTable,
    frames: Vec<MemFrame>,
    capacity: usize,
}

#[derive(Debug, Clone)]
struct MemFrame {
    bytes: Box<[u8]>,
    len: usize,
}

impl MemUmem {
    /// Memory of `frames` frames with room for `capacity` bytes each.
    pub(crate) fn new(frames: u32, capacity: usize) -> Self {
        let frame = MemFrame { bytes: vec![0; capacity].into_boxed_slice(), len: 0 };
        Self { table: FrameTable::new(frames), frames: vec![frame; frames as usize], capacity }
    }
}

impl Umem for MemUmem {
    fn table(&self) -> &FrameTable {
        &self.table
    }

    fn table_mut(&mut self) -> &mut FrameTable {
        &mut self.table
    }

    fn bytes<'a>(&'a mut self, batch: &'a mut [Frame], sink: &mut dyn FnMut(&'a mut [u8])) {
        let mut all: Vec<Option<&mut MemFrame>> = self.frames.iter_mut().map(Some).collect();
        for frame in batch {
            let taken = all[self.table.own(frame)].take().expect("one token per frame");
            sink(&mut taken.bytes[..taken.len]);
        }
    }

    fn set_len(&mut self, frame: &mut Frame, len: usize) {
        self.frames[self.table.own(frame)].len = len.min(self.capacity);
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

/// A packet in a ring or on the wire, with the frame it is in.
#[derive(Debug)]
struct Packet {
    index: usize,
    bytes: Vec<u8>,
}

/// The rings of one socket and what the kernel holds of them.
#[derive(Debug)]
struct Rings {
    sizes: RingSizes,
    fill: VecDeque<usize>,
    rx: VecDeque<Packet>,
    tx: VecDeque<Packet>,
    completion: VecDeque<usize>,
    /// Taken from the fill ring and not delivered (`xsk_buff_pool.free_list`).
    hoard: Vec<usize>,
    /// Sent and not complete.
    in_flight: VecDeque<usize>,
    sent: Vec<Vec<u8>>,
    behaviour: Behaviour,
    kicks: u64,
    counters: KernelCounters,
    down: Option<Kick>,
    open: bool,
}

/// How the kernel treats transmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behaviour {
    /// Descriptors taken per kick.
    pub(crate) budget: usize,
    /// Whether a frame is complete as soon as it is sent, as on a veth.
    pub(crate) completes_at_once: bool,
}

/// The generic transmit path on a veth: 32 descriptors per kick.
pub(crate) const GENERIC: Behaviour = Behaviour { budget: 32, completes_at_once: true };

/// The userspace side.
#[derive(Debug)]
pub(crate) struct MemPort {
    slot: SocketSlot,
    rings: Arc<Mutex<Rings>>,
}

/// The kernel's side.
#[derive(Debug, Clone)]
pub(crate) struct MemKernel {
    rings: Arc<Mutex<Rings>>,
}

/// Both sides of a new socket.
pub(crate) fn socket(sizes: RingSizes, behaviour: Behaviour) -> (MemPort, MemKernel) {
    let rings = Arc::new(Mutex::new(Rings {
        sizes,
        fill: VecDeque::new(),
        rx: VecDeque::new(),
        tx: VecDeque::new(),
        completion: VecDeque::new(),
        hoard: Vec::new(),
        in_flight: VecDeque::new(),
        sent: Vec::new(),
        behaviour,
        kicks: 0,
        counters: KernelCounters::default(),
        down: None,
        open: true,
    }));
    (MemPort { slot: SocketSlot::UNDERLAY, rings: Arc::clone(&rings) }, MemKernel { rings })
}

impl Drop for MemPort {
    fn drop(&mut self) {
        lock(&self.rings).open = false;
    }
}

impl Rings {
    fn holds(&self, index: usize) -> bool {
        self.fill.contains(&index)
            || self.hoard.contains(&index)
            || self.rx.iter().chain(&self.tx).any(|packet| packet.index == index)
            || self.in_flight.contains(&index)
            || self.completion.contains(&index)
    }

    fn complete(&mut self, count: usize) -> usize {
        let room = self.sizes.completion as usize - self.completion.len();
        let count = count.min(self.in_flight.len()).min(room);
        self.completion.extend(self.in_flight.drain(..count));
        count
    }
}

fn lock(rings: &Mutex<Rings>) -> MutexGuard<'_, Rings> {
    rings.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemKernel {
    /// A packet arrives; returns whether it found a frame and room in the RX ring.
    pub(crate) fn deliver(&self, bytes: &[u8]) -> bool {
        let mut rings = lock(&self.rings);
        let Some(index) = rings.hoard.pop().or_else(|| rings.fill.pop_front()) else {
            rings.counters.rx_fill_ring_empty += 1;
            rings.counters.rx_dropped += 1;
            return false;
        };
        if rings.rx.len() == rings.sizes.rx as usize {
            rings.hoard.push(index);
            rings.counters.rx_ring_full += 1;
            return false;
        }
        rings.rx.push_back(Packet { index, bytes: bytes.to_vec() });
        true
    }

    /// Completes up to `count` frames that are in flight; returns how many.
    pub(crate) fn complete(&self, count: usize) -> usize {
        lock(&self.rings).complete(count)
    }

    /// The packets sent since the last call, in order.
    pub(crate) fn take_sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut lock(&self.rings).sent)
    }

    /// Kicks so far.
    pub(crate) fn kicks(&self) -> u64 {
        lock(&self.rings).kicks
    }

    /// Changes how transmission is treated from now on.
    pub(crate) fn behave(&self, behaviour: Behaviour) {
        lock(&self.rings).behaviour = behaviour;
    }

    /// Takes the device down, so that every kick is answered like this; `None` brings it up.
    pub(crate) fn set_down(&self, answer: Option<Kick>) {
        lock(&self.rings).down = answer;
    }

    /// Descriptors that wait in the TX ring.
    pub(crate) fn tx_waiting(&self) -> usize {
        lock(&self.rings).tx.len()
    }

    /// Packets that wait in the RX ring.
    pub(crate) fn rx_waiting(&self) -> usize {
        lock(&self.rings).rx.len()
    }

    /// Whether the userspace side is there.
    pub(crate) fn is_open(&self) -> bool {
        lock(&self.rings).open
    }

    /// Frames lent to the kernel, wherever it has them.
    pub(crate) fn held(&self) -> usize {
        let rings = lock(&self.rings);
        rings.fill.len()
            + rings.hoard.len()
            + rings.rx.len()
            + rings.tx.len()
            + rings.in_flight.len()
            + rings.completion.len()
    }
}

impl Port for MemPort {
    type Umem = MemUmem;

    fn set_slot(&mut self, slot: SocketSlot) {
        self.slot = slot;
    }

    fn refill(&mut self, umem: &mut MemUmem, target: usize) -> usize {
        let mut rings = lock(&self.rings);
        let mut missing = target.saturating_sub(umem.table.lent(self.slot).rx);
        while missing > 0 && rings.fill.len() < rings.sizes.fill as usize {
            let Some(index) = umem.table.lend_free(self.slot) else { return missing };
            assert!(!rings.holds(index), "frame {index} was lent to the kernel twice");
            rings.fill.push_back(index);
            missing -= 1;
        }
        0
    }

    fn receive(&mut self, umem: &mut MemUmem, limit: usize, batch: &mut Batch) -> usize {
        let mut rings = lock(&self.rings);
        let count = limit.min(batch.remaining_capacity()).min(rings.rx.len());
        for Packet { index, bytes } in rings.rx.drain(..count) {
            let frame = umem.table.received(self.slot, index).expect("the kernel had the frame");
            umem.frames[index].bytes[..bytes.len()].copy_from_slice(&bytes);
            umem.frames[index].len = bytes.len();
            batch.push(frame);
        }
        count
    }

    fn rx_waiting(&mut self) -> usize {
        lock(&self.rings).rx.len()
    }

    fn transmit(&mut self, umem: &mut MemUmem, batch: &mut Batch) -> usize {
        let mut rings = lock(&self.rings);
        let count = batch.len().min(rings.sizes.tx as usize - rings.tx.len());
        for frame in batch.drain(..count) {
            let index = umem.table.lend_tx(self.slot, frame);
            assert!(!rings.holds(index), "frame {index} was lent to the kernel twice");
            let MemFrame { bytes, len } = &umem.frames[index];
            rings.tx.push_back(Packet { index, bytes: bytes[..*len].to_vec() });
        }
        count
    }

    fn tx_room(&mut self) -> usize {
        let rings = lock(&self.rings);
        rings.sizes.tx as usize - rings.tx.len()
    }

    fn tx_waiting(&mut self) -> usize {
        lock(&self.rings).tx.len()
    }

    fn reap(&mut self, umem: &mut MemUmem) -> usize {
        let completed = std::mem::take(&mut lock(&self.rings).completion);
        for &index in &completed {
            umem.table.completed(self.slot, index);
        }
        completed.len()
    }

    fn needs_kick(&self) -> bool {
        true
    }

    fn kick(&mut self) -> Kick {
        let mut rings = lock(&self.rings);
        rings.kicks += 1;
        if let Some(answer) = rings.down {
            return answer;
        }
        let room = rings.sizes.completion as usize - rings.completion.len() - rings.in_flight.len();
        let count = rings.behaviour.budget.min(rings.tx.len()).min(room);
        for _ in 0..count {
            let Some(Packet { index, bytes }) = rings.tx.pop_front() else { break };
            rings.sent.push(bytes);
            rings.in_flight.push_back(index);
        }
        if rings.behaviour.completes_at_once {
            rings.complete(count);
        }
        if rings.tx.is_empty() { Kick::Done } else { Kick::Again }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn kernel_counters(&self) -> KernelCounters {
        lock(&self.rings).counters
    }

    fn zero_copy(&self) -> bool {
        false
    }
}
