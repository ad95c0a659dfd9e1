//! What an engine shows of itself: handles of its counters, which anybody reads without asking the engine.
//!
//! Workers and programs write counters that are shared by their nature (atomics, maps). The engine's task notes
//! here who counts for whom; a reader adds up. Neither waits for the other for longer than such a note takes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use vxdp_dataplane::worker::{SocketStats, WorkerStats};
use vxdp_dataplane::{OverlayId, PortId, Stats, VtepId};

use super::report::{
    Carried, DeviceReport, EngineReport, OverlayCount, SocketReport, VtepReport, WorkerReport, losses,
};
use super::{Kind, report};
use crate::config::Config;
use crate::mirror::fact::FollowCounters;
use crate::mirror::nexthop::Resolution;
use crate::mirror::state::Change;
use crate::xdp::{FlowCounters, VerdictCounters};

/// VTEPs that a report lists at most; as many as have counters of their own (`COUNTED_VTEPS`).
const LISTED_VTEPS: usize = vxdp_dataplane::COUNTED_VTEPS;

/// The counters of one worker.
#[derive(Clone)]
pub(super) struct Queue {
    pub(super) cpu: Option<u16>,
    pub(super) stats: Arc<Stats>,
    pub(super) worker: Arc<WorkerStats>,
}

/// Who counts what is carried.
pub(super) enum Counting {
    /// One for each worker, in the order of the queues.
    Workers(Vec<Queue>),
    /// The programs.
    Programs(Box<FlowCounters>),
}

/// A device as it is shown: what is said of it, and its counters.
#[derive(Clone, Default)]
pub(super) struct ShownDevice {
    /// Without counters.
    pub(super) report: DeviceReport,
    pub(super) verdicts: Option<Arc<VerdictCounters>>,
    /// In the order of the queues.
    pub(super) sockets: Vec<Arc<SocketStats>>,
}

/// A container's port, and what its number had counted before it was this port's.
struct ShownPort {
    overlay: OverlayId,
    /// `None` until it is known whether the port serves.
    device: Option<ShownDevice>,
    before: Carried,
}

/// A VTEP, and what its number had counted before it was this one's.
struct ShownVtep {
    address: IpAddr,
    resolution: Resolution,
    before: Carried,
}

#[derive(Default)]
struct Notes {
    underlay: ShownDevice,
    ports: BTreeMap<PortId, ShownPort>,
    vteps: BTreeMap<VtepId, ShownVtep>,
    /// What ports carried that are gone, by overlay.
    gone: HashMap<OverlayId, Carried>,
}

