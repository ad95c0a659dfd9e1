//! Starting the engine: everything is built with the switch off, which is turned on last.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use vxdp_dataplane::OverlayId;
use vxdp_dataplane::table::Change as TableChange;

use super::board::Board;
use super::carrier::Carrier;
use super::inkernel::{InKernel, LEASE, Surroundings};
use super::live::Live;
use super::spill::Waiting;
use super::userspace::Userspace;
use super::{EngineError, Kind, Part, compile, settings};
use crate::causes::chain;
use crate::config::{Config, Overlay};
use crate::mirror::fact::{Fact, Source, UnderlayLink};
use crate::mirror::follow::Follower;
use crate::netns::Netns;
use crate::watch::BUFFER_FOR_STORMS;
use crate::xdp::{BpfFs, Capacity, HEARTBEAT_MAX_AGE, Programs};

/// Facts and asks that wait between the follower and the engine; each is a batch.
pub(super) const QUEUE: usize = 16;

/// How long a start waits for the kernel's rows. Those of some ten thousand MACs are read in this time, so that the
/// fast path carries them when the daemon says that it is ready. A longer wait holds up the API and the end of a
/// daemon that is stopped meanwhile; after a shorter one the kernel carries for a moment what could be read in time.
const FIRST_READING: Duration = Duration::from_secs(3);

impl Live {
    /// Builds everything and turns the switch on.
    pub(super) async fn start(
        config: Arc<Config>,
        host: Netns,
        kind: Kind,
        parts: Vec<Part>,
    ) -> Result<Self, EngineError> {
        let root = bpffs_root(&config.control.socket);
        let bpffs = BpfFs::open(&root)
            .map_err(|source| EngineError::BpfFs { path: root.display().to_string(), source })?;
        let programs = Programs::new(bpffs.clone(), Capacity::default())?;
        let sources = config.overlays.iter().map(source).collect::<Result<Vec<_>, _>>()?;
        let lost = |error: Box<dyn std::error::Error + Send + Sync>| EngineError::Lost(chain(&*error));
        let device = config.underlay.device.as_str();
        let follower =
            Follower::open(&host, device, config.underlay.local, sources.clone(), BUFFER_FOR_STORMS)
                .await
                .map_err(lost)?;
        let followed = follower.counters();
        let (asks, asked) = mpsc::channel(QUEUE);
        let (tell, mut facts) = mpsc::channel(QUEUE);
        let follower = tokio::spawn(follower.run(asked, tell));
        let first = facts.recv().await.unwrap_or_default();
        let link = underlay(&first, device)?;
        let part: Vec<bool> = parts.iter().map(|part| *part != Part::None).collect();
        let (carrier, longest, heartbeat_max_age) = match kind {
            Kind::Userspace => {
                let umem = settings::umem(settings::zero_copy(&config)?, link.mtu);
                let carrier = Userspace::start(&config, &host, &programs, &bpffs, &umem, link).await?;
                (Carrier::Userspace(Box::new(carrier)), settings::longest(&umem), HEARTBEAT_MAX_AGE)
            }
            Kind::InKernel => {
                let surroundings =
                    Surroundings { host: &host, bpffs: &bpffs, sources: &sources, part: &part, link };
                let carrier = InKernel::start(&config, &programs, surroundings).await?;
                // No memory of ours is in the way of a long frame.
                (Carrier::InKernel(Box::new(carrier)), u32::MAX, LEASE)
            }
        };
        let path = settings::path(&host, config.underlay.local.is_ipv4(), link.mtu);
        let (counting, nic) = (carrier.counting(&programs)?, carrier.nic());
        let board = Board::new(kind, Arc::clone(&config), part.clone(), counting, nic, followed);
        let mut live = Self {
            maps: programs.tables()?,
            board: Arc::new(board),
            config,
            sources,
            part,
            enabled: parts.iter().map(|part| *part == Part::Carried).collect(),
            programs,
            carrier,
            path,
            longest,
            heartbeat_max_age,
            link,
            vteps: HashMap::new(),
            ports: Vec::new(),
            next_port: 0,
            waiting: Waiting::default(),
            told: HashMap::new(),
            captures: Vec::new(),
            asks,
            facts,
            follower,
            behind: false,
        };
        if let Err(error) = live.fill(first).await {
            live.stop().await;
            return Err(error);
        }
        Ok(live)
    }

    /// The tables as they are at first.
    async fn fill(&mut self, first: Vec<Fact>) -> Result<(), EngineError> {
        let config = Arc::clone(&self.config);
        self.maps.set_host(self.host())?;
        self.maps.set_tunnel_ports(config.overlays.iter().map(|overlay| overlay.port))?;
        let mut segments = Vec::new();
        for (id, overlay) in overlays(&config) {
            segments.push(TableChange::Overlay(id, Some(compile::overlay(overlay))));
            let enabled = self.enabled[usize::from(id.get())];
            self.maps.set_overlay(overlay.vni, overlay.port, id, enabled)?;
        }
        self.publish(&segments)?;
        for fact in first {
            self.take(fact).await?;
        }
        self.catch_up().await?;
        Ok(self.maps.set_switch(self.link.addressed)?)
    }

    /// Takes facts until all rows have been read, for a while; the kernel carries what comes later.
    async fn catch_up(&mut self) -> Result<(), EngineError> {
        let deadline = Instant::now() + FIRST_READING;
        loop {
            let Ok(facts) = timeout_at(deadline, self.facts.recv()).await else {
                tracing::info!(
                    "the overlays have many rows, which are still being read; the kernel carries them"
                );
                self.behind = true;
                // The lease of programs that carry by themselves.
                return self.carrier.tend().await;
            };
            let facts = facts.ok_or_else(|| EngineError::Lost("the mirror has ended".to_owned()))?;
            let caught_up = facts.contains(&Fact::CaughtUp);
            for fact in facts {
                self.take(fact).await?;
            }
            if caught_up {
                return Ok(());
            }
        }
    }
}

fn overlays(config: &Config) -> impl Iterator<Item = (OverlayId, &Overlay)> {
    (0..).map(OverlayId::new).zip(&config.overlays)
}

/// Where the BPF file system of the daemon at `socket` is mounted.
pub(super) fn bpffs_root(socket: &Path) -> PathBuf {
    socket.with_extension("bpf")
}

fn source(overlay: &Overlay) -> Result<Source, EngineError> {
    let name = overlay.netns.as_str();
    let netns =
        Netns::named(name).map_err(|source| EngineError::Namespace { name: name.to_owned(), source })?;
    Ok(Source {
        netns,
        vni: overlay.vni,
        port: overlay.port,
        bridge: overlay.bridge.to_string(),
        vxlan: overlay.vxlan.to_string(),
        ports: overlay.containers.iter().map(|container| container.host_interface.to_string()).collect(),
        macs: overlay.containers.iter().map(|container| container.mac).collect(),
    })
}

/// The underlay device among the first facts.
fn underlay(facts: &[Fact], device: &str) -> Result<UnderlayLink, EngineError> {
    let lost = facts.iter().find_map(|fact| match fact {
        Fact::Lost(why) => Some(why.clone()),
        _ => None,
    });
    if let Some(why) = lost {
        return Err(EngineError::Lost(why));
    }
    let link = facts.iter().find_map(|fact| match fact {
        Fact::Underlay(link) => *link,
        _ => None,
    });
    link.ok_or_else(|| EngineError::Lost(format!("there is no underlay device `{device}`")))
}
