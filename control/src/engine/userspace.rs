//! The userspace engine: workers with AF_XDP sockets, and XDP programs that hand them frames.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::block_in_place;
use vxdp_dataplane::table::{Change as TableChange, Port, Publisher, Underlay};
use vxdp_dataplane::wire::MacAddr;
use vxdp_dataplane::worker::{DeviceQueue, UmemSpec, Worker, WorkerExit, WorkerSpec};
use vxdp_dataplane::{Family, Local, OverlayId, Stats, Tables, Tunnel};

use super::board::{Queue, ShownDevice};
use super::live::now_seconds;
use super::nic::{Nic, Offloads};
use super::port::{HIDING_TAGS, ServedPort};
use super::report::DeviceReport;
use super::{EngineError, settings};
use crate::capture::session::{Capture, Devices, TappedPort};
use crate::config::{Config, Container};
use crate::mirror::fact::UnderlayLink;
use crate::netns::Netns;
use crate::xdp::{BpfFs, Device, Instance, Programs};

/// How long the last frames may take out of the rings when the engine stops.
const PATIENCE: Duration = Duration::from_millis(200);

/// A worker and what it counts.
type Counted = (Worker, Arc<Stats>);

/// Workers, and the tables they look up.
pub(super) struct Userspace {
    config: Arc<Config>,
    publisher: Publisher,
    workers: Vec<Worker>,
    stats: Vec<Arc<Stats>>,
    nic: Nic,
    exits: mpsc::UnboundedReceiver<(u16, WorkerExit)>,
    refreshed: u32,
}

impl Userspace {
    /// Starts one worker per queue, and attaches the program of the NIC behind them.
    pub(super) async fn start(
        config: &Arc<Config>,
        host: &Netns,
        programs: &Programs,
        bpffs: &BpfFs,
        umem: &UmemSpec,
        link: UnderlayLink,
    ) -> Result<Self, EngineError> {
        let publisher = Publisher::new(Tables::new(Underlay { local: config.underlay.local, mac: link.mac }));
        let (exit, exits) = mpsc::unbounded_channel();
        let (started, instance) =
            block_in_place(|| start_workers(config, host, programs, &publisher, umem, &exit))?;
        let name = config.underlay.device.to_string();
        let offloads = Offloads::switch_off(host, &name, &config.control.socket).await;
        let device = Device { netns: host.clone(), index: link.device, name };
        let nic = Nic::attach(instance, &device, config, bpffs, offloads).await?;
        let (workers, stats) = started.into_iter().unzip();
        Ok(Self { config: Arc::clone(config), publisher, workers, stats, nic, exits, refreshed: 0 })
    }

    pub(super) fn publish(&mut self, changes: &[TableChange]) -> Result<(), EngineError> {
        Ok(self.publisher.change(changes)?)
    }

    pub(super) async fn serve(
        &mut self,
        port: &mut ServedPort,
        container: &Container,
        row: Port,
        programs: &Programs,
    ) -> Result<(), EngineError> {
        if let Err(trouble) = port.switch_offloads_off(container, HIDING_TAGS).await {
            port.give_up(trouble);
            return Ok(());
        }
        self.publish(&[TableChange::Port(port.id, Some(row))])?;
        let mode = self.config.dataplane.attach;
        let instance = programs.port(port.id)?;
        // On an error the reason stands with the port.
        let _ = block_in_place(|| port.attach(instance, &self.workers, mode));
        Ok(())
    }

    pub(super) async fn leave(&mut self, port: ServedPort) -> Result<(), EngineError> {
        let id = port.id;
        port.detach(&self.workers).await;
        self.publish(&[TableChange::Port(id, None)])
    }

    /// The rows used since the last time, by the second that the workers note with each.
    pub(super) fn used(&mut self) -> Vec<(OverlayId, MacAddr)> {
        let tables = self.publisher.tables();
        let since = std::mem::replace(&mut self.refreshed, now_seconds());
        let used = |last: Option<u32>| last.is_some_and(|second| second >= since);
        let remotes = tables.remotes().filter(|row| used(row.last_frame)).map(|row| (row.overlay, row.mac));
        let locals = tables.locals().filter(|row| used(row.last_frame)).map(|row| (row.overlay, row.mac));
        remotes.chain(locals).collect()
    }

