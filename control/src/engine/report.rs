//! What an engine says of itself.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vxdp_dataplane::worker::{SocketLoss, SocketStats};
use vxdp_dataplane::{DropReason, Flow, Stats};
use vxdp_ebpf::{Flows, Verdict};

use super::Kind;
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
    /// Frames that userspace dropped, by reason; reasons without a drop are left out.
    pub drops: Vec<DropCount>,
    /// VTEPs whose next hop is known, and all that rows name.
    pub vteps_resolved: usize,
    /// VTEPs that rows name.
    pub vteps: usize,
    /// MACs behind VTEPs that the fast path carries.
    pub remotes: usize,
    /// MACs behind container ports that the fast path carries.
    pub locals: usize,
    /// Workers.
    pub workers: usize,
    /// What each worker carried, in the order of the queues.
    pub queues: Vec<QueueReport>,
    /// Times the tables were published.
    pub generation: u64,
    /// Notifications of the kernel that were lost and answered by a new dump.
    pub overflows: u64,
    /// Changes that an audit found and no notification had told.
    pub drift: u64,
    /// Times a row was left to the kernel because the tables are full; each look at all rows counts it again.
    pub refused: u64,
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
}

/// What the worker of one queue carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueReport {
    /// The queue.
    pub queue: u16,
    /// The processor that the worker is pinned to.
    pub cpu: Option<u16>,
    /// Frames that it sent into tunnels.
    pub encap: Frames,
    /// Frames that it took out of tunnels.
    pub decap: Frames,
}

/// Frames and their inner bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Frames.
    pub frames: u64,
    /// Bytes of the inner frames.
    pub bytes: u64,
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
    /// Adds the figures of one worker.
    pub(super) fn add_worker(&mut self, cpu: Option<u16>, stats: &Stats) {
        let (encap, decap) = (stats.encap().into(), stats.decap().into());
        let queue = u16::try_from(self.workers).unwrap_or(u16::MAX);
        self.queues.push(QueueReport { queue, cpu, encap, decap });
        self.workers += 1;
        self.encap.add(encap);
        self.decap.add(decap);
        for &reason in DropReason::ALL {
            let frames = stats.drops(reason);
            if frames == 0 {
                continue;
            }
            match self.drops.iter_mut().find(|drop| drop.reason == reason.name()) {
                Some(drop) => drop.frames += frames,
                None => self.drops.push(DropCount { reason: reason.name().to_owned(), frames }),
            }
        }
    }
}

impl EngineReport {
    /// Adds what the programs carried for one port.
    pub(super) fn add_flows(&mut self, flows: Flows) {
        self.encap.add(Frames { frames: flows.encap_frames, bytes: flows.encap_bytes });
        self.decap.add(Frames { frames: flows.decap_frames, bytes: flows.decap_bytes });
    }

    /// Adds another engine's report: each carries overlays of its own, by the same rows and VTEPs.
    pub(super) fn join(mut self, other: Self) -> Self {
        self.kinds.extend(other.kinds);
        self.devices.extend(other.devices);
        self.encap.add(other.encap);
        self.decap.add(other.decap);
        self.queues.extend(other.queues);
        self.drops.extend(other.drops);
        self.workers += other.workers;
        self.generation += other.generation;
        self.overflows += other.overflows;
        self.drift += other.drift;
        self
    }
}

impl Frames {
    fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }
}

impl From<Flow> for Frames {
    fn from(flow: Flow) -> Self {
        Self { frames: flow.frames, bytes: flow.bytes }
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
