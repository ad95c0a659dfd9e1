//! Starting a worker, talking to it while it runs, and learning how it ended.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{self, Sender};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::eventfd::EventFd;
use nix::unistd::Pid;
use thiserror::Error;

use super::command::Command;
use super::run::Loop;
use super::sleep::{Patience, PollMode, Sleeper};
use super::sockets::{AttachError, Reclaimed, Sockets};
use super::stats::{SocketStats, WorkerStats};
use super::tap::Tap;
use super::turn::Forward;
use crate::port::frame::AuditError;
use crate::port::open::{DeviceQueue, OpenError, Opener, UmemSpec, open_umem};
use crate::port::xsk::XskPort;
use crate::port::{FrameCensus, Port};
use crate::{Nanos, PortId};

/// How a worker is to run.
pub struct WorkerSpec<F> {
    /// Name of its thread; the kernel shows the first 15 bytes.
    pub name: String,
    /// The processor it is pinned to, if any.
    pub cpu: Option<usize>,
    /// How it waits for packets.
    pub poll: PollMode,
    /// What becomes of packets.
    pub forward: F,
    /// Told the time (`CLOCK_MONOTONIC`) about every millisecond while the worker is awake and at least every
    /// [`LONGEST_SLEEP`](super::LONGEST_SLEEP) while it sleeps; told 0 when it has ended, however it ended.
    pub heartbeat: Box<dyn FnMut(Nanos) + Send>,
    /// Told how the worker ended, on its thread, after its sockets were closed.
    pub on_exit: Box<dyn FnOnce(&WorkerExit) + Send>,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerExit {
    /// It was told to; where the frames were just before its sockets were closed, unless they did not add up.
    Stopped {
        /// The last audit.
        census: Option<FrameCensus>,
    },
    /// It panicked.
    Panicked {
        /// What it said.
        message: String,
    },
}

/// Why a request to a worker failed.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The thread could not be started, pinned, or given something to sleep on.
    #[error("cannot start the worker's thread")]
    Start {
        /// The system's answer.
        source: io::Error,
    },
    /// A socket could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The worker cannot take the port.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The caller could not make the socket known to the XDP program.
    #[error("cannot put the socket of {device} queue {queue} into the map")]
    Install {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// The caller's error.
        source: io::Error,
    },
    /// The worker has no such port.
    #[error("{port:?} is not attached")]
    NoPort {
        /// The port.
        port: PortId,
    },
    /// The worker has ended, or ended while it was asked.
    #[error("the worker has ended")]
    Ended,
    /// The frames do not add up.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// A running worker. Dropping the handle makes the worker end at once, without waiting for it.
pub struct Worker<P: Port = XskPort> {
    commands: Sender<Command<P>>,
    bell: Arc<EventFd>,
    stats: Arc<WorkerStats>,
    underlay: Arc<SocketStats>,
    thread: JoinHandle<WorkerExit>,
    opener: Option<Opener>,
}

/// Commands that may wait for a worker: they come from one control thread, which waits for each answer.
const COMMANDS: usize = 16;

impl Worker<XskPort> {
    /// Opens the underlay's queue and starts a worker over it.
    ///
    /// `install` gets the socket once its fill ring is primed, to put it into the XDP program's map.
    pub fn start<F: Forward + 'static>(
        spec: WorkerSpec<F>,
        umem: &UmemSpec,
        underlay: &DeviceQueue<'_>,
        install: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Result<Self, WorkerError> {
        let (memory, socket, opener) = open_umem(umem, underlay)?;
        let copy = duplicate(&socket, underlay)?;
        let sockets = Sockets::new(memory, socket, umem.rings)?;
        let worker = Self::spawn(spec, sockets, Some(opener))?;
        install(copy.as_fd()).map_err(|source| install_error(underlay, source))?;
        Ok(worker)
    }

