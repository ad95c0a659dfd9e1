//! Ports: the four rings of an AF_XDP socket, and the memory that all sockets of a worker share.
//!
//! A worker has one [`Umem`] and several [`Port`]s over it: the underlay's queue and the same queue of
//! every container port, so that a frame moves from one device to another by moving its descriptor.
//!
//! ```text
//!                 fill ─────▶ ┌────────┐ ─────▶ RX
//!   free list ◀──────────┐    │ kernel │        │ receive: a `Frame` token
//!       ▲                └─── └────────┘ ◀───── TX ◀── transmit
//!       └── reap ◀── completion                 (the other port's)
//! ```
//!
//! [`xsk`] is the real thing; `mem` plays the kernel's side of the rings for tests.

pub(crate) mod frame;
#[cfg(test)]
pub(crate) mod mem;
pub(crate) mod open;
#[cfg(feature = "in-memory")]
pub(crate) mod plain;
pub(crate) mod xsk;

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;

use crate::BATCH;

pub(crate) use frame::{Frame, FrameCensus, FrameTable, SocketSlot};

/// Frames in the worker's hands.
pub(crate) type Batch = ArrayVec<Frame, BATCH>;

/// What a kick to transmit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kick {
    /// The kernel took what it could.
    Done,
    /// Its budget or the socket's send buffer was exhausted (EAGAIN, ENOBUFS): kick again.
    Again,
    /// The device refused a frame, which is complete but not sent (EBUSY).
    Refused,
    /// The device is down; descriptors wait in the ring.
    Down,
    /// The device is gone: the socket will never send or receive again.
    Gone,
    /// Something else, as errno.
    Failed(i32),
}

/// What the kernel counts for a socket (`XDP_STATISTICS`, `include/uapi/linux/if_xdp.h`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// Frames dropped because none was in the fill ring, or because they did not fit a frame.
    pub rx_dropped: u64,
    /// Frames dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times the kernel found the fill ring empty.
    pub rx_fill_ring_empty: u64,
    /// TX descriptors the kernel skipped as invalid; each is a frame lost.
    pub tx_invalid_descs: u64,
}

/// The memory that the ports of one worker share, and the place of each of its frames.
pub trait Umem: Send {
    /// Who owns which frame.
    fn table(&self) -> &FrameTable;

    /// Who owns which frame, to change it.
    fn table_mut(&mut self) -> &mut FrameTable;

    /// Hands the bytes of every frame of the batch to `sink`, in order.
    ///
    /// All slices live at once, which the tokens make sound: there is one per frame.
    fn bytes<'a>(&'a mut self, batch: &'a mut [Frame], sink: &mut dyn FnMut(&'a mut [u8]));

    /// Sets the length with which a frame is transmitted; it begins where it was received.
    ///
    /// Lengths beyond the end of the frame are cut to it.
    fn set_len(&mut self, frame: &mut Frame, len: usize);

    /// Most bytes a received frame can have, encapsulation room included.
    fn capacity(&self) -> usize;
}

/// One AF_XDP socket: its four rings, seen from userspace.
pub trait Port: Send {
    /// The memory this kind of port works on.
    type Umem: Umem;

    /// Tells the port which slot of its UMEM's table it has.
    fn set_slot(&mut self, slot: SocketSlot);

    /// Lends free frames to the kernel until it has `target` for reception; returns how many it lacks
    /// because the free list is empty.
    fn refill(&mut self, umem: &mut Self::Umem, target: usize) -> usize;

    /// Moves received frames into `batch`, at most `limit` and at most what fits.
    fn receive(&mut self, umem: &mut Self::Umem, limit: usize, batch: &mut Batch) -> usize;

    /// Received frames that wait in the RX ring.
    fn rx_waiting(&mut self) -> usize;

    /// Moves frames from the front of `batch` to the TX ring, as many as fit; returns how many.
    fn transmit(&mut self, umem: &mut Self::Umem, batch: &mut Batch) -> usize;

    /// Free descriptors in the TX ring.
    fn tx_room(&mut self) -> usize;

    /// Descriptors in the TX ring that the kernel has not taken yet.
    fn tx_waiting(&mut self) -> usize;

    /// Puts transmitted frames back on the free list; returns how many.
    fn reap(&mut self, umem: &mut Self::Umem) -> usize;

    /// Whether the kernel must be woken to look at the TX ring.
    fn needs_kick(&self) -> bool;

    /// Wakes the kernel to look at the TX ring.
    fn kick(&mut self) -> Kick;

    /// The socket, for polling; a port without one is polled by looking.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// What the kernel counted so far.
    fn kernel_counters(&self) -> KernelCounters;

    /// Whether the device itself reads and writes the frames (zero-copy), so that they may be in use
    /// for a while after the socket is closed.
    fn zero_copy(&self) -> bool;
}
