//! The BPF programs on this host: their tables, and loading, attaching and replacing them.
//!
//! [`Programs`] creates the tables that all program instances share and loads one instance per device: one for
//! the underlay, one for each container port; an [`Instance`] runs at XDP, a [`Classifier`] at tc. [`Tables`] is the typed face of the tables.
//! Everything here is a few system calls, none of it is asynchronous; taking a kept program off its device
//! waits some milliseconds for the kernel.

mod bpffs;
mod classifier;
mod device;
mod devices;
mod flows;
mod instance;
mod loader;
mod owner;
mod programs;
mod tables;

pub use bpffs::BpfFs;
pub use classifier::{Classifier, remove_left};
pub use device::{Attached, Device, Regime};
pub use devices::Devices;
pub use flows::{FlowCounters, Usage};
pub use instance::{AttachError, Instance, is_kept_at};
pub use owner::Owner;
pub use programs::{LoadError, Programs, VerdictCounters};
pub use tables::{Capacity, HEARTBEAT_MAX_AGE, Heartbeats, Host, Outer, PortEntry, TableError, Tables};
