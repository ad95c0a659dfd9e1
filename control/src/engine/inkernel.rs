//! The in-kernel engine: programs at tc or at XDP that encapsulate and decapsulate by themselves.
//!
//! There is no process on a frame's way, so a daemon that is stuck or slow harms nobody at once: the programs go on
//! with the tables they have. But nobody corrects those any more, so the daemon renews a lease, and when it has
//! not for [`LEASE`] the programs pass everything to the kernel.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::task::block_in_place;
use vxdp_dataplane::OverlayId;
use vxdp_dataplane::table::{Change as TableChange, Overlay};
use vxdp_dataplane::wire::MacAddr;

use super::EngineError;
use super::board::ShownDevice;
use super::nic::{Nic, Offloads};
use super::port::{HIDING_ALL, ServedPort};
use super::regime::nic_features;
use super::report::DeviceReport;
use super::uplink::Uplink;
use crate::causes::chain;
use crate::config::{Config, Container, Hook};
use crate::mirror::fact::{Source, UnderlayLink};
use crate::netns::Netns;
use crate::xdp::{BpfFs, Classifier, Device, Devices, Heartbeats, Outer, Programs, Tables, Usage};

/// How long the programs carry frames by tables that nobody corrects. What a change of the kernel's rows costs
/// while the daemon is stopped is bounded by this. Shorter, and a daemon that loads a million rows on a busy
/// machine seems dead; longer, and a moved container's frames go astray for longer.
pub(super) const LEASE: Duration = Duration::from_secs(5);

/// The programs, and what they need beside the maps.
pub(super) struct InKernel {
    config: Arc<Config>,
    hook: AtHook,
    /// Where each overlay's bridge is.
    spaces: Vec<Netns>,
    overlays: HashMap<OverlayId, Overlay>,
    usage: Usage,
    lease: Heartbeats,
}

/// What differs with the hook: the program of the NIC, and the ways between the namespaces.
enum AtHook {
    Tc {
        underlay: Classifier,
        /// One door for each overlay namespace.
        uplinks: Vec<Uplink>,
    },
    Xdp {
        underlay: Box<Nic>,
        device: Device,
        devices: Devices,
    },
}

/// Where an engine is started.
pub(super) struct Surroundings<'a> {
    pub(super) host: &'a Netns,
    pub(super) bpffs: &'a BpfFs,
    pub(super) sources: &'a [Source],
    /// Which overlays take part.
    pub(super) part: &'a [bool],
    pub(super) link: UnderlayLink,
}

impl InKernel {
    /// Attaches the program of the NIC, and opens the ways to the namespace of each overlay that takes part.
    pub(super) async fn start(
        config: &Arc<Config>,
        programs: &Programs,
        around: Surroundings<'_>,
    ) -> Result<Self, EngineError> {
        // A killed daemon may have used the other hook.
        Uplink::remove_all(around.host, &config.control.socket).await?;
        let hook = match config.dataplane.hook {
            Hook::Tc => AtHook::tc(config, programs, &around).await?,
            Hook::Xdp => AtHook::xdp(config, programs, &around).await?,
        };
        let mut this = Self {
            config: Arc::clone(config),
            hook,
            spaces: around.sources.iter().map(|source| source.netns.clone()).collect(),
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
        container: &Container,
        programs: &Programs,
    ) -> Result<(), EngineError> {
        // On an error of an attachment the reason stands with the port.
        match &mut self.hook {
            AtHook::Tc { .. } => {
                let program = programs.tc_port(port.id)?;
                let _ = block_in_place(|| port.classify(program));
            }
            AtHook::Xdp { devices, .. } => {
                let program = programs.xdp_port(port.id)?;
                let prepared = async {
                    port.switch_offloads_off(container, HIDING_ALL).await?;
                    port.take_xdp_frames(container).await?;
                    devices.set_port(port.id, &port.device).map_err(|error| chain(&error))
                };
                if let Err(trouble) = prepared.await {
                    port.give_up(trouble);
                    return Ok(());
                }
                let mode = self.config.dataplane.attach;
                let _ = block_in_place(|| port.attach(program, &[], mode));
            }
        }
        Ok(())
    }

    pub(super) fn outer(&self, port: &ServedPort) -> Option<Outer> {
        let overlay = self.overlays.get(&port.overlay)?;
        let position = usize::from(port.overlay.get());
        let container = self.config.overlays[position].containers.get(port.position)?;
        let uplink = match &self.hook {
            AtHook::Tc { uplinks, .. } => {
                uplinks.iter().find(|uplink| *uplink.inside() == self.spaces[position])?.indices()
            }
            AtHook::Xdp { .. } => [0; 2],
        };
        Some(Outer {
            vni: overlay.vni,
            udp_port: overlay.port,
            policy: overlay.policy,
            index: port.device.index,
            uplink,
            mac: container.mac,
        })
    }

    /// The rows that the programs have noted, each of which is a row in use; then a new page is begun.
    pub(super) fn used(&mut self, maps: &mut Tables) -> Result<Vec<(OverlayId, MacAddr)>, EngineError> {
        let used = self.usage.hits();
        maps.next_epoch()?;
        Ok(used)
    }

    pub(super) async fn tend(&mut self) -> Result<(), EngineError> {
        self.renew()?;
        match &self.hook {
            AtHook::Tc { uplinks, .. } => match uplinks.iter().find(|uplink| !uplink.stands()) {
                Some(gone) => Err(EngineError::Lost(format!("the device {} is gone", gone.name()))),
                None => Ok(()),
            },
            AtHook::Xdp { device, .. } => takes_xdp_frames(device).await,
        }
    }

    fn renew(&mut self) -> Result<(), EngineError> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        Ok(self.lease.beat(0, now)?)
    }

