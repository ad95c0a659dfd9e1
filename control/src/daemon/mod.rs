//! The daemon: starts in order, turns what happens into events and decisions into deeds, stops in order.
//!
//! ```text
//!  kernel ──netlink──▶ watches ─┐                        ┌─▶ worker ──▶ kernel
//!  /run/netns, Docker ▶ places ─┼─▶ model::apply(state) ─┼─▶ clients
//!  clients ──socket───▶ api ────┤      (no I/O)          └─▶ log, notes
//!  signals, clock ──────────────┘
//! ```

mod captures;
mod desired;
mod ending;
mod log;
mod notes;
mod places;
mod rows;
mod service;
mod signals;
mod takeover;
mod traffic;
mod vteps;
mod watches;
mod worker;

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

use self::ending::{Ended, Stopping};
use self::log::Log;
use self::notes::Notes;
use self::service::Service;
use self::signals::Signals;
pub use self::takeover::IfRunning;
use self::traffic::Meter;
use self::worker::{Job, Worker};
use crate::api::server::{self, Call, Claim};
use crate::api::{Answer, Kind};
use crate::config::{Config, Install, Overlay};
use crate::engine::pilot::{self, Pilot};
use crate::kernel::desired::Row;
use crate::kernel::{Kernel, KernelError, Report, vxlan_of};
use crate::metrics::Endpoint;
use crate::model::remembered::Remembered;
use crate::model::{self, Change, Client, Ending, Event, State};
use crate::netns::Netns;
use crate::segment::Segment;

/// Events that wait for the model. When this is full the watches wait, and the kernel's own queues fill.
const EVENTS: usize = 64;

/// Requests that wait for the model; further clients wait in their own tasks.
const CALLS: usize = 32;