    /// Opens this queue of a port and lets the worker serve it; blocks for milliseconds.
    ///
    /// `install` gets the socket once its fill ring is primed, to put it into the XDP program's map.
    pub fn attach(
        &self,
        id: PortId,
        at: &DeviceQueue<'_>,
        install: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Result<Arc<SocketStats>, WorkerError> {
        let opener = self.opener.as_ref().ok_or(WorkerError::Ended)?;
        let socket = opener.open(at)?;
        let copy = duplicate(&socket, at)?;
        let stats = self.attach_socket(id, socket)?;
        if let Err(source) = install(copy.as_fd()) {
            drop(copy);
            self.detach(id, Duration::ZERO)?;
            return Err(install_error(at, source));
        }
        Ok(stats)
    }

    /// Whether the device reads and writes the UMEM itself.
    pub fn zero_copy(&self) -> bool {
        self.opener.as_ref().is_some_and(Opener::zero_copy)
    }
}

fn install_error(at: &DeviceQueue<'_>, source: io::Error) -> WorkerError {
    WorkerError::Install { device: at.device.to_owned(), queue: at.queue, source }
}

/// A second descriptor of a socket that is about to be given away, to be closed very soon: while it is
/// open, so is the socket, and the kernel goes on redirecting frames to it.
fn duplicate(socket: &XskPort, at: &DeviceQueue<'_>) -> Result<std::os::fd::OwnedFd, WorkerError> {
    socket.as_fd().try_clone_to_owned().map_err(|source| install_error(at, source))
}

impl<P: Port + 'static> Worker<P> {
    /// Starts a worker over sockets that are open already.
    pub(super) fn spawn<F: Forward + 'static>(
        spec: WorkerSpec<F>,
        mut sockets: Sockets<P>,
        opener: Option<Opener>,
    ) -> Result<Self, WorkerError> {
        let start_error = |source: io::Error| WorkerError::Start { source };
        let sleeper = Sleeper::new().map_err(|errno| start_error(errno.into()))?;
        let mut watched = Ok(());
        sockets.each(|port, _, _| watched = watched.and_then(|()| sleeper.watch(port)));
        watched.map_err(|errno| start_error(errno.into()))?;
        let (commands, receiver) = channel::bounded(COMMANDS);
        let (ready, started) = channel::bounded(1);
        let (bell, underlay) = (sleeper.bell(), sockets.underlay_stats());
        let stats = Arc::<WorkerStats>::default();
        let WorkerSpec { name, cpu, poll, forward, heartbeat, on_exit } = spec;
        let worker = Loop {
            sockets,
            forward,
            heartbeat,
            poll,
            sleeper,
            patience: Patience::default(),
            commands: receiver,
            stats: Arc::clone(&stats),
            leaving: Vec::new(),
            stop_by: None,
        };
        let thread_opener = opener.clone();
        let body = move || {
            let pinned = cpu.map_or(Ok(()), pin);
            let run = pinned.is_ok();
            drop(ready.send(pinned));
            live(worker, run, thread_opener, on_exit)
        };
        let thread = std::thread::Builder::new().name(name).spawn(body).map_err(start_error)?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self { commands, bell, stats, underlay, thread, opener }),
            Ok(Err(source)) => Err(start_error(source)),
            Err(_) => Err(WorkerError::Ended),
        }
    }

    /// Lets the worker serve an open socket as this port.
    pub(super) fn attach_socket(&self, id: PortId, port: P) -> Result<Arc<SocketStats>, WorkerError> {
        let attached = self.ask(|reply| Command::Attach { id, port, reply })?;
        attached.map_err(|refused| {
            drop(refused.port);
            refused.error.into()
        })
    }

    /// Takes a port from the worker and closes its socket; blocks for milliseconds, or for `patience` and a
    /// little more while the device does not take what it was sent.
    ///
    /// Take the socket out of the XDP program's map before, and nothing is lost: what the socket received
    /// until then is carried. Frames that the device did not take in time come back unsent.
    pub fn detach(&self, id: PortId, patience: Duration) -> Result<Reclaimed, WorkerError> {
        let detached = self.ask(|reply| Command::Detach { id, patience, reply })?;
        let closed = detached.ok_or(WorkerError::NoPort { port: id })?.close();
        self.ask(|reply| Command::Reclaim { closed, reply })
    }

    /// Counts all frames and checks that each is in exactly one place.
    pub fn audit(&self) -> Result<FrameCensus, WorkerError> {
        Ok(self.ask(|reply| Command::Audit { reply })??)
    }

    /// Copies frames for these watchers from now on, in place of those before.
    pub fn tap(&self, taps: Vec<Tap>) -> Result<(), WorkerError> {
        self.commands.send(Command::Tap { taps }).map_err(|_| WorkerError::Ended)?;
        self.ring();
        Ok(())
    }

    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Command<P>) -> Result<T, WorkerError> {
        let (reply, answer) = channel::bounded(1);
        self.commands.send(request(reply)).map_err(|_| WorkerError::Ended)?;
        self.ring();
        answer.recv().map_err(|_| WorkerError::Ended)
    }

    fn ring(&self) {
        // Fails only when 2^64 - 1 rings were not heard, and then the worker will wake anyway.
        let _ = self.bell.write(1);
    }

    /// The worker's figures.
    pub fn stats(&self) -> &Arc<WorkerStats> {
        &self.stats
    }

    /// The figures of the underlay's socket.
    pub fn underlay_stats(&self) -> &Arc<SocketStats> {
        &self.underlay
    }

    /// Whether the worker's thread is there.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Carries what has been received, waits up to `patience` for its transmission, closes all sockets.
    ///
    /// Switch the XDP programs off before, or frames that arrive meanwhile are lost with the sockets.
    pub fn stop(self, patience: Duration) -> WorkerExit {
        // A worker that has ended cannot hear it, and need not.
        let _ = self.commands.send(Command::Stop { patience });
        self.ring();
        let message = |panic: Box<dyn Any + Send>| WorkerExit::Panicked { message: message_of(&*panic) };
        self.thread.join().unwrap_or_else(message)
    }
}

/// The thread's life: run, and whatever happens, say that it is over and close the sockets.
fn live<P: Port, F: Forward>(
    mut worker: Loop<P, F>,
    run: bool,
    opener: Option<Opener>,
    on_exit: Box<dyn FnOnce(&WorkerExit) + Send>,
) -> WorkerExit {
    let outcome = catch_unwind(AssertUnwindSafe(|| if run { worker.run() } else { None }));
    // First of all, since closing sockets takes milliseconds each: the XDP programs see it at once.
    let silenced = catch_unwind(AssertUnwindSafe(|| (worker.heartbeat)(Nanos(0))));
    if let Some(opener) = opener {
        opener.close();
    }
    drop(worker);
    let exit = match outcome.and_then(|census| silenced.map(|()| census)) {
        Ok(census) => WorkerExit::Stopped { census },
        Err(panic) => WorkerExit::Panicked { message: message_of(&*panic) },
    };
    on_exit(&exit);
    exit
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

impl<P: Port> std::fmt::Debug for Worker<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("thread", &self.thread).finish_non_exhaustive()
    }
}
