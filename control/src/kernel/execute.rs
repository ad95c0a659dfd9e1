//! Carrying one step out: the netlink messages that say it.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use nix::errno::Errno;
use rtnetlink::Handle;
use tokio::time::{Instant, sleep};

use super::desired::Row;
use super::message;
use super::namespace;
use super::netlink::{Asked, Refusal, ask, send};
use super::observe::read_link;
use super::observed::Observed;
use super::place::{LinkAt, Place};
use super::step::Step;
use super::vxlan::{Field, Vxlan};
use crate::netns::Netns;

/// How long a vxlan device's VNI and port may still be held by a predecessor: removing a namespace
/// returns at once, its devices go some 100 ms later. Less and `down` followed by `run` fails now and
/// then; more only delays the message when somebody else really holds them.
const PREDECESSOR: Duration = Duration::from_secs(3);

/// How long a port that was set up may take until it carries frames. A busy kernel takes some 100 ms; a veth
/// whose other end somebody has set down in between never does, and must not keep the rest waiting.
const CARRIER: Duration = Duration::from_secs(2);

/// Pause between two looks at a port that does not carry frames yet.
const LOOK: Duration = Duration::from_millis(2);

/// Carries steps out. Connections live as long as this value, which must be short: each keeps its
/// namespace alive, and with it the devices in there.
pub(super) struct Executor {
    host: Netns,
    open: BTreeMap<Place, (Netns, Handle)>,
    indices: HashMap<LinkAt, u32>,
}

impl Executor {
    pub(super) fn new(host: Netns, observed: &Observed) -> Self {
        let links = observed.spaces.iter().flat_map(|(place, space)| {
            space.links.iter().map(|(name, link)| (LinkAt::new(place, name), link.index))
        });
        Self { host, open: BTreeMap::new(), indices: links.collect() }
    }

    /// Does the step. What is there already and what is gone already are successes.
    pub(super) async fn perform(&mut self, step: &Step) -> Result<(), Refusal> {
        for made in step.made() {
            self.indices.remove(made);
        }
        match step {
            Step::CreateNetns { name } => Ok(namespace::create(name)?),
            Step::RemoveNetns { name } => {
                self.open.remove(&Place::Named(name.clone()));
                gone_is_fine(namespace::remove(name).map_err(Refusal::from))
            }
            Step::CreateBridge { at, mtu } => {
                let link = message::new_link(&at.name, *mtu, InfoKind::Bridge, None);
                self.create(&at.place, link).await
            }
            Step::CreateVxlan { at, vxlan, mtu } => self.create_vxlan(at, vxlan, *mtu).await,
            Step::CreateVeth { at, inside, mac, mtu, queues } => {
                let container = self.space(&inside.place)?.0.as_fd().as_raw_fd();
                let queues = u32::from(*queues);
                let mut peer = message::named_link(&inside.name, *mtu, queues);
                peer.attributes.push(LinkAttribute::NetNsFd(container));
                peer.attributes.push(LinkAttribute::Address(mac.octets().to_vec()));
                let data = InfoData::Veth(InfoVeth::Peer(peer));
                let mut link = message::new_link(&at.name, *mtu, InfoKind::Veth, Some(data));
                link.attributes.push(LinkAttribute::NumTxQueues(queues));
                link.attributes.push(LinkAttribute::NumRxQueues(queues));
                self.create(&at.place, link).await
            }
            Step::ChangeVxlan { at, fields, to, .. } => self.change_vxlan(at, to, fields).await,
            Step::RemoveLink { at, .. } => self.remove(at).await,
            Step::SetMtu { at, to, .. } => self.set(at, [LinkAttribute::Mtu(*to)]).await,
            Step::SetMac { at, to, .. } => self.set(at, [LinkAttribute::Address(to.octets().to_vec())]).await,
            Step::Enslave { at, bridge, .. } => {
                let bridge = self.index(&LinkAt::new(&at.place, bridge)).await?;
                self.set(at, [LinkAttribute::Controller(bridge)]).await
            }
            Step::SetUp { at } => self.set(at, []).await,
            Step::AddAddress { at, address } => self.address(at, *address, Presence::There).await,
            Step::RemoveAddress { at, address } => self.address(at, *address, Presence::Gone).await,
            Step::AddRow { .. } | Step::RemoveRow { .. } => {
                let outcomes = self.perform_rows(std::slice::from_ref(step)).await;
                outcomes.into_iter().collect()
            }
        }
    }

