//! Looking at the kernel: devices, addresses and rows of every namespace that matters.

mod rows;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::errno::Errno;
use rtnetlink::Handle;
use vxdp_dataplane::wire::MacAddr;

use self::rows::Interest;
use crate::kernel::desired::Desired;
use crate::kernel::error::KernelError;
use crate::kernel::ledger::Created;
use crate::kernel::namespace;
use crate::kernel::netlink::{Refusal, ask, dump};
use crate::kernel::observed::{Kind, Link, Observed, Space};
use crate::kernel::place::Place;
use crate::kernel::vxlan::Vxlan;
use crate::netns::Netns;

/// How often a dump that was disturbed by changes is made again before the attempt is given up. In a
/// table that changes all the time each attempt may be disturbed; three more are enough elsewhere.
const DUMP_ATTEMPTS: usize = 4;

/// Looks at every namespace that `desired` or the ledger names.
pub(super) async fn observe(desired: &Desired, created: &Created) -> Result<Observed, KernelError> {
    let mut observed = Observed::default();
    let mut interests = rows::interests(desired, created);
    let spaces = open_spaces(desired, created, &mut observed.stale)?;
    let others: Vec<&Netns> = spaces.values().chain([&desired.host]).collect();
    for (place, netns) in &spaces {
        let interest = interests.remove(place).unwrap_or_default();
        let looked = look(netns, &others, &interest).await;
        let space = looked.map_err(|refusal| KernelError::Observe { place: place.clone(), refusal })?;
        observed.spaces.insert(place.clone(), space);
    }
    Ok(observed)
}

fn open_spaces(
    desired: &Desired,
    created: &Created,
    stale: &mut HashSet<String>,
) -> Result<BTreeMap<Place, Netns>, KernelError> {
    let mut spaces = BTreeMap::new();
    let overlays = desired.overlays.iter().map(|overlay| Place::Named(overlay.spec.netns.to_string()));
    let places: BTreeSet<Place> = created.places().into_iter().chain(overlays).collect();
    for place in places {
        let refused =
            |error: std::io::Error| KernelError::Observe { place: place.clone(), refusal: error.into() };
        let Some(netns) = place.open().map_err(refused)? else { continue };
        match &place {
            Place::Named(name) if !namespace::is_namespace(netns.path()).map_err(refused)? => {
                stale.insert(name.clone());
            }
            _ => {
                spaces.insert(place, netns);
            }
        }
    }
    for port in desired.overlays.iter().flat_map(|overlay| &overlay.ports) {
        if let Some(netns) = &port.netns {
            spaces.insert(Place::of_container(netns), netns.clone());
        }
    }
    Ok(spaces)
}

async fn look(
    netns: &Netns,
    others: &[&Netns],
    interests: &HashMap<String, Interest>,
) -> Result<Space, Refusal> {
    let mut handle = netns.netlink()?;
    let mut space = Space { inode: netns.inode(), ..Space::default() };
    space.links = links(&mut handle).await?;
    let by_index: HashMap<u32, String> =
        space.links.iter().map(|(name, link)| (link.index, name.clone())).collect();
    for (index, address) in addresses(&mut handle).await? {
        if let Some(link) = by_index.get(&index).and_then(|name| space.links.get_mut(name)) {
            link.addresses.insert(address);
        }
    }
    // The link dump above has given an id to every namespace that a device here refers to.
    for other in others.iter().filter(|other| other.inode() != netns.inode()) {
        if let Some(id) = nsid(&mut handle, other).await? {
            space.nsids.insert(other.inode(), id);
        }
    }
    for (name, interest) in interests {
        if let Some(link) = space.links.get_mut(name).filter(|link| matches!(link.kind, Kind::Vxlan(_))) {
            link.rows = rows::rows(&mut handle, link, interest).await?;
        }
    }
    Ok(space)
}

async fn links(handle: &mut Handle) -> Result<HashMap<String, Link>, Refusal> {
    for _ in 0..DUMP_ATTEMPTS {
        let mut links = HashMap::new();
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let consistent = dump(handle, request, |message| {
            if let RouteNetlinkMessage::NewLink(message) = message {
                links.extend(read_link(message));
            }
        });
        if consistent.await? {
            return Ok(links);
        }
    }
    Err(disturbed())
}

/// One device out of a link message.
pub(super) fn read_link(message: LinkMessage) -> Option<(String, Link)> {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        kind: Kind::Other(String::new()),
        ..Link::default()
    };
    if message.header.flags.contains(LinkFlags::Loopback) {
        link.kind = Kind::Loopback;
    }
    let mut name = None;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(is) => name = Some(is),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(octets) => link.mac = octets.try_into().ok().map(MacAddr::new),
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::LinkNetNsId(id) => link.netnsid = Some(id),
            LinkAttribute::NumTxQueues(queues) => link.queues = queues,
            LinkAttribute::LinkInfo(info) => link.kind = read_kind(&info),
            _ => {}
        }
    }
    let name = name?;
    if is_fallback(&name) {
        link.kind = Kind::Fallback;
    }
    Some((name, link))
}

fn read_kind(info: &[LinkInfo]) -> Kind {
    let kind = info.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        Some(InfoKind::Bridge) => Kind::Bridge,
        Some(InfoKind::Veth) => Kind::Veth,
        Some(InfoKind::Vxlan) => {
            let data = info.iter().find_map(|info| match info {
                LinkInfo::Data(InfoData::Vxlan(data)) => Vxlan::from_info(data),
                _ => None,
            });
            data.map_or(Kind::Other("external vxlan".into()), |vxlan| Kind::Vxlan(Box::new(vxlan)))
        }
        Some(other) => Kind::Other(other.to_string()),
        None => Kind::Other(String::new()),
    }
}

/// Devices that tunnel drivers make in every new namespace unless `net.core.fb_tunnels_only_for_init_net`
/// says otherwise; they cannot be removed and mean nothing.
fn is_fallback(name: &str) -> bool {
    const NAMES: [&str; 9] =
        ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];
    NAMES.contains(&name)
}

async fn addresses(handle: &mut Handle) -> Result<Vec<(u32, IpNet)>, Refusal> {
    for _ in 0..DUMP_ATTEMPTS {
        let mut addresses = Vec::new();
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let consistent = dump(handle, request, |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message {
                addresses.extend(read_address(&message));
            }
        });
        if consistent.await? {
            return Ok(addresses);
        }
    }
    Err(disturbed())
}

fn read_address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    // IPv4 reports its own address as local (and a peer's as address), IPv6 as address.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(local) => Some(*local),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    Some((message.header.index, IpNet::new(address, message.header.prefix_len).ok()?))
}

async fn nsid(handle: &mut Handle, other: &Netns) -> Result<Option<i32>, Refusal> {
    let mut message = NsidMessage::default();
    let descriptor = other.as_fd().as_raw_fd().cast_unsigned();
    message.attributes.push(NsidAttribute::Fd(descriptor));
    let answer = ask(handle, RouteNetlinkMessage::GetNsId(message), 0).await?;
    let Some(RouteNetlinkMessage::NewNsId(answer)) = answer else { return Ok(None) };
    Ok(answer.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) if *id >= 0 => Some(*id),
        _ => None,
    }))
}

fn disturbed() -> Refusal {
    Refusal { errno: Errno::EINTR as i32, words: Some("others kept changing what was being read".into()) }
}
