//! What the follower is told to follow, what it tells, and what it can be asked.

use tokio::sync::oneshot;
use vxdp_dataplane::wire::{MacAddr, Vni};
use vxdp_dataplane::{OverlayId, PortId};

use super::state::Change;
use crate::netns::Netns;

/// An overlay as the follower finds it.
#[derive(Debug, Clone)]
pub struct Source {
    /// Namespace of its bridge and vxlan device.
    pub netns: Netns,
    /// Its VNI.
    pub vni: Vni,
    /// Its UDP port.
    pub port: u16,
    /// Name of the bridge.
    pub bridge: String,
    /// Name of the vxlan device.
    pub vxlan: String,
    /// Names of the container ports on the bridge.
    pub ports: Vec<String>,
    /// MACs of the containers behind them.
    pub macs: Vec<MacAddr>,
}

/// What the fast path must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Table changes, in order.
    Changes(Vec<Change>),
    /// A container port of an overlay is on its bridge.
    PortAppeared {
        /// The overlay.
        overlay: OverlayId,
        /// Position of the port in [`Source::ports`].
        port: usize,
        /// Index of its device.
        device: u32,
    },
    /// A container port is gone.
    PortVanished {
        /// The overlay.
        overlay: OverlayId,
        /// Position of the port in [`Source::ports`].
        port: usize,
        /// Index its device had.
        device: u32,
    },
    /// The underlay device, at first and whenever it changed; `None`: it is gone.
    Underlay(Option<UnderlayLink>),
    /// The follower cannot go on; the fast path must be switched off.
    Lost(String),
}

/// The underlay device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayLink {
    /// Its index.
    pub device: u32,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is up and has a carrier.
    pub running: bool,
}

/// What the fast path asks of the follower.
#[derive(Debug)]
pub enum Ask {
    /// A port takes frames: MACs behind its device may be carried.
    PortUp {
        /// The overlay.
        overlay: OverlayId,
        /// Index of its device.
        device: u32,
        /// Its number.
        port: PortId,
    },
    /// A port takes no more frames.
    PortDown {
        /// The overlay.
        overlay: OverlayId,
        /// Index of its device.
        device: u32,
    },
    /// The fast path used these MACs: their rows must not age out of the kernel.
    Used(Vec<(OverlayId, MacAddr)>),
    /// The counters so far.
    Counters(oneshot::Sender<FollowCounters>),
}

/// Counters of a follower.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FollowCounters {
    /// Notifications lost and answered by a new dump.
    pub overflows: u64,
    /// Dumps made without an occasion.
    pub audits: u64,
    /// Changes that an audit found and no notification had told.
    pub drift: u64,
    /// Times a row stayed with the kernel because the mirror is full; each dump counts it again.
    pub refused: u64,
}

impl Source {
    /// The names of all its devices.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        [&self.bridge, &self.vxlan].into_iter().chain(&self.ports).map(String::as_str)
    }
}
