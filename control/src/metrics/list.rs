//! The one list of metrics: names, labels, meanings, and where in a status each is found.

use crate::api::status::Status;
use crate::engine::{Carried, DeviceReport, EngineReport, Kind};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// It only grows, until what it counts for begins anew.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A metric, with one value for each combination of its labels.
#[derive(Debug)]
pub struct Metric {
    /// Its name, which never changes; a counter's ends in `_total`.
    pub name: &'static str,
    /// What it is.
    pub form: Form,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it means, in one sentence.
    pub meaning: &'static str,
    /// Its values.
    pub(super) read: fn(&Status, &mut Values),
}

/// Values of a metric: those of the labels, in their order, and the number.
#[derive(Debug, Default)]
pub(super) struct Values(pub(super) Vec<(Vec<String>, u64)>);

impl Values {
    fn add<const LABELS: usize>(&mut self, labels: [&dyn ToString; LABELS], value: u64) {
        self.0.push((labels.iter().map(|label| label.to_string()).collect(), value));
    }

    /// Both directions of one thing.
    fn frames(&mut self, labels: &[&dyn ToString], carried: Carried) {
        self.both(labels, carried.encap.frames, carried.decap.frames);
    }

    fn bytes(&mut self, labels: &[&dyn ToString], carried: Carried) {
        self.both(labels, carried.encap.bytes, carried.decap.bytes);
    }

    fn both(&mut self, labels: &[&dyn ToString], encap: u64, decap: u64) {
        for (direction, value) in [("encap", encap), ("decap", decap)] {
            let mut all: Vec<String> = labels.iter().map(|label| label.to_string()).collect();
            all.push(direction.to_owned());
            self.0.push((all, value));
        }
    }
}

fn engine(status: &Status) -> Option<&EngineReport> {
    status.modes.engine.as_ref()
}

fn devices(status: &Status) -> impl Iterator<Item = &DeviceReport> {
    engine(status).into_iter().flat_map(|engine| &engine.devices)
}

/// The VNI as a label; empty for the underlay.
fn vni(device: &DeviceReport) -> String {
    device.vni.map_or_else(String::new, |vni| vni.to_string())
}

/// One value for each socket of each device.
macro_rules! of_sockets {
    ($field:ident) => {
        |status, values| {
            for device in devices(status) {
                for (queue, socket) in device.sockets.iter().enumerate() {
                    values.add([&device.device, &vni(device), &queue], socket.$field);
                }
            }
        }
    };
}

/// One value for each worker.
macro_rules! of_workers {
    ($field:ident) => {
        |status, values| {
            for worker in engine(status).into_iter().flat_map(|engine| &engine.queues) {
                values.add([&worker.queue], worker.$field);
            }
        }
    };
}

/// One value of the daemon.
macro_rules! of_daemon {
    ($status:ident => $value:expr) => {
        |$status, values| values.add([], $value)
    };
}

/// One value of the fast path; none without one.
macro_rules! of_engine {
    ($engine:ident => $value:expr) => {
        |status, values| {
            if let Some($engine) = engine(status) {
                values.add([], $value);
            }
        }
    };
}

macro_rules! metrics {
    ($($name:literal $form:ident [$($label:literal),*] $meaning:literal $read:expr;)*) => {
        /// Every metric, in the order of the document.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name,
            form: Form::$form,
            labels: &[$($label),*],
            meaning: $meaning,
            read: $read,
        }),*];
    };
}

