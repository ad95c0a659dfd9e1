//! Follows the kernel: notifications and dumps of all namespaces in, facts for the fast path out.
//!
//! One task owns the [`Mirror`]. It subscribes before it reads, so nothing falls between the two; after an
//! overflow it reads again, and now and then it does so unasked (`audit`). It goes on following while it reads.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use vxdp_dataplane::OverlayId;

use super::audit::{Audit, Rhythm};
use super::fact::{Ask, Fact, FollowCounters, Source, UnderlayLink};
use super::fdb::{Fdb, Limits};
use super::link::{addresses_of, find_underlay, name_of};
use super::message::Row;
use super::nexthop::Route;
use super::query;
use super::readings::Readings;
use super::state::Mirror;
use super::work::Work;
use crate::netns::Netns;
use crate::watch::{Notice, Watch};

/// MACs mirrored per overlay; more stay with the kernel.
///
/// Two million rows take about 200 MiB here and as much in the tables: the stated one million fit with room.
/// 16,384 learned ones are twice what Open vSwitch learns on a bridge by default: more stations than a segment
/// without a control plane has, and no more than one shall cost us who makes addresses up. The kernel goes on
/// carrying those beyond.
pub(super) const LIMITS: Limits = Limits { macs: 2 << 20, learned: 1 << 14 };

/// Notices that wait between a watch and the follower. Few on purpose: the kernel's buffer is the queue.
const NOTICES: usize = 16;

/// Notices handled before the facts are given out. More coalesces storms better and delays the first.
const BURST: usize = 1024;

pub(super) struct Namespace {
    pub(super) handle: Handle,
    pub(super) overlays: Vec<OverlayId>,
    /// Devices of our names, as the last dump found them.
    pub(super) devices: HashMap<String, u32>,
}

/// Which watch a notice came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Host,
    Overlay(usize),
}

