//! The worker's thread: turn after turn, commands in between, asleep when there is nothing to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TryRecvError};
use nix::time::{ClockId, clock_gettime};

use super::command::{Command, Detached, Refused};
use super::sleep::{Nap, Patience, PollMode, Sleeper, Woken};
use super::sockets::Sockets;
use super::stats::{SocketStats, WorkerStats};
use super::tap::Taps;
use super::turn::{Forward, Turn};
use crate::port::{FrameCensus, Port, SocketSlot, Umem};
use crate::{Nanos, PortId};

/// Least time between two heartbeats.
///
/// Too low: the heartbeat may be a system call, which then shows at high rates (a µs per 1000 is 0.1 %).
/// Too high: the XDP programs must wait longer before they take a silent worker for a stuck one.
const HEARTBEAT: u64 = 1_000_000;

/// Time between two looks at the kernel's counters; one system call per socket.
const SAMPLE: u64 = 1_000_000_000;

/// Everything that a worker's thread owns.
pub(super) struct Loop<P: Port, F> {
    pub(super) sockets: Sockets<P>,
    pub(super) forward: F,
    pub(super) heartbeat: Box<dyn FnMut(Nanos) + Send>,
    pub(super) poll: PollMode,
    pub(super) sleeper: Sleeper,
    pub(super) patience: Patience,
    pub(super) commands: Receiver<Command<P>>,
    pub(super) stats: Arc<WorkerStats>,
    pub(super) leaving: Vec<Leaving<P>>,
    pub(super) stop_by: Option<Instant>,
}

/// A port that is about to be handed out.
pub(super) struct Leaving<P> {
    slot: SocketSlot,
    deadline: Instant,
    reply: Sender<Option<Detached<P>>>,
}

/// The moment, by the clock that `bpf_ktime_get_ns` reads.
fn clock() -> Nanos {
    // CLOCK_MONOTONIC cannot fail on Linux; were it to, a heartbeat of 0 sends frames to the kernel.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    Nanos(now.as_nanos() as u64)
}

/// How to sleep after a turn that received nothing. A port that does not drain keeps nobody from waking for the
/// packets of others; only packets that must wait in their RX rings would wake at once, in vain.
fn nap(turn: Turn, ending: bool) -> Nap {
    match turn {
        Turn { held_back: true, .. } => Nap::Congested,
        Turn { waiting: 0, .. } if !ending => Nap::Idle,
        _ => Nap::Short,
    }
}

impl<P: Port, F: Forward> Loop<P, F> {
    /// Runs until it is told to stop; returns where the frames were then.
    pub(super) fn run(&mut self) -> Option<FrameCensus> {
        let mut now = clock();
        let (mut worked, mut beaten, mut sampled) = (now.0, 0, now.0);
        loop {
            let turn = self.sockets.turn(now, &mut self.forward);
            now = clock();
            self.stats.turns.add(1);
            if turn.received > 0 {
                self.stats.busy_turns.add(1);
                worked = now.0;
            }
            if now.0 - beaten >= HEARTBEAT {
                beaten = now.0;
                self.beat(now);
            }
            if now.0 - sampled >= SAMPLE {
                sampled = now.0;
                self.sample();
            }
            self.obey();
            self.let_go();
            if self.is_done(turn) {
                self.sample();
                return self.sockets.audit().ok();
            }
            let idle = turn.received == 0;
            now = match self.poll {
                _ if !idle => continue,
                PollMode::Busy => {
                    std::hint::spin_loop();
                    clock()
                }
                PollMode::Interrupt => {
                    self.sleep(turn);
                    clock()
                }
                PollMode::Adaptive => self.wait(turn, now, worked),
            };
        }
    }

    /// Offers the processor to others, or sleeps; answers the moment afterwards.
    fn wait(&mut self, turn: Turn, before: Nanos, worked: u64) -> Nanos {
        if self.patience.lasts(before.0 - worked) {
            std::thread::yield_now();
            let now = clock();
            self.patience.yielded(before.0, now.0);
            now
        } else {
            let woken = self.sleep(turn);
            let now = clock();
            self.patience.slept(before.0, now.0, woken);
            now
        }
    }

