//! The state as `status` shows it.

use std::time::Duration;

use super::State;
use crate::api::status::{
    ContainerStatus, OverlayStatus, ReconcileStatus, RemoteCounts, Status, UnderlayStatus,
};
use crate::config::{Install, Overlay};
use crate::container::describe;
use crate::engine::pilot::ModeReport;
use crate::kernel::desired::UnderlayFacts;
use crate::segment::Segment;

pub(super) fn status(state: &State, now: Duration) -> Status {
    let config = &state.config;
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: now.as_secs(),
        // Only the pilot knows.
        mode: String::new(),
        modes: ModeReport::default(),
        underlay: UnderlayStatus {
            device: config.underlay.device.to_string(),
            local: config.underlay.local,
            mtu: state.seen.underlay_mtu,
        },
        overlays: config.overlays.iter().map(|spec| overlay(state, spec)).collect(),
        reconcile: reconcile(state),
        misses: state.misses.counters,
        // Only the endpoint knows.
        metrics: None,
        // Only the kernel knows.
        vteps: Vec::new(),
        errors: state.troubles.status(now),
    }
}

fn overlay(state: &State, spec: &Overlay) -> OverlayStatus {
    let segment = Segment::of(spec);
    let over = |mtu| UnderlayFacts { ifindex: 0, mtu, local: state.config.underlay.local }.overlay_mtu(spec);
    let count = |install| spec.remotes.iter().filter(|remote| remote.install == install).count();
    let containers = spec.containers.iter().map(|container| {
        let reason = state.seen.away.get(&(segment, container.host_interface.to_string())).cloned();
        ContainerStatus {
            attach: describe(&container.attach),
            interface: container.interface.to_string(),
            host_interface: container.host_interface.to_string(),
            mac: container.mac,
            addresses: container.addresses.iter().map(ToString::to_string).collect(),
            attached: reason.is_none(),
            reason,
        }
    });
    OverlayStatus {
        vni: spec.vni.get(),
        port: spec.port,
        netns: spec.netns.to_string(),
        bridge: spec.bridge.to_string(),
        vxlan: spec.vxlan.to_string(),
        mtu: spec.mtu.or(state.seen.underlay_mtu.map(over)),
        udp_checksum: spec.udp_checksum,
        containers: containers.collect(),
        remotes: RemoteCounts {
            static_: count(Install::Static),
            on_miss: count(Install::OnMiss),
            added: state.remembered.added_count(segment),
        },
        // Only the daemon's meter knows.
        paths: Vec::new(),
    }
}

fn reconcile(state: &State) -> ReconcileStatus {
    let word = if state.schedule.failures() > 0 {
        "failing"
    } else if state.schedule.is_contested() {
        "contested"
    } else if state.schedule.is_settled() {
        "settled"
    } else {
        "working"
    };
    ReconcileStatus {
        state: word.to_owned(),
        failures: state.schedule.failures(),
        notifications: state.notifications,
        overflows: state.overflows,
        counters: state.schedule.counters,
    }
}
