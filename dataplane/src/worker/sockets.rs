//! A worker's sockets: the underlay's, and those of ports that come and go.

use std::sync::Arc;

use thiserror::Error;

use super::command::{Closed, Refused};
use super::shares::Shares;
use super::stats::SocketStats;
use super::tap::Taps;
use crate::port::frame::{AuditError, Lent};
use crate::port::open::RingSizes;
use crate::port::{FrameCensus, Port, SocketSlot, Umem};
use crate::{Ingress, PortId};

/// Why a port could not be added.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AttachError {
    /// The worker has this port already.
    #[error("{port:?} is attached already")]
    Exists {
        /// The port.
        port: PortId,
    },
    /// Another port would leave each of them too few frames.
    #[error("the worker's {frames} frames do not suffice for {ports} ports")]
    Full {
        /// Frames in the UMEM.
        frames: usize,
        /// Ports there would be.
        ports: usize,
    },
}

/// What became of a closed socket's frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Back on the free list.
    pub recovered: usize,
    /// Given up until the worker ends.
    pub written_off: usize,
}

/// One place at the table of sockets.
#[derive(Debug)]
pub(super) enum Seat<P> {
    Empty,
    Taken(Socket<P>),
    /// The socket was handed out to be closed; its frames are not ours yet.
    Closing,
}

#[derive(Debug)]
pub(super) struct Socket<P> {
    pub(super) port: P,
    pub(super) ingress: Ingress,
    pub(super) stats: Arc<SocketStats>,
}

/// A worker's sockets and the memory they share.
pub(super) struct Sockets<P: Port> {
    pub(super) umem: P::Umem,
    rings: RingSizes,
    /// By slot number; the underlay's is the first.
    pub(super) seats: Vec<Seat<P>>,
    /// Slot of each port that frames may be sent to, by the port's index.
    pub(super) by_port: Vec<Option<SocketSlot>>,
    shares: Shares,
    /// Where the next turn begins, so that no socket is always the last to find room.
    pub(super) first: usize,
    /// Somebody watches.
    pub(super) taps: Option<Box<Taps>>,
}

impl<P: Port> Sockets<P> {
    /// The underlay's socket over its UMEM, with the fill ring primed; `rings` are the sizes of all sockets.
    pub(super) fn new(umem: P::Umem, underlay: P, rings: RingSizes) -> Result<Self, AttachError> {
        let frames = umem.table().len();
        let shares = Shares::of(frames, 1, &rings).ok_or(AttachError::Full { frames, ports: 1 })?;
        let (seats, by_port) = (Vec::new(), Vec::new());
        let mut sockets = Self { umem, rings, seats, by_port, shares, first: 0, taps: None };
        sockets.seat(SocketSlot::UNDERLAY, underlay, Ingress::Underlay);
        Ok(sockets)
    }

    /// Adds a port's socket and primes its fill ring.
    pub(super) fn attach(&mut self, id: PortId, port: P) -> Result<Arc<SocketStats>, Refused<P>> {
        let is_it =
            |seat: &Seat<P>| matches!(seat, Seat::Taken(socket) if socket.ingress == Ingress::Port(id));
        if self.seats.iter().any(is_it) {
            return Err(Refused { error: AttachError::Exists { port: id }, port });
        }
        let (frames, ports) = (self.umem.table().len(), self.ports() + 1);
        let shares = Shares::of(frames, ports, &self.rings);
        let empty = self.seats.iter().position(|seat| matches!(seat, Seat::Empty));
        let slot = SocketSlot::new(empty.unwrap_or(self.seats.len()));
        let (Some(shares), Some(slot)) = (shares, slot) else {
            return Err(Refused { error: AttachError::Full { frames, ports }, port });
        };
        self.shares = shares;
        if self.by_port.len() <= id.index() {
            self.by_port.resize(id.index() + 1, None);
        }
        self.by_port[id.index()] = Some(slot);
        Ok(self.seat(slot, port, Ingress::Port(id)))
    }

