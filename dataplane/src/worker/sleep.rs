//! When a worker sleeps, and what wakes it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::port::Port;

/// How a worker waits for packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PollMode {
    /// Looks again and again for up to [`SPIN`] after the last packet, as long as that pays, then sleeps.
    #[default]
    Adaptive,
    /// Never sleeps: a processor of its own, and the least latency.
    Busy,
    /// Sleeps whenever there is nothing to do: the least processor time at low rates.
    Interrupt,
}

/// Longest time that an adaptive worker looks for the next packet before it sleeps.
///
/// Waking a sleeping thread costs the sender of the packet some 2 to 5 µs (an inter-processor interrupt and
/// a context switch), and the packet 5 to 50 µs of latency. Too low: at medium rates every packet pays that.
/// Too high: a worker that shares its processor with the containers takes time from them that it does not
/// use. 50 µs covers the gaps of 20,000 packets per second, where wake-ups would cost about a tenth of a core.
///
/// It looks that long only while it pays (learnt from its sleeps, as KVM's `halt_poll_ns` is), and offers its processor to
/// others between two looks: on few processors the thread that waits for ours is the packet's next hop.
pub const SPIN: Duration = Duration::from_micros(50);

/// How long it looks after the first sleep that looking would have spared; it doubles from there.
const FIRST_SPIN: u64 = 5_000;

/// Others that keep the processor for so long compute: a worker that sleeps displaces them when a packet
/// comes, one that yields waits for the end of their slice (3 ms by default). Below the 0.3 ms that a
/// container's system call with a burst of frames takes, bursts would count as computing.
const TAKEN: u64 = 1_000_000;

/// How long a worker goes to sleep at once after that: the first time, and at most. It doubles if that happens
/// again soon, so that a hypervisor's pause costs little, and neighbours that compute all the time as well.
const CROWDED: [u64; 2] = [10_000_000, 1_000_000_000];

/// Longest sleep: how old the heartbeat of a healthy worker can get.
///
/// Too low: an idle worker costs processor time (50 wake-ups per second are 0.05 % of a core).
/// Too high: the XDP programs must wait longer before they take a silent worker for a stuck one.
pub const LONGEST_SLEEP: Duration = Duration::from_millis(20);

/// Longest sleep while the kernel has not taken all descriptors: nobody tells us when it could take more.
/// Too low: a device that is down costs processor time. Too high: latency after the send buffer was full.
const RETRY: Duration = Duration::from_millis(1);

/// What a worker sleeps on: its sockets and its command channel.
#[derive(Debug)]
pub(super) struct Sleeper {
    epoll: Epoll,
    bell: Arc<EventFd>,
}

/// Why a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    ByEvent,
    ByClock,
}

/// How much there is to do while sleeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nap {
    /// Nothing: until a packet or a command comes.
    Idle,
    /// Something is to be looked at soon, but packets and commands wake.
    Short,
    /// Something is to be looked at soon, and packets cannot be taken in before.
    Congested,
}

/// How long an adaptive worker looks for the next packet: as long as that has paid of late.
///
/// Nanoseconds of the worker's clock throughout.
#[derive(Debug, Default)]
pub(super) struct Patience {
    window: u64,
    crowded_until: u64,
    crowded_for: u64,
}

impl Patience {
    /// Whether to go on looking, so long after the last packet.
    pub(super) fn lasts(&self, idle: u64) -> bool {
        idle < self.window
    }

    /// Learns from a sleep: looking longer would have spared it, or looking was in vain.
    pub(super) fn slept(&mut self, from: u64, to: u64, woken: Woken) {
        let longest = SPIN.as_nanos() as u64;
        let short = woken == Woken::ByEvent && to.saturating_sub(from) <= longest;
        let paid = short && to >= self.crowded_until;
        self.window = if paid { (self.window * 2).clamp(FIRST_SPIN, longest) } else { 0 };
    }

    /// Learns from having offered the processor to others, who may have kept it.
    pub(super) fn yielded(&mut self, from: u64, to: u64) {
        if to.saturating_sub(from) >= TAKEN {
            let [first, longest] = CROWDED;
            let again = from.saturating_sub(self.crowded_until) < 4 * self.crowded_for;
            self.crowded_for = if again { (2 * self.crowded_for).min(longest) } else { first };
            self.crowded_until = to + self.crowded_for;
            self.window = 0;
        }
    }
}

