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
    /// Looks again and again for [`SPIN`] after the last packet, then sleeps.
    #[default]
    Adaptive,
    /// Never sleeps: a processor of its own, and the least latency.
    Busy,
    /// Sleeps whenever there is nothing to do: the least processor time at low rates.
    Interrupt,
}

/// How long an adaptive worker looks for the next packet before it sleeps.
///
/// Waking a sleeping thread costs the sender of the packet some 2 to 5 µs (an inter-processor interrupt and
/// a context switch), and the packet 5 to 50 µs of latency. Too low: at medium rates every packet pays that.
/// Too high: a worker that shares its processor with the containers takes time from them that it does not
/// use. 50 µs covers the gaps of 20,000 packets per second, where wake-ups would cost about a tenth of a core.
pub const SPIN: Duration = Duration::from_micros(50);

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
