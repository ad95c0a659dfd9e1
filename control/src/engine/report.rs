//! What an engine says of itself.

use serde::{Deserialize, Serialize};
use vxdp_dataplane::{DropReason, Flow, Stats};
use vxdp_ebpf::Verdict;

use crate::xdp::Instance;

/// An engine at one moment. Counters count from its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineReport {
    /// The underlay and the ports, with the regime of each.
    pub devices: Vec<DeviceReport>,
    /// Frames that userspace sent into tunnels.
    pub encap: Frames,
    /// Frames that userspace took out of tunnels.
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
    /// Times the tables were published.
    pub generation: u64,
    /// Notifications of the kernel that were lost and answered by a new dump.
    pub overflows: u64,
    /// Changes that an audit found and no notification had told.
    pub drift: u64,
    /// Rows that are left to the kernel because the tables are full.
    pub refused: u64,
}

/// One device of the fast path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// Its name.
    pub device: String,
    /// The VNI of its overlay; absent for the underlay.
    pub vni: Option<u32>,
    /// Where the program runs: `driver` or `generic`; absent while it takes no part.
    pub regime: Option<String>,
    /// Whether the device reads and writes our memory itself.
    pub zero_copy: bool,
    /// Offload features that were switched off for the time being.
    pub switched_off: Vec<String>,
    /// Why it takes no part, if it does not.
    pub trouble: Option<String>,
    /// What the program decided, in the order of the verdicts; those without a frame are left out.
    pub verdicts: Vec<VerdictCount>,
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

impl EngineReport {
    /// Adds the figures of one worker.
    pub(super) fn add_worker(&mut self, stats: &Stats) {
        self.workers += 1;
        self.encap.add(stats.encap());
        self.decap.add(stats.decap());
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

impl Frames {
    fn add(&mut self, flow: Flow) {
        self.frames += flow.frames;
        self.bytes += flow.bytes;
    }
}

/// What the program of a device decided so far; nothing where it cannot be read.
pub(super) fn verdicts(instance: &Instance) -> Vec<VerdictCount> {
    let counted = instance.verdicts().unwrap_or_default().into_iter();
    let counted = counted.filter(|(_, frames)| *frames > 0);
    let name =
        |(verdict, frames): (Verdict, u64)| VerdictCount { verdict: verdict.name().to_owned(), frames };
    counted.map(name).collect()
}