impl Sleeper {
    pub(super) fn new() -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { epoll, bell: Arc::new(bell) })
    }

    /// Writing to it wakes the worker.
    pub(super) fn bell(&self) -> Arc<EventFd> {
        Arc::clone(&self.bell)
    }

    /// Lets packets for this socket wake the worker.
    pub(super) fn watch<P: Port>(&self, port: &P) -> Result<(), Errno> {
        port.fd().map_or(Ok(()), |fd| self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0)))
    }

    /// Forgets a socket that is about to be closed by another thread.
    pub(super) fn forget<P: Port>(&self, port: &P) {
        if let Some(fd) = port.fd() {
            // It is watched, so this cannot fail; and if it did, closing the socket forgets it as well.
            let _ = self.epoll.delete(fd);
        }
    }

    /// Sleeps until something happens; level-triggered, so that nothing is missed on the way to sleep.
    pub(super) fn sleep(&self, nap: Nap) -> Woken {
        let longest = if nap == Nap::Idle { LONGEST_SLEEP } else { RETRY };
        let timeout = longest.as_millis() as u16;
        let events = if nap == Nap::Congested {
            poll(&mut [PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)], timeout)
                .map(|count| count as usize)
        } else {
            self.epoll.wait(&mut [EpollEvent::empty()], timeout)
        };
        // An error is EINTR: a turn that finds nothing is harmless.
        if events.is_ok_and(|count| count == 0) {
            return Woken::ByClock;
        }
        let _ = self.bell.read();
        Woken::ByEvent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: u64 = 20_000;
    const LONG: u64 = 900_000;

    /// Sleeps `count` times for `length` nanoseconds each, from `now` on; answers when that was over.
    fn sleeps(patience: &mut Patience, now: u64, count: u64, length: u64) -> u64 {
        for number in 0..count {
            patience.slept(now + number * length, now + (number + 1) * length, Woken::ByEvent);
        }
        now + count * length
    }

    #[test]
    fn an_adaptive_worker_looks_longer_while_that_spares_sleeps_and_not_at_all_when_it_is_in_vain() {
        let mut patience = Patience::default();
        assert!(!patience.lasts(0), "nothing is known yet");
        let now = sleeps(&mut patience, 0, 1, SHORT);
        assert!(patience.lasts(FIRST_SPIN - 1) && !patience.lasts(FIRST_SPIN));
        let now = sleeps(&mut patience, now, 9, SHORT);
        let longest = SPIN.as_nanos() as u64;
        assert!(patience.lasts(longest - 1) && !patience.lasts(longest), "never longer than SPIN");
        let now = sleeps(&mut patience, now, 1, LONG);
        assert!(!patience.lasts(0));
        sleeps(&mut patience, now, 1, SHORT);
        patience.slept(now, now + SHORT, Woken::ByClock);
        assert!(!patience.lasts(0), "no packet came");
    }

    #[test]
    fn a_worker_whose_processor_was_taken_sleeps_at_once_for_a_while_that_doubles() {
        let mut patience = Patience::default();
        let [first, longest] = CROWDED;
        let mut now = 0;
        let mut expected = first;
        for _ in 0..10 {
            now = sleeps(&mut patience, now, 5, SHORT);
            assert!(patience.lasts(0), "looks again after {expected} ns");
            patience.yielded(now, now + TAKEN - 1);
            assert!(patience.lasts(0), "others may have it for a moment");
            patience.yielded(now, now + TAKEN);
            now += TAKEN;
            assert_eq!(patience.crowded_until, now + expected);
            sleeps(&mut patience, now, 5, SHORT);
            assert!(!patience.lasts(0), "sleeps at once");
            now += expected;
            expected = (expected * 2).min(longest);
        }
        now = sleeps(&mut patience, now + 4 * longest, 5, SHORT);
        patience.yielded(now, now + TAKEN);
        assert_eq!(patience.crowded_for, first, "long ago is forgotten");
    }
}
