//! Decides when engines fly: starts them over a standing overlay, switches modes, tries again after a loss.
//!
//! There is at most one engine of each kind; each carries the overlays that are its part.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use vxdp_dataplane::OverlayId;

use super::nic;
use super::regime::{self, ZeroCopyOffer};
use super::start::bpffs_root;
use super::{Counters, End, Engine, EngineReport, Kind, OverlayCount, Part};
use crate::capture::session::Capture;
use crate::causes::chain;
use crate::config::{self, Config, Mode, Overlay};
use crate::netns::Netns;
use crate::xdp::BpfFs;

/// First pause after a failed start, doubled each time up to the last. The kernel carries the traffic
/// meanwhile, so nothing presses; but a namespace that is being rebuilt is back within a second.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Why an engine ends whose overlays have another one.
const OTHER_ENGINE: &str = "another engine was asked for";

/// Captures at one time: each costs the workers a filter and a copy per frame.
const CAPTURES: usize = 4;

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
    /// Switches so far.
    pub switched: u64,
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
    /// The engine that was asked for: `auto`, `userspace` or `inkernel`.
    pub asked_engine: config::Engine,
    /// The engine that carries it in xdp mode.
    pub engine: Kind,
    /// Why this engine, where it was left open.
    pub why: Option<String>,
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
    shown: Arc<RwLock<Arc<Shown>>>,
}

/// How things were after the last change, for readers.
#[derive(Debug)]
struct Shown {
    config: Arc<Config>,
    overlays: Vec<OverlayMode>,
    trouble: Option<String>,
    switches: Vec<(Instant, String)>,
    switched: u64,
    engines: Vec<Counters>,
}

#[derive(Debug)]
struct Inner {
    config: Arc<Config>,
    /// What is asked for, by overlay.
    asked: Vec<Asked>,
    /// What the underlay offers; asked for once the overlay stands.
    offer: Option<ZeroCopyOffer>,
    userspace: Seat,
    inkernel: Seat,
    /// Whether the overlay stands, so that an engine has something to fly over.
    built: bool,
    switches: Vec<(Instant, String)>,
    /// Who watches the frames.
    captures: Vec<Arc<Capture>>,
    switched: u64,
    shown: Arc<RwLock<Arc<Shown>>>,
}

impl Shown {
    fn mode(&self) -> &'static str {
        match self.overlays.iter().filter(|overlay| overlay.mode == Mode::Xdp).count() {
            0 => "kernel",
            xdp if xdp == self.overlays.len() => "xdp",
            _ => "mixed",
        }
    }
}

/// What is asked for in one overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    mode: Mode,
    engine: config::Engine,
}

/// The place of the engine of one kind.
#[derive(Debug)]
struct Seat {
    kind: Kind,
    engine: Option<Engine>,
    /// With which it was started.
    parts: Vec<Part>,
    trouble: Option<String>,
    pause: Duration,
    retry: Instant,
}

impl Seat {
    fn new(kind: Kind) -> Self {
        let (pause, retry) = (FIRST_PAUSE, Instant::now());
        Self { kind, engine: None, parts: Vec::new(), trouble: None, pause, retry }
    }

    /// Takes note of an engine that has ended by itself; the words for it.
    fn bury(&mut self) -> Option<String> {
        let end = self.engine.as_ref().and_then(|engine| engine.end().borrow().clone())?;
        self.engine = None;
        let why = match end {
            End::Lost(why) => why,
            End::Stopped => "the engine was stopped".to_owned(),
        };
        self.fail(why.clone());
        Some(why)
    }

    fn fail(&mut self, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!("no xdp mode, the kernel carries everything: {why}");
        }
        self.trouble = Some(why);
        self.retry = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }

    /// Whether the overlays are shared out as they were when the engine was started.
    fn has_same_part(&self, parts: &[Part]) -> bool {
        let owns = |part: &Part| *part != Part::None;
        self.parts.iter().map(owns).eq(parts.iter().map(owns))
    }
}

