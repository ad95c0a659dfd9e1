//! Decides when the engine flies: starts it over a standing overlay, switches modes, tries again after a loss.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use vxdp_dataplane::OverlayId;

use super::nic;
use super::start::bpffs_root;
use super::{End, Engine, EngineReport};
use crate::causes::chain;
use crate::config::{Config, Mode, Overlay};
use crate::netns::Netns;
use crate::xdp::BpfFs;

/// First pause after a failed start, doubled each time up to the last. The kernel carries the traffic
/// meanwhile, so nothing presses; but a namespace that is being rebuilt is back within a second.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Switches that a report remembers.
const REMEMBERED: usize = 10;

/// The mode of the daemon and of each overlay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeReport {
    /// What carries known unicast now: `kernel`, `xdp`, or `mixed` where overlays differ.
    pub mode: String,
    /// Each overlay.
    pub overlays: Vec<OverlayMode>,
    /// Why xdp mode is not there although it is asked for.
    pub trouble: Option<String>,
    /// The latest switches, the newest first.
    pub switches: Vec<Switch>,
    /// The fast path, where it flies.
    pub engine: Option<EngineReport>,
}

/// The mode of one overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayMode {
    /// Its VNI.
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
    /// What was asked for: `auto`, `kernel` or `xdp`.
    pub asked: Mode,
    /// What carries known unicast now: `kernel` or `xdp`.
    pub mode: Mode,
}

/// A change of mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Seconds ago.
    pub age_s: u64,
    /// What happened, in words.
    pub what: String,
}

/// The engine's pilot. Its methods may be called from anywhere; they wait for each other.
#[derive(Debug)]
pub struct Pilot {
    host: Netns,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Arc<Config>,
    /// What is asked for, by overlay.
    asked: Vec<Mode>,
    engine: Option<Engine>,
    /// Whether the overlay stands, so that an engine has something to fly over.
    built: bool,
    trouble: Option<String>,
    pause: Duration,
    retry: Instant,
    switches: Vec<(Instant, String)>,
}

impl Pilot {
    /// A pilot on the ground.
    pub fn new(host: Netns, config: Arc<Config>) -> Self {
        let asked = asked(&config);
        let (pause, retry) = (FIRST_PAUSE, Instant::now());
        let inner = Inner {
            config,
            asked,
            engine: None,
            built: false,
            trouble: None,
            pause,
            retry,
            switches: Vec::new(),
        };
        Self { host, inner: Mutex::new(inner) }
    }

    /// Before the overlay is looked at: an engine over a namespace that was deleted would keep it, its
    /// devices and its UDP ports alive.
    pub async fn make_way(&self) {
        let mut inner = self.inner.lock().await;
        if let Some(engine) = &inner.engine {
            engine.look().await;
        }
        inner.bury();
    }

    /// After the overlay was built as `config` says.
    pub async fn built(&self, config: &Arc<Config>) {
        let mut inner = self.inner.lock().await;
        if inner.config != *config {
            inner.land("the configuration changed").await;
            inner.asked = asked(config);
            inner.config = Arc::clone(config);
        }
        if !inner.built {
            inner.built = true;
            inner.retry = Instant::now();
        }
        inner.tend(&self.host).await;
    }

    /// Once in a while: notices the end of an engine and starts another one.
    pub async fn tend(&self) {
        self.inner.lock().await.tend(&self.host).await;
    }

    /// Changes the mode of the overlays with this VNI, or of all.
    ///
    /// # Errors
    /// When no overlay has the VNI, or xdp mode was asked for and cannot be had; then everything stays as it was.
    pub async fn set_mode(&self, vni: Option<u32>, mode: Mode) -> Result<(), String> {
        let mut inner = self.inner.lock().await;
        let before = inner.asked.clone();
        let config = Arc::clone(&inner.config);
        let meant = |overlay: &Overlay| vni.is_none_or(|vni| overlay.vni.get() == vni);
        if let (Some(vni), false) = (vni, config.overlays.iter().any(meant)) {
            return Err(format!("no overlay has VNI {vni}"));
        }
        for (asked, overlay) in inner.asked.iter_mut().zip(&config.overlays) {
            if meant(overlay) {
                *asked = mode;
            }
        }
        inner.retry = Instant::now();
        inner.tend(&self.host).await;
        match inner.trouble.clone() {
            Some(trouble) if mode == Mode::Xdp && inner.engine.is_none() => {
                inner.asked = before;
                Err(trouble)
            }
            _ => Ok(()),
        }
    }

    /// Why a mode that was asked for by name is not there.
    pub async fn refused(&self) -> Option<String> {
        let inner = self.inner.lock().await;
        let wanted = inner.asked.contains(&Mode::Xdp) && inner.engine.is_none();
        inner.trouble.clone().filter(|_| wanted)
    }

