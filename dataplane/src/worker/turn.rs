//! One turn of a worker: every ring is looked at once, every frame that came in leaves or is dropped.
//!
//! Rings here, packets in [`Forward`]. The order within a turn is what keeps rings from starving: frames
//! that the kernel is done with come home first, the fill rings are topped up with them, and only then are
//! packets received; what they became is put into the TX rings, and the kernel is kicked once per ring.

use arrayvec::ArrayVec;

use super::sockets::{Seat, Sockets};
use crate::port::{Batch, Kick, Port, SocketSlot, Umem};
use crate::{BATCH, DropReason, Nanos, Slot, Verdict};

/// What becomes of packets.
pub trait Forward: Send {
    /// Gives every frame of the batch a verdict.
    fn process(&mut self, now: Nanos, batch: &mut [Slot<'_>]);

    /// Counts frames that found no way out after their verdict.
    fn dropped(&mut self, reason: DropReason, frames: u64);
}

/// What one turn came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// Frames received.
    pub(super) received: usize,
    /// Descriptors left in TX rings although the kernel was kicked.
    pub(super) waiting: usize,
    /// Whether packets were left in an RX ring because they could not have left again.
    pub(super) held_back: bool,
}

/// What a look at one socket came to.
enum Served {
    /// So many frames were received.
    Received(usize),
    /// Frames wait that could not leave again.
    HeldBack,
}

/// A verdict and the number of bytes its frame was received with.
type Verdicts = ArrayVec<(Verdict, usize), BATCH>;

impl<P: Port> Sockets<P> {
    /// Looks at every ring once.
    pub(super) fn turn(&mut self, now: Nanos, forward: &mut impl Forward) -> Turn {
        let mut turn = Turn::default();
        let seats = self.seats.len();
        for seat in 0..seats {
            self.top_up(seat);
        }
        self.first = if self.first + 1 < seats { self.first + 1 } else { 0 };
        for seat in (self.first..seats).chain(0..self.first) {
            match self.serve(seat, now, forward) {
                Served::Received(count) => turn.received += count,
                Served::HeldBack => turn.held_back = true,
            }
        }
        for seat in 0..seats {
            turn.waiting += self.kick(seat);
        }
        turn
    }

    /// Brings transmitted frames home and lends the kernel new ones to receive into.
    fn top_up(&mut self, seat: usize) {
        let share = self.share(seat);
        let Some(slot) = SocketSlot::new(seat) else { return };
        let Some(Seat::Taken(socket)) = self.seats.get_mut(seat) else { return };
        let lent = self.umem.table().lent(slot);
        if lent.tx > 0 {
            let reaped = socket.port.reap(&mut self.umem);
            socket.stats.tx_completed.add(reaped as u64);
        }
        if lent.rx < share.rx {
            let starved = socket.port.refill(&mut self.umem, share.rx);
            socket.stats.fill_starved.add(starved as u64);
        }
    }

    /// Receives a batch from one socket and sends it on its way.
    fn serve(&mut self, seat: usize, now: Nanos, forward: &mut impl Forward) -> Served {
        let room = self.egress_room(seat);
        let Some(Seat::Taken(socket)) = self.seats.get_mut(seat) else { return Served::Received(0) };
        if room == 0 {
            if socket.port.rx_waiting() == 0 {
                return Served::Received(0);
            }
            socket.stats.rx_held_back.add(1);
            return Served::HeldBack;
        }
        let mut batch = Batch::new();
        let count = socket.port.receive(&mut self.umem, room.min(BATCH), &mut batch);
        if count == 0 {
            return Served::Received(0);
        }
        let verdicts: Verdicts = {
            let mut slots: ArrayVec<Slot<'_>, BATCH> = ArrayVec::new();
            self.umem.bytes(&mut batch, &mut |data| slots.push(Slot::new(socket.ingress, data)));
            if let Some(taps) = &mut self.taps {
                taps.entering(now, &slots);
            }
            forward.process(now, &mut slots);
            if let Some(taps) = &mut self.taps {
                taps.judged(&slots);
            }
            slots.iter().map(|slot| (slot.verdict, slot.data.len())).collect()
        };
        let bytes: usize = verdicts.iter().map(|(_, received)| received).sum();
        socket.stats.rx_frames.add(count as u64);
        socket.stats.rx_bytes.add(bytes as u64);
        socket.stats.rx_batches.add(1);
        self.dispatch(batch, verdicts, forward);
        Served::Received(count)
    }

    /// How many frames from this socket can be sure of a place in a TX ring.
    ///
    /// Dropping is cheapest where nothing was done for the frame yet: in the kernel, which finds the RX
    /// ring full. So frames are received only if they can leave. From the underlay they may leave by any
    /// port, and a port that does not drain must not hold up the others: there, the roomiest port counts.
    fn egress_room(&mut self, seat: usize) -> usize {
        if seat != SocketSlot::UNDERLAY.number() {
            return self.room(SocketSlot::UNDERLAY).unwrap_or(0);
        }
        let mut most = None;
        for slot in (1..self.seats.len()).filter_map(SocketSlot::new) {
            most = most.max(self.room(slot));
            if most >= Some(BATCH) {
                break;
            }
        }
        most.unwrap_or(BATCH)
    }