    /// The underlay's device as it is shown.
    pub(super) fn nic(&self) -> ShownDevice {
        let (report, verdicts) = match &self.hook {
            AtHook::Tc { underlay, .. } => {
                let device = self.config.underlay.device.to_string();
                let regime = Some("tc".to_owned());
                (DeviceReport { device, regime, ..DeviceReport::default() }, underlay.verdicts())
            }
            AtHook::Xdp { underlay, .. } => (underlay.report(&self.config), underlay.instance.verdicts()),
        };
        ShownDevice { report, verdicts: Some(verdicts), sockets: Vec::new() }
    }

    pub(super) async fn stop(self, ports: Vec<ServedPort>) {
        for port in ports {
            port.detach(&[]).await;
        }
        match self.hook {
            AtHook::Tc { underlay, uplinks } => {
                block_in_place(|| drop(underlay));
                for uplink in uplinks {
                    uplink.close().await;
                }
            }
            AtHook::Xdp { underlay, .. } => underlay.release().await,
        }
    }
}

impl AtHook {
    async fn tc(
        config: &Config,
        programs: &Programs,
        around: &Surroundings<'_>,
    ) -> Result<Self, EngineError> {
        // The doors before the programs that send through them. The kernel closes what a killed process has open
        // from the last opened to the first (`task_work_run`, kernel/task_work.c), and waits for each program that
        // goes: a door that lost its own first would swallow frames for as long.
        let mut uplinks: Vec<Uplink> = Vec::new();
        for (source, _) in around.sources.iter().zip(around.part).filter(|(_, part)| **part) {
            if uplinks.iter().all(|uplink| *uplink.inside() != source.netns) {
                let socket = &config.control.socket;
                uplinks
                    .push(Uplink::open(around.host, &source.netns, socket, uplinks.len(), programs).await?);
            }
        }
        let mut underlay = programs.tc_underlay()?;
        if let Err(error) = block_in_place(|| underlay.attach(&around.nic(config))) {
            for uplink in uplinks {
                uplink.close().await;
            }
            return Err(error.into());
        }
        Ok(Self::Tc { underlay, uplinks })
    }

    async fn xdp(
        config: &Config,
        programs: &Programs,
        around: &Surroundings<'_>,
    ) -> Result<Self, EngineError> {
        let device = around.nic(config);
        let offloads = Offloads::switch_off(around.host, &device.name, &config.control.socket).await;
        let underlay = Nic::attach(programs.xdp_underlay()?, &device, config, around.bpffs, offloads).await?;
        let mut devices = programs.devices()?;
        // Some drivers take frames only once they have a program themselves.
        let usable = match takes_xdp_frames(&device).await {
            Ok(()) => devices.set_underlay(&device).map_err(EngineError::from),
            refused => refused,
        };
        match usable {
            Ok(()) => Ok(Self::Xdp { underlay: Box::new(underlay), device, devices }),
            Err(error) => {
                underlay.release().await;
                Err(error)
            }
        }
    }
}

/// Whether XDP programs can send through the NIC: what cannot be sent is lost. A veth takes frames as long as its
/// other end has NAPI, by a program of its own or by GRO, which is not ours to keep (`veth_set_xdp_features` and
/// `xdp_features_set_redirect_target`, drivers/net/veth.c).
async fn takes_xdp_frames(device: &Device) -> Result<(), EngineError> {
    // Where the kernel does not tell, it is tried.
    let features = nic_features(&device.netns, &device.name).await;
    if features.is_none_or(|features| features.takes_frames) {
        return Ok(());
    }
    Err(EngineError::Lost(format!(
        "{device} takes no frames from XDP programs (ndo_xdp_xmit; on a veth the other end needs \
         `ethtool -K … gro on`): use `hook = \"tc\"`"
    )))
}

impl Surroundings<'_> {
    fn nic(&self, config: &Config) -> Device {
        let name = config.underlay.device.to_string();
        Device { netns: self.host.clone(), index: self.link.device, name }
    }
}
