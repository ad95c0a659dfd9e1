//! The underlay's device: its program and its link, and what was changed on it for them.
//!
//! A NIC takes 802.1Q tags off by hardware (`rx-vlan-hw-parse`); the tag is then no part of the bytes that an XDP
//! program sees, and a frame of another VLAN would be taken for ours. So the feature is switched off as long as
//! the program is there. It is the user's device: what was on is written down before, so that a process that
//! was killed leaves a way back to the next one, or to `vxdp down`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use super::EngineError;
use super::report::DeviceReport;
use super::start::bpffs_root;
use crate::causes::chain;
use crate::config::Config;
use crate::netns::Netns;
use crate::offload::{self, RX_VLAN, RX_VLAN_STAG, SwitchedOff};
use crate::xdp::{Attached, BpfFs, Device, Instance, is_kept_at};

/// What hides tags from the program.
const HIDING: [&str; 2] = [RX_VLAN, RX_VLAN_STAG];

/// Name of the NIC's kept link.
const LINK: &str = "underlay";

/// Whether `program` is what the daemon at `socket` has left on its NIC, since taking it off would reset the queues.
pub fn has_left(socket: &Path, program: u32) -> bool {
    is_kept_at(&bpffs_root(socket).join(LINK), program)
}

/// The underlay's part of an engine.
pub(super) struct Nic {
    pub(super) instance: Instance,
    pub(super) attached: Attached,
    pub(super) offloads: Offloads,
}

impl Nic {
    /// Attaches the program, by a link that outlives this process where that is better for the device.
    pub(super) async fn attach(
        mut instance: Instance,
        device: &Device,
        config: &Config,
        bpffs: &BpfFs,
        offloads: Offloads,
    ) -> Result<Self, EngineError> {
        let attached = block_in_place(|| {
            let keep = device.resets_on_detach()?.then(|| bpffs.link(LINK));
            instance.attach(device, config.dataplane.attach, keep.as_deref())
        });
        match attached {
            Ok(attached) => Ok(Self { instance, attached, offloads }),
            Err(error) => {
                offloads.restore().await;
                Err(error.into())
            }
        }
    }

    /// Takes the program off, unless its link is kept: then it stays, without sockets, and passes every frame;
    /// and so does what was changed for it, because changing it back would reset the device as well.
    pub(super) async fn release(self) {
        let kept = self.instance.is_kept();
        block_in_place(|| drop(self.instance));
        if !kept {
            self.offloads.restore().await;
        }
    }

    /// What is known without the workers.
    pub(super) fn report(&self, config: &Config) -> DeviceReport {
        let limits = self.instance.limits().chain(self.offloads.limit());
        DeviceReport {
            device: config.underlay.device.to_string(),
            regime: Some(self.attached.regime.to_string()),
            limits: limits.collect(),
            switched_off: self.offloads.features(),
            ..DeviceReport::default()
        }
    }
}

/// The features of the underlay's device that are off on our account.
pub(super) struct Offloads {
    host: Netns,
    record: PathBuf,
    switched: Option<SwitchedOff>,
    trouble: Option<String>,
}

/// What is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    device: String,
    features: Vec<String>,
}

impl Offloads {
    /// Switches off what hides tags. A device that does not let itself be changed is used as it is.
    pub(super) async fn switch_off(host: &Netns, device: &str, socket: &Path) -> Self {
        let record = record_beside(socket);
        let left = SwitchedOff::left(&record);
        let earlier = match left {
            Some(left) if left.device() == device => Some(left),
            Some(_) => {
                restore_left(host, socket).await;
                None
            }
            None => None,
        };
        let mut offloads = Self { host: host.clone(), record, switched: earlier, trouble: None };
        if let Err(trouble) = offloads.switch(device).await {
            tracing::warn!(device, "VLAN tags may be hidden from the XDP program: {trouble}");
            offloads.trouble = Some(trouble);
        }
        offloads
    }

    async fn switch(&mut self, device: &str) -> Result<(), String> {
        let active = offload::active(&self.host, device).await.map_err(|error| chain(&error))?;
        let on = HIDING.into_iter().filter(|feature| active.contains(*feature));
        let mut all: Vec<&'static str> =
            self.switched.iter().flat_map(SwitchedOff::features).copied().chain(on).collect();
        all.sort_unstable();
        all.dedup();
        if all.is_empty() {
            return Ok(());
        }
        let switched = SwitchedOff::new(device, all);
        switched.write_down(&self.record).map_err(|error| error.to_string())?;
        self.switched = Some(switched);
        offload::switch_off(&self.host, device, &HIDING).await.map_err(|error| chain(&error))?;
        let active = offload::active(&self.host, device).await.map_err(|error| chain(&error))?;
        match HIDING.into_iter().find(|feature| active.contains(*feature)) {
            Some(feature) => Err(format!("{feature} cannot be switched off")),
            None => Ok(()),
        }
    }

    async fn restore(self) {
        if let Some(switched) = &self.switched {
            put_back(&self.host, switched, &self.record).await;
        }
    }

    fn features(&self) -> Vec<String> {
        let features = self.switched.iter().flat_map(SwitchedOff::features);
        features.map(|feature| (*feature).to_owned()).collect()
    }

    /// Why tags may be hidden, where they may.
    fn limit(&self) -> Option<String> {
        self.trouble.as_ref().map(|trouble| format!("tags may be hidden: {trouble}"))
    }
}

/// Switches on again what a daemon at `socket` has left switched off. Nothing left is success.
pub(super) async fn restore_left(host: &Netns, socket: &Path) {
    let record = record_beside(socket);
    if let Some(switched) = SwitchedOff::left(&record) {
        put_back(host, &switched, &record).await;
    }
}

async fn put_back(host: &Netns, switched: &SwitchedOff, record: &Path) {
    if let Err(error) = switched.restore(host).await {
        tracing::warn!(device = switched.device(), "cannot restore offloads: {}", chain(&error));
        return;
    }
    if let Err(error) = fs::remove_file(record) {
        tracing::warn!("cannot remove {}: {error}", record.display());
    }
}

fn record_beside(socket: &Path) -> PathBuf {
    socket.with_extension("offloads")
}

impl SwitchedOff {
    /// What the record says; nothing where there is none, or none that we wrote.
    fn left(record: &Path) -> Option<Self> {
        let text = fs::read(record).ok()?;
        let Record { device, features } = serde_json::from_slice(&text).ok()?;
        let known = HIDING.into_iter().filter(|known| features.iter().any(|feature| feature == known));
        Some(Self::new(&device, known.collect()))
    }

    fn write_down(&self, record: &Path) -> io::Result<()> {
        let features = self.features().iter().map(|feature| (*feature).to_owned()).collect();
        let text = serde_json::to_vec(&Record { device: self.device().to_owned(), features })?;
        let new = record.with_extension("offloads.new");
        fs::write(&new, text)?;
        fs::rename(new, record)
    }
}