/// An engine's counters and what they belong to.
pub(super) struct Board {
    kind: Kind,
    config: Arc<Config>,
    part: Vec<bool>,
    counting: Counting,
    followed: Arc<FollowCounters>,
    generation: AtomicU64,
    rows: [AtomicUsize; 2],
    notes: RwLock<Notes>,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Board {
    /// Shows an engine that has no ports yet and carries the overlays in `part`.
    pub(super) fn new(
        kind: Kind,
        config: Arc<Config>,
        part: Vec<bool>,
        counting: Counting,
        underlay: ShownDevice,
        followed: Arc<FollowCounters>,
    ) -> Self {
        let notes = RwLock::new(Notes { underlay, ..Notes::default() });
        let (generation, rows) = (AtomicU64::default(), Default::default());
        Self { kind, config, part, counting, followed, generation, rows, notes }
    }

    /// The tables were published again.
    pub(super) fn published(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// A row was left to the kernel because the tables are full.
    pub(super) fn refused(&self) {
        self.followed.refuse();
    }

    /// How many MACs are behind VTEPs and how many behind ports.
    pub(super) fn set_rows(&self, (remotes, locals): (usize, usize)) {
        self.rows[0].store(remotes, Relaxed);
        self.rows[1].store(locals, Relaxed);
    }

    /// A port is about to take frames: what its number counts from now on is its own.
    pub(super) fn begin_port(&self, port: PortId, overlay: OverlayId) {
        let before = self.of_port(port);
        self.write().ports.insert(port, ShownPort { overlay, device: None, before });
    }

    /// A port serves, or does not.
    pub(super) fn set_port(&self, port: PortId, device: ShownDevice) {
        if let Some(shown) = self.write().ports.get_mut(&port) {
            shown.device = Some(device);
        }
    }

    /// A port carries nothing more.
    pub(super) fn end_port(&self, port: PortId) {
        let now = self.of_port(port);
        let mut notes = self.write();
        if let Some(shown) = notes.ports.remove(&port) {
            notes.gone.entry(shown.overlay).or_default().add(now.since(shown.before));
        }
    }

    /// VTEPs come, go, or are resolved.
    pub(super) fn changed(&self, changes: &[Change]) {
        let mut notes = None;
        for change in changes {
            match *change {
                Change::Mac { .. } => {}
                Change::VtepGone { id, .. } => {
                    notes.get_or_insert_with(|| self.write()).vteps.remove(&id);
                }
                Change::Vtep { id, address, resolution } => {
                    let vteps = &mut notes.get_or_insert_with(|| self.write()).vteps;
                    let shown = vteps.entry(id).or_insert_with(|| ShownVtep {
                        address,
                        resolution,
                        before: self.of_vtep(id),
                    });
                    if shown.address != address {
                        shown.before = self.of_vtep(id);
                    }
                    (shown.address, shown.resolution) = (address, resolution);
                }
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Notes> {
        self.notes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Notes> {
        self.notes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_port(&self, port: PortId) -> Carried {
        match &self.counting {
            Counting::Workers(queues) => {
                queues.iter().filter_map(|queue| queue.stats.port(port)).map(Carried::from).sum()
            }
            Counting::Programs(flows) => flows.port(port).unwrap_or_default().into(),
        }
    }

    fn of_vtep(&self, vtep: VtepId) -> Carried {
        match &self.counting {
            Counting::Workers(queues) => {
                queues.iter().filter_map(|queue| queue.stats.vtep(vtep)).map(Carried::from).sum()
            }
            Counting::Programs(flows) => flows.vtep(vtep).unwrap_or_default().into(),
        }
    }

    /// What was carried of each overlay so far.
    pub(super) fn overlays(&self) -> Vec<OverlayCount> {
        self.count_overlays(&self.read(), |_, _| {})
    }

    /// Adds up each overlay's ports, and shows each of them.
    fn count_overlays(&self, notes: &Notes, mut show: impl FnMut(&ShownPort, Carried)) -> Vec<OverlayCount> {
        let mut counts = Vec::new();
        for (overlay, spec) in (0..).map(OverlayId::new).zip(&self.config.overlays) {
            if self.part.get(usize::from(overlay.get())) != Some(&true) {
                continue;
            }
            let mut carried = notes.gone.get(&overlay).copied().unwrap_or_default();
            for (number, port) in notes.ports.iter().filter(|(_, port)| port.overlay == overlay) {
                let of_port = self.of_port(*number).since(port.before);
                carried.add(of_port);
                show(port, of_port);
            }
            let (vni, port, engine) = (spec.vni.get(), spec.port, self.kind);
            counts.push(OverlayCount { vni, port, engine, carried });
        }
        counts
    }

    /// Adds everything up. Takes some system calls per device, and nothing of the engine's or the workers' time.
    pub(super) fn report(&self) -> EngineReport {
        let followed = self.followed.read();
        let mut report = EngineReport {
            kinds: vec![self.kind],
            remotes: self.rows[0].load(Relaxed),
            locals: self.rows[1].load(Relaxed),
            generation: self.generation.load(Relaxed),
            netlink: followed,
            ..EngineReport::default()
        };
        let notes = self.read();
        report.devices.push(notes.underlay.report(Carried::default()));
        let devices = &mut report.devices;
        report.overlays = self.count_overlays(&notes, |port, carried| {
            devices.extend(port.device.as_ref().map(|device| device.report(carried)))
        });
        self.add_vteps(&notes, &mut report);
        drop(notes);
        match &self.counting {
            Counting::Workers(queues) => queues.iter().for_each(|queue| report.add_worker(queue.report())),
            // A frame that a program carries is one port's.
            Counting::Programs(_) => {
                let sum: Carried = report.overlays.iter().map(|overlay| overlay.carried).sum();
                (report.encap, report.decap) = (sum.encap, sum.decap);
            }
        }
        report
    }

    fn add_vteps(&self, notes: &Notes, report: &mut EngineReport) {
        let resolved = |vtep: &&ShownVtep| matches!(vtep.resolution, Resolution::Resolved { .. });
        report.vteps = notes.vteps.len();
        report.vteps_resolved = notes.vteps.values().filter(resolved).count();
        for (id, vtep) in notes.vteps.iter().take(LISTED_VTEPS) {
            let (next_hop, mtu, why) = match vtep.resolution {
                Resolution::Resolved { next_hop, mtu } => (Some(next_hop.to_string()), mtu, None),
                Resolution::Unresolved(why) => (None, None, Some(why.to_string())),
            };
            let carried = self.of_vtep(*id).since(vtep.before);
            report.peers.push(VtepReport { address: vtep.address, next_hop, mtu, why, carried });
        }
    }
}

impl ShownDevice {
    fn report(&self, carried: Carried) -> DeviceReport {
        let counted = self.verdicts.as_ref().map(|verdicts| verdicts.read());
        DeviceReport {
            verdicts: counted.map(report::verdicts).unwrap_or_default(),
            lost: losses(self.sockets.iter()),
            sockets: self.sockets.iter().map(|socket| SocketReport::of(socket)).collect(),
            carried,
            ..self.report.clone()
        }
    }
}

impl Queue {
    fn report(&self) -> WorkerReport {
        WorkerReport::of(self.cpu, &self.stats, &self.worker)
    }
}