    fn sleep(&mut self, turn: Turn) -> Woken {
        let ending = !self.leaving.is_empty() || self.stop_by.is_some();
        let nap = nap(turn, ending);
        self.stats.sleeps.add(1);
        let woken = self.sleeper.sleep(nap);
        if woken == Woken::ByEvent {
            self.stats.wake_ups.add(1);
        }
        woken
    }

    fn beat(&mut self, now: Nanos) {
        (self.heartbeat)(now);
        self.stats.heartbeat_ns.set(now.0);
        self.stats.frames_free.set(self.sockets.umem().table().free() as u64);
        self.sockets.each(|_, stats, lent| {
            stats.rx_lent.set(lent.rx as u64);
            stats.tx_lent.set(lent.tx as u64);
        });
    }

    fn sample(&mut self) {
        self.sockets.each(|port, stats, _| stats.set_kernel(port.kernel_counters()));
    }

    fn obey(&mut self) {
        loop {
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return,
                // Nobody is left who could ask for anything else.
                Err(TryRecvError::Disconnected) => Command::Stop { patience: Duration::ZERO },
            };
            self.stats.commands.add(1);
            // A reply that nobody waits for any more is dropped, with the socket in it, if there is one.
            match command {
                Command::Attach { id, port, reply } => drop(reply.send(self.attach(id, port))),
                Command::Detach { id, patience, reply } => match self.sockets.stop_sending(id) {
                    Some(slot) => {
                        self.leaving.push(Leaving { slot, deadline: Instant::now() + patience, reply });
                    }
                    None => drop(reply.send(None)),
                },
                Command::Reclaim { closed, reply } => {
                    let reclaimed = self.sockets.reclaim(closed);
                    self.stats.frames_written_off.add(reclaimed.written_off as u64);
                    let _ = reply.send(reclaimed);
                }
                Command::Tap { taps } => self.sockets.taps = Taps::new(taps),
                Command::Audit { reply } => drop(reply.send(self.sockets.audit())),
                Command::Stop { patience } => {
                    self.stop_by.get_or_insert_with(|| Instant::now() + patience);
                    return;
                }
            }
        }
    }

    fn attach(&mut self, id: PortId, port: P) -> Result<Arc<SocketStats>, Refused<P>> {
        // A socket that cannot wake the worker is still looked at every LONGEST_SLEEP.
        let _ = self.sleeper.watch(&port);
        self.sockets.attach(id, port)
    }

    /// Hands out the ports that are drained, or whose patience has ended.
    fn let_go(&mut self) {
        let mut index = 0;
        while let Some(leaving) = self.leaving.get(index) {
            if !self.sockets.is_drained(leaving.slot) && Instant::now() < leaving.deadline {
                index += 1;
                continue;
            }
            let Leaving { slot, reply, .. } = self.leaving.swap_remove(index);
            let detached = self.sockets.detach(slot).map(|port| {
                self.sleeper.forget(&port);
                Detached { slot, port }
            });
            drop(reply.send(detached));
        }
    }

    /// Whether a worker that was told to stop has carried everything, or has tried for long enough.
    fn is_done(&mut self, turn: Turn) -> bool {
        let Some(deadline) = self.stop_by else { return false };
        let mut sending = 0;
        self.sockets.each(|_, _, lent| sending += lent.tx);
        (turn.received == 0 && sending == 0) || Instant::now() >= deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_does_not_drain_leaves_the_worker_awake_for_the_others() {
        let quiet = Turn::default();
        let waiting = Turn { waiting: 3, ..quiet };
        assert_eq!(
            [nap(quiet, false), nap(quiet, true), nap(waiting, false)],
            [Nap::Idle, Nap::Short, Nap::Short]
        );
        let held_back = Turn { held_back: true, ..waiting };
        assert_eq!(nap(held_back, false), Nap::Congested, "it would wake at once");
    }
}
