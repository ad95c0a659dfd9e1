//! Starting the engine: everything is built with the switch off, which is turned on last.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::block_in_place;
use vxdp_dataplane::table::{Change as TableChange, Publisher, Underlay};
use vxdp_dataplane::worker::{DeviceQueue, UmemSpec, Worker, WorkerExit, WorkerSpec};
use vxdp_dataplane::{Local, OverlayId, Stats, Tables, Tunnel};

use super::live::Live;
use super::nic::{Nic, Offloads};
use super::{EngineError, compile, settings};
use crate::causes::chain;
use crate::config::{Config, Overlay};
use crate::mirror::fact::{Fact, Source, UnderlayLink};
use crate::mirror::follow::Follower;
use crate::netns::Netns;
use crate::xdp::{BpfFs, Capacity, Device, HEARTBEAT_MAX_AGE, Host, Instance, Programs};

/// Facts and asks that wait between the follower and the engine; each is a batch.
const QUEUE: usize = 16;

/// The worker of one queue, and its counters.
struct Queue {
    worker: Worker,
    stats: Arc<Stats>,
}

impl Live {
    /// Builds everything and turns the switch on.
    pub(super) async fn start(
        config: Arc<Config>,
        host: Netns,
        enabled: Vec<bool>,
    ) -> Result<Self, EngineError> {
        let local = config.underlay.local;
        let root = bpffs_root(&config.control.socket);
        let bpffs = BpfFs::open(&root)
            .map_err(|source| EngineError::BpfFs { path: root.display().to_string(), source })?;
        let programs = Programs::new(bpffs.clone(), Capacity::default())?;
        let mut maps = programs.tables()?;
        let sources = config.overlays.iter().map(source).collect::<Result<Vec<_>, _>>()?;
        let lost = |error: Box<dyn std::error::Error + Send + Sync>| EngineError::Lost(chain(&*error));
        let device = config.underlay.device.as_str();
        let follower = Follower::open(&host, device, sources.clone()).await.map_err(lost)?;
        let (asks, asked) = mpsc::channel(QUEUE);
        let (tell, mut facts) = mpsc::channel(QUEUE);
        let follower = tokio::spawn(follower.run(asked, tell));
        let first = facts.recv().await.unwrap_or_default();
        let link = underlay(&first, device)?;
        let path = settings::path(&host, local.is_ipv4(), link.mtu);
        let mut publisher = Publisher::new(Tables::new(Underlay { local, mac: link.mac }));
        let umem = settings::umem(settings::zero_copy(&config)?, link.mtu);
        let longest = settings::longest(&umem);
        let (mac, heartbeat_max_age) = (link.mac, HEARTBEAT_MAX_AGE);
        maps.set_host(Host { local, mac, max_frame: longest, heartbeat_max_age })?;
        maps.set_tunnel_ports(config.overlays.iter().map(|overlay| overlay.port))?;
        let mut segments = Vec::new();
        for ((id, overlay), enabled) in overlays(&config).zip(&enabled) {
            segments.push(TableChange::Overlay(id, Some(compile::overlay(overlay, local))));
            maps.set_overlay(overlay.vni, overlay.port, id, *enabled)?;
        }
        publisher.change(&segments)?;
        let (exit, exits) = mpsc::unbounded_channel();
        let (queues, instance) =
            block_in_place(|| start_workers(&config, &host, &programs, &publisher, &umem, exit))?;
        let nic = attach_nic(instance, &config, &host, bpffs, link).await?;
        let (workers, stats) = queues.into_iter().map(|queue| (queue.worker, queue.stats)).unzip();
        let mut live = Self {
            config,
            sources,
            enabled,
            programs,
            maps,
            publisher,
            generation: 1,
            path,
            longest,
            vteps: HashMap::new(),
            workers,
            stats,
            nic,
            ports: Vec::new(),
            told: HashMap::new(),
            asks,
            facts,
            follower,
            exits,
            refreshed: 0,
        };
        for fact in first {
            live.take(fact).await?;
        }
        live.maps.set_switch(true)?;
        Ok(live)
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

/// Starts one worker per queue; their sockets wait in the program of the NIC, which is not attached yet.
fn start_workers(
    config: &Config,
    host: &Netns,
    programs: &Programs,
    publisher: &Publisher,
    umem: &UmemSpec,
    exit: mpsc::UnboundedSender<(u16, WorkerExit)>,
) -> Result<(Vec<Queue>, Instance), EngineError> {
    let mut instance = programs.underlay()?;
    let mut queues = Vec::new();
    for queue in 0..config.dataplane.workers.max(1) {
        let mut beats = programs.heartbeats()?;
        // Workers begin their IPv4 identifications far from each other: the field tells fragments of
        // different packets apart, should a router fragment them.
        let local = Local::new(queue.wrapping_mul(0x4000));
        let stats = local.stats();
        let exit = exit.clone();
        let spec = WorkerSpec {
            name: format!("vxdp-{queue}"),
            cpu: config.dataplane.cpus.get(usize::from(queue)).copied().map(usize::from),
            poll: settings::poll(&config.dataplane),
            forward: Tunnel::new(publisher.reader(), local),
            // A beat that cannot be written is a worker that seems stuck: the frames pass.
            heartbeat: Box::new(move |now| drop(beats.beat(queue.into(), now.0))),
            on_exit: Box::new(move |ended| drop(exit.send((queue, ended.clone())))),
        };
        let at =
            DeviceQueue { netns: host.as_fd(), device: config.underlay.device.as_str(), queue: queue.into() };
        let worker = Worker::start(spec, umem, &at, |socket| {
            instance.set_socket(queue.into(), socket).map_err(std::io::Error::other)
        })?;
        queues.push(Queue { worker, stats });
    }
    Ok((queues, instance))
}

async fn attach_nic(
    instance: Instance,
    config: &Config,
    host: &Netns,
    bpffs: BpfFs,
    link: UnderlayLink,
) -> Result<Nic, EngineError> {
    let name = config.underlay.device.to_string();
    let offloads = Offloads::switch_off(host, &name, &config.control.socket).await;
    let device = Device { netns: host.clone(), index: link.device, name };
    Nic::attach(instance, &device, config, &bpffs, link, offloads).await
}
