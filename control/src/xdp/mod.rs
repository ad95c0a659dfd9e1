//! The XDP programs on this host: their tables, and loading, attaching and replacing them.
//!
//! [`Programs`] creates the tables that all program instances share and loads one [`Instance`] per device:
//! one for the underlay, one for each container port. [`Tables`] is the typed face of the tables.
//! Everything here is a few system calls, none of it is asynchronous; taking a kept program off its device
//! waits some milliseconds for the kernel.

mod bpffs;
mod device;
mod instance;
mod programs;
mod tables;

pub use bpffs::BpfFs;
pub use device::{Attached, Device, Regime};
pub use instance::{AttachError, Instance};
pub use programs::{LoadError, Programs};
pub use tables::{Capacity, HEARTBEAT_MAX_AGE, Heartbeats, Host, PortEntry, TableError, Tables};
