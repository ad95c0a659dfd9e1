//! The engine's task: facts of the mirror in, tables out; ports come and go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use vxdp_dataplane::table::{Change as TableChange, Port, Underlay};
use vxdp_dataplane::{OverlayId, PortId};

use super::board::Board;
use super::carrier::Carrier;
use super::compile::{self, MapWrite, Path};
use super::port::ServedPort;
use super::spill::Waiting;
use super::start::QUEUE;
use super::{Command, End, EngineError, settings};
use crate::capture::session::{Capture, TappedPort};
use crate::causes::chain;
use crate::config::{Config, Overlay};
use crate::kernel::desired::UnderlayFacts;
use crate::mirror::fact::{Ask, Fact, Source, UnderlayLink, merged};
use crate::mirror::state::Change;
use crate::netns::Netns;
use crate::xdp::{self, Capacity, Device, Host, PortEntry, Programs};

/// How long frames that the programs have redirected already may be on their way into the rings when the
/// switch is turned off: a program's run and the flush behind it. They are in the same soft interrupt, which a busy
/// machine may stop in between for some time slices: with 5 ms, two of seven runs of the test of switching lost two
/// frames; with 60 ms, none of ten. Too short loses them; longer delays every stop, while the kernel carries.
const SETTLE: Duration = Duration::from_millis(60);

/// How often the namespaces are compared with their names, and the lease of the programs that carry frames by
/// themselves is renewed (`inkernel::LEASE`).
const LOOK: Duration = Duration::from_secs(1);

/// How often ports and rows that take no part are tried again: somebody may have taken another program off the
/// device, or there is room in the tables again.
/// The kernel carries their frames meanwhile, and a try takes a few milliseconds.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// A running engine.
pub(super) struct Live {
    pub(super) config: Arc<Config>,
    pub(super) sources: Vec<Source>,
    /// Which overlays are this engine's, in the order of the configuration.
    pub(super) part: Vec<bool>,
    /// Which of those it carries now.
    pub(super) enabled: Vec<bool>,
    pub(super) programs: Programs,
    pub(super) maps: xdp::Tables,
    /// What does not fit stays with the kernel for as long.
    pub(super) waiting: Waiting,
    pub(super) carrier: Carrier,
    pub(super) board: Arc<Board>,
    pub(super) path: Path,
    /// Longest frame that the workers' memory takes, in bytes, and how old their signs of life may be.
    pub(super) longest: u32,
    pub(super) heartbeat_max_age: Duration,
    pub(super) link: UnderlayLink,
    /// The last word on each VTEP, for when the underlay's MTU changes.
    pub(super) vteps: compile::Vteps,
    pub(super) ports: Vec<ServedPort>,
    /// Where the search for a port's number begins.
    pub(super) next_port: u16,
    /// By device: the last reason that was logged why its port takes no part.
    pub(super) told: HashMap<u32, String>,
    /// Who watches the frames.
    pub(super) captures: Vec<Arc<Capture>>,
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) facts: mpsc::Receiver<Vec<Fact>>,
    pub(super) follower: JoinHandle<()>,
    /// Whether it was said that rows are still being read.
    pub(super) behind: bool,
}

