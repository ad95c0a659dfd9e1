//! Looking at the kernel: devices, addresses and rows of every namespace that matters, by dumps.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use rtnetlink::Handle;
use vxdp_dataplane::wire::MacAddr;

use super::desired::{Desired, Row};
use super::error::KernelError;
use super::ledger::Created;
use super::namespace;
use super::netlink::{Refusal, ask, dump};
use super::observed::{FdbRow, Kind, Link, Observed, Rows, Space};
use super::place::{LinkAt, Place};
use super::vxlan::Vxlan;
use crate::netns::Netns;

/// How often a dump that was disturbed by changes is made again before the attempt is given up. In a
/// table that changes all the time each attempt may be disturbed; three more are enough elsewhere.
const DUMP_ATTEMPTS: usize = 4;

/// MACs and addresses whose rows matter on one vxlan device; the rest of its table may be a million rows
/// of others, which are passed over.
#[derive(Default)]
struct Interest {
    macs: HashSet<MacAddr>,
    addresses: HashSet<IpAddr>,
}

/// Looks at every namespace that `desired` or the ledger names.
pub(super) async fn observe(desired: &Desired, created: &Created) -> Result<Observed, KernelError> {
    let mut observed = Observed::default();
    let mut interests = interests(desired, created);
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

fn interests(desired: &Desired, created: &Created) -> BTreeMap<Place, HashMap<String, Interest>> {
    let mut interests: BTreeMap<Place, HashMap<String, Interest>> = BTreeMap::new();
    let mut add = |at: LinkAt, rows: &mut dyn Iterator<Item = &Row>| {
        let interest = interests.entry(at.place).or_default().entry(at.name).or_default();
        for row in rows {
            match *row {
                Row::Neighbour { address, .. } => {
                    interest.addresses.insert(address);
                }
                Row::Fdb { mac, .. } | Row::Bridge { mac } => {
                    interest.macs.insert(mac);
                }
                Row::Flood { .. } => {}
            }
        }
    };
    for overlay in &desired.overlays {
        let place = Place::Named(overlay.spec.netns.to_string());
        add(LinkAt::new(&place, &overlay.spec.vxlan), &mut overlay.rows.iter());
    }
    for (at, rows) in &created.rows {
        add(at.clone(), &mut rows.iter());
    }
    interests
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
    let vxlans: HashMap<u32, &Interest> = interests
        .iter()
        .filter_map(|(name, interest)| {
            let link = space.links.get(name)?;
            matches!(link.kind, Kind::Vxlan(_)).then_some((link.index, interest))
        })
        .collect();
    if !vxlans.is_empty() {
        for (index, rows) in rows(&mut handle, &vxlans).await? {
            if let Some(link) = by_index.get(&index).and_then(|name| space.links.get_mut(name)) {
                link.rows = rows;
            }
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

/// Rows of the vxlan devices with these indices.
async fn rows(handle: &mut Handle, vxlans: &HashMap<u32, &Interest>) -> Result<HashMap<u32, Rows>, Refusal> {
    let mut attempts = DUMP_ATTEMPTS;
    loop {
        let mut found: HashMap<u32, Rows> = HashMap::new();
        let mut consistent = true;
        for family in [AddressFamily::Bridge, AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            let dumped = dump(handle, RouteNetlinkMessage::GetNeighbour(request), |message| {
                if let RouteNetlinkMessage::NewNeighbour(message) = message {
                    read_row(&message, vxlans, &mut found);
                }
            });
            consistent &= dumped.await?;
        }
        attempts -= 1;
        // A big table that others change all the time never gives an undisturbed dump. A row missed or
        // doubled by the disturbance is written once too often or put right by the next audit.
        if consistent || attempts == 0 {
            return Ok(found);
        }
    }
}

fn read_row(message: &NeighbourMessage, vxlans: &HashMap<u32, &Interest>, found: &mut HashMap<u32, Rows>) {
    let seen = Attributes::of(message);
    if message.header.family != AddressFamily::Bridge {
        let index = message.header.ifindex;
        if let (Some(interest), Some(address)) = (vxlans.get(&index), seen.destination)
            && interest.addresses.contains(&address)
        {
            let mac = seen.mac.filter(|_| state_bits(message) & PERMANENT != 0);
            found.entry(index).or_default().neighbours.insert(address, mac);
        }
        return;
    }
    let Some(mac) = seen.mac else { return };
    if message.header.flags.contains(NeighbourFlags::Own) {
        read_fdb(message, &seen, mac, vxlans, found);
    } else if seen.vlan.is_none()
        && seen.master.is_some()
        && state_bits(message) & NOARP != 0
        && vxlans.get(&message.header.ifindex).is_some_and(|interest| interest.macs.contains(&mac))
    {
        found.entry(message.header.ifindex).or_default().bridge.insert(mac);
    }
}

fn read_fdb(
    message: &NeighbourMessage,
    seen: &Attributes,
    mac: MacAddr,
    vxlans: &HashMap<u32, &Interest>,
    found: &mut HashMap<u32, Rows>,
) {
    let index = message.header.ifindex;
    let Some(interest) = vxlans.get(&index) else { return };
    let fixed = state_bits(message) & (PERMANENT | NOARP) != 0;
    // The kernel reports VNI, port and interface only where they are not the device's own.
    let plain = !seen.special;
    if mac.is_zero() {
        if let Some(vtep) = seen.destination.filter(|_| fixed && plain) {
            found.entry(index).or_default().flood.insert(vtep);
        }
    } else if interest.macs.contains(&mac) {
        let row = FdbRow { vtep: seen.destination, fixed, plain };
        found.entry(index).or_default().fdb.insert(mac, row);
    }
}

const NOARP: u16 = 0x40;
const PERMANENT: u16 = 0x80;

fn state_bits(message: &NeighbourMessage) -> u16 {
    u16::from(message.header.state)
}

#[derive(Default)]
struct Attributes {
    mac: Option<MacAddr>,
    destination: Option<IpAddr>,
    vlan: Option<u16>,
    master: Option<u32>,
    special: bool,
}

impl Attributes {
    fn of(message: &NeighbourMessage) -> Self {
        let mut seen = Self::default();
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(octets) => {
                    seen.mac = <[u8; 6]>::try_from(octets.as_slice()).ok().map(MacAddr::new);
                }
                NeighbourAttribute::Destination(address) => seen.destination = read_destination(address),
                NeighbourAttribute::Vlan(vlan) => seen.vlan = Some(*vlan),
                NeighbourAttribute::Controller(index) => seen.master = Some(*index),
                NeighbourAttribute::Vni(_) | NeighbourAttribute::Port(_) | NeighbourAttribute::IfIndex(_) => {
                    seen.special = true;
                }
                _ => {}
            }
        }
        seen
    }
}

/// The family of the message is the bridge's, so the crate leaves a VTEP's address as plain octets.
fn read_destination(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        NeighbourAddress::Other(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(octets.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(octets.as_slice()).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    }
}

fn disturbed() -> Refusal {
    Refusal { errno: Errno::EINTR as i32, words: Some("others kept changing what was being read".into()) }
}
