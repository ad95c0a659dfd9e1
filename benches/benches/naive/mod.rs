//! Encapsulation and decapsulation as a first version would have them: `pnet_packet` setters, a vector per
//! packet, a standard hash map. It checks less than ours; it is here for scale.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;

use pnet_packet::Packet;
use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{Ipv4Packet, MutableIpv4Packet, checksum};
use pnet_packet::udp::{MutableUdpPacket, UdpPacket};
use pnet_packet::vxlan::{MutableVxlanPacket, VxlanPacket};

use crate::scene::{HERE, NIC, THERE};

const VNI: u32 = 42;
const LOCAL: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 10, 21), Ipv4Addr::new(192, 168, 10, 22)];

/// Where MACs are.
pub(crate) struct Directory {
    remotes: HashMap<(u32, [u8; 6]), Ipv4Addr>,
    locals: HashMap<(u32, [u8; 6]), u16>,
    flows: RandomState,
}

impl Directory {
    /// One MAC each way.
    pub(crate) fn new() -> Self {
        Self {
            remotes: HashMap::from([((VNI, THERE.octets()), LOCAL[1]), ((VNI, HERE.octets()), LOCAL[0])]),
            locals: HashMap::from([((VNI, THERE.octets()), 0)]),
            flows: RandomState::new(),
        }
    }
}

/// The outer frame of a frame.
pub(crate) fn encap(frame: &[u8], directory: &Directory) -> Option<Vec<u8>> {
    let eth = EthernetPacket::new(frame)?;
    let vtep = *directory.remotes.get(&(VNI, eth.get_destination().octets()))?;
    let inner = Ipv4Packet::new(eth.payload())?;
    let udp = UdpPacket::new(inner.payload())?;
    let flow = (inner.get_source(), inner.get_destination(), udp.get_source(), udp.get_destination());

    let mut vxlan = vec![0; 8 + frame.len()];
    let mut header = MutableVxlanPacket::new(&mut vxlan)?;
    header.set_flags(8);
    header.set_vni(VNI);
    header.set_payload(frame);

    let mut datagram = vec![0; 8 + vxlan.len()];
    let mut header = MutableUdpPacket::new(&mut datagram)?;
    header.set_source(49152 + (directory.flows.hash_one(flow) % 16384) as u16);
    header.set_destination(4789);
    header.set_length((8 + vxlan.len()) as u16);
    header.set_payload(&vxlan);

    let mut packet = vec![0; 20 + datagram.len()];
    let mut header = MutableIpv4Packet::new(&mut packet)?;
    header.set_version(4);
    header.set_header_length(5);
    header.set_total_length((20 + datagram.len()) as u16);
    header.set_ttl(64);
    header.set_ecn(inner.get_ecn());
    header.set_next_level_protocol(IpNextHeaderProtocols::Udp);
    header.set_source(LOCAL[0]);
    header.set_destination(vtep);
    header.set_checksum(checksum(&header.to_immutable()));
    header.set_payload(&datagram);

    let mut outer = vec![0; 14 + packet.len()];
    let mut header = MutableEthernetPacket::new(&mut outer)?;
    header.set_source(NIC[0].octets().into());
    header.set_destination(NIC[1].octets().into());
    header.set_ethertype(EtherTypes::Ipv4);
    header.set_payload(&packet);
    Some(outer)
}

/// The port and the inner frame of an outer frame.
pub(crate) fn decap(outer: &[u8], directory: &Directory) -> Option<(u16, Vec<u8>)> {
    let eth = EthernetPacket::new(outer)?;
    let ip = Ipv4Packet::new(eth.payload())?;
    if ip.get_checksum() != checksum(&ip) || ip.get_destination() != LOCAL[1] {
        return None;
    }
    let udp = UdpPacket::new(ip.payload())?;
    let vxlan = VxlanPacket::new(udp.payload())?;
    let inner = EthernetPacket::new(vxlan.payload())?;
    let vtep = directory.remotes.get(&(vxlan.get_vni(), inner.get_source().octets()))?;
    let port = directory.locals.get(&(vxlan.get_vni(), inner.get_destination().octets()))?;
    (*vtep == ip.get_source()).then(|| (*port, vxlan.payload().to_vec()))
}