impl Pilot {
    /// A pilot on the ground.
    pub fn new(host: Netns, config: Arc<Config>) -> Self {
        let asked = asked(&config);
        let shown = Arc::new(RwLock::new(Arc::new(Shown {
            config: Arc::clone(&config),
            overlays: Vec::new(),
            trouble: None,
            switches: Vec::new(),
            switched: 0,
            engines: Vec::new(),
        })));
        let inner = Inner {
            config,
            asked,
            offer: None,
            userspace: Seat::new(Kind::Userspace),
            inkernel: Seat::new(Kind::InKernel),
            built: false,
            switches: Vec::new(),
            captures: Vec::new(),
            switched: 0,
            shown: Arc::clone(&shown),
        };
        inner.show();
        Self { host, inner: Mutex::new(inner), shown }
    }

    /// Before the overlay is looked at: an engine over a namespace that was deleted would keep it, its
    /// devices and its UDP ports alive.
    pub async fn make_way(&self) {
        let mut inner = self.inner.lock().await;
        for engine in inner.seats().into_iter().filter_map(|seat| seat.engine.as_ref()) {
            engine.look().await;
        }
        inner.bury();
    }

    /// After the overlay was built as `config` says.
    pub async fn built(&self, config: &Arc<Config>) {
        let mut inner = self.inner.lock().await;
        if inner.config != *config {
            inner.land_all("the configuration changed").await;
            inner.asked = asked(config);
            inner.config = Arc::clone(config);
            inner.offer = None;
        }
        if !inner.built {
            inner.built = true;
            inner.hurry();
        }
        inner.tend(&self.host).await;
    }

