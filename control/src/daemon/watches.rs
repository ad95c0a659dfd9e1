//! Listens to the kernel in the host's namespace and in each overlay's, and sums up what it says.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use nix::net::if_::if_nametoindex;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use vxdp_dataplane::wire::MacAddr;

use crate::config::Config;
use crate::mirror::message::Row;
use crate::misses::Missed;
use crate::model::{Event, Noticed};
use crate::netns::Netns;
use crate::segment::Segment;
use crate::watch::{Notice, Only, Watch};

/// Notifications that are summed up in one event.
///
/// More make the reader fall behind the kernel while the model works; fewer cost a wake-up each.
const BATCH: usize = 256;

/// Rest after an error of the socket that is not an overflow, so that a lasting one does not spin.
const REST: Duration = Duration::from_millis(100);

/// vxdp's vxlan devices of one namespace, by index: they change when a device is made anew.
type Tunnels = Arc<RwLock<HashMap<u32, Segment>>>;

#[derive(Debug)]
struct Followed {
    tunnels: Tunnels,
    tasks: JoinSet<()>,
}

/// The namespaces that are listened to, by inode.
#[derive(Debug)]
pub(crate) struct Watches {
    events: mpsc::Sender<Event>,
    host: JoinSet<()>,
    device: Option<String>,
    overlays: BTreeMap<u64, Followed>,
}

impl Watches {
    /// None yet; what they hear will go to `events`.
    pub(crate) fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events, host: JoinSet::new(), device: None, overlays: BTreeMap::new() }
    }

    /// Stops listening in namespaces that no overlay's name stands for any more.
    ///
    /// Our sockets keep such a namespace alive, and with it its vxlan device, whose VNI and port the next
    /// one could not have.
    pub(crate) async fn let_go(&mut self, config: &Config) {
        let named = config.overlays.iter().filter_map(|overlay| Netns::named(overlay.netns.as_str()).ok());
        let standing: Vec<u64> = named.map(|netns| netns.inode()).collect();
        let gone: Vec<u64> =
            self.overlays.keys().copied().filter(|inode| !standing.contains(inode)).collect();
        for inode in gone {
            if let Some(mut followed) = self.overlays.remove(&inode) {
                followed.tasks.shutdown().await;
            }
        }
    }

    /// Listens where the overlays are now. True: some of it is new, so that changes may have been missed.
    pub(crate) fn follow(&mut self, host: &Netns, config: &Config) -> io::Result<bool> {
        let mut new = false;
        let device = config.underlay.device.to_string();
        if self.device.as_ref() != Some(&device) {
            let watch = Watch::open(host, &[MulticastGroup::Link])?;
            self.host = JoinSet::new();
            self.host.spawn(hear_host(watch, device.clone(), self.events.clone()));
            self.device = Some(device);
            new = true;
        }
        let mut spaces: BTreeMap<u64, (Netns, HashMap<u32, Segment>)> = BTreeMap::new();
        for overlay in &config.overlays {
            let netns = Netns::named(overlay.netns.as_str())?;
            let vxlan = overlay.vxlan.as_str();
            let index = netns.run(|| Ok(if_nametoindex(vxlan)?))?;
            let (_, tunnels) = spaces.entry(netns.inode()).or_insert_with(|| (netns, HashMap::new()));
            tunnels.insert(index, Segment::of(overlay));
        }
        for (inode, (netns, indices)) in spaces {
            if let Some(followed) = self.overlays.get(&inode) {
                *followed.tunnels.write().unwrap_or_else(PoisonError::into_inner) = indices;
                continue;
            }
            self.overlays.insert(inode, follow_overlay(&netns, indices, &self.events)?);
            new = true;
        }
        Ok(new)
    }
}

fn follow_overlay(
    netns: &Netns,
    indices: HashMap<u32, Segment>,
    events: &mpsc::Sender<Event>,
) -> io::Result<Followed> {
    let groups =
        [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Neigh];
    // Misses come through the same group as changes, but have a socket of their own: a storm of misses
    // overflows only that.
    let changes = Watch::open_only(netns, &groups, Only::Changes)?;
    let misses = Watch::open_only(netns, &[MulticastGroup::Neigh], Only::Questions)?;
    let tunnels: Tunnels = Arc::new(RwLock::new(indices));
    let mut tasks = JoinSet::new();
    tasks.spawn(hear_changes(changes, Arc::clone(&tunnels), events.clone()));
    tasks.spawn(hear_misses(misses, Arc::clone(&tunnels), events.clone()));
    Ok(Followed { tunnels, tasks })
}

