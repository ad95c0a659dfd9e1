//! Bytes in, bytes out: VXLAN wire formats, forwarding tables, AF_XDP ports and workers.
//!
//! Nothing here knows of tokio, netlink, configuration or logging, and nothing reads a clock per packet.

pub mod wire;
