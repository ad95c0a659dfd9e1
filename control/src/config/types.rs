//! The checked configuration of one host: what the rest of the crate works with.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use vxdp_dataplane::wire::{MacAddr, Vni};

use super::{IfName, NsName};

/// One host: its underlay and its overlays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The tunnel's side towards the network.
    pub underlay: Underlay,
    /// How frames are carried.
    pub dataplane: Dataplane,
    /// The daemon's own sockets.
    pub control: Control,
    /// The segments this host takes part in.
    pub overlays: Vec<Overlay>,
}

/// `[underlay]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// NIC that carries the tunnel.
    pub device: IfName,
    /// Our VTEP address.
    pub local: IpAddr,
}

/// `[dataplane]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataplane {
    /// What carries known unicast.
    pub mode: Mode,
    /// Who carries frames in xdp mode.
    pub engine: Engine,
    /// Queues used on the NIC and on every port, one thread each.
    pub workers: u16,
    /// The processor that each worker is pinned to; empty = not pinned.
    pub cpus: Vec<u16>,
    /// Where the in-kernel engine's programs sit.
    pub hook: Hook,
    /// Where the XDP program runs.
    pub attach: XdpAttach,
    /// Whether AF_XDP sockets are zero-copy.
    pub zero_copy: ZeroCopy,
    /// How workers wait for frames.
    pub poll: Poll,
}

/// `[control]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Unix socket of the API, mode 0600.
    pub socket: PathBuf,
    /// Address of the Prometheus endpoint.
    pub metrics: Option<std::net::SocketAddr>,
}

/// `[[overlay]]`: one VNI and the namespace, bridge and vxlan device that carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// VXLAN network identifier.
    pub vni: Vni,
    /// UDP destination port.
    pub port: u16,
    /// Name of the network namespace (`/run/netns/NAME`).
    pub netns: NsName,
    /// Bridge in that namespace.
    pub bridge: IfName,
    /// vxlan device in that namespace, a port of the bridge.
    pub vxlan: IfName,
    /// Addresses on the bridge; empty = none.
    pub gateway: Vec<IpNet>,
    /// MTU of bridge, vxlan device and veths; absent = underlay MTU minus the encapsulation.
    pub mtu: Option<u32>,
    /// Learn source MAC to VTEP from received frames.
    pub learning: bool,
    /// Answer ARP and NS from the device's neighbour table.
    pub proxy: bool,
    /// Notify on a missing FDB row.
    pub l2miss: bool,
    /// Notify on a missing neighbour row.
    pub l3miss: bool,
    /// Seconds until an unused learned row is dropped, at least 1.
    pub ageing: u32,
    /// Outer time to live.
    pub ttl: Ttl,
    /// Outer type of service.
    pub tos: Tos,
    /// Outer don't-fragment bit.
    pub df: Df,
    /// Whether the outer UDP checksum is computed, by default over IPv6 only; a missing one is always accepted.
    pub udp_checksum: bool,
    /// First and last outer UDP source port, the first one smaller.
    pub source_ports: (u16, u16),
    /// Overrides `[dataplane] mode`.
    pub mode: Option<Mode>,
    /// This overlay's own engine.
    pub engine: Option<Engine>,
    /// Head-end replication: VTEPs of the all-zero FDB row.
    pub flood: Vec<IpAddr>,
    /// Local containers.
    pub containers: Vec<Container>,
    /// Directory of the containers on other hosts.
    pub remotes: Vec<Remote>,
}

impl Overlay {
    /// The least MTU that its addresses allow, in bytes.
    pub fn min_mtu(&self) -> u32 {
        let bridge = self.gateway.iter().map(IpNet::addr);
        let local = self.containers.iter().flat_map(|container| &container.addresses).map(IpNet::addr);
        let remote = self.remotes.iter().flat_map(|remote| &remote.addresses).copied();
        min_mtu(bridge.chain(local).chain(remote))
    }
}

/// The least MTU for these addresses: 68 (RFC 791), with an IPv6 one among them 1280 (RFC 8200, section 5;
/// below, the kernel takes IPv6 off the device).
pub(super) fn min_mtu(mut addresses: impl Iterator<Item = IpAddr>) -> u32 {
    if addresses.any(|address| address.is_ipv6()) { super::IPV6_MIN_MTU } else { 68 }
}

/// `[[overlay.container]]`: a veth between the bridge and a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Which container.
    pub attach: Attach,
    /// Device name inside the container.
    pub interface: IfName,
    /// Device name on the bridge.
    pub host_interface: IfName,
    /// MAC of the inside end.
    pub mac: MacAddr,
    /// Addresses of the inside end, IPv4 or IPv6.
    pub addresses: Vec<IpNet>,
}

/// How a container's network namespace is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attach {
    /// Named namespace, `/run/netns/NAME`.
    Netns(NsName),
    /// Namespace of a process.
    Pid(u32),
    /// Name or id of a Docker container created with `--net=none`.
    Docker(String),
}

/// `[[overlay.remote]]`: one MAC behind another VTEP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// MAC of the remote container.
    pub mac: MacAddr,
    /// Its addresses; each gives an ARP (or ND) row.
    pub addresses: Vec<IpAddr>,
    /// Underlay address of its host.
    pub vtep: IpAddr,
    /// When the rows are written.
    pub install: Install,
}

/// When a remote's rows are written into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Install {
    /// At start.
    Static,
    /// When the kernel reports l2miss or l3miss.
    OnMiss,
}

/// What carries known unicast frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// xdp where everything it needs is there, otherwise kernel.
    Auto,
    /// The kernel's vxlan device.
    Kernel,
    /// AF_XDP and userspace.
    Xdp,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kernel => "kernel",
            Self::Xdp => "xdp",
        })
    }
}

/// Who carries frames in xdp mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// userspace where the NIC offers zero-copy, otherwise inkernel.
    Auto,
    /// Workers, over AF_XDP sockets.
    Userspace,
    /// The BPF programs themselves.
    #[value(name = "inkernel")]
    InKernel,
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Userspace => "userspace",
            Self::InKernel => "inkernel",
        })
    }
}

/// Where the programs of the in-kernel engine sit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// At tc, behind the making of socket buffers: containers keep segmentation and checksum offload.
    Tc,
    /// At XDP, before it: most frames per second.
    Xdp,
}

/// Where the XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpAttach {
    /// Driver where it works, else generic.
    Auto,
    /// In the driver only.
    Driver,
    /// After the socket buffer is made.
    Generic,
}

/// AF_XDP zero-copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where the driver offers it.
    Auto,
    /// Fail without it.
    Require,
    /// Always copy.
    Off,
}

/// How workers wait for frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// Spin shortly after work, then sleep.
    Adaptive,
    /// Never sleep.
    Busy,
    /// Always sleep.
    Interrupt,
}

/// Outer time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// The kernel's default for the underlay.
    Auto,
    /// Copied from the inner packet.
    Inherit,
    /// This value.
    Fixed(std::num::NonZeroU8),
}

/// Outer type of service (IPv6: traffic class).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tos {
    /// Copied from the inner packet.
    Inherit,
    /// This value.
    Fixed(u8),
}

/// Outer don't-fragment bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Df {
    /// Clear.
    Unset,
    /// Set.
    Set,
    /// Copied from the inner packet.
    Inherit,
}