    /// Does a batch of row steps: sends all, then collects the answers, one for each.
    pub(super) async fn perform_rows(&mut self, steps: &[Step]) -> Vec<Result<(), Refusal>> {
        let mut asked = Vec::with_capacity(steps.len());
        for step in steps {
            asked.push(self.send_row(step).await);
        }
        let mut outcomes = Vec::with_capacity(steps.len());
        for (step, asked) in steps.iter().zip(asked) {
            let answer = match asked {
                Ok(asked) => asked.answer().await.map(drop),
                Err(refusal) => Err(refusal),
            };
            outcomes.push(match step {
                Step::AddRow { .. } => there_is_fine(answer),
                _ => gone_is_fine(answer),
            });
        }
        outcomes
    }

    async fn send_row(&mut self, step: &Step) -> Result<Asked, Refusal> {
        let (Step::AddRow { at, tunnel, row, .. } | Step::RemoveRow { at, tunnel, row }) = step else {
            return Err(Errno::EINVAL.into());
        };
        let index = self.index(at).await?;
        let handle = &mut self.space(&at.place)?.1;
        let message = message::row(index, row, *tunnel);
        match (step, row) {
            // The all-zero row has a list of VTEPs; all others have one value, which is replaced.
            (Step::AddRow { .. }, Row::Flood { .. }) => {
                send(handle, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_APPEND)
            }
            (Step::AddRow { .. }, _) => {
                send(handle, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            }
            _ => send(handle, RouteNetlinkMessage::DelNeighbour(message), 0),
        }
    }

    async fn create(&mut self, place: &Place, link: LinkMessage) -> Result<(), Refusal> {
        let handle = &mut self.space(place)?.1;
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        ask(handle, RouteNetlinkMessage::NewLink(link), flags).await.map(drop)
    }

    /// One request from the host's namespace with the overlay's as destination: the kernel keeps the UDP
    /// socket in the sender's namespace (`vxlan_newlink`), and no half-named device shows up in between.
    async fn create_vxlan(&mut self, at: &LinkAt, vxlan: &Vxlan, mtu: u32) -> Result<(), Refusal> {
        let overlay = self.space(&at.place)?.0.as_fd().as_raw_fd();
        let data = InfoData::Vxlan(vxlan.info());
        let mut link = message::new_link(&at.name, mtu, InfoKind::Vxlan, Some(data));
        link.attributes.push(LinkAttribute::NetNsFd(overlay));
        let mut handle = self.host.netlink()?;
        let patience = Instant::now() + PREDECESSOR;
        loop {
            let request = RouteNetlinkMessage::NewLink(link.clone());
            match ask(&mut handle, request, NLM_F_CREATE | NLM_F_EXCL).await {
                Err(refusal) if refusal.is(Errno::EEXIST) && Instant::now() < patience => {
                    sleep(Duration::from_millis(20)).await;
                }
                outcome => return outcome.map(drop),
            };
        }
    }

    async fn change_vxlan(&mut self, at: &LinkAt, to: &Vxlan, fields: &[Field]) -> Result<(), Refusal> {
        let data = InfoData::Vxlan(to.changes(fields));
        let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(data)]);
        self.set(at, [info]).await
    }

    async fn remove(&mut self, at: &LinkAt) -> Result<(), Refusal> {
        let outcome = match self.index(at).await {
            Ok(index) => {
                let mut link = LinkMessage::default();
                link.header.index = index;
                let handle = &mut self.space(&at.place)?.1;
                ask(handle, RouteNetlinkMessage::DelLink(link), 0).await.map(drop)
            }
            Err(refusal) => Err(refusal),
        };
        self.indices.remove(at);
        gone_is_fine(outcome)
    }

    /// Changes attributes of a device; with none, sets it up.
    async fn set<const N: usize>(
        &mut self,
        at: &LinkAt,
        attributes: [LinkAttribute; N],
    ) -> Result<(), Refusal> {
        let mut link = LinkMessage::default();
        link.header.index = self.index(at).await?;
        if N == 0 {
            link.header.flags = LinkFlags::Up;
            link.header.change_mask = LinkFlags::Up;
        }
        link.attributes = attributes.into();
        let handle = &mut self.space(&at.place)?.1;
        // RTM_NEWLINK without NLM_F_CREATE changes; unlike RTM_SETLINK it passes driver data on.
        ask(handle, RouteNetlinkMessage::NewLink(link), 0).await.map(drop)
    }

    /// Waits until the veths that `steps` have set up carry frames.
    ///
    /// Setting both ends up only queues the news of their carrier (`linkwatch_fire_event`,
    /// net/core/link_watch.c); until the kernel has worked that off, the end on the bridge is a disabled port
    /// and frames for the container are dropped without a word. Being asked about a single device, kernels
    /// from 6.8 on do it at once.
    pub(super) async fn wait_for_carriers(&mut self, steps: &[Step]) {
        let deadline = Instant::now() + CARRIER;
        for step in steps {
            let Step::SetUp { at } = step else { continue };
            while self.lacks_carrier(at).await && Instant::now() < deadline {
                sleep(LOOK).await;
            }
        }
    }

    /// Whether the device is a veth that is not ready to carry frames. One that cannot be asked has gone.
    async fn lacks_carrier(&mut self, at: &LinkAt) -> bool {
        let Ok(index) = self.index(at).await else { return false };
        let Ok((_, handle)) = self.space(&at.place) else { return false };
        let mut link = LinkMessage::default();
        link.header.index = index;
        let Ok(Some(RouteNetlinkMessage::NewLink(link))) =
            ask(handle, RouteNetlinkMessage::GetLink(link), 0).await
        else {
            return false;
        };
        let is_veth = link.attributes.iter().any(|attribute| match attribute {
            LinkAttribute::LinkInfo(info) => info.contains(&LinkInfo::Kind(InfoKind::Veth)),
            _ => false,
        });
        is_veth && !link.attributes.contains(&LinkAttribute::OperState(State::Up))
    }

    async fn address(&mut self, at: &LinkAt, address: IpNet, presence: Presence) -> Result<(), Refusal> {
        let index = self.index(at).await?;
        let message = message::address(index, address);
        let handle = &mut self.space(&at.place)?.1;
        match presence {
            Presence::There => {
                let request = RouteNetlinkMessage::NewAddress(message);
                there_is_fine(ask(handle, request, NLM_F_CREATE | NLM_F_EXCL).await.map(drop))
            }
            Presence::Gone => {
                let request = RouteNetlinkMessage::DelAddress(message);
                gone_is_fine(ask(handle, request, 0).await.map(drop))
            }
        }
    }

    /// Index of a device, asked for once.
    pub(super) async fn index(&mut self, at: &LinkAt) -> Result<u32, Refusal> {
        if let Some(index) = self.indices.get(at) {
            return Ok(*index);
        }
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(at.name.clone()));
        let handle = &mut self.space(&at.place)?.1;
        let answer = ask(handle, RouteNetlinkMessage::GetLink(link), 0).await?;
        let Some(RouteNetlinkMessage::NewLink(answer)) = answer else { return Err(Errno::ENODEV.into()) };
        let (_, link) = read_link(answer).ok_or(Errno::ENODEV)?;
        self.indices.insert(at.clone(), link.index);
        Ok(link.index)
    }

    /// Identity of a namespace.
    pub(super) fn inode(&mut self, place: &Place) -> Result<u64, Refusal> {
        Ok(self.space(place)?.0.inode())
    }

    fn space(&mut self, place: &Place) -> Result<&mut (Netns, Handle), Refusal> {
        if !self.open.contains_key(place) {
            let netns = place.open()?.ok_or(Errno::ENOENT)?;
            let handle = netns.netlink()?;
            self.open.insert(place.clone(), (netns, handle));
        }
        Ok(self.open.get_mut(place).expect("inserted above"))
    }
}

enum Presence {
    There,
    Gone,
}

fn there_is_fine(outcome: Result<(), Refusal>) -> Result<(), Refusal> {
    outcome.or_else(|refusal| if refusal.is(Errno::EEXIST) { Ok(()) } else { Err(refusal) })
}

fn gone_is_fine(outcome: Result<(), Refusal>) -> Result<(), Refusal> {
    // EADDRNOTAVAIL is what removing an address answers when it is not there.
    let gone = [Errno::ENOENT, Errno::ENODEV, Errno::ESRCH, Errno::EADDRNOTAVAIL];
    outcome.or_else(|refusal| if gone.iter().any(|errno| refusal.is(*errno)) { Ok(()) } else { Err(refusal) })
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno: errno as i32, words: None }
    }
}
