//! The netlink messages for links, addresses and rows.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use vxdp_dataplane::wire::{MacAddr, Vni};

use super::desired::Row;

/// `NUD_NOARP | NUD_PERMANENT`: what `bridge fdb add … permanent` sends for a vxlan device's own row.
const FIXED: NeighbourState = NeighbourState::Other(0x40 | 0x80);

/// A new device of this kind.
pub(super) fn new_link(name: &str, mtu: u32, kind: InfoKind, data: Option<InfoData>) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link.attributes.push(LinkAttribute::Mtu(mtu));
    let info = [LinkInfo::Kind(kind)].into_iter().chain(data.map(LinkInfo::Data)).collect();
    link.attributes.push(LinkAttribute::LinkInfo(info));
    link
}

/// The other end of a veth.
pub(super) fn named_link(name: &str, mtu: u32, queues: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link.attributes.push(LinkAttribute::Mtu(mtu));
    link.attributes.push(LinkAttribute::NumTxQueues(queues));
    link.attributes.push(LinkAttribute::NumRxQueues(queues));
    link
}

/// An address of the device `index`.
pub(super) fn address(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    match address {
        IpNet::V4(net) => {
            message.header.family = AddressFamily::Inet;
            if net.prefix_len() < 31 {
                message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
            }
        }
        IpNet::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            // The configuration vouches for its being unique, and with `proxy` nobody would answer:
            // without duplicate detection it is usable at once, not a second later.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    message
}

/// A row of the vxlan device `index`; the same message adds and removes it.
pub(super) fn row(index: u32, row: &Row, (vni, port): (Vni, u16)) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.family = AddressFamily::Bridge;
    match *row {
        Row::Neighbour { address, mac } => {
            message.header.family = match address {
                IpAddr::V4(_) => AddressFamily::Inet,
                IpAddr::V6(_) => AddressFamily::Inet6,
            };
            message.header.state = NeighbourState::Permanent;
            message.attributes.push(NeighbourAttribute::Destination(address.into()));
            message.attributes.push(lladdr(mac));
        }
        Row::Fdb { mac, vtep } => tunnel_row(&mut message, mac, vtep, vni, port),
        Row::Flood { vtep } => tunnel_row(&mut message, MacAddr::ZERO, vtep, vni, port),
        Row::Bridge { mac } => {
            message.header.flags = NeighbourFlags::Controller;
            // `static` for the bridge is NUD_NOARP; NUD_PERMANENT would make the MAC the host's own.
            message.header.state = NeighbourState::Noarp;
            message.attributes.push(lladdr(mac));
        }
    }
    message
}

fn tunnel_row(message: &mut NeighbourMessage, mac: MacAddr, vtep: IpAddr, vni: Vni, port: u16) {
    message.header.flags = NeighbourFlags::Own;
    message.header.state = FIXED;
    message.attributes.push(lladdr(mac));
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(vtep)));
    message.attributes.push(NeighbourAttribute::Port(port));
    message.attributes.push(NeighbourAttribute::Vni(vni.get()));
}

fn lladdr(mac: MacAddr) -> NeighbourAttribute {
    NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec())
}
