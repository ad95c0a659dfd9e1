//! Decides when engines fly: starts them over a standing overlay, switches modes, tries again after a loss.
//!
//! There is at most one engine of each kind; each carries the overlays that are its part.

mod cockpit;
mod report;
mod seat;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Mutex;

pub use report::{ModeReport, OverlayMode, Switch};

use self::cockpit::{Asked, Cockpit, asked};
use self::report::Shown;
use super::nic;
use super::start::bpffs_root;
use super::{Engine, OverlayCount};
use crate::capture::session::Capture;
use crate::causes::chain;
use crate::config::{self, Config, Mode, Overlay};
use crate::netns::Netns;
use crate::xdp::BpfFs;

/// Captures at one time: each costs the workers a filter and a copy per frame.
const CAPTURES: usize = 4;

/// The engine's pilot. Its methods may be called from anywhere; they wait for each other.
#[derive(Debug)]
pub struct Pilot {
    host: Netns,
    cockpit: Mutex<Cockpit>,
    shown: Arc<RwLock<Arc<Shown>>>,
}

impl Pilot {
    /// A pilot on the ground.
    pub fn new(host: Netns, config: Arc<Config>) -> Self {
        let (cockpit, shown) = Cockpit::new(config);
        Self { host, cockpit: Mutex::new(cockpit), shown }
    }

    /// Before the overlay is looked at: an engine over a namespace that was deleted would keep it, its
    /// devices and its UDP ports alive.
    pub async fn make_way(&self) {
        let mut cockpit = self.cockpit.lock().await;
        for engine in cockpit.seats().into_iter().filter_map(|seat| seat.engine.as_ref()) {
            engine.look().await;
        }
        cockpit.bury();
    }

    /// After the overlay was built as `config` says.
    pub async fn built(&self, config: &Arc<Config>) {
        let mut cockpit = self.cockpit.lock().await;
        if cockpit.config != *config {
            cockpit.land_all("the configuration changed").await;
            cockpit.asked = asked(config);
            cockpit.config = Arc::clone(config);
            cockpit.offer = None;
        }
        if !cockpit.built {
            cockpit.built = true;
            cockpit.hurry();
        }
        cockpit.tend(&self.host).await;
    }

    /// Once in a while: notices the end of an engine and starts another one.
    pub async fn tend(&self) {
        self.cockpit.lock().await.tend(&self.host).await;
    }

    /// Changes the mode of the overlays with this VNI, or of all, and their engine where one is given.
    ///
    /// # Errors
    /// When no overlay has the VNI, or xdp mode was asked for and cannot be had; then everything stays as it was.
    pub async fn set_mode(
        &self,
        vni: Option<u32>,
        mode: Mode,
        engine: Option<config::Engine>,
    ) -> Result<(), String> {
        let mut cockpit = self.cockpit.lock().await;
        let before = cockpit.asked.clone();
        let config = Arc::clone(&cockpit.config);
        let meant = |overlay: &Overlay| vni.is_none_or(|vni| overlay.vni.get() == vni);
        if let (Some(vni), false) = (vni, config.overlays.iter().any(meant)) {
            return Err(format!("no overlay has VNI {vni}"));
        }
        for (asked, overlay) in cockpit.asked.iter_mut().zip(&config.overlays) {
            if meant(overlay) {
                *asked = Asked { mode, engine: engine.unwrap_or(asked.engine) };
            }
        }
        cockpit.hurry();
        cockpit.tend(&self.host).await;
        match cockpit.missing(vni) {
            Some(trouble) if mode == Mode::Xdp => {
                cockpit.asked = before;
                cockpit.tend(&self.host).await;
                Err(trouble)
            }
            _ => Ok(()),
        }
    }

    /// Shows the frames of all engines, now and later, to this capture.
    ///
    /// # Errors
    /// When there are too many captures already.
    pub async fn watch(&self, capture: Arc<Capture>) -> Result<(), String> {
        let mut cockpit = self.cockpit.lock().await;
        if cockpit.captures.len() >= CAPTURES {
            return Err(format!("{CAPTURES} captures are running; end one of them first"));
        }
        cockpit.captures.push(capture);
        cockpit.tap().await;
        Ok(())
    }

    /// Shows no more frames to this capture.
    pub async fn unwatch(&self, capture: &Arc<Capture>) {
        let mut cockpit = self.cockpit.lock().await;
        cockpit.captures.retain(|other| !Arc::ptr_eq(other, capture));
        cockpit.tap().await;
    }

    /// Why a mode that was asked for by name is not there.
    pub async fn refused(&self) -> Option<String> {
        self.cockpit.lock().await.missing(None)
    }

    /// What carries known unicast: `kernel`, `xdp`, or `mixed` where overlays differ.
    pub fn mode(&self) -> String {
        self.shown().mode().to_owned()
    }

    /// How things are. Takes some system calls, and waits neither for an engine nor for a switch under way.
    pub fn report(&self) -> ModeReport {
        self.shown().report()
    }

    /// What engines have carried of each overlay so far, those that are no more included.
    pub fn carried(&self) -> Vec<OverlayCount> {
        self.shown().carried()
    }

    /// The configuration that stands.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.shown().config)
    }

    fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lands for good: the kernel carries everything, and nothing of the fast path is left on the host, but for
    /// the program of a NIC that its removal would reset. That one passes every frame.
    pub async fn stop(&self) {
        let mut cockpit = self.cockpit.lock().await;
        cockpit.built = false;
        cockpit.land_all("the daemon stops").await;
        let socket = &cockpit.config.control.socket;
        let root = bpffs_root(socket);
        BpfFs::release(&root).unwrap_or_else(|error| not_unmounted(&root, &error));
        if !root.exists() {
            nic::restore_left(&self.host, socket).await;
        }
        remove_left(&self.host, socket, cockpit.config.underlay.device.as_str()).await;
    }
}

/// Removes what the engines of the daemon at `socket` have left on the host and its NIC `underlay`, or those of one
/// that was killed.
pub async fn clear(host: &Netns, socket: &Path, underlay: &str) {
    let root = bpffs_root(socket);
    BpfFs::remove(&root).unwrap_or_else(|error| not_unmounted(&root, &error));
    nic::restore_left(host, socket).await;
    remove_left(host, socket, underlay).await;
}

async fn remove_left(host: &Netns, socket: &Path, underlay: &str) {
    if let Err(error) = Engine::remove_left(host, socket, underlay).await {
        tracing::warn!("{}", chain(&error));
    }
}

fn not_unmounted(root: &Path, error: &std::io::Error) {
    tracing::warn!("cannot unmount {}: {error}", root.display());
}
