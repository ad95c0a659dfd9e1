//! The in-kernel engine: tc programs that encapsulate and decapsulate by themselves.
//!
//! There is no process on a frame's way, so a daemon that is stuck or slow harms nobody at once: the programs go on
//! with the tables they have. But nobody corrects those any more, so the daemon renews a lease, and when it has
//! not for [`LEASE`] the programs pass everything to the kernel.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::task::block_in_place;
use vxdp_dataplane::table::{Change as TableChange, Overlay};
use vxdp_dataplane::wire::MacAddr;
use vxdp_dataplane::{OverlayId, PortId};

use super::EngineError;
use super::port::ServedPort;
use super::report::{DeviceReport, EngineReport, verdicts};
use super::uplink::Uplink;
use crate::config::Config;
use crate::mirror::fact::{Source, UnderlayLink};
use crate::netns::Netns;
use crate::xdp::{Classifier, Device, Heartbeats, Outer, Programs, Tables, Usage};

/// How long the programs carry frames by tables that nobody corrects. What a change of the kernel's rows costs
/// while the daemon is stopped is bounded by this. Shorter, and a daemon that loads a million rows on a busy
/// machine seems dead; longer, and a moved container's frames go astray for longer.
pub(super) const LEASE: Duration = Duration::from_secs(5);

/// The programs, and what they need beside the maps.
pub(super) struct InKernel {
    config: Arc<Config>,
    underlay: Classifier,
    /// One door for each overlay namespace.
    uplinks: Vec<Uplink>,
    /// Where each overlay's bridge is.
    spaces: Vec<Netns>,
    overlays: HashMap<OverlayId, Overlay>,
    usage: Usage,
    lease: Heartbeats,
}

impl InKernel {
    /// Opens a door to the namespace of each overlay that takes part, and attaches the program of the NIC.
    pub(super) async fn start(
        config: &Arc<Config>,
        host: &Netns,
        programs: &Programs,
        sources: &[Source],
        part: &[bool],
        link: UnderlayLink,
    ) -> Result<Self, EngineError> {
        let device =
            Device { netns: host.clone(), index: link.device, name: config.underlay.device.to_string() };
        let mut underlay = programs.tc_underlay()?;
        block_in_place(|| underlay.attach(&device))?;
        Uplink::remove_all(host, &config.control.socket).await?;
        let mut uplinks: Vec<Uplink> = Vec::new();
        for (source, _) in sources.iter().zip(part).filter(|(_, part)| **part) {
            if uplinks.iter().all(|uplink| *uplink.inside() != source.netns) {
                let socket = &config.control.socket;
                uplinks.push(Uplink::open(host, &source.netns, socket, uplinks.len(), programs).await?);
            }
        }
        let mut this = Self {
            config: Arc::clone(config),
            underlay,
            uplinks,
            spaces: sources.iter().map(|source| source.netns.clone()).collect(),
            overlays: HashMap::new(),
            usage: programs.usage()?,
            lease: programs.heartbeats()?,
        };
        this.renew()?;
        Ok(this)
    }

    /// Remembers how the outer headers of the overlays look.
    pub(super) fn note(&mut self, changes: &[TableChange]) {
        for change in changes {
            if let TableChange::Overlay(id, Some(overlay)) = change {
                self.overlays.insert(*id, *overlay);
            }
        }
    }

    pub(super) async fn serve(
        &mut self,
        port: &mut ServedPort,
        programs: &Programs,
    ) -> Result<(), EngineError> {
        let program = programs.tc_port(port.id)?;
        // On an error the reason stands with the port.
        let _ = block_in_place(|| port.classify(program));
        Ok(())
    }

    pub(super) fn outer(&self, port: &ServedPort) -> Option<Outer> {
        let overlay = self.overlays.get(&port.overlay)?;
        let position = usize::from(port.overlay.get());
        let container = self.config.overlays[position].containers.get(port.position)?;
        let uplink = self.uplinks.iter().find(|uplink| *uplink.inside() == self.spaces[position])?;
        Some(Outer {
            vni: overlay.vni,
            udp_port: overlay.port,
            policy: overlay.policy,
            index: port.device.index,
            uplink: uplink.indices(),
            mac: container.mac,
        })
    }

    /// The rows that the programs have noted, each of which is a row in use; then a new page is begun.
    pub(super) fn used(&mut self, maps: &mut Tables) -> Result<Vec<(OverlayId, MacAddr)>, EngineError> {
        let used = self.usage.hits();
        maps.next_epoch()?;
        Ok(used)
    }

    pub(super) fn tend(&mut self) -> Result<(), EngineError> {
        if let Some(gone) = self.uplinks.iter().find(|uplink| !uplink.stands()) {
            return Err(EngineError::Lost(format!("the device {} is gone", gone.name())));
        }
        self.renew()
    }

    fn renew(&mut self) -> Result<(), EngineError> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        Ok(self.lease.beat(0, now)?)
    }

    pub(super) fn fill(&self, report: &mut EngineReport, numbers: impl Iterator<Item = PortId>) {
        let nic = DeviceReport {
            device: self.config.underlay.device.to_string(),
            regime: Some("tc".to_owned()),
            verdicts: verdicts(self.underlay.verdicts()),
            ..DeviceReport::default()
        };
        report.devices.insert(0, nic);
        for number in numbers {
            report.add_flows(self.usage.port(number).unwrap_or_default());
        }
    }

    pub(super) async fn stop(self, ports: Vec<ServedPort>) {
        for port in ports {
            port.detach(&[]).await;
        }
        block_in_place(|| drop(self.underlay));
        for uplink in self.uplinks {
            uplink.close().await;
        }
    }
}