    /// How things are.
    pub async fn report(&self) -> ModeReport {
        let inner = self.inner.lock().await;
        let engine = match &inner.engine {
            Some(engine) => engine.report().await,
            None => None,
        };
        let overlays: Vec<OverlayMode> = inner
            .config
            .overlays
            .iter()
            .zip(&inner.asked)
            .map(|(overlay, &asked)| {
                let flies = engine.is_some() && asked != Mode::Kernel;
                let mode = if flies { Mode::Xdp } else { Mode::Kernel };
                OverlayMode { vni: overlay.vni.get(), port: overlay.port, asked, mode }
            })
            .collect();
        let xdp = overlays.iter().filter(|overlay| overlay.mode == Mode::Xdp).count();
        let mode = match xdp {
            0 => "kernel",
            _ if xdp == overlays.len() => "xdp",
            _ => "mixed",
        };
        let switch =
            |(at, what): &(Instant, String)| Switch { age_s: at.elapsed().as_secs(), what: what.clone() };
        ModeReport {
            mode: mode.to_owned(),
            overlays,
            trouble: inner.trouble.clone(),
            switches: inner.switches.iter().rev().map(switch).collect(),
            engine,
        }
    }

    /// Lands for good: the kernel carries everything, and nothing of the fast path is left on the host, but for
    /// the program of a NIC that its removal would reset. That one passes every frame.
    pub async fn stop(&self) {
        let mut inner = self.inner.lock().await;
        inner.built = false;
        inner.land("the daemon stops").await;
        let socket = &inner.config.control.socket;
        let root = bpffs_root(socket);
        BpfFs::release(&root).unwrap_or_else(|error| not_unmounted(&root, &error));
        if !root.exists() {
            nic::restore_left(&self.host, socket).await;
        }
    }
}

/// Removes what the engine of the daemon at `socket` has left on the host, or one that was killed.
pub async fn clear(host: &Netns, socket: &Path) {
    let root = bpffs_root(socket);
    BpfFs::remove(&root).unwrap_or_else(|error| not_unmounted(&root, &error));
    nic::restore_left(host, socket).await;
}

fn not_unmounted(root: &Path, error: &std::io::Error) {
    tracing::warn!("cannot unmount {}: {error}", root.display());
}

impl Inner {
    async fn tend(&mut self, host: &Netns) {
        self.bury();
        let wanted = self.asked.iter().any(|mode| *mode != Mode::Kernel);
        match &self.engine {
            Some(engine) if wanted => {
                for (overlay, mode) in (0..).map(OverlayId::new).zip(&self.asked) {
                    engine.set_overlay(overlay, *mode != Mode::Kernel).await;
                }
            }
            Some(_) => self.land("kernel mode was asked for").await,
            None if wanted && self.built && Instant::now() >= self.retry => self.take_off(host).await,
            None => {}
        }
        if !wanted {
            self.trouble = None;
        }
    }

    async fn take_off(&mut self, host: &Netns) {
        let enabled = self.asked.iter().map(|mode| *mode != Mode::Kernel).collect();
        match Engine::start(Arc::clone(&self.config), host.clone(), enabled).await {
            Ok(engine) => {
                self.engine = Some(engine);
                self.trouble = None;
                self.pause = FIRST_PAUSE;
                self.note("xdp mode took over from the kernel".to_owned());
            }
            Err(error) => self.fail(chain(&error)),
        }
    }

    async fn land(&mut self, why: &str) {
        if let Some(engine) = self.engine.take() {
            engine.stop().await;
            self.note(format!("the kernel took over: {why}"));
        }
    }

    /// Takes note of an engine that has ended by itself.
    fn bury(&mut self) {
        let Some(end) = self.engine.as_ref().and_then(|engine| engine.end().borrow().clone()) else { return };
        self.engine = None;
        let why = match end {
            End::Lost(why) => why,
            End::Stopped => "the engine was stopped".to_owned(),
        };
        self.note(format!("the kernel took over: {why}"));
        self.fail(why);
    }

    fn fail(&mut self, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!("no xdp mode, the kernel carries everything: {why}");
        }
        self.trouble = Some(why);
        self.retry = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }

    fn note(&mut self, what: String) {
        tracing::info!("{what}");
        self.switches.push((Instant::now(), what));
        if self.switches.len() > REMEMBERED {
            self.switches.remove(0);
        }
    }
}

fn asked(config: &Config) -> Vec<Mode> {
    config.overlays.iter().map(|overlay| overlay.mode.unwrap_or(config.dataplane.mode)).collect()
}
