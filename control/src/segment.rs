//! Which overlay of this host is meant.

use std::fmt;

use vxdp_dataplane::wire::Vni;

use crate::config::Overlay;

/// An overlay's identity on one host. A VNI may be used on two UDP ports: those are two segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// VXLAN network identifier.
    pub vni: Vni,
    /// UDP destination port.
    pub port: u16,
}

impl Segment {
    /// The identity of `overlay`.
    pub fn of(overlay: &Overlay) -> Self {
        Self { vni: overlay.vni, port: overlay.port }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VNI {} on port {}", self.vni, self.port)
    }
}