/// Why the daemon does not start, or ends otherwise than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket cannot be had.
    #[error(transparent)]
    Api(#[from] server::Error),
    /// Another daemon does not let go of it.
    #[error(transparent)]
    Takeover(#[from] takeover::Error),
    /// The ledger cannot be used.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The overlays could not be built; what was made has been taken back.
    #[error("{0}")]
    Build(String),
    /// xdp mode was asked for by name and cannot be had. The kernel overlay stands and forwards.
    #[error(
        "cannot start xdp mode: {0}\nThe kernel overlay stands and forwards; `--mode auto` or `--mode kernel` go on with it"
    )]
    Xdp(String),
    /// The system refused something.
    #[error("cannot {what}")]
    System {
        /// What.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// Reads the configuration again.
pub type Reload = Box<dyn FnMut() -> Result<Config, String> + Send>;

/// Builds the overlays of `config`, whose underlay is in `host`, and keeps them as configured until a signal
/// or a client ends it.
///
/// SIGTERM and SIGINT leave the kernel overlay forwarding, and so does another daemon that takes over; SIGHUP
/// calls `reload`.
pub async fn run(host: Netns, config: Config, if_running: IfRunning, reload: Reload) -> Result<(), Error> {
    let signals = Signals::new().map_err(system("listen for signals"))?;
    let config = Arc::new(config);
    let claim = block_in_place(|| takeover::claim(&config.control.socket, if_running))?;
    let mut kernel = Kernel::open(host.clone(), &ledger_beside(&config.control.socket)).await?;
    let remembered = remember(&mut kernel, &host, &config).await?;
    let notes_path = Notes::path_beside(&config.control.socket);
    let notes = Notes::create(&notes_path, &remembered).map_err(system("write the notes of added rows"))?;

    let started = Instant::now();
    let (event_sender, events) = mpsc::channel(EVENTS);
    let pilot = Arc::new(Pilot::new(host.clone(), Arc::clone(&config)));
    let mut worker =
        Worker::new(kernel, Arc::clone(&pilot), host.clone(), Arc::clone(&config), event_sender.clone());
    let mut log = Log::default();
    let first = worker.reconcile(&remembered.rows()).await;
    log.first(&first);
    if let Some(error) = first.error {
        return Err(Error::Build(error));
    }
    if let Some(why) = pilot.refused().await {
        return Err(Error::Xdp(why));
    }
    let mut background = JoinSet::new();
    background.spawn(places::compare(worker.worked(), event_sender));
    background.spawn(tend(Arc::clone(&pilot)));
    let meter = Meter::new(Arc::clone(&pilot));
    background.spawn(Arc::clone(&meter).run());
    let (jobs, job_receiver) = mpsc::unbounded_channel();
    let worker = tokio::spawn(worker.run(job_receiver));
    let (call_sender, calls) = mpsc::channel(CALLS);
    let metrics = config.control.metrics.map(|address| Endpoint::new(address, call_sender.clone()));
    if let Some(endpoint) = &metrics {
        background.spawn(Arc::clone(endpoint).serve());
    }
    let clients = TaskTracker::new();
    let api = tokio::spawn(claim.listen()?.serve(call_sender, clients.clone()));

    let state = State::new(Arc::clone(&config), remembered, first);
    let daemon = Daemon {
        state,
        host,
        started,
        pilot: Arc::clone(&pilot),
        meter,
        metrics,
        jobs,
        asking: HashMap::new(),
        streams: HashMap::new(),
        asked: 0,
        notes,
        log,
        reload,
        service: Service::new(),
    };
    let stopping = Stopping { worker, pilot, api, background, clients, notes_path: &notes_path };
    daemon.live(signals, events, calls).await.finish(stopping, claim).await
}

/// Where the ledger of the daemon at `socket` is.
fn ledger_beside(socket: &Path) -> std::path::PathBuf {
    socket.with_extension("ledger")
}

/// Removes everything that an earlier daemon with `config` created. Fails while one is running.
pub async fn down(config: &Config) -> Result<Report, Error> {
    let socket = &config.control.socket;
    let _claim = Claim::new(socket)?;
    let host = Netns::current().map_err(system("open the network namespace of this process"))?;
    // Before the namespaces go: a device in them that is still in use would outlive them.
    pilot::clear(&host, socket, config.underlay.device.as_str()).await;
    let mut kernel = Kernel::open(host, &ledger_beside(socket)).await?;
    let report = kernel.down().await?;
    Notes::remove(&Notes::path_beside(socket)).map_err(system("remove the notes of added rows"))?;
    Ok(report)
}

/// What earlier daemons installed on misses and what operators added, as far as `config` still allows it.
async fn remember(kernel: &mut Kernel, host: &Netns, config: &Config) -> Result<Remembered, Error> {
    let path = Notes::path_beside(&config.control.socket);
    let mut remembered = Notes::read(&path).map_err(system("read the notes of added rows"))?;
    remembered.keep_only(config);
    let on_miss = |overlay: &Overlay| -> Vec<Row> {
        let remotes = overlay.remotes.iter().filter(|remote| remote.install == Install::OnMiss);
        remotes.flat_map(Row::of_remote).collect()
    };
    let wanted: Vec<_> = config.overlays.iter().map(|o| (Segment::of(o), on_miss(o))).collect();
    if wanted.iter().all(|(_, rows)| rows.is_empty()) {
        return Ok(remembered);
    }
    let found =
        desired::find(host, config, &wanted).await.map_err(|error| Error::Build(error.to_string()))?;
    let observed = kernel.observe(&found.desired).await?;
    for (overlay, (_, rows)) in config.overlays.iter().zip(wanted) {
        if let Some(vxlan) = observed.link(&vxlan_of(overlay)) {
            remembered.found(overlay, rows.into_iter().filter(|row| vxlan.rows.has(row)));
        }
    }
    Ok(remembered)
}

struct Daemon {
    state: State,
    host: Netns,
    started: Instant,
    pilot: Arc<Pilot>,
    meter: Arc<Meter>,
    metrics: Option<Arc<Endpoint>>,
    jobs: mpsc::UnboundedSender<Job>,
    asking: HashMap<Client, oneshot::Sender<Answer>>,
    /// Connections of clients that want a capture.
    streams: HashMap<Client, oneshot::Receiver<UnixStream>>,
    asked: u64,
    notes: Notes,
    log: Log,
    reload: Reload,
    service: Service,
}

impl Daemon {
    /// The main loop.
    async fn live(
        mut self,
        mut signals: Signals,
        mut events: mpsc::Receiver<Event>,
        mut calls: mpsc::Receiver<Call>,
    ) -> Ended {
        self.service.ready(&self.state, &self.pilot.mode());
        loop {
            let deadline = self.state.deadline().map(|at| self.started + at);
            let event = tokio::select! {
                event = signals.next() => event,
                Some(event) = events.recv() => event,
                Some(call) = calls.recv() => self.take(call),
                () = wait(deadline) => Event::Tick,
                () = self.service.watchdog() => continue,
            };
            if let Some(ended) = self.handle(event) {
                self.service.stopping();
                return ended;
            }
        }
    }

    fn take(&mut self, call: Call) -> Event {
        self.asked += 1;
        let client = Client(self.asked);
        self.asking.insert(client, call.answer);
        if let Some(stream) = call.stream {
            self.streams.insert(client, stream);
        }
        Event::Asked(client, call.request)
    }

    fn handle(&mut self, event: Event) -> Option<Ended> {
        let mut changes = model::apply(&mut self.state, self.started.elapsed(), event);
        while !changes.is_empty() {
            for change in std::mem::take(&mut changes) {
                match change {
                    Change::Stop(why) => {
                        let answer = match why {
                            Ending::Told => None,
                            Ending::Removing(client) | Ending::HandingOver(client) => {
                                self.asking.remove(&client)
                            }
                        };
                        return Some(Ended { why, answer });
                    }
                    Change::Load => {
                        self.service.reloading();
                        let loaded = Event::Loaded((self.reload)().map(Arc::new));
                        changes.extend(model::apply(&mut self.state, self.started.elapsed(), loaded));
                        self.service.ready(&self.state, &self.pilot.mode());
                    }
                    change => self.carry_out(change),
                }
            }
        }
        None
    }

    /// Answers a client when `answer` is ready, without keeping anybody else waiting.
    fn reply_later(&mut self, client: Client, answer: impl Future<Output = Answer> + Send + 'static) {
        let Some(sender) = self.asking.remove(&client) else { return };
        // The client may have hung up.
        tokio::spawn(async move { sender.send(answer.await) });
    }

    fn carry_out(&mut self, change: Change) {
        let job = match change {
            Change::Reconcile(config, rows) => Job::Reconcile(config, rows),
            Change::Install(segment, answers) => Job::Install(segment, answers),
            Change::Write(client, segment, rows) => Job::Write(client, segment, rows),
            Change::Remove(client, segment, rows) => Job::Remove(client, segment, rows),
            Change::Forget(client, segment, mac) => Job::Forget(client, segment, mac),
            Change::Show(client, segments, macs) => Job::Show(client, segments, macs),
            Change::Status(client, mut status) => {
                let (pilot, meter) = (Arc::clone(&self.pilot), Arc::clone(&self.meter));
                let host = self.host.clone();
                status.metrics = self.metrics.as_ref().map(|endpoint| endpoint.status());
                self.reply_later(client, async move {
                    meter.fill(&mut status.overlays).await;
                    status.modes = block_in_place(|| pilot.report());
                    status.mode.clone_from(&status.modes.mode);
                    status.vteps = vteps::look(&pilot.config(), &status.modes, &host).await;
                    Answer::with(&status)
                });
                return;
            }
            Change::Mode(client, vni, mode, engine) => {
                let pilot = Arc::clone(&self.pilot);
                self.reply_later(client, async move {
                    match pilot.set_mode(vni, mode, engine).await {
                        Ok(()) => Answer::with(&block_in_place(|| pilot.report())),
                        Err(why) => Answer::refuse(Kind::Failed, why),
                    }
                });
                return;
            }
            Change::Capture(client, wanted) => {
                let Some(stream) = self.streams.remove(&client) else { return };
                let pilot = Arc::clone(&self.pilot);
                self.reply_later(client, captures::begin(pilot, wanted, stream));
                return;
            }
            Change::Note(note) => {
                if let Err(error) = self.notes.add(&note) {
                    self.log.unnoted(&error);
                }
                return;
            }
            Change::Reply(client, answer) => {
                self.streams.remove(&client);
                if let Some(sender) = self.asking.remove(&client) {
                    // The client may have hung up.
                    let _ = sender.send(answer);
                }
                return;
            }
            Change::Log(say) => {
                self.log.say(self.started.elapsed(), &say);
                return;
            }
            Change::Load | Change::Stop(_) => return,
        };
        // The worker ends only after this sender is gone.
        let _ = self.jobs.send(job);
    }
}

/// Lets the pilot look after the fast path.
async fn tend(pilot: Arc<Pilot>) {
    // Often enough that a fast path which has landed is soon back, and never in the way.
    let mut look = tokio::time::interval(Duration::from_secs(1));
    loop {
        look.tick().await;
        pilot.tend().await;
    }
}

async fn wait(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