impl Live {
    /// Serves until told to stop, or until it cannot go on; either way everything is taken off.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> End {
        let end = self.serve(&mut commands).await;
        self.stop().await;
        match end {
            Ok(()) => End::Stopped,
            Err(error) => End::Lost(chain(&error)),
        }
    }

    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<(), EngineError> {
        let begun = Instant::now();
        let pause = settings::refresh(&self.config);
        let mut refresh = interval_at(begun + pause, pause);
        // A round that took long must not be made up for by several at once.
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval_at(begun + LOOK, LOOK);
        let mut again = interval_at(begun + TRY_AGAIN, TRY_AGAIN);
        let mut queued = Vec::with_capacity(QUEUE);
        loop {
            tokio::select! {
                // What has queued up is published at once: that takes as long for many changes as for one.
                some = self.facts.recv_many(&mut queued, QUEUE) => {
                    if some == 0 {
                        return Err(EngineError::Lost("the mirror has ended".to_owned()));
                    }
                    for fact in merged(queued.drain(..).flatten()) {
                        self.take(fact).await?;
                    }
                }
                command = commands.recv() => match command {
                    Some(Command::Overlay { overlay, enabled, done }) => {
                        self.set_overlay(overlay, enabled)?;
                        let _ = done.send(());
                    }
                    Some(Command::Look(done)) => {
                        // On an error the sender is dropped, which says that the end is near.
                        self.compare_namespaces()?;
                        let _ = done.send(());
                    }
                    Some(Command::Tap(captures)) => {
                        self.captures = captures;
                        self.tap();
                    }
                    Some(Command::Stop) | None => return Ok(()),
                },
                lost = self.carrier.lost() => return Err(lost),
                _ = refresh.tick() => self.refresh().await?,
                _ = again.tick() => {
                    self.waiting.try_again(&mut self.maps)?;
                    self.board.set_rows(self.maps.rows());
                    self.try_ports_again().await?;
                }
                _ = look.tick() => {
                    self.carrier.tend().await?;
                    self.compare_namespaces()?;
                }
            }
        }
    }

    pub(super) async fn take(&mut self, fact: Fact) -> Result<(), EngineError> {
        match fact {
            Fact::Changes(changes) => self.apply(&changes),
            Fact::CaughtUp => {
                if std::mem::take(&mut self.behind) {
                    tracing::info!("all rows of the overlays have been read");
                }
                Ok(())
            }
            Fact::PortAppeared { overlay, port, device } => self.add_port(overlay, port, device).await,
            Fact::PortVanished { overlay, port, .. } => self.remove_port(overlay, port).await,
            Fact::Underlay(Some(link)) => self.underlay_changed(link),
            Fact::Underlay(None) => {
                let device = &self.config.underlay.device;
                Err(EngineError::Lost(format!("the underlay device `{device}` is gone")))
            }
            Fact::Lost(why) => Err(EngineError::Lost(why)),
        }
    }

    /// Carries changes out in the order that keeps the programs from redirecting what the workers do not know.
    fn apply(&mut self, changes: &[Change]) -> Result<(), EngineError> {
        let compiled = compile::changes(changes, &self.vteps, self.path);
        for change in changes {
            match *change {
                Change::Vtep { id, address, resolution } => {
                    self.vteps.insert(id, (address, resolution));
                }
                Change::VtepGone { id, .. } => drop(self.vteps.remove(&id)),
                Change::Mac { .. } => {}
            }
        }
        self.board.changed(changes);
        // A large table takes a while, and other tasks of this thread should not wait for it.
        block_in_place(|| {
            self.write(&compiled.before)?;
            self.publish(&compiled.tables)?;
            self.write(&compiled.after)?;
            self.board.set_rows(self.maps.rows());
            Ok(())
        })
    }

    pub(super) fn publish(&mut self, changes: &[TableChange]) -> Result<(), EngineError> {
        self.carrier.publish(changes)?;
        self.board.published();
        Ok(())
    }

    fn write(&mut self, writes: &[MapWrite]) -> Result<(), EngineError> {
        for write in writes {
            if !self.waiting.write(&mut self.maps, *write)? {
                self.board.refused();
            }
        }
        Ok(())
    }

    async fn add_port(&mut self, overlay: OverlayId, position: usize, index: u32) -> Result<(), EngineError> {
        if !self.part[usize::from(overlay.get())] {
            return Ok(());
        }
        let Some(id) = self.next_port() else { return Ok(()) };
        let (spec, source) = (self.spec(overlay), &self.sources[usize::from(overlay.get())]);
        let device = Device { netns: source.netns.clone(), index, name: source.ports[position].clone() };
        let port = ServedPort::new(id, overlay, position, device, spec.vni.get());
        self.board.begin_port(id, overlay);
        self.serve_port(port).await
    }

    async fn serve_port(&mut self, mut port: ServedPort) -> Result<(), EngineError> {
        let (id, overlay, index) = (port.id, port.overlay, port.device.index);
        let container = self.spec(overlay).containers[port.position].clone();
        let row = self.table_port(overlay);
        self.carrier.serve(&mut port, &container, row, &self.programs).await?;
        self.board.set_port(id, port.shown());
        self.board.published();
        if !port.serves() {
            // The container may have gone in the meantime; then the next fact says so.
            self.leave_to_the_kernel(port);
            return Ok(());
        }
        self.told.remove(&index);
        self.maps.set_port(id, self.map_port(&port))?;
        self.ask(Ask::PortUp { overlay, device: index, port: id }).await;
        self.ports.push(port);
        self.tap_if_watched();
        Ok(())
    }

    /// Keeps a port that takes no part, and logs why unless that is known.
    fn leave_to_the_kernel(&mut self, port: ServedPort) {
        let why = port.trouble().to_owned();
        if self.told.insert(port.device.index, why.clone()).as_ref() != Some(&why) {
            tracing::warn!(device = port.device.name, "port stays with the kernel: {why}");
        }
        self.ports.push(port);
    }

    /// Each keeps its number, and what reports say of it until it is known how it went.
    async fn try_ports_again(&mut self) -> Result<(), EngineError> {
        let (serving, left) = std::mem::take(&mut self.ports).into_iter().partition(ServedPort::serves);
        self.ports = serving;
        let mut anew = Vec::new();
        for port in left {
            anew.push(port.anew());
            self.carrier.leave(port).await?;
        }
        for port in anew {
            self.serve_port(port).await?;
        }
        Ok(())
    }

    async fn remove_port(&mut self, overlay: OverlayId, position: usize) -> Result<(), EngineError> {
        let is_it = |port: &ServedPort| port.overlay == overlay && port.position == position;
        let Some(found) = self.ports.iter().position(is_it) else { return Ok(()) };
        let port = self.ports.swap_remove(found);
        self.maps.remove_port(port.id)?;
        self.board.published();
        self.tap_if_watched();
        let id = port.id;
        let left = self.carrier.leave(port).await;
        self.board.end_port(id);
        left
    }

    fn tap_if_watched(&self) {
        if !self.captures.is_empty() {
            self.tap();
        }
    }

    /// Tells the carrier who watches which devices.
    fn tap(&self) {
        let serving = self.ports.iter().filter(|port| port.serves());
        let tapped = |port: &ServedPort| TappedPort {
            id: port.id,
            device: port.device.name.clone(),
            vni: self.spec(port.overlay).vni.get(),
        };
        let ports: Vec<_> = serving.map(tapped).collect();
        self.carrier.tap(&self.captures, &ports);
    }

    fn underlay_changed(&mut self, link: UnderlayLink) -> Result<(), EngineError> {
        if link.device != self.link.device {
            let device = &self.config.underlay.device;
            return Err(EngineError::Lost(format!("the underlay device `{device}` was made anew")));
        }
        if link == self.link {
            return Ok(());
        }
        let local = self.config.underlay.local;
        if link.addressed != self.link.addressed {
            let what = if link.addressed { "is" } else { "is not" };
            tracing::warn!("{local} {what} an address of this host: the fast path goes with it");
            self.maps.set_switch(link.addressed)?;
        }
        self.link = link;
        self.path.mtu = link.mtu;
        self.publish(&[TableChange::Underlay(Underlay { local, mac: link.mac })])?;
        self.maps.set_host(self.host())?;
        let vtep = |(&id, &(address, resolution))| Change::Vtep { id, address, resolution };
        let changes: Vec<Change> = self.vteps.iter().map(vtep).collect();
        self.apply(&changes)?;
        self.rewrite_ports()
    }

    /// Turns an overlay's switches.
    fn set_overlay(&mut self, overlay: OverlayId, enabled: bool) -> Result<(), EngineError> {
        let Some(switch) = self.enabled.get_mut(usize::from(overlay.get())) else { return Ok(()) };
        *switch = enabled;
        let (vni, port) = (self.spec(overlay).vni, self.spec(overlay).port);
        self.maps.set_overlay(vni, port, overlay, enabled)?;
        self.rewrite_ports()
    }

    fn rewrite_ports(&mut self) -> Result<(), EngineError> {
        let serving = self.ports.iter().filter(|port| port.serves());
        let rows: Vec<_> =
            serving.map(|port| (port.id, self.table_port(port.overlay), self.map_port(port))).collect();
        for (id, row, entry) in rows {
            self.publish(&[TableChange::Port(id, Some(row))])?;
            self.maps.set_port(id, entry)?;
        }
        Ok(())
    }

    /// Names the rows that traffic has used since the last time, so that they do not age out of the kernel.
    async fn refresh(&mut self) -> Result<(), EngineError> {
        let macs = self.carrier.used(&mut self.maps)?;
        if !macs.is_empty() {
            self.ask(Ask::Used(macs)).await;
        }
        Ok(())
    }

    /// A namespace that was deleted lives on while we are in it, with its devices and its UDP port: a new
    /// overlay could not take their place.
    fn compare_namespaces(&self) -> Result<(), EngineError> {
        for (overlay, source) in self.config.overlays.iter().zip(&self.sources) {
            let name = overlay.netns.as_str();
            if Netns::named(name).ok().as_ref() != Some(&source.netns) {
                return Err(EngineError::Lost(format!("the namespace `{name}` is gone")));
            }
        }
        Ok(())
    }

    /// A follower that has ended says so in its facts.
    async fn ask(&self, ask: Ask) {
        let _ = self.asks.send(ask).await;
    }

    /// Back to the kernel: the switch, the frames under way, the carrier, the next hops.
    pub(super) async fn stop(self) {
        let Self { mut maps, carrier, ports, asks, mut facts, follower, .. } = self;
        let _ = maps.set_switch(false);
        sleep(SETTLE).await;
        carrier.stop(ports).await;
        drop(asks);
        // The follower may be waiting for us to take its last facts.
        while facts.recv().await.is_some() {}
        let _ = follower.await;
    }

    /// What the programs know of this host.
    pub(super) fn host(&self) -> Host {
        Host {
            local: self.config.underlay.local,
            mac: self.link.mac,
            max_frame: self.longest,
            heartbeat_max_age: self.heartbeat_max_age,
            device: self.link.device,
        }
    }

    fn spec(&self, overlay: OverlayId) -> &Overlay {
        &self.config.overlays[usize::from(overlay.get())]
    }

    /// A number for a port, unless all are taken. Numbers go round: rows, and frames on their way, still name one
    /// for a moment after its port has gone, and must not lead to the next container.
    fn next_port(&mut self) -> Option<PortId> {
        let all = u16::try_from(Capacity::default().ports).unwrap_or(u16::MAX);
        let taken = |number: &u16| self.ports.iter().any(|port| port.id.get() == *number);
        let number = (self.next_port..all).chain(0..self.next_port).find(|number| !taken(number))?;
        self.next_port = number + 1;
        Some(PortId::new(number))
    }

    fn underlay(&self) -> UnderlayFacts {
        let UnderlayLink { device, mtu, .. } = self.link;
        UnderlayFacts { ifindex: device, mtu, local: self.config.underlay.local }
    }

    fn table_port(&self, overlay: OverlayId) -> Port {
        let mtu = self.underlay().overlay_mtu(self.spec(overlay));
        Port { overlay, mtu: u16::try_from(mtu).unwrap_or(u16::MAX) }
    }

    fn map_port(&self, port: &ServedPort) -> PortEntry {
        let (overlay, underlay) = (port.overlay, self.underlay());
        let max_frame =
            settings::max_frame(underlay.overlay_mtu(self.spec(overlay)), &underlay, self.longest);
        let enabled = self.enabled[usize::from(overlay.get())];
        PortEntry { overlay, max_frame, enabled, outer: self.carrier.outer(port) }
    }
}

/// The second of the workers' clock, as the tables note it.
pub(super) fn now_seconds() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| u32::try_from(now.tv_sec()).unwrap_or(u32::MAX))
}
