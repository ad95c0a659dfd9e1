//! What control asks of a running worker, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Sender;

use super::sockets::{AttachError, Reclaimed};
use super::stats::SocketStats;
use super::tap::Tap;
use crate::PortId;
use crate::port::frame::AuditError;
use crate::port::{FrameCensus, Port, SocketSlot};

/// A request to the worker's thread; each answers by the channel inside it.
///
/// Sockets are opened and closed on the caller's thread, since both take milliseconds.
pub(super) enum Command<P> {
    /// Serve this port from now on.
    Attach { id: PortId, port: P, reply: Sender<Result<Arc<SocketStats>, Refused<P>>> },
    /// Carry what the port has received and send what it has to send, then hand its socket out.
    Detach { id: PortId, patience: Duration, reply: Sender<Option<Detached<P>>> },
    /// The socket is closed: take its frames back.
    Reclaim { closed: Closed, reply: Sender<Reclaimed> },
    /// Copy frames for these watchers, in place of those before.
    Tap { taps: Vec<Tap> },
    /// Count all frames.
    Audit { reply: Sender<Result<FrameCensus, AuditError>> },
    /// Carry what has been received and end.
    Stop { patience: Duration },
}

/// A socket that was not attached.
pub(super) struct Refused<P> {
    pub(super) error: AttachError,
    /// For the caller to close.
    pub(super) port: P,
}

/// A socket that is the worker's no more, but still open.
pub(super) struct Detached<P> {
    pub(super) slot: SocketSlot,
    pub(super) port: P,
}

impl<P: Port> Detached<P> {
    /// Closes the socket; blocks until the kernel has let go of its frames.
    pub(super) fn close(self) -> Closed {
        Closed { slot: self.slot, zero_copy: self.port.zero_copy() }
    }
}

/// Proof that a socket is closed, so that its frames may be taken back.
pub(super) struct Closed {
    pub(super) slot: SocketSlot,
    pub(super) zero_copy: bool,
}