/// The follower's task.
pub struct Follower {
    pub(super) sources: Vec<Source>,
    pub(super) underlay_name: String,
    pub(super) underlay: Option<UnderlayLink>,
    pub(super) local: IpAddr,
    pub(super) host: Handle,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) mirror: Mirror,
    notices: mpsc::Receiver<(From, io::Result<Notice>)>,
    pub(super) kept: BTreeSet<IpAddr>,
    pub(super) counters: Arc<FollowCounters>,
    pub(super) audit: Audit,
    pub(super) readings: Readings,
    _watches: JoinSet<()>,
}

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Follower {
    /// Subscribes in the host's and every overlay's namespace; `local` is our VTEP address, and `buffer` the bytes of
    /// notifications that may wait for us in each of the latter.
    pub async fn open(
        host: &Netns,
        underlay: &str,
        local: IpAddr,
        sources: Vec<Source>,
        buffer: usize,
    ) -> Result<Self, Failure> {
        let (sender, notices) = mpsc::channel(NOTICES);
        let mut watches = JoinSet::new();
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
            // With `nexthop_compat_mode` off the routes that name an object are not told of when it changes.
            MulticastGroup::Nexthop,
        ];
        watches.spawn(forward(Watch::open(host, &groups)?, From::Host, sender.clone()));
        let mut inodes = Vec::new();
        let mut namespaces: Vec<Namespace> = Vec::new();
        for (overlay, source) in (0..).map(OverlayId::new).zip(&sources) {
            if let Some(known) = inodes.iter().position(|inode| *inode == source.netns.inode()) {
                namespaces[known].overlays.push(overlay);
                continue;
            }
            let watch = Watch::open(&source.netns, &[MulticastGroup::Link, MulticastGroup::Neigh])?;
            let watch = watch.with_buffer(buffer);
            watches.spawn(forward(watch, From::Overlay(namespaces.len()), sender.clone()));
            inodes.push(source.netns.inode());
            let handle = source.netns.netlink()?;
            namespaces.push(Namespace { handle, overlays: vec![overlay], devices: HashMap::new() });
        }
        let host = host.netlink()?;
        let underlay_link = find_underlay(&host, underlay, local).await?;
        let empty = sources.iter().map(|source| empty_fdb(source, 0)).collect();
        let device = underlay_link.map_or(0, |link| link.device);
        Ok(Self {
            sources,
            underlay_name: underlay.to_owned(),
            underlay: underlay_link,
            local,
            host,
            namespaces,
            mirror: Mirror::new(device, empty, LIMITS),
            notices,
            kept: BTreeSet::new(),
            counters: Arc::default(),
            audit: Audit::new(Rhythm::default()),
            readings: Readings::default(),
            _watches: watches,
        })
    }

    /// The same with audits in this rhythm.
    pub fn audited_every(mut self, rhythm: Rhythm) -> Self {
        self.audit = Audit::new(rhythm);
        self
    }

    /// Its counters, for whoever wants to read them while it runs.
    pub fn counters(&self) -> Arc<FollowCounters> {
        Arc::clone(&self.counters)
    }

    /// Follows until `asks` closes. The first facts are of the devices; what is in their tables comes when it has
    /// been read, up to [`Fact::CaughtUp`].
    pub async fn run(mut self, mut asks: mpsc::Receiver<Ask>, facts: mpsc::Sender<Vec<Fact>>) {
        let end = self.follow(&mut asks, &facts).await;
        self.readings.end().await;
        self.release_next_hops(&BTreeSet::new()).await;
        if let Err(failure) = end {
            let _ = facts.send(vec![Fact::Lost(failure.to_string())]).await;
        }
    }

    async fn follow(
        &mut self,
        asks: &mut mpsc::Receiver<Ask>,
        facts: &mpsc::Sender<Vec<Fact>>,
    ) -> Result<(), Failure> {
        let mut out = vec![Fact::Underlay(self.underlay)];
        let lost = (0..self.namespaces.len()).collect();
        self.settle(Work { host: true, routes: true, lost, ..Work::default() }, &mut out).await?;
        loop {
            // What is known already is told first.
            if out.is_empty() {
                self.go_on_reading(&mut out).await?;
                self.end_audit();
                self.keep_next_hops().await;
            }
            tokio::select! {
                // Asks are heard while facts wait for room: whoever takes the facts may be waiting for an answer.
                // Notices are not, so that the kernel's buffer stays the queue.
                room = facts.reserve(), if !out.is_empty() => {
                    let Ok(room) = room else { return Ok(()) };
                    room.send(std::mem::take(&mut out));
                }
                notice = self.notices.recv(), if out.is_empty() => {
                    let Some(notice) = notice else { return Err("every watch has ended".into()) };
                    self.burst(notice, &mut out).await?;
                }
                ask = asks.recv() => {
                    let Some(ask) = ask else { return Ok(()) };
                    self.ask(ask, &mut out).await?;
                }
                () = tokio::time::sleep_until(self.audit.at), if out.is_empty() && self.readings.is_idle() => {
                    self.begin_audit(&mut out).await?;
                }
                // Beside the notices, of which there may be many while a large table is read.
                piece = self.readings.next(), if out.is_empty() => {
                    if let Some(piece) = piece? {
                        self.take_piece(piece, &mut out).await?;
                    }
                }
            }
        }
    }

    /// Handles a notice and those that wait behind it.
    async fn burst(&mut self, first: (From, io::Result<Notice>), out: &mut Vec<Fact>) -> Result<(), Failure> {
        let mut work = Work::default();
        let mut next = Some(first);
        let mut handled = 0;
        while let Some((from, notice)) = next {
            if let From::Overlay(namespace) = from {
                self.readings.heard(namespace);
            }
            match notice? {
                Notice::Messages(messages) => {
                    self.counters.events.fetch_add(messages.len() as u64, Relaxed);
                    for message in &messages {
                        self.message(from, message, &mut work);
                    }
                }
                Notice::Unread => {
                    self.counters.events.fetch_add(1, Relaxed);
                    // In the host's namespace it may be about how packets are routed.
                    work.routes |= from == From::Host;
                }
                Notice::Overflow => {
                    self.counters.overflows.fetch_add(1, Relaxed);
                    match from {
                        From::Host => (work.host, work.routes) = (true, true),
                        From::Overlay(namespace) => _ = work.lost.insert(namespace),
                    }
                }
            }
            handled += 1;
            next = if handled < BURST { self.notices.try_recv().ok() } else { None };
        }
        self.settle(work, out).await
    }

    /// Sorts one notification: rows are applied at once, the rest is remembered as work.
    fn message(&mut self, from: From, message: &RouteNetlinkMessage, work: &mut Work) {
        use RouteNetlinkMessage as M;
        match (from, message) {
            (From::Host, M::NewNeighbour(message)) => self.neighbour(message, true, work),
            (From::Host, M::DelNeighbour(message)) => self.neighbour(message, false, work),
            (From::Host, M::NewLink(link) | M::DelLink(link)) => {
                // One that is given another name says so under the new one.
                let is_it = self.underlay.is_some_and(|known| known.device == link.header.index);
                work.host |= is_it || name_of(link) == Some(self.underlay_name.as_str());
                // IPv4 routes go with their device, of which only this tells.
                work.routes |= self.mirror.nexthops().leave_through(link.header.index);
            }
            (From::Host, M::NewAddress(address) | M::DelAddress(address)) => {
                work.host |= addresses_of(address).any(|address| address == self.local);
                work.routes = true;
            }
            (From::Host, _) => work.routes = true,
            (From::Overlay(namespace), M::NewNeighbour(message)) => {
                self.row(namespace, message, true, work);
            }
            (From::Overlay(namespace), M::DelNeighbour(message)) => {
                self.row(namespace, message, false, work);
            }
            (From::Overlay(namespace), M::NewLink(link)) => {
                let (name, index) = (name_of(link).unwrap_or_default(), link.header.index);
                let known = self.namespaces[namespace].devices.get(name) == Some(&index);
                if !known && (self.holds(namespace, index) || self.ours(namespace, name)) {
                    work.devices.insert(namespace);
                }
            }
            (From::Overlay(namespace), M::DelLink(link)) if self.holds(namespace, link.header.index) => {
                work.devices.insert(namespace);
            }
            _ => {}
        }
    }

    fn neighbour(
        &mut self,
        message: &netlink_packet_route::neighbour::NeighbourMessage,
        present: bool,
        work: &mut Work,
    ) {
        if let Some(Row::Neighbour(row)) = Row::read(message) {
            work.take(self.mirror.neighbour(&row, present));
        }
    }

    fn row(
        &mut self,
        namespace: usize,
        message: &netlink_packet_route::neighbour::NeighbourMessage,
        present: bool,
        work: &mut Work,
    ) {
        let Some(row) = Row::read(message) else { return };
        if let Some(overlay) = self.overlay_of(namespace, &row) {
            let effects = self.mirror.row(overlay, &row, present);
            if let Some(reading) = self.readings.of(namespace) {
                reading.told(overlay, &row, present, &self.mirror, LIMITS);
            }
            self.counters.refused.fetch_add(u64::from(effects.refused), Relaxed);
            work.take(effects);
        }
    }

    /// Whether no notice waits.
    pub(super) fn is_calm(&self) -> bool {
        self.notices.is_empty()
    }

    /// Whether a device of ours had this index when we last looked.
    fn holds(&self, namespace: usize, index: u32) -> bool {
        self.namespaces[namespace].devices.values().any(|device| *device == index)
    }

    /// Whether a device of ours has this name.
    pub(super) fn ours(&self, namespace: usize, name: &str) -> bool {
        let overlays = self.namespaces[namespace].overlays.iter();
        let mut sources = overlays.map(|overlay| &self.sources[usize::from(overlay.get())]);
        sources.any(|source| source.names().any(|ours| ours == name))
    }

    pub(super) fn overlay_of(&self, namespace: usize, row: &Row) -> Option<OverlayId> {
        let Namespace { overlays, devices, .. } = &self.namespaces[namespace];
        overlays.iter().copied().find(|overlay| {
            let source = &self.sources[usize::from(overlay.get())];
            match row {
                Row::Bridge(row) => devices.get(&source.bridge) == Some(&row.bridge),
                Row::Tunnel(row) => devices.get(&source.vxlan) == Some(&row.device),
                Row::Neighbour(_) => false,
            }
        })
    }

    /// Does what the notifications asked for: looks, dumps, route lookups. Tables are read later.
    pub(super) async fn settle(&mut self, mut work: Work, out: &mut Vec<Fact>) -> Result<(), Failure> {
        if work.host || work.routes {
            query::happened(&self.host).await?;
        }
        if work.host {
            self.dump_host(&mut work, out).await?;
        }
        let lost = std::mem::take(&mut work.lost);
        for namespace in &std::mem::take(&mut work.devices) | &lost {
            if self.look_at_devices(namespace, &mut work, out).await? {
                self.readings.made_anew(namespace).await;
            } else if lost.contains(&namespace) {
                self.readings.lost(namespace, self.reading_takes(namespace)).await;
            }
        }
        if work.routes {
            work.take(self.mirror.routes_changed());
        }
        let mut asked = BTreeSet::new();
        for vtep in std::mem::take(&mut work.ask_route) {
            if asked.insert(vtep) {
                let route = self.route_to(vtep).await?;
                work.take(self.mirror.routed(vtep, route));
            }
        }
        if !work.changes.is_empty() {
            out.push(Fact::Changes(work.changes));
        }
        Ok(())
    }

    async fn route_to(&self, vtep: IpAddr) -> Result<Option<Route>, Failure> {
        // Only for IPv4 does the kernel mind a source that is not its own.
        let addressed = self.underlay.is_some_and(|link| link.addressed);
        Ok(if addressed { query::route_to(&self.host, self.local, vtep).await? } else { None })
    }

    async fn ask(&mut self, ask: Ask, out: &mut Vec<Fact>) -> Result<(), Failure> {
        let mut work = Work::default();
        match ask {
            Ask::PortUp { overlay, device, port } => work.take(self.mirror.port_up(overlay, device, port)),
            Ask::PortDown { overlay, device } => work.take(self.mirror.port_down(overlay, device)),
            Ask::Used(macs) => self.refresh(macs).await,
        }
        self.settle(work, out).await
    }
}

/// The table of an overlay without a row.
pub(super) fn empty_fdb(source: &Source, vxlan: u32) -> Fdb {
    Fdb::new(source.vni, source.port, vxlan).expecting(&source.macs)
}

async fn forward(mut watch: Watch, from: From, sender: mpsc::Sender<(From, io::Result<Notice>)>) {
    loop {
        let notice = watch.next().await;
        let last = notice.is_err();
        if sender.send((from, notice)).await.is_err() || last {
            return;
        }
    }
}
