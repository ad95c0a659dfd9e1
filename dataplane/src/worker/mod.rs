//! Workers: one thread per queue, which owns its UMEM, its sockets and its counters.
//!
//! A packet never changes threads. [`Worker`] is control's end: ports come and go while the worker runs,
//! and how it ended is reported.

mod command;
mod handle;
#[cfg(feature = "in-memory")]
mod in_memory;
mod run;
mod shares;
mod sleep;
mod sockets;
mod stats;
mod tap;
#[cfg(test)]
mod tests;
mod turn;

pub use handle::{Worker, WorkerError, WorkerExit, WorkerSpec};
#[cfg(feature = "in-memory")]
pub use in_memory::InMemory;
pub use shares::Shares;
pub use sleep::{LONGEST_SLEEP, PollMode, SPIN};
pub use sockets::{AttachError, Reclaimed};
pub use stats::{Counter, SocketLoss, SocketStats, WorkerStats};
pub use tap::{Filter, Interfaces, Seen, Tap, Way};
pub use turn::Forward;

pub use crate::port::frame::{AuditError, FrameCensus, Lent};
pub use crate::port::open::{DeviceQueue, OpenError, RingSizes, UmemSpec, ZeroCopy};
pub use crate::port::xsk::XskPort;
