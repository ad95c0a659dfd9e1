//! Who flies: what is asked for, which engine carries it, and every change from one to another.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::time::Instant;
use vxdp_dataplane::OverlayId;

use super::report::{OverlayMode, Shown, add};
use super::seat::{FIRST_PAUSE, Seat};
use crate::capture::session::Capture;
use crate::causes::chain;
use crate::config::{self, Config, Mode, Overlay};
use crate::engine::regime::{self, ZeroCopyOffer};
use crate::engine::{Engine, Kind, OverlayCount, Part};
use crate::netns::Netns;

/// Why an engine ends whose overlays have another one.
const OTHER_ENGINE: &str = "another engine was asked for";

/// Switches that a report remembers.
const REMEMBERED: usize = 10;

/// What only one may change at a time.
#[derive(Debug)]
pub(super) struct Cockpit {
    pub(super) config: Arc<Config>,
    /// What is asked for, by overlay.
    pub(super) asked: Vec<Asked>,
    /// What the underlay offers; asked for once the overlay stands.
    pub(super) offer: Option<ZeroCopyOffer>,
    userspace: Seat,
    inkernel: Seat,
    /// Whether the overlay stands, so that an engine has something to fly over.
    pub(super) built: bool,
    switches: Vec<(Instant, String)>,
    /// Who watches the frames.
    pub(super) captures: Vec<Arc<Capture>>,
    switched: u64,
    /// What engines have carried that are no more.
    landed: Vec<OverlayCount>,
    shown: Arc<RwLock<Arc<Shown>>>,
}

/// What is asked for in one overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) mode: Mode,
    pub(super) engine: config::Engine,
}

impl Cockpit {
    /// Nobody flies. Readers look at what is in the second part.
    pub(super) fn new(config: Arc<Config>) -> (Self, Arc<RwLock<Arc<Shown>>>) {
        let nothing = Shown {
            config: Arc::clone(&config),
            overlays: Vec::new(),
            trouble: None,
            switches: Vec::new(),
            switched: 0,
            engines: Vec::new(),
            landed: Vec::new(),
        };
        let shown = Arc::new(RwLock::new(Arc::new(nothing)));
        let cockpit = Self {
            asked: asked(&config),
            config,
            offer: None,
            userspace: Seat::new(Kind::Userspace),
            inkernel: Seat::new(Kind::InKernel),
            built: false,
            switches: Vec::new(),
            captures: Vec::new(),
            switched: 0,
            landed: Vec::new(),
            shown: Arc::clone(&shown),
        };
        cockpit.show();
        (cockpit, shown)
    }

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
            landed: self.landed.clone(),
        };
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
    }

    pub(super) fn seats(&mut self) -> [&mut Seat; 2] {
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
    pub(super) async fn tap(&mut self) {
        let captures = self.captures.clone();
        for engine in self.seats().into_iter().filter_map(|seat| seat.engine.as_ref()) {
            engine.tap(captures.clone()).await;
        }
    }

    /// The engine of an overlay, and why where that was left open.
    fn choice(&self, overlay: &Overlay, asked: Asked) -> (Kind, Option<&'static str>) {
        let offer = self.offer.unwrap_or(ZeroCopyOffer::Untold);
        regime::engine_of(&self.config, overlay, asked.engine, offer)
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

    /// Why an overlay that was asked into xdp mode by name, of those with this VNI or of all, is not there.
    pub(super) fn missing(&self, vni: Option<u32>) -> Option<String> {
        let missing = |overlay: &OverlayMode| overlay.asked == Mode::Xdp && overlay.mode != Mode::Xdp;
        let meant = |overlay: &OverlayMode| vni.is_none_or(|vni| overlay.vni == vni) && missing(overlay);
        self.overlays()
            .into_iter()
            .filter(meant)
            .find_map(|overlay| self.seat(overlay.engine).trouble.clone())
    }

    fn trouble(&self) -> Option<String> {
        self.userspace.trouble.clone().or_else(|| self.inkernel.trouble.clone())
    }

    /// What failed before is tried again now.
    pub(super) fn hurry(&mut self) {
        self.seats().into_iter().for_each(|seat| seat.retry = Instant::now());
    }

    pub(super) async fn tend(&mut self, host: &Netns) {
        self.bury();
        if self.built && self.offer.is_none() {
            let features = regime::nic_features(host, self.config.underlay.device.as_str()).await;
            self.offer = Some(features.into());
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

    pub(super) async fn land_all(&mut self, why: &str) {
        for kind in [Kind::InKernel, Kind::Userspace] {
            self.land(kind, why).await;
        }
        self.show();
    }

    async fn land(&mut self, kind: Kind, why: &str) {
        if let Some(engine) = self.seat_mut(kind).engine.take() {
            let counters = engine.counters();
            engine.stop().await;
            add(&mut self.landed, counters.overlays());
            // Another engine is at work already when overlays change to it.
            let heir = if why == OTHER_ENGINE { "another engine" } else { "the kernel" };
            self.note(format!("{heir} took over from the {} engine: {why}", kind.as_str()));
        }
    }

    /// Takes note of engines that have ended by themselves.
    pub(super) fn bury(&mut self) {
        let buried = |seat: &mut Seat| {
            let counters = seat.engine.as_ref()?.counters();
            Some((seat.kind, seat.bury()?, counters))
        };
        let ended: Vec<_> = self.seats().into_iter().filter_map(buried).collect();
        for (kind, why, counters) in ended {
            add(&mut self.landed, counters.overlays());
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

/// What the configuration asks for.
pub(super) fn asked(config: &Config) -> Vec<Asked> {
    let asked = |overlay: &Overlay| Asked {
        mode: overlay.mode.unwrap_or(config.dataplane.mode),
        engine: overlay.engine.unwrap_or(config.dataplane.engine),
    };
    config.overlays.iter().map(asked).collect()
}