    /// Frames that a socket can take for transmission now; `None` where there is no socket.
    fn room(&mut self, slot: SocketSlot) -> Option<usize> {
        let share = self.share(slot.number()).tx;
        let lent = self.umem.table().lent(slot).tx;
        match self.seats.get_mut(slot.number()) {
            Some(Seat::Taken(socket)) => Some(socket.port.tx_room().min(share.saturating_sub(lent))),
            _ => None,
        }
    }

    /// Puts each frame where its verdict says, runs of frames for one socket at once.
    fn dispatch(&mut self, batch: Batch, verdicts: Verdicts, forward: &mut impl Forward) {
        let mut run = Batch::new();
        let mut towards = SocketSlot::UNDERLAY;
        for (mut frame, (verdict, received)) in batch.into_iter().zip(verdicts) {
            let (target, len) = match verdict {
                Verdict::ToUnderlay { len } => (Some(SocketSlot::UNDERLAY), len),
                Verdict::ToPort { port, len } => (self.by_port.get(port.index()).copied().flatten(), len),
                Verdict::Drop(_) => {
                    self.umem.table_mut().release(frame);
                    continue;
                }
            };
            // The kernel skips an empty descriptor without ever completing it, which would lose the frame.
            let sound = (1..=received).contains(&len);
            let (Some(target), true) = (target, sound) else {
                forward.dropped(if sound { DropReason::DevReady } else { DropReason::NotSpecified }, 1);
                self.umem.table_mut().release(frame);
                continue;
            };
            if target != towards {
                self.send(towards, &mut run, forward);
                towards = target;
            }
            self.umem.set_len(&mut frame, len);
            run.push(frame);
        }
        self.send(towards, &mut run, forward);
    }

    /// Moves a run of frames to one socket's TX ring and drops what does not fit.
    fn send(&mut self, target: SocketSlot, run: &mut Batch, forward: &mut impl Forward) {
        if run.is_empty() {
            return;
        }
        let room = self.room(target).unwrap_or(0).min(run.len());
        let mut excess: Batch = run.drain(room..).collect();
        if self.taps.is_some() {
            self.show(target, run, None);
            self.show(target, &mut excess, Some(DropReason::FullRing));
        }
        if let Some(Seat::Taken(socket)) = self.seats.get_mut(target.number()) {
            let sent = socket.port.transmit(&mut self.umem, run);
            socket.stats.tx_frames.add(sent as u64);
            socket.stats.tx_full.add((run.len() + excess.len()) as u64);
        }
        excess.extend(run.drain(..));
        if !excess.is_empty() {
            forward.dropped(DropReason::FullRing, excess.len() as u64);
        }
        for frame in excess {
            self.umem.table_mut().release(frame);
        }
    }

    /// Shows frames on their way out to those who watch.
    #[cold]
    fn show(&mut self, target: SocketSlot, run: &mut Batch, dropped: Option<DropReason>) {
        let Some(Seat::Taken(socket)) = self.seats.get(target.number()) else { return };
        let (Some(taps), place) = (&mut self.taps, socket.ingress) else { return };
        self.umem.bytes(run, &mut |frame| taps.leaving(place, frame, dropped));
    }

    /// Wakes the kernel until it has taken every descriptor or takes no more; returns how many are left.
    ///
    /// The generic transmit path stops after a budget (32, unless `XDP_MAX_TX_SKB_BUDGET` raised it), so
    /// one kick does not do; and descriptors that nobody kicks for stay in the ring.
    fn kick(&mut self, seat: usize) -> usize {
        let Some(slot) = SocketSlot::new(seat) else { return 0 };
        let Some(Seat::Taken(socket)) = self.seats.get_mut(seat) else { return 0 };
        if self.umem.table().lent(slot).tx == 0 {
            return 0;
        }
        let stats = &socket.stats;
        let mut waiting = socket.port.tx_waiting();
        while waiting > 0 && socket.port.needs_kick() {
            let answer = socket.port.kick();
            stats.kicks.add(1);
            match answer {
                Kick::Refused => stats.tx_refused.add(1),
                Kick::Gone => stats.gone.set(1),
                Kick::Failed(errno) => stats.kick_errno.set(errno.unsigned_abs().into()),
                Kick::Done | Kick::Again | Kick::Down => {}
            }
            let left = socket.port.tx_waiting();
            if left >= waiting {
                stats.kicks_in_vain.add(1);
                return left;
            }
            waiting = left;
        }
        waiting
    }
}
