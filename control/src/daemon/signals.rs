//! The signals that tell the daemon something.

use std::io;

use nix::sys::signal::{SigSet, Signal as Signum};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::model::Event;

/// SIGTERM, SIGINT and SIGHUP.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        // A blocked signal stays blocked across exec, and whoever started us may have blocked these.
        [Signum::SIGTERM, Signum::SIGINT, Signum::SIGHUP].into_iter().collect::<SigSet>().thread_unblock()?;
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// What the next one means.
    pub(super) async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop,
            _ = self.interrupt.recv() => Event::Stop,
            _ = self.hangup.recv() => Event::Reload,
        }
    }
}
