//! What `status` and `fdb show` say.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use vxdp_dataplane::wire::MacAddr;

use crate::engine::Carried;
use crate::engine::pilot::ModeReport;
use crate::kernel::as_text;
use crate::misses;
use crate::model::schedule;
use crate::reach::Reach;

/// The daemon and its overlays on one screen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// What carries known unicast frames: `kernel`, `xdp`, or `mixed`.
    pub mode: String,
    /// The modes in detail.
    pub modes: ModeReport,
    /// The tunnel's side towards the network.
    pub underlay: UnderlayStatus,
    /// The segments.
    pub overlays: Vec<OverlayStatus>,
    /// How far the kernel is from what it should be.
    pub reconcile: ReconcileStatus,
    /// l2miss and l3miss.
    pub misses: misses::Counters,
    /// The metrics endpoint, where one is configured.
    #[serde(default)]
    pub metrics: Option<MetricsStatus>,
    /// Where the kernel's path would send for each VTEP that is configured or known, the first 256; without
    /// those that an engine reports.
    #[serde(default)]
    pub vteps: Vec<VtepStatus>,
    /// Latest distinct errors, the newest first.
    pub errors: Vec<ErrorStatus>,
}

/// Where Prometheus text is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsStatus {
    /// The configured address.
    pub address: SocketAddr,
    /// Why nothing is served there.
    pub trouble: Option<String>,
}

/// A VTEP on the kernel's path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtepStatus {
    /// Its underlay address.
    pub address: IpAddr,
    /// What the kernel has about it.
    #[serde(flatten)]
    pub reach: Reach,
    /// Why nothing gets there.
    pub why: Option<String>,
}

impl VtepStatus {
    /// How far the next hop is known, in a word or two: the state of its neighbour entry, where it has one.
    pub fn state(&self) -> &str {
        match (&self.reach.device, &self.reach.state) {
            (None, _) => "no route",
            (Some(_), Some(state)) => state,
            (Some(_), None) => "not asked",
        }
    }
}

/// The tunnel's side towards the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderlayStatus {
    /// NIC.
    pub device: String,
    /// Our VTEP address.
    pub local: IpAddr,
    /// MTU of the NIC in bytes, when it was last seen.
    pub mtu: Option<u32>,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayStatus {
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Network namespace.
    pub netns: String,
    /// Bridge.
    pub bridge: String,
    /// vxlan device.
    pub vxlan: String,
    /// MTU inside, in bytes.
    pub mtu: Option<u32>,
    /// Whether outer UDP checksums are computed, which the in-kernel engine cannot do.
    #[serde(default)]
    pub udp_checksum: bool,
    /// Local containers.
    pub containers: Vec<ContainerStatus>,
    /// Remote containers by origin.
    pub remotes: RemoteCounts,
    /// What each path has carried.
    #[serde(default)]
    pub paths: Vec<PathStatus>,
}

/// What one path has carried of one overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStatus {
    /// `kernel`, `userspace` or `inkernel`.
    pub path: String,
    /// So far: the kernel since its device is there, engines since the daemon's start.
    #[serde(flatten)]
    pub carried: Carried,
    /// In each of the last seconds, where that is known already.
    pub rate: Option<Carried>,
}

/// One local container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// How it is found: `docker test-overlay`, `netns c1`, `pid 1234`.
    pub attach: String,
    /// Device inside.
    pub interface: String,
    /// Device on the bridge.
    pub host_interface: String,
    /// Its MAC.
    #[serde(with = "as_text")]
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Whether it is connected.
    pub attached: bool,
    /// Why it is not.
    pub reason: Option<String>,
}

/// How many remote containers an overlay knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RemoteCounts {
    /// From the configuration, written at the start.
    #[serde(rename = "static")]
    pub static_: usize,
    /// From the configuration, written when the kernel misses them.
    pub on_miss: usize,
    /// Added by `fdb add`.
    pub added: usize,
}

/// Reconciliation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileStatus {
    /// `settled`, `working`, `contested` (somebody keeps undoing it) or `failing`.
    pub state: String,
    /// Failures since the last success.
    pub failures: u32,
    /// Notifications from the kernel that concerned us.
    pub notifications: u64,
    /// Times the kernel dropped notifications, so that everything was looked at again.
    pub overflows: u64,
    /// Passes.
    #[serde(flatten)]
    pub counters: schedule::Counters,
}

/// One distinct error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorStatus {
    /// The message.
    pub message: String,
    /// How often it happened.
    pub count: u64,
    /// Seconds since it last happened.
    pub age_s: u64,
}

/// Rows of the kernel's tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fdb {
    /// The rows, sorted by overlay, table and MAC.
    pub rows: Vec<RowStatus>,
    /// How many more there are than fit in an answer.
    pub more: usize,
}

/// One row of the kernel's tables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowStatus {
    /// Its overlay.
    pub vni: u32,
    /// UDP port of its overlay.
    pub udp_port: u16,
    /// Which table.
    pub table: Table,
    /// MAC; all zero is the flood list.
    pub mac: Option<String>,
    /// Inner address, in the neighbour table.
    pub address: Option<IpAddr>,
    /// VTEP behind which the MAC is.
    pub vtep: Option<IpAddr>,
    /// Device behind which the MAC is.
    pub device: Option<String>,
    /// `permanent`, `static`, `reachable`, `stale` …
    pub state: String,
    /// Who put it there.
    pub origin: Origin,
    /// Seconds since it was last used, where the kernel keeps that.
    pub used_s: Option<u64>,
    /// Seconds since it last changed, where the kernel keeps that.
    pub updated_s: Option<u64>,
}

/// Tables of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Table {
    /// The vxlan device's own: which VTEP has the MAC.
    Vxlan,
    /// The bridge's: which port has the MAC.
    Bridge,
    /// ARP and ND on the vxlan device.
    Neighbour,
}

/// Who put a row there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The configuration.
    Static,
    /// We, when the kernel missed it.
    OnMiss,
    /// `fdb add`.
    Added,
    /// The kernel, from traffic.
    Learned,
    /// The kernel: addresses of its own devices.
    Kernel,
    /// Somebody else.
    Foreign,
}
