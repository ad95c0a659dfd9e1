//! A worker's turn over rings in memory, to measure what it costs without a kernel (feature `in-memory`).

use super::sockets::{Seat, Sockets};
use super::{Forward, RingSizes};
use crate::port::SocketSlot;
use crate::port::plain::{Memory, Rings};
use crate::{BATCH, Nanos, PortId};

const RINGS: RingSizes =
    RingSizes { fill: BATCH as u32, completion: BATCH as u32, rx: BATCH as u32, tx: BATCH as u32 };
const PORT: SocketSlot = SocketSlot::FIRST_PORT;

/// A worker between an underlay and one port, [`PortId`] 0.
pub struct InMemory<F> {
    sockets: Sockets<Rings>,
    forward: F,
}

impl<F: Forward> InMemory<F> {
    /// A worker that runs its batches through `forward`.
    pub fn new(forward: F) -> Option<Self> {
        let mut sockets = Sockets::new(Memory::new(), Rings::new(SocketSlot::UNDERLAY), RINGS).ok()?;
        sockets.attach(PortId::new(0), Rings::new(PORT)).ok()?;
        Some(Self { sockets, forward })
    }

    /// A frame arrives at the port; answers whether it found room.
    pub fn deliver(&mut self, frame: &[u8]) -> bool {
        match self.sockets.seats.get_mut(PORT.number()) {
            Some(Seat::Taken(socket)) => socket.port.deliver(&mut self.sockets.umem, frame),
            _ => false,
        }
    }

    /// One turn; answers how many frames it received.
    pub fn turn(&mut self, now: Nanos) -> usize {
        self.sockets.turn(now, &mut self.forward).received
    }

    /// Frames that have left by the underlay so far.
    pub fn sent(&self) -> u64 {
        match self.sockets.seats.first() {
            Some(Seat::Taken(socket)) => socket.port.sent,
            _ => 0,
        }
    }
}
