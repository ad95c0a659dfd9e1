//! What an engine says of itself.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vxdp_dataplane::worker::{SocketLoss, SocketStats, WorkerStats};
use vxdp_dataplane::{DropReason, Flow, Stats};
use vxdp_ebpf::{Flows, Verdict};

use super::Kind;
use crate::mirror::fact::Followed;
use crate::xdp::TableError;

/// An engine at one moment. Counters count from its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineReport {
    /// Who carries the frames; both kinds where overlays differ.
    pub kinds: Vec<Kind>,
    /// The underlay and the ports, with the regime of each.
    pub devices: Vec<DeviceReport>,
    /// Frames that the fast path sent into tunnels.
    pub encap: Frames,
    /// Frames that the fast path took out of tunnels.
    pub decap: Frames,
    /// The same by overlay, ports that are gone included.
    pub overlays: Vec<OverlayCount>,
    /// Frames that userspace dropped, by reason; reasons without a drop are left out.
    pub drops: Vec<DropCount>,
    /// VTEPs whose next hop is known, and all that rows name.
    pub vteps_resolved: usize,
    /// VTEPs that rows name.
    pub vteps: usize,
    /// The VTEPs themselves, the first 4096.
    pub peers: Vec<VtepReport>,
    /// MACs behind VTEPs that the fast path carries.
    pub remotes: usize,
    /// MACs behind container ports that the fast path carries.
    pub locals: usize,
    /// Workers.
    pub workers: usize,
    /// What each worker did, in the order of the queues.
    pub queues: Vec<WorkerReport>,
    /// Times the tables were published.
    pub generation: u64,
    /// How the kernel's state was followed.
    #[serde(flatten)]
    pub netlink: Followed,
}

/// One device of the fast path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// Its name.
    pub device: String,
    /// The VNI of its overlay; absent for the underlay.
    pub vni: Option<u32>,
    /// Where the program runs: `driver` or `generic` (XDP), or `tc`; absent while it takes no part.
    pub regime: Option<String>,
    /// Whether the device reads and writes our memory itself.
    pub zero_copy: bool,
    /// Why its regime and its copy mode are not the best there are.
    pub limits: Vec<String>,
    /// Offload features that were switched off for the time being.
    pub switched_off: Vec<String>,
    /// Why it takes no part, if it does not.
    pub trouble: Option<String>,
    /// What the program decided, in the order of the verdicts; those without a frame are left out.
    pub verdicts: Vec<VerdictCount>,
    /// Frames that the kernel lost at the device's sockets; ways without a frame are left out.
    pub lost: Vec<LossCount>,
    /// What the fast path carried from and to a container's port; zero for the underlay.
    #[serde(flatten)]
    pub carried: Carried,
    /// Its sockets, in the order of the queues.
    pub sockets: Vec<SocketReport>,
}

/// What the fast path carried of one overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayCount {
    /// Its VNI.
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
    /// Who carried it.
    pub engine: Kind,
    /// The frames.
    #[serde(flatten)]
    pub carried: Carried,
}

/// One VTEP that rows name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtepReport {
    /// Its underlay address.
    pub address: IpAddr,
    /// MAC address of the next hop, where it is resolved.
    pub next_hop: Option<String>,
    /// MTU of the route in bytes, where the route names one.
    pub mtu: Option<u32>,
    /// Why it is not resolved.
    pub why: Option<String>,
    /// What the fast path carried to it and from it.
    #[serde(flatten)]
    pub carried: Carried,
}

/// What the worker of one queue did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// The queue.
    pub queue: u16,
    /// The processor that the worker is pinned to.
    pub cpu: Option<u16>,
    /// What it carried.
    #[serde(flatten)]
    pub carried: Carried,
    /// What it dropped, by reason; reasons without a drop are left out.
    pub drops: Vec<DropCount>,
    /// Times it looked at all of its rings.
    pub turns: u64,
    /// Turns that received something.
    pub busy_turns: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Times a packet or a command woke it, as opposed to the clock.
    pub wake_ups: u64,
    /// Frames of its memory that are free now.
    pub frames_free: u64,
    /// Frames of its memory given up since it started.
    pub frames_written_off: u64,
}

/// One AF_XDP socket: a queue of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketReport {
    /// Frames received.
    pub rx_frames: u64,
    /// Batches received.
    pub rx_batches: u64,
    /// Turns in which received frames were left waiting because no TX ring had room for them.
    pub rx_held_back: u64,
    /// Frames lent to the kernel for reception now, those that wait in the RX ring included.
    pub rx_lent: u64,
    /// Frames that the fill ring lacked because no frame was free.
    pub fill_starved: u64,
    /// Frames put into the TX ring.
    pub tx_frames: u64,
    /// Frames dropped because the TX ring, or the socket's share of the memory, had no room.
    pub tx_full: u64,
    /// Frames lent to the kernel for transmission now.
    pub tx_lent: u64,
    /// System calls that told the kernel to transmit.
    pub kicks: u64,
    /// Kicks that moved nothing.
    pub kicks_in_vain: u64,
}

/// Frames and their inner bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Frames.
    pub frames: u64,
    /// Bytes of the inner frames.
    pub bytes: u64,
}

/// Frames in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Into tunnels.
    pub encap: Frames,
    /// Out of tunnels.
    pub decap: Frames,
}

/// Drops of one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// Name of the reason, as in `docs/counters.md`.
    pub reason: String,
    /// Frames.
    pub frames: u64,
}

/// Frames with one verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictCount {
    /// Name of the verdict, as in `docs/counters.md`.
    pub verdict: String,
    /// Frames.
    pub frames: u64,
}