    /// Once in a while: notices the end of an engine and starts another one.
    pub async fn tend(&self) {
        self.inner.lock().await.tend(&self.host).await;
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
        let mut inner = self.inner.lock().await;
        let before = inner.asked.clone();
        let config = Arc::clone(&inner.config);
        let meant = |overlay: &Overlay| vni.is_none_or(|vni| overlay.vni.get() == vni);
        if let (Some(vni), false) = (vni, config.overlays.iter().any(meant)) {
            return Err(format!("no overlay has VNI {vni}"));
        }
        for (asked, overlay) in inner.asked.iter_mut().zip(&config.overlays) {
            if meant(overlay) {
                *asked = Asked { mode, engine: engine.unwrap_or(asked.engine) };
            }
        }
        inner.hurry();
        inner.tend(&self.host).await;
        match inner.missing() {
            Some(trouble) if mode == Mode::Xdp => {
                inner.asked = before;
                inner.tend(&self.host).await;
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
        let mut inner = self.inner.lock().await;
        if inner.captures.len() >= CAPTURES {
            return Err(format!("{CAPTURES} captures are running; end one of them first"));
        }
        inner.captures.push(capture);
        inner.tap().await;
        Ok(())
    }

    /// Shows no more frames to this capture.
    pub async fn unwatch(&self, capture: &Arc<Capture>) {
        let mut inner = self.inner.lock().await;
        inner.captures.retain(|other| !Arc::ptr_eq(other, capture));
        inner.tap().await;
    }

    /// Why a mode that was asked for by name is not there.
    pub async fn refused(&self) -> Option<String> {
        self.inner.lock().await.missing()
    }

    /// What carries known unicast: `kernel`, `xdp`, or `mixed` where overlays differ.
    pub fn mode(&self) -> String {
        self.shown().mode().to_owned()
    }

    /// How things are. Takes some system calls, and waits neither for an engine nor for a switch under way.
    pub fn report(&self) -> ModeReport {
        let shown = self.shown();
        let reports = shown.engines.iter().filter_map(Counters::read);
        let switch =
            |(at, what): &(Instant, String)| Switch { age_s: at.elapsed().as_secs(), what: what.clone() };
        ModeReport {
            mode: shown.mode().to_owned(),
            trouble: shown.trouble.clone(),
            switched: shown.switched,
            switches: shown.switches.iter().rev().map(switch).collect(),
            engine: reports.reduce(EngineReport::join),
            overlays: shown.overlays.clone(),
        }
    }

    /// What the engines have carried of each overlay so far.
    pub fn carried(&self) -> Vec<OverlayCount> {
        self.shown().engines.iter().flat_map(Counters::overlays).collect()
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
        let mut inner = self.inner.lock().await;
        inner.built = false;
        inner.land_all("the daemon stops").await;
        let socket = &inner.config.control.socket;
        let root = bpffs_root(socket);
        BpfFs::release(&root).unwrap_or_else(|error| not_unmounted(&root, &error));
        if !root.exists() {
            nic::restore_left(&self.host, socket).await;
        }
        remove_devices(&self.host, socket).await;
    }
}

/// Removes what the engines of the daemon at `socket` have left on the host, or those of one that was killed.
pub async fn clear(host: &Netns, socket: &Path) {
    let root = bpffs_root(socket);
    BpfFs::remove(&root).unwrap_or_else(|error| not_unmounted(&root, &error));
    nic::restore_left(host, socket).await;
    remove_devices(host, socket).await;
}

async fn remove_devices(host: &Netns, socket: &Path) {
    if let Err(error) = Engine::remove_devices(host, socket).await {
        tracing::warn!("{}", chain(&error));
    }
}

fn not_unmounted(root: &Path, error: &std::io::Error) {
    tracing::warn!("cannot unmount {}: {error}", root.display());
}

impl Inner {
    /// Lets readers see how things are.
    fn show(&self) {
        let engines = [&self.userspace, &self.inkernel].into_iter();
        let shown = Shown {
            config: Arc::clone(&self.config),
            overlays: self.overlays(),
            trouble: self.trouble(),
            switches: self.switches.clone(),
            switched: self.switched,
            engines: engines.filter_map(|seat| seat.engine.as_ref()).map(Engine::counters).collect(),
        };
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
    }

    fn seats(&mut self) -> [&mut Seat; 2] {
        [&mut self.userspace, &mut self.inkernel]
    }

    fn seat(&self, kind: Kind) -> &Seat {
        match kind {
            Kind::Userspace => &self.userspace,
            Kind::InKernel => &self.inkernel,
        }
    }

    fn seat_mut(&mut self, kind: Kind) -> &mut Seat {
        match kind {
            Kind::Userspace => &mut self.userspace,
            Kind::InKernel => &mut self.inkernel,
        }
    }

    /// Tells the engines who watches.
    async fn tap(&mut self) {
        let captures = self.captures.clone();
        for engine in self.seats().into_iter().filter_map(|seat| seat.engine.as_ref()) {
            engine.tap(captures.clone()).await;
        }
    }

    /// The engine of an overlay, and why where that was left open.
    fn choice(&self, overlay: &Overlay, asked: Asked) -> (Kind, Option<&'static str>) {
        match asked.engine {
            config::Engine::Userspace => (Kind::Userspace, None),
            config::Engine::InKernel => (Kind::InKernel, None),
            config::Engine::Auto => {
                let offer = self.offer.unwrap_or(ZeroCopyOffer::Untold);
                let (kind, why) = regime::choose(&self.config, overlay, offer);
                (kind, Some(why))
            }
        }
    }

    /// What each overlay is to the engine of `kind`.
    fn parts(&self, kind: Kind) -> Vec<Part> {
        let part =
            |(overlay, asked): (&Overlay, &Asked)| match (self.choice(overlay, *asked).0 == kind, asked.mode)
            {
                (false, _) => Part::None,
                (true, Mode::Kernel) => Part::Idle,
                (true, _) => Part::Carried,
            };
        self.config.overlays.iter().zip(&self.asked).map(part).collect()
    }

    fn overlays(&self) -> Vec<OverlayMode> {
        let overlay = |(overlay, &asked): (&Overlay, &Asked)| {
            let (engine, why) = self.choice(overlay, asked);
            let flies = self.seat(engine).engine.is_some() && asked.mode != Mode::Kernel;
            OverlayMode {
                vni: overlay.vni.get(),
                port: overlay.port,
                asked: asked.mode,
                mode: if flies { Mode::Xdp } else { Mode::Kernel },
                asked_engine: asked.engine,
                engine,
                why: why.map(str::to_owned),
            }
        };
        self.config.overlays.iter().zip(&self.asked).map(overlay).collect()
    }

    /// Why an overlay that was asked into xdp mode by name is not there.
    fn missing(&self) -> Option<String> {
        let missing = |overlay: &OverlayMode| overlay.asked == Mode::Xdp && overlay.mode != Mode::Xdp;
        let overlay = self.overlays().into_iter().find(missing)?;
        self.seat(overlay.engine).trouble.clone()
    }

    fn trouble(&self) -> Option<String> {
        self.userspace.trouble.clone().or_else(|| self.inkernel.trouble.clone())
    }

    /// What failed before is tried again now.
    fn hurry(&mut self) {
        self.seats().into_iter().for_each(|seat| seat.retry = Instant::now());
    }

    async fn tend(&mut self, host: &Netns) {
        self.bury();
        if self.built && self.offer.is_none() {
            self.offer = Some(regime::zero_copy_offer(host, self.config.underlay.device.as_str()).await);
        }
        // A device takes one XDP program, so there the old engine lets go first and the kernel carries in between.
        if self.config.dataplane.hook == config::Hook::Xdp {
            for kind in [Kind::InKernel, Kind::Userspace] {
                self.land_if_idle(kind).await;
            }
        }
        // Otherwise an overlay that changes its engine is taken over by the new one before the old one lets go.
        for kind in [Kind::InKernel, Kind::Userspace] {
            self.take_off_if_wanted(host, kind).await;
        }
        for kind in [Kind::InKernel, Kind::Userspace] {
            self.land_if_idle(kind).await;
        }
        self.show();
    }

    async fn take_off_if_wanted(&mut self, host: &Netns, kind: Kind) {
        let parts = self.parts(kind);
        if !parts.contains(&Part::Carried) {
            return;
        }
        if self.seat(kind).engine.is_some() && !self.seat(kind).has_same_part(&parts) {
            self.land(kind, "overlays change their engine").await;
        }
        let seat = self.seat(kind);
        match &seat.engine {
            Some(engine) => {
                for (overlay, part) in (0..).map(OverlayId::new).zip(&parts) {
                    engine.set_overlay(overlay, *part == Part::Carried).await;
                }
            }
            None if self.built && Instant::now() >= seat.retry => self.take_off(host, kind, parts).await,
            None => {}
        }
    }

    async fn land_if_idle(&mut self, kind: Kind) {
        let parts = self.parts(kind);
        if parts.contains(&Part::Carried) {
            return;
        }
        let why = if parts.contains(&Part::Idle) { "kernel mode was asked for" } else { OTHER_ENGINE };
        self.land(kind, why).await;
        self.seat_mut(kind).trouble = None;
    }

    async fn take_off(&mut self, host: &Netns, kind: Kind, parts: Vec<Part>) {
        match Engine::start(Arc::clone(&self.config), host.clone(), kind, parts.clone()).await {
            Ok(engine) => {
                engine.tap(self.captures.clone()).await;
                let seat = self.seat_mut(kind);
                (seat.engine, seat.parts) = (Some(engine), parts);
                seat.trouble = None;
                seat.pause = FIRST_PAUSE;
                self.note(format!("xdp mode took over from the kernel ({} engine)", kind.as_str()));
            }
            Err(error) => self.seat_mut(kind).fail(chain(&error)),
        }
    }

    async fn land_all(&mut self, why: &str) {
        for kind in [Kind::InKernel, Kind::Userspace] {
            self.land(kind, why).await;
        }
        self.show();
    }

    async fn land(&mut self, kind: Kind, why: &str) {
        if let Some(engine) = self.seat_mut(kind).engine.take() {
            engine.stop().await;
            // Another engine is at work already when overlays change to it.
            let heir = if why == OTHER_ENGINE { "another engine" } else { "the kernel" };
            self.note(format!("{heir} took over from the {} engine: {why}", kind.as_str()));
        }
    }

    /// Takes note of engines that have ended by themselves.
    fn bury(&mut self) {
        let ended: Vec<(Kind, String)> =
            self.seats().into_iter().filter_map(|seat| seat.bury().map(|why| (seat.kind, why))).collect();
        for (kind, why) in ended {
            self.note(format!("the kernel took over from the {} engine: {why}", kind.as_str()));
        }
    }

    fn note(&mut self, what: String) {
        tracing::info!("{what}");
        self.switched += 1;
        self.switches.push((Instant::now(), what));
        if self.switches.len() > REMEMBERED {
            self.switches.remove(0);
        }
        self.show();
    }
}

fn asked(config: &Config) -> Vec<Asked> {
    let asked = |overlay: &Overlay| Asked {
        mode: overlay.mode.unwrap_or(config.dataplane.mode),
        engine: overlay.engine.unwrap_or(config.dataplane.engine),
    };
    config.overlays.iter().map(asked).collect()
}