    pub(super) fn tend(&mut self) {
        self.publisher.free_retired();
    }

    /// The counters of the workers.
    pub(super) fn queues(&self) -> Vec<Queue> {
        let cpus = &self.config.dataplane.cpus;
        let queue = |(number, (worker, stats)): (usize, (&Worker, &Arc<Stats>))| Queue {
            cpu: cpus.get(number).copied(),
            stats: Arc::clone(stats),
            worker: Arc::clone(worker.stats()),
        };
        self.workers.iter().zip(&self.stats).enumerate().map(queue).collect()
    }

    /// The underlay's device as it is shown.
    pub(super) fn nic(&self) -> ShownDevice {
        let zero_copy = self.workers.iter().all(Worker::zero_copy);
        let mut report = DeviceReport { zero_copy, ..self.nic.report(&self.config) };
        report.limits.extend((!zero_copy).then(|| settings::why_copy(&self.config).to_owned()));
        let sockets = self.workers.iter().map(|worker| Arc::clone(worker.underlay_stats())).collect();
        ShownDevice { report, verdicts: Some(self.nic.instance.verdicts()), sockets }
    }

    pub(super) fn tap(&self, captures: &[Arc<Capture>], ports: &[TappedPort]) {
        let (underlay, family) = (&self.config.underlay.device, Family::of(self.config.underlay.local));
        let devices = Devices { underlay: underlay.as_str(), family, ports };
        for (queue, worker) in (0..).zip(&self.workers) {
            let taps = captures.iter().filter_map(|capture| capture.tap(queue, devices));
            // A worker that has ended has nothing to show.
            let _ = worker.tap(taps.collect());
        }
    }

    pub(super) async fn lost(&mut self) -> EngineError {
        match self.exits.recv().await {
            Some((queue, exit)) => EngineError::Lost(format!("the worker of queue {queue} ended: {exit:?}")),
            None => EngineError::Lost("the workers ended".to_owned()),
        }
    }

    pub(super) async fn stop(self, ports: Vec<ServedPort>) {
        for port in ports {
            port.detach(&self.workers).await;
        }
        block_in_place(|| {
            for worker in self.workers {
                worker.stop(PATIENCE);
            }
        });
        self.nic.release().await;
    }
}

/// Starts one worker per queue; their sockets wait in the program of the NIC, which is not attached yet.
fn start_workers(
    config: &Config,
    host: &Netns,
    programs: &Programs,
    publisher: &Publisher,
    umem: &UmemSpec,
    exit: &mpsc::UnboundedSender<(u16, WorkerExit)>,
) -> Result<(Vec<Counted>, Instance), EngineError> {
    let mut instance = programs.underlay()?;
    let mut workers = Vec::new();
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
            heartbeat: Box::new(move |now| {
                meet_a_bug();
                drop(beats.beat(queue.into(), now.0));
            }),
            on_exit: Box::new(move |ended| drop(exit.send((queue, ended.clone())))),
        };
        let at =
            DeviceQueue { netns: host.as_fd(), device: config.underlay.device.as_str(), queue: queue.into() };
        let worker = Worker::start(spec, umem, &at, |socket| {
            instance.set_socket(queue.into(), socket).map_err(std::io::Error::other)
        })?;
        workers.push((worker, stats));
    }
    Ok((workers, instance))
}

/// Panics once for each time that a test makes the file which `VXDP_TEST_WORKER_BUG` names.
///
/// Nothing that is known makes a worker panic from outside, and what becomes of one that does is tested all the
/// same. Builds for use have nothing of this.
fn meet_a_bug() {
    #[cfg(debug_assertions)]
    {
        use std::sync::LazyLock;
        static FILE: LazyLock<Option<std::ffi::OsString>> =
            LazyLock::new(|| std::env::var_os("VXDP_TEST_WORKER_BUG"));
        let asked = FILE.as_ref().is_some_and(|file| std::fs::remove_file(file).is_ok());
        assert!(!asked, "a bug, as a test asked for");
    }
}