/// Frames lost at sockets in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossCount {
    /// Name of the way, as in `docs/counters.md`.
    pub loss: String,
    /// Frames.
    pub frames: u64,
}

impl EngineReport {
    /// Adds one more worker.
    pub(super) fn add_worker(&mut self, worker: WorkerReport) {
        self.encap.add(worker.carried.encap);
        self.decap.add(worker.carried.decap);
        for DropCount { reason, frames } in &worker.drops {
            match self.drops.iter_mut().find(|drop| drop.reason == *reason) {
                Some(drop) => drop.frames += frames,
                None => self.drops.push(DropCount { reason: reason.clone(), frames: *frames }),
            }
        }
        let queue = u16::try_from(self.workers).unwrap_or(u16::MAX);
        self.queues.push(WorkerReport { queue, ..worker });
        self.workers += 1;
    }

    /// Adds another engine's report: each carries overlays of its own, by the same rows and VTEPs.
    pub(super) fn join(mut self, other: Self) -> Self {
        self.kinds.extend(other.kinds);
        self.devices.extend(other.devices);
        self.encap.add(other.encap);
        self.decap.add(other.decap);
        self.overlays.extend(other.overlays);
        for (peer, same) in self.peers.iter_mut().zip(&other.peers) {
            // Both number the VTEPs in the order of the same rows; where they differ for a moment, nothing is said.
            if peer.address == same.address {
                peer.carried.add(same.carried);
            }
        }
        self.queues.extend(other.queues);
        self.drops.extend(other.drops);
        self.workers += other.workers;
        self.generation += other.generation;
        self.netlink = self.netlink.and(other.netlink);
        self
    }
}

impl WorkerReport {
    pub(super) fn of(cpu: Option<u16>, stats: &Stats, worker: &WorkerStats) -> Self {
        let dropped = DropReason::ALL.iter().map(|reason| (reason.name(), stats.drops(*reason)));
        let dropped = dropped.filter(|(_, frames)| *frames > 0);
        Self {
            queue: 0,
            cpu,
            carried: (stats.encap(), stats.decap()).into(),
            drops: dropped.map(|(reason, frames)| DropCount { reason: reason.to_owned(), frames }).collect(),
            turns: worker.turns.get(),
            busy_turns: worker.busy_turns.get(),
            sleeps: worker.sleeps.get(),
            wake_ups: worker.wake_ups.get(),
            frames_free: worker.frames_free.get(),
            frames_written_off: worker.frames_written_off.get(),
        }
    }
}

impl SocketReport {
    pub(super) fn of(socket: &SocketStats) -> Self {
        Self {
            rx_frames: socket.rx_frames.get(),
            rx_batches: socket.rx_batches.get(),
            rx_held_back: socket.rx_held_back.get(),
            rx_lent: socket.rx_lent.get(),
            fill_starved: socket.fill_starved.get(),
            tx_frames: socket.tx_frames.get(),
            tx_full: socket.tx_full.get(),
            tx_lent: socket.tx_lent.get(),
            kicks: socket.kicks.get(),
            kicks_in_vain: socket.kicks_in_vain.get(),
        }
    }
}

impl Frames {
    /// Counts more.
    pub fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }

    /// What was added since `before`; nothing if the counters have begun anew.
    pub fn since(self, before: Self) -> Self {
        Self {
            frames: self.frames.saturating_sub(before.frames),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }
}

impl Carried {
    /// Counts more.
    pub fn add(&mut self, other: Self) {
        self.encap.add(other.encap);
        self.decap.add(other.decap);
    }

    /// What was added since `before`; nothing if the counters have begun anew.
    pub fn since(self, before: Self) -> Self {
        Self { encap: self.encap.since(before.encap), decap: self.decap.since(before.decap) }
    }
}

impl std::iter::Sum for Carried {
    fn sum<I: Iterator<Item = Self>>(carried: I) -> Self {
        carried.fold(Self::default(), |mut sum, carried| {
            sum.add(carried);
            sum
        })
    }
}

impl From<Flow> for Frames {
    fn from(flow: Flow) -> Self {
        Self { frames: flow.frames, bytes: flow.bytes }
    }
}

impl From<(Flow, Flow)> for Carried {
    fn from((encap, decap): (Flow, Flow)) -> Self {
        Self { encap: encap.into(), decap: decap.into() }
    }
}

impl From<Flows> for Carried {
    fn from(flows: Flows) -> Self {
        Self {
            encap: Frames { frames: flows.encap_frames, bytes: flows.encap_bytes },
            decap: Frames { frames: flows.decap_frames, bytes: flows.decap_bytes },
        }
    }
}

/// What a program decided so far; nothing where it cannot be read.
pub(super) fn verdicts(counted: Result<Vec<(Verdict, u64)>, TableError>) -> Vec<VerdictCount> {
    let counted = counted.unwrap_or_default().into_iter();
    let counted = counted.filter(|(_, frames)| *frames > 0);
    let name =
        |(verdict, frames): (Verdict, u64)| VerdictCount { verdict: verdict.name().to_owned(), frames };
    counted.map(name).collect()
}

/// What the kernel lost at the sockets of a device.
pub(super) fn losses<'a>(sockets: impl Iterator<Item = &'a Arc<SocketStats>> + Clone) -> Vec<LossCount> {
    let lost = |way: SocketLoss| sockets.clone().map(|socket| socket.lost(way)).sum();
    let counted = SocketLoss::ALL.iter().map(|way| (way, lost(*way))).filter(|(_, frames)| *frames > 0);
    counted.map(|(way, frames)| LossCount { loss: way.name().to_owned(), frames }).collect()
}
