//! What the host should look like: the configuration, with containers found and rows added at run time.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use vxdp_dataplane::Family;
use vxdp_dataplane::wire::MacAddr;

use super::place::as_text;
use crate::config;
use crate::netns::Netns;

/// One host as it should be.
///
/// Every [`Netns`] in it keeps a namespace alive, also one whose container has died (and with it the veth
/// in there), so make it for one reconciliation and drop it; do not store it.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The namespace of the underlay NIC. The kernel keeps the tunnel's UDP sockets there.
    pub host: Netns,
    /// The underlay as it was found.
    pub underlay: UnderlayFacts,
    /// Transmit and receive queues of every new veth, at least 1.
    pub queues: u16,
    /// The overlays.
    pub overlays: Vec<DesiredOverlay>,
}

/// What the overlays need to know about the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayFacts {
    /// Index of the NIC in the host's namespace.
    pub ifindex: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Our VTEP address.
    pub local: IpAddr,
}

impl UnderlayFacts {
    /// Bytes that encapsulation adds to an inner IP packet: outer IP and UDP headers, VXLAN header and
    /// inner Ethernet header (RFC 7348, section 5).
    ///
    /// The same number as the outer headers that a frame gets: those have an Ethernet header that does not
    /// count for an MTU, in place of the inner one, which does.
    pub fn overhead(&self) -> u32 {
        u32::try_from(Family::of(self.local).encap_room()).expect("at most 70")
    }

    /// The largest inner IP packet that leaves in one piece, in bytes.
    pub fn inner_mtu(&self) -> u32 {
        self.mtu.saturating_sub(self.overhead())
    }

    /// The MTU of an overlay's devices, in bytes: its own, or the largest that leaves in one piece.
    pub fn overlay_mtu(&self, spec: &config::Overlay) -> u32 {
        spec.mtu.unwrap_or_else(|| self.inner_mtu())
    }
}

/// One overlay as it should be.
#[derive(Debug, Clone)]
pub struct DesiredOverlay {
    /// Its configuration.
    pub spec: config::Overlay,
    /// MTU of bridge, vxlan device and veths, in bytes.
    pub mtu: u32,
    /// Its containers.
    pub ports: Vec<DesiredPort>,
    /// Rows of static remotes, of remotes installed on a miss, and those added by the operator.
    /// Where two contradict each other the later one wins. `spec.flood` need not be repeated here.
    pub rows: Vec<Row>,
}

impl DesiredOverlay {
    /// The overlay with its static remotes and without ports.
    pub fn new(spec: config::Overlay, underlay: &UnderlayFacts) -> Self {
        let mtu = underlay.overlay_mtu(&spec);
        let of_static = spec.remotes.iter().filter(|remote| remote.install == config::Install::Static);
        let rows = of_static.flat_map(Row::of_remote).collect();
        Self { spec, mtu, ports: Vec::new(), rows }
    }
}

/// One container's connection to an overlay.
#[derive(Debug, Clone)]
pub struct DesiredPort {
    /// Its configuration.
    pub container: config::Container,
    /// Its namespace; `None` while the container is away: then nothing is built and nothing removed.
    pub netns: Option<Netns>,
}

/// One row in one of the kernel's tables that belong to a vxlan device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// Permanent neighbour on the vxlan device: what `proxy` answers ARP and neighbour solicitations from.
    Neighbour {
        /// Inner address.
        address: IpAddr,
        /// Who has it.
        #[serde(with = "as_text")]
        mac: MacAddr,
    },
    /// The vxlan device's own row (`bridge fdb … self permanent`).
    Fdb {
        /// Inner destination.
        #[serde(with = "as_text")]
        mac: MacAddr,
        /// Underlay address of the VTEP behind which it is.
        vtep: IpAddr,
    },
    /// The bridge's row that points at the vxlan device (`bridge fdb … master static`); without it the
    /// bridge floods frames for the MAC to all its ports.
    Bridge {
        /// Inner destination.
        #[serde(with = "as_text")]
        mac: MacAddr,
    },
    /// One VTEP of the all-zero row: gets a copy of each frame that has no row of its own.
    Flood {
        /// Underlay address.
        vtep: IpAddr,
    },
}

impl Row {
    /// The rows that make one remote known: its neighbours, its FDB row and its bridge row.
    pub fn of_remote(remote: &config::Remote) -> Vec<Self> {
        let config::Remote { mac, vtep, .. } = *remote;
        let neighbours = remote.addresses.iter().map(|&address| Self::Neighbour { address, mac });
        neighbours.chain([Self::Fdb { mac, vtep }, Self::Bridge { mac }]).collect()
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Neighbour { address, mac } => write!(f, "neighbour {address} at {mac}"),
            Self::Fdb { mac, vtep } => write!(f, "FDB row {mac} behind {vtep}"),
            Self::Bridge { mac } => write!(f, "bridge FDB row {mac}"),
            Self::Flood { vtep } => write!(f, "flood row to {vtep}"),
        }
    }
}