    fn seat(&mut self, slot: SocketSlot, mut port: P, ingress: Ingress) -> Arc<SocketStats> {
        port.set_slot(slot);
        self.umem.table_mut().admit(slot);
        let share = self.share(slot.number());
        port.refill(&mut self.umem, share.rx);
        let stats = Arc::<SocketStats>::default();
        let seat = Seat::Taken(Socket { port, ingress, stats: Arc::clone(&stats) });
        match self.seats.get_mut(slot.number()) {
            Some(empty) => *empty = seat,
            None => self.seats.push(seat),
        }
        stats
    }

    /// Sends a port no more frames; what it receives is still carried.
    pub(super) fn stop_sending(&mut self, id: PortId) -> Option<SocketSlot> {
        self.by_port.get_mut(id.index())?.take()
    }

    /// Whether the socket has nothing left to receive or to transmit.
    pub(super) fn is_drained(&mut self, slot: SocketSlot) -> bool {
        let sending = self.umem.table().lent(slot).tx > 0;
        match self.seats.get_mut(slot.number()) {
            Some(Seat::Taken(socket)) => !sending && socket.port.rx_waiting() == 0,
            _ => true,
        }
    }

    /// Hands a port's socket out to be closed; [`Self::reclaim`] gets its frames back afterwards.
    pub(super) fn detach(&mut self, slot: SocketSlot) -> Option<P> {
        let seat = self.seats.get_mut(slot.number())?;
        match std::mem::replace(seat, Seat::Closing) {
            Seat::Taken(socket) => Some(socket.port),
            other => {
                *seat = other;
                None
            }
        }
    }

    /// Takes the frames of a closed socket back; or gives them up, where a device may still write to them.
    ///
    /// A frame in flight at that moment was copied into the packet already: all but a few drivers
    /// (`IFF_TX_SKB_NO_LINEAR`, not veth) copy on transmission, and those hold the page, so that reuse
    /// changes at worst the bytes of a packet that was to be lost.
    pub(super) fn reclaim(&mut self, closed: Closed) -> Reclaimed {
        let Closed { slot, zero_copy } = closed;
        let Some(seat @ Seat::Closing) = self.seats.get_mut(slot.number()) else {
            return Reclaimed::default();
        };
        *seat = Seat::Empty;
        let table = self.umem.table_mut();
        let reclaimed = if zero_copy {
            Reclaimed { recovered: 0, written_off: table.write_off(slot) }
        } else {
            Reclaimed { recovered: table.reclaim(slot), written_off: 0 }
        };
        let shares = Shares::of(self.umem.table().len(), self.ports(), &self.rings);
        self.shares = shares.unwrap_or(self.shares);
        reclaimed
    }

    /// Checks that every frame is in exactly one place; valid between turns.
    pub(super) fn audit(&self) -> Result<FrameCensus, AuditError> {
        self.umem.table().audit(0)
    }

    /// The share of the socket in this seat.
    pub(super) fn share(&self, seat: usize) -> Lent {
        if seat == SocketSlot::UNDERLAY.number() { self.shares.underlay } else { self.shares.port }
    }

    /// Number of ports, the underlay not counted.
    pub(super) fn ports(&self) -> usize {
        self.seats.iter().skip(1).filter(|seat| matches!(seat, Seat::Taken(_))).count()
    }

    /// Shows every socket with its statistics and what it has lent to the kernel.
    pub(super) fn each(&mut self, mut visit: impl FnMut(&mut P, &SocketStats, Lent)) {
        for (number, seat) in self.seats.iter_mut().enumerate() {
            if let (Seat::Taken(socket), Some(slot)) = (seat, SocketSlot::new(number)) {
                visit(&mut socket.port, &socket.stats, self.umem.table().lent(slot));
            }
        }
    }

    /// The underlay's statistics.
    pub(super) fn underlay_stats(&self) -> Arc<SocketStats> {
        match self.seats.first() {
            Some(Seat::Taken(socket)) => Arc::clone(&socket.stats),
            _ => Arc::default(),
        }
    }

    /// The sockets' memory.
    pub(super) fn umem(&self) -> &P::Umem {
        &self.umem
    }
}
