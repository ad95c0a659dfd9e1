//! A measurement between two real hosts, each with a running daemon: one side generates and measures, the other one
//! is the sink.
//!
//! ```text
//!   --config a.toml                                           --sink --config b.toml
//!   container: generator ▶ vxdp ── network ── vxdp ▶ container: sink or echo
//!        └──────── requests, over TCP between the VTEPs' addresses ────────▶┘
//! ```
//!
//! Both switch the mode of their own daemon's overlay, in turns, and switch back at the end.

mod far;
mod here;
mod message;
mod pair;
mod serve;

pub use pair::{Pair, measurements};
pub use serve::serve;

/// The TCP port on the sink's VTEP address, if none is named.
pub const PORT: u16 = 14789;
