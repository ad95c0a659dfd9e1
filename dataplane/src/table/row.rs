//! The rows of the tables, as control gives them.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;

use crate::wire::{MacAddr, Vni};
use crate::{Family, PortId};

/// Index of an overlay, given by control.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OverlayId(u16);

/// Index of a VTEP, given by control: small numbers first, since tables and counters are arrays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VtepId(u32);

impl OverlayId {
    /// The overlay with this index.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// The index.
    pub const fn get(self) -> u16 {
        self.0
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl VtepId {
    /// One more than the largest index: tables are arrays, and 65536 VTEPs of 128 bytes are 8 MiB.
    pub const LIMIT: u32 = 1 << 16;

    /// The VTEP with this index.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// The index.
    pub const fn get(self) -> u32 {
        self.0
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for OverlayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "overlay{}", self.0)
    }
}

impl fmt::Debug for VtepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vtep{}", self.0)
    }
}

/// Our own end of every tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Underlay {
    /// Our VTEP address.
    pub local: IpAddr,
    /// MAC of the NIC.
    pub mac: MacAddr,
}

impl Underlay {
    /// The address family of every outer packet.
    pub const fn family(&self) -> Family {
        Family::of(self.local)
    }
}

/// One segment: its VNI on its UDP port, and how its outer headers look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overlay {
    /// VXLAN network identifier.
    pub vni: Vni,
    /// UDP destination port.
    pub port: u16,
    /// How its outer headers look.
    pub policy: Policy,
}

/// How the outer headers of an overlay look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Time to live or hop limit.
    pub ttl: Ttl,
    /// Type of service or traffic class.
    pub tos: Tos,
    /// IPv4 don't-fragment.
    pub df: Df,
    /// What stands in the UDP checksum.
    pub udp_checksum: UdpChecksum,
    /// What is done with a zero UDP checksum that comes over IPv6 (RFC 6935).
    pub zero_udp6: ZeroUdp6,
    /// UDP source ports, one per flow.
    pub source_ports: PortRange,
}

impl Default for Policy {
    /// The kernel's own: everything from the route, no checksum over IPv4, ports as RFC 7348 recommends.
    fn default() -> Self {
        Self {
            ttl: Ttl::Auto,
            tos: Tos::Fixed(0),
            df: Df::Unset,
            udp_checksum: UdpChecksum::Zero,
            zero_udp6: ZeroUdp6::Drop,
            source_ports: PortRange::DYNAMIC,
        }
    }
}

/// Outer time to live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// The hop limit of the route ([`NextHop::hop_limit`]).
    Auto,
    /// The inner packet's; the route's where there is none.
    Inherit,
    /// This value.
    Fixed(NonZeroU8),
}

/// Outer type of service. The two ECN bits always come from the inner packet (RFC 6040).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tos {
    /// The inner packet's; zero where there is none.
    Inherit,
    /// This value.
    Fixed(u8),
}

/// Outer IPv4 don't-fragment flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Df {
    /// Clear.
    Unset,
    /// Set.
    Set,
    /// The inner packet's; set for IPv6 inside. As in the kernel, a tagged frame counts as neither.
    Inherit,
}

/// Outer UDP checksum of what we send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpChecksum {
    /// Zero: none.
    Zero,
    /// Computed.
    Computed,
}

/// A zero UDP checksum in what comes over IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZeroUdp6 {
    /// Dropped, as a vxlan device without `udp6zerocsumrx` does.
    Drop,
    /// Accepted.
    Accept,
}

/// A range of UDP ports, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// 49152 to 65535, as RFC 7348, section 5, recommends.
    pub const DYNAMIC: Self = Self { first: 49152, last: 65535 };

    /// The range; its ends may come in either order.
    pub const fn new(one: u16, other: u16) -> Self {
        if one <= other { Self { first: one, last: other } } else { Self { first: other, last: one } }
    }

    /// Both ends, the lower one first.
    pub const fn ends(self) -> (u16, u16) {
        (self.first, self.last)
    }

    /// The port of a flow with this hash, whose high bits count.
    pub const fn pick(self, hash: u32) -> u16 {
        let span = (self.last - self.first) as u64 + 1;
        self.first + ((hash as u64 * span) >> 32) as u16
    }
}

/// Another host's end of our tunnels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vtep {
    /// Its underlay address.
    pub address: IpAddr,
    /// How it is reached; absent while unresolved.
    pub next_hop: Option<NextHop>,
}

/// How a VTEP is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// Link-layer address of the VTEP itself or of the gateway towards it.
    pub mac: MacAddr,
    /// Largest outer IP packet on the way, in bytes.
    pub mtu: u16,
    /// Time to live that the route's packets start with; the kernel's default is 64.
    pub hop_limit: u8,
}

/// A container port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Port {
    /// The overlay that the container belongs to.
    pub overlay: OverlayId,
    /// MTU of the veth, in bytes, without the Ethernet header.
    pub mtu: u16,
}

/// One change of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Our own end changed its link-layer address, or its VTEP address.
    Underlay(Underlay),
    /// An overlay appeared, changed or went. The rows of one that went go with it.
    Overlay(OverlayId, Option<Overlay>),
    /// A VTEP appeared, changed or went. Rows that name one that went drop their frames: remove them first.
    Vtep(VtepId, Option<Vtep>),
    /// A port appeared, changed or went.
    Port(PortId, Option<Port>),
    /// A MAC appeared, moved or went behind a VTEP, with the overlay's own VNI and UDP port.
    Remote {
        /// Its segment.
        overlay: OverlayId,
        /// A unicast address.
        mac: MacAddr,
        /// The VTEP; `None`: the kernel's business.
        vtep: Option<VtepId>,
    },
    /// A MAC appeared, moved or went behind a port of ours.
    Local {
        /// Its segment.
        overlay: OverlayId,
        /// A unicast address.
        mac: MacAddr,
        /// The port; `None`: the kernel's business.
        port: Option<PortId>,
    },
}

/// Why a change was refused. The tables stay as they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableError {
    /// Outer packets have one address family.
    #[error("VTEP {address} is not of the address family of our own address {local}")]
    Family {
        /// The VTEP's address.
        address: IpAddr,
        /// Ours.
        local: IpAddr,
    },
    /// A frame must belong to one segment.
    #[error("VNI {vni} on UDP port {port} belongs to {owner:?} already")]
    OverlayTaken {
        /// The VNI.
        vni: Vni,
        /// The UDP port.
        port: u16,
        /// The overlay that has both.
        owner: OverlayId,
    },
    /// Tables are arrays.
    #[error("{vtep:?} is beyond the {limit} VTEPs that tables hold", limit = VtepId::LIMIT)]
    TooManyVteps {
        /// The index.
        vtep: VtepId,
    },
    /// Only stations have rows.
    #[error("{mac} is not the address of a station")]
    NotAStation {
        /// A group address or zero.
        mac: MacAddr,
    },
}