metrics! {
    "vxdp_build_info" Gauge ["version"] "Always 1; the label is the program's version."
        |status, values| values.add([&status.version], 1);
    "vxdp_uptime_seconds" Gauge [] "Seconds since the daemon's start."
        of_daemon!(status => status.uptime_s);
    "vxdp_overlay_fast_path" Gauge ["vni", "udp_port", "engine"] "1 while this engine carries the overlay's known unicast, 0 while the kernel does."
        |status, values| for overlay in &status.modes.overlays {
            for kind in [Kind::Userspace, Kind::InKernel] {
                let carries = overlay.mode == crate::config::Mode::Xdp && overlay.engine == kind;
                values.add([&overlay.vni, &overlay.port, &kind.as_str()], carries.into());
            }
        };
    "vxdp_mode_switches_total" Counter [] "Changes between the kernel and an engine."
        of_daemon!(status => status.modes.switched);
    "vxdp_overlay_frames_total" Counter ["vni", "udp_port", "path", "direction"] "Inner frames that this path (kernel, userspace, inkernel) carried."
        |status, values| for overlay in &status.overlays {
            for path in &overlay.paths {
                values.frames(&[&overlay.vni, &overlay.port, &path.path], path.carried);
            }
        };
    "vxdp_overlay_bytes_total" Counter ["vni", "udp_port", "path", "direction"] "Bytes of those frames."
        |status, values| for overlay in &status.overlays {
            for path in &overlay.paths {
                values.bytes(&[&overlay.vni, &overlay.port, &path.path], path.carried);
            }
        };
    "vxdp_port_frames_total" Counter ["device", "vni", "direction"] "Inner frames that the fast path carried from (encap) and to (decap) a container's port."
        |status, values| for device in devices(status).filter(|device| device.vni.is_some()) {
            values.frames(&[&device.device, &vni(device)], device.carried);
        };
    "vxdp_port_bytes_total" Counter ["device", "vni", "direction"] "Bytes of those frames."
        |status, values| for device in devices(status).filter(|device| device.vni.is_some()) {
            values.bytes(&[&device.device, &vni(device)], device.carried);
        };
    "vxdp_port_attached" Gauge ["device", "vni"] "1 while the container behind the port is attached, 0 while it is away."
        |status, values| for overlay in &status.overlays {
            for container in &overlay.containers {
                values.add([&container.host_interface, &overlay.vni], container.attached.into());
            }
        };
    "vxdp_vtep_frames_total" Counter ["vtep", "direction"] "Inner frames that the fast path carried to and from a VTEP."
        |status, values| for vtep in engine(status).into_iter().flat_map(|engine| &engine.peers) {
            values.frames(&[&vtep.address], vtep.carried);
        };
    "vxdp_vtep_bytes_total" Counter ["vtep", "direction"] "Bytes of those frames."
        |status, values| for vtep in engine(status).into_iter().flat_map(|engine| &engine.peers) {
            values.bytes(&[&vtep.address], vtep.carried);
        };
    "vxdp_vtep_resolved" Gauge ["vtep"] "1 while the next hop towards the VTEP has a MAC address."
        |status, values| for vtep in engine(status).into_iter().flat_map(|engine| &engine.peers) {
            values.add([&vtep.address], vtep.next_hop.is_some().into());
        };
    "vxdp_program_frames_total" Counter ["device", "vni", "verdict"] "Frames of a device by what its program decided: `redirected` is the fast path, all others passed to the kernel."
        |status, values| for device in devices(status) {
            for count in &device.verdicts {
                values.add([&device.device, &vni(device), &count.verdict], count.frames);
            }
        };
    "vxdp_socket_lost_frames_total" Counter ["device", "vni", "loss"] "Frames that the kernel lost at the AF_XDP sockets of a device."
        |status, values| for device in devices(status) {
            for count in &device.lost {
                values.add([&device.device, &vni(device), &count.loss], count.frames);
            }
        };
    "vxdp_socket_rx_frames_total" Counter ["device", "vni", "queue"] "Frames received." of_sockets!(rx_frames);
    "vxdp_socket_rx_batches_total" Counter ["device", "vni", "queue"] "Batches received." of_sockets!(rx_batches);
    "vxdp_socket_rx_held_back_total" Counter ["device", "vni", "queue"] "Turns in which received frames waited because no TX ring had room for them." of_sockets!(rx_held_back);
    "vxdp_socket_rx_lent_frames" Gauge ["device", "vni", "queue"] "Frames lent to the kernel for reception, those that wait in the RX ring included." of_sockets!(rx_lent);
    "vxdp_socket_fill_starved_frames_total" Counter ["device", "vni", "queue"] "Frames that the fill ring lacked because no frame was free." of_sockets!(fill_starved);
    "vxdp_socket_tx_frames_total" Counter ["device", "vni", "queue"] "Frames put into the TX ring." of_sockets!(tx_frames);
    "vxdp_socket_tx_full_frames_total" Counter ["device", "vni", "queue"] "Frames dropped because the TX ring had no room." of_sockets!(tx_full);
    "vxdp_socket_tx_lent_frames" Gauge ["device", "vni", "queue"] "Frames lent to the kernel for transmission." of_sockets!(tx_lent);
    "vxdp_socket_kicks_total" Counter ["device", "vni", "queue"] "System calls that told the kernel to transmit." of_sockets!(kicks);
    "vxdp_socket_kicks_in_vain_total" Counter ["device", "vni", "queue"] "Kicks that moved nothing." of_sockets!(kicks_in_vain);
    "vxdp_worker_frames_total" Counter ["worker", "direction"] "Inner frames that a worker carried."
        |status, values| for worker in engine(status).into_iter().flat_map(|engine| &engine.queues) {
            values.frames(&[&worker.queue], worker.carried);
        };
    "vxdp_worker_bytes_total" Counter ["worker", "direction"] "Bytes of those frames."
        |status, values| for worker in engine(status).into_iter().flat_map(|engine| &engine.queues) {
            values.bytes(&[&worker.queue], worker.carried);
        };
    "vxdp_worker_dropped_frames_total" Counter ["worker", "reason"] "Frames that a worker dropped."
        |status, values| for worker in engine(status).into_iter().flat_map(|engine| &engine.queues) {
            for drop in &worker.drops {
                values.add([&worker.queue, &drop.reason], drop.frames);
            }
        };
    "vxdp_worker_turns_total" Counter ["worker"] "Times the worker looked at all of its rings." of_workers!(turns);
    "vxdp_worker_busy_turns_total" Counter ["worker"] "Turns that received something." of_workers!(busy_turns);
    "vxdp_worker_sleeps_total" Counter ["worker"] "Times the worker went to sleep." of_workers!(sleeps);
    "vxdp_worker_wake_ups_total" Counter ["worker"] "Times a packet or a command woke it, as opposed to the clock." of_workers!(wake_ups);
    "vxdp_worker_free_frames" Gauge ["worker"] "Frames of the worker's memory that are free." of_workers!(frames_free);
    "vxdp_worker_written_off_frames_total" Counter ["worker"] "Frames of its memory given up." of_workers!(frames_written_off);
    "vxdp_table_publications_total" Counter [] "Times the tables were published."
        of_engine!(engine => engine.generation);
    "vxdp_table_macs" Gauge ["side"] "MACs that the fast path knows: `remote` behind VTEPs, `local` behind ports."
        |status, values| if let Some(engine) = engine(status) {
            values.add([&"remote"], engine.remotes as u64);
            values.add([&"local"], engine.locals as u64);
        };
    "vxdp_table_vteps" Gauge [] "VTEPs that rows name."
        of_engine!(engine => engine.vteps as u64);
    "vxdp_netlink_events_total" Counter [] "Notifications of the kernel that the fast path followed."
        of_engine!(engine => engine.netlink.events);
    "vxdp_netlink_overflows_total" Counter [] "Times the kernel lost notifications, which was answered by a new dump."
        of_engine!(engine => engine.netlink.overflows);
    "vxdp_netlink_dumps_total" Counter [] "Dumps of a namespace."
        of_engine!(engine => engine.netlink.dumps);
    "vxdp_netlink_audits_total" Counter [] "Times everything was dumped without an occasion."
        of_engine!(engine => engine.netlink.audits);
    "vxdp_netlink_drift_total" Counter [] "Changes that an audit found and no notification had told."
        of_engine!(engine => engine.netlink.drift);
    "vxdp_netlink_behind" Gauge [] "Namespaces whose tables are being read because they are not known, at the start or after lost notifications."
        of_engine!(engine => engine.netlink.behind);
    "vxdp_netlink_refused_rows_total" Counter [] "Times a row was left to the kernel because the tables are full, of the mirror or of the programs; one that the programs had no room for is tried again each five seconds."
        of_engine!(engine => engine.netlink.refused);
    "vxdp_reconciliations_total" Counter ["result"] "Passes over the kernel's overlay by result: `unchanged`, `changed` or `failed`."
        |status, values| {
            let counters = &status.reconcile.counters;
            let rest = counters.passes.saturating_sub(counters.changed + counters.failed);
            values.add([&"unchanged"], rest);
            values.add([&"changed"], counters.changed);
            values.add([&"failed"], counters.failed);
        };
    "vxdp_reconciliation_failing" Gauge [] "1 while the overlay cannot be put as it should be."
        of_daemon!(status => (status.reconcile.failures > 0).into());
    "vxdp_notifications_total" Counter [] "Notifications of the kernel that concerned the overlays."
        of_daemon!(status => status.reconcile.notifications);
    "vxdp_notification_overflows_total" Counter [] "Times the kernel lost some of those, so that everything was looked at again."
        of_daemon!(status => status.reconcile.overflows);
    "vxdp_misses_total" Counter ["outcome"] "The kernel's l2miss and l3miss notifications: `asked` are all, the others what became of them."
        |status, values| {
            let misses = &status.misses;
            values.add([&"asked"], misses.asked);
            values.add([&"answered"], misses.answered);
            values.add([&"unknown"], misses.unknown);
            values.add([&"held_down"], misses.held_down);
            values.add([&"dropped"], misses.dropped);
            values.add([&"failed"], misses.failed);
        };
}