/// What came in one go.
struct Heard {
    messages: Vec<RouteNetlinkMessage>,
    overflowed: bool,
}

/// Waits for a notice and takes those that wait behind it.
async fn hear(watch: &mut Watch) -> Heard {
    let mut heard = Heard { messages: Vec::new(), overflowed: false };
    let mut next = Some(watch.next().await);
    while let Some(notice) = next {
        match notice {
            Ok(Notice::Messages(messages)) => heard.messages.extend(messages),
            // What concerns an overlay is read.
            Ok(Notice::Unread) => {}
            Ok(Notice::Overflow) => heard.overflowed = true,
            Err(_) => {
                // What such an error swallowed nobody can tell.
                heard.overflowed = true;
                tokio::time::sleep(REST).await;
            }
        }
        if heard.overflowed || heard.messages.len() >= BATCH {
            break;
        }
        next = watch.next().now_or_never();
    }
    heard
}

async fn hear_host(mut watch: Watch, device: String, events: mpsc::Sender<Event>) {
    loop {
        let heard = hear(&mut watch).await;
        let ours = heard.messages.iter().any(|message| match message {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                name_of(link) == Some(&device)
            }
            _ => false,
        });
        let event = match (heard.overflowed, ours) {
            (true, _) => Event::Overflowed,
            (false, true) => Event::Noticed(Noticed { links: true, ..Noticed::default() }),
            (false, false) => continue,
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

fn name_of(link: &LinkMessage) -> Option<&String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })
}

async fn hear_changes(mut watch: Watch, tunnels: Tunnels, events: mpsc::Sender<Event>) {
    loop {
        let heard = hear(&mut watch).await;
        let noticed = sum_up(&heard.messages, &tunnels);
        let event = if heard.overflowed { Event::Overflowed } else { Event::Noticed(noticed) };
        let worthless = matches!(&event, Event::Noticed(noticed) if *noticed == Noticed::default());
        if !worthless && events.send(event).await.is_err() {
            return;
        }
    }
}

fn sum_up(messages: &[RouteNetlinkMessage], tunnels: &Tunnels) -> Noticed {
    let tunnels = tunnels.read().unwrap_or_else(PoisonError::into_inner);
    let mut noticed = Noticed::default();
    for message in messages {
        match message {
            RouteNetlinkMessage::NewNeighbour(row) | RouteNetlinkMessage::DelNeighbour(row) => {
                match Row::read(row) {
                    Some(Row::Tunnel(row)) if tunnels.contains_key(&row.device) => noticed.macs.push(row.mac),
                    Some(Row::Bridge(row)) if tunnels.contains_key(&row.port) => noticed.macs.push(row.mac),
                    Some(Row::Neighbour(row)) if tunnels.contains_key(&row.device) => {
                        noticed.addresses.push(row.address);
                    }
                    _ => {}
                }
            }
            _ => noticed.links = true,
        }
    }
    noticed
}

async fn hear_misses(mut watch: Watch, tunnels: Tunnels, events: mpsc::Sender<Event>) {
    loop {
        let heard = hear(&mut watch).await;
        let missed = {
            let tunnels = tunnels.read().unwrap_or_else(PoisonError::into_inner);
            let read = |message: &RouteNetlinkMessage| match message {
                RouteNetlinkMessage::GetNeighbour(message) => {
                    Some((*tunnels.get(&message.header.ifindex)?, missed_by(message)?))
                }
                _ => None,
            };
            heard.messages.iter().filter_map(read).collect::<Vec<_>>()
        };
        if heard.overflowed && events.send(Event::MissesOverflowed).await.is_err() {
            return;
        }
        // When the daemon is busy we wait here, and the kernel's queue fills: that is the bound.
        if !missed.is_empty() && events.send(Event::Missed(missed)).await.is_err() {
            return;
        }
    }
}

/// Reads a miss: with an address it is l3miss, with a MAC l2miss (`vxlan_fdb_info`,
/// `drivers/net/vxlan/vxlan_core.c`).
fn missed_by(message: &NeighbourMessage) -> Option<Missed> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(Missed::Address(IpAddr::V4(*v4))),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
            Some(Missed::Address(IpAddr::V6(*v6)))
        }
        NeighbourAttribute::LinkLayerAddress(bytes) => {
            let octets = <[u8; 6]>::try_from(bytes.as_slice()).ok()?;
            Some(Missed::Mac(MacAddr::new(octets)))
        }
        _ => None,
    })
}
