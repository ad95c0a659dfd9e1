//! xdp mode: BPF programs, their tables, and in one of two kinds workers, over a standing kernel overlay.
//!
//! ```text
//!  kernel ──netlink──▶ mirror::Follower ──facts──▶ live::Live ──▶ dataplane tables ──▶ workers (userspace kind)
//!                             ▲                       │  │
//!                             └────────asks───────────┘  └──────▶ maps of the programs
//! ```
//!
//! An engine needs nothing but the configuration and an overlay that stands; it can be started and stopped
//! at any moment. While it is not there, or stuck, every frame takes the kernel's path.

mod board;
mod carrier;
pub mod compile;
pub mod forecast;
mod inkernel;
mod live;
mod nic;
pub mod pilot;
mod port;
pub mod regime;
mod report;
mod settings;
mod spill;
mod start;
mod uplink;
mod userspace;

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use vxdp_dataplane::OverlayId;
use vxdp_dataplane::table::TableError;
use vxdp_dataplane::worker::WorkerError;

use crate::capture::session::Capture;
use crate::causes::chain;
use crate::config::Config;
use crate::netns::Netns;
use crate::xdp::{self, AttachError, LoadError};
use board::Board;
pub use nic::has_left;
pub use report::{
    Carried, DeviceReport, DropCount, EngineReport, Frames, LossCount, OverlayCount, SocketReport,
    VerdictCount, VtepReport, WorkerReport,
};

/// Who carries the frames of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Workers in userspace, over AF_XDP.
    Userspace,
    /// The BPF programs themselves.
    InKernel,
}

impl Kind {
    /// Its name in the configuration, on the command line and in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::InKernel => "inkernel",
        }
    }
}

/// What an overlay is to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Another engine's.
    None,
    /// The engine's, which leaves it to the kernel for the time being.
    Idle,
    /// Carried.
    Carried,
}

/// Requests that wait for the engine.
const COMMANDS: usize = 16;

/// Why the fast path cannot be had. The kernel's path carries every frame.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The namespace of an overlay is not there.
    #[error("cannot open the namespace `{name}`")]
    Namespace {
        /// Its name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No BPF file system.
    #[error("cannot mount a BPF file system at {path}")]
    BpfFs {
        /// Where.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The programs were refused.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A program cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A worker cannot be had.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// Zero-copy was required, and cannot be had with containers.
    #[error(
        "`zero_copy = \"require\"` cannot be had: container ports are veths, which only copy, and all sockets \
         of a worker share one memory and one mode; use \"auto\""
    )]
    ZeroCopy,
    /// A map of the programs cannot be written.
    #[error(transparent)]
    Map(#[from] xdp::TableError),
    /// The tables refuse what the kernel has.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The kernel's state cannot be followed, or there is no underlay device.
    #[error("{0}")]
    Lost(String),
}

/// How an engine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// It could not go on; the words are for the operator.
    Lost(String),
}

/// A running engine. Dropping it stops it.
#[derive(Debug)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    end: watch::Receiver<Option<End>>,
    task: JoinHandle<()>,
    board: Arc<Board>,
}

/// A reader of an engine's counters. It neither asks the engine nor keeps it.
#[derive(Debug, Clone)]
pub struct Counters {
    board: Arc<Board>,
    end: watch::Receiver<Option<End>>,
}

impl Counters {
    /// What it has carried of each overlay so far, which takes less than a whole report.
    pub fn overlays(&self) -> Vec<OverlayCount> {
        self.board.overlays()
    }

    /// What the engine does at the moment; `None` if it has ended.
    pub fn read(&self) -> Option<EngineReport> {
        self.end.borrow().is_none().then(|| self.board.report())
    }
}

#[derive(Debug)]
enum Command {
    Overlay { overlay: OverlayId, enabled: bool, done: oneshot::Sender<()> },
    Look(oneshot::Sender<()>),
    Tap(Vec<Arc<Capture>>),
    Stop,
}

impl Engine {
    /// Starts the fast path over the overlays of `config`, which must stand. `parts` says what each of them is
    /// to it, in the order of the configuration.
    ///
    /// Takes tens of milliseconds, during which and after whose failure the kernel carries everything.
    pub async fn start(
        config: Arc<Config>,
        host: Netns,
        kind: Kind,
        parts: Vec<Part>,
    ) -> Result<Self, EngineError> {
        let live = live::Live::start(config, host, kind, parts).await?;
        let board = Arc::clone(&live.board);
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (ended, end) = watch::channel(None);
        let task = tokio::spawn(async move {
            let _ = ended.send(Some(live.run(receiver).await));
        });
        Ok(Self { commands, end, task, board })
    }

    /// Its counters.
    pub fn counters(&self) -> Counters {
        Counters { board: Arc::clone(&self.board), end: self.end.clone() }
    }

    /// Lets an overlay take part or not.
    pub async fn set_overlay(&self, overlay: OverlayId, enabled: bool) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Overlay { overlay, enabled, done }).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// Shows its frames to these captures from now on, and to no others.
    pub async fn tap(&self, captures: Vec<Arc<Capture>>) {
        // An engine that has ended has no frames to show.
        let _ = self.commands.send(Command::Tap(captures)).await;
    }

    /// Has it look whether its namespaces are still there; when this returns and they are not, it has ended.
    pub async fn look(&self) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Look(done)).await.is_ok() && wait.await.is_ok() {
            return;
        }
        let _ = self.end.clone().wait_for(Option::is_some).await;
    }

    /// Tells when and how it ends, to as many as want to know.
    pub fn end(&self) -> watch::Receiver<Option<End>> {
        self.end.clone()
    }

    /// Removes what an engine of the daemon at `socket`, or of one that was killed, has left in `host`: its devices,
    /// and its tc program on the NIC `underlay`.
    pub async fn remove_left(host: &Netns, socket: &Path, underlay: &str) -> Result<(), EngineError> {
        uplink::Uplink::remove_all(host, socket).await?;
        xdp::remove_left(host, underlay, xdp::Owner::of(&start::bpffs_root(socket))).map_err(|error| {
            EngineError::Lost(format!("cannot remove a program from {underlay}: {}", chain(&error)))
        })
    }

    /// Hands all traffic back to the kernel, carries what is under way, and takes everything off.
    pub async fn stop(self) -> End {
        // An engine that has ended cannot hear it, and need not.
        let _ = self.commands.send(Command::Stop).await;
        let _ = self.task.await;
        self.end.borrow().clone().unwrap_or(End::Lost("the engine's task panicked".to_owned()))
    }
}
