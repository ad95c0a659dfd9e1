//! What the mirror asks of the kernel, and the few writes that keep the kernel's rows alive for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{Stream, StreamExt, TryStreamExt};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Error, Handle, RouteMessageBuilder};
use vxdp_dataplane::wire::MacAddr;

use super::fdb::Ageing;
use super::message::Row;
use super::nexthop::Route;

/// The first device of every namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// Dumps the rows of one family: [`AddressFamily::Bridge`] for bridges and vxlan devices, the IP families
/// for neighbours.
pub fn rows(handle: &Handle, family: AddressFamily) -> impl Stream<Item = Result<Row, Error>> + use<> {
    let dump = handle.neighbours().get().set_address_family(family).execute();
    dump.try_filter_map(|message| std::future::ready(Ok(Row::read(&message))))
}

/// Asks for the route that the kernel's own tunnel would take from `local` to `vtep`; `None` where there is none.
///
/// The source matters where rules or routes ask for it. Of another family than `vtep` it is left away.
pub async fn route_to(handle: &Handle, local: IpAddr, vtep: IpAddr) -> Result<Option<Route>, Error> {
    let message = match (vtep, local) {
        (IpAddr::V4(v4), IpAddr::V4(local)) => to_v4(v4).source_prefix(local, 32).build(),
        (IpAddr::V6(v6), IpAddr::V6(local)) => to_v6(v6).source_prefix(local, 128).build(),
        (IpAddr::V4(v4), _) => to_v4(v4).build(),
        (IpAddr::V6(v6), _) => to_v6(v6).build(),
    };
    Ok(ask_route(handle, message).await?.as_ref().and_then(read_route))
}

/// Whether the kernel takes packets for `address` in.
pub async fn is_local(handle: &Handle, address: IpAddr) -> Result<bool, Error> {
    let message = match address {
        IpAddr::V4(v4) => to_v4(v4).build(),
        IpAddr::V6(v6) => to_v6(v6).build(),
    };
    Ok(ask_route(handle, message).await?.is_some_and(|route| route.header.kind == RouteType::Local))
}

fn to_v4(address: Ipv4Addr) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32)
}

fn to_v6(address: Ipv6Addr) -> RouteMessageBuilder<Ipv6Addr> {
    RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128)
}

async fn ask_route(handle: &Handle, message: RouteMessage) -> Result<Option<RouteMessage>, Error> {
    let answer = handle.route().get(message).execute().try_next().await;
    match answer {
        Ok(answer) => Ok(answer),
        // "No route" comes as an error: ENETUNREACH, EHOSTUNREACH, EACCES (prohibit), EINVAL (blackhole).
        Err(Error::NetlinkError(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until what the kernel told of has happened.
///
/// It tells of a next hop object or an address that goes *before* it takes the routes away that need it
/// (`remove_nexthop`, net/ipv4/nexthop.c; `__inet_del_ifa`, net/ipv4/devinet.c), and IPv4's routes go without a
/// word of their own. All of that is under one lock (RTNL), which [`route_to`] does not take and this question does.
pub async fn happened(handle: &Handle) -> Result<(), Error> {
    match handle.link().get().match_index(LOOPBACK).execute().try_next().await {
        Ok(_) | Err(Error::NetlinkError(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A route that is not unicast (our own address, a broadcast or multicast address) leads to no VTEP.
fn read_route(message: &RouteMessage) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut device, mut gateway, mut mtu) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => gateway = Some(IpAddr::V6(*v6)),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(Route { device: device?, gateway, mtu })
}

/// Makes the kernel resolve `address` on `device` now and keep it resolved although it sends nothing there
/// itself (`NTF_MANAGED`, `net/core/neighbour.c`; Linux 5.16).
///
/// Never for a permanent entry: the kernel takes the flag, and the entry's state away
/// (`new = old & ~NUD_PERMANENT` in `__neigh_update`).
pub async fn keep_resolved(handle: &Handle, device: u32, address: IpAddr) -> Result<(), Error> {
    let mut message = neighbour(device, address);
    message.header.state = NeighbourState::None;
    message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    request(handle, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE).await
}

/// Ends [`keep_resolved`]: the entry stays, and ages like any other. Never for a permanent one, for the same reason.
pub async fn release(handle: &Handle, device: u32, address: IpAddr) -> Result<(), Error> {
    let mut message = neighbour(device, address);
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    request(handle, RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE).await
}

fn neighbour(device: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = device;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

/// Tells the kernel that the learned rows of `mac` are in use, as a frame through it would.
///
/// `NTF_USE` refreshes without a notification (`fdb_add_entry` in `net/bridge/br_fdb.c`,
/// `vxlan_fdb_update_existing` in `drivers/net/vxlan/vxlan_core.c`).
pub async fn refresh(handle: &Handle, vxlan: u32, mac: MacAddr, ageing: Ageing) -> Result<(), Error> {
    if let Some(port) = ageing.bridge_port {
        let message = bridge_family(port, mac, NeighbourFlags::Controller);
        request(handle, RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE).await?;
    }
    if let Some(vtep) = ageing.vtep {
        let mut message = bridge_family(vxlan, mac, NeighbourFlags::Own);
        message.attributes.push(NeighbourAttribute::Destination(match vtep {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        }));
        request(handle, RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE).await?;
    }
    Ok(())
}

fn bridge_family(device: u32, mac: MacAddr, table: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = device;
    message.header.state = NeighbourState::Reachable;
    message.header.flags = table | NeighbourFlags::Use;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    message
}

async fn request(handle: &Handle, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut answers = handle.clone().request(message)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(Error::NetlinkError(error));
        }
    }
    Ok(())
}
