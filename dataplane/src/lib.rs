//! Bytes in, bytes out: VXLAN wire formats, forwarding tables, AF_XDP ports and workers.
//!
//! Nothing here knows of tokio, netlink, configuration or logging, and nothing reads a clock per packet.

mod drop_reason;
mod packet;
pub mod path;
mod port;
mod stats;
pub mod table;
pub mod wire;
pub mod worker;

pub use drop_reason::DropReason;
pub use packet::{BATCH, Family, Ingress, Nanos, PortId, Slot, Verdict};
pub use path::{Tunnel, process};
pub use stats::{COUNTED_PORTS, COUNTED_VTEPS, Flow, Local, Stats};
pub use table::{OverlayId, Tables, VtepId};
