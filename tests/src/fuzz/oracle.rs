//! An independent judge of outer frames: what RFC 7348, 6040, 768 and 791 say, read by etherparse.
//!
//! It knows nothing of how the dataplane is written, and is slow and plain. Only the look *into* the inner frame
//! is the dataplane's own: the `wire` target holds that against etherparse by itself.

use std::ops::Range;

use etherparse::{
    EtherType, Ethernet2Slice, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, NetSlice, SlicedPacket,
    TransportSlice, UdpHeader,
};
use vxdp_dataplane::path::unfinished::finish;
use vxdp_dataplane::table::{UdpChecksum, ZeroUdp6};
use vxdp_dataplane::wire::{Inner, Network};
use vxdp_dataplane::{Family, PortId};

use super::process::{C, MTU, NIC, UDP_PORT, VNIS, World, address};

/// Ethernet header, and one tag that may exceed the MTU.
const LINK: usize = 14 + 4;

/// The outer IP header as far as it matters.
struct Ip<'a> {
    /// The pseudo-header's addresses.
    addresses: Vec<u8>,
    ecn: u8,
    payload: &'a [u8],
}

/// Makes the checksum of an outer IPv4 header right, where there is one.
pub(super) fn mend_ipv4_checksum(outer: &mut [u8]) {
    let Some(header) = outer.get_mut(14..34) else { return };
    header[10..12].fill(0);
    let checksum = !sum(&[header]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// What is delivered of a frame that host 0 gets from the wire, and to which port; `None`: nothing.
pub(super) fn judge(world: &World, outer: &[u8]) -> Option<(PortId, Vec<u8>)> {
    let eth = Ethernet2Slice::from_slice_without_fcs(outer).ok()?;
    if eth.destination() != NIC[0].octets() {
        return None;
    }
    let ip = match (eth.ether_type(), world.family) {
        (EtherType::IPV4, Family::V4) => ipv4(&outer[14..]),
        (EtherType::IPV6, Family::V6) => ipv6(&outer[14..]),
        _ => None,
    }?;
    let (source, destination) = ip.addresses.split_at(ip.addresses.len() / 2);
    if octets(world, 1) != source || octets(world, 0) != destination {
        return None;
    }
    let (udp, _) = UdpHeader::from_slice(ip.payload).ok()?;
    let datagram = ip.payload.get(..usize::from(udp.length))?;
    let (header, frame) = datagram.get(8..)?.split_at_checked(8)?;
    if frame.len() < 14 || frame.len() > MTU + LINK || udp.destination_port != UDP_PORT {
        return None;
    }
    let segment = VNIS.iter().position(|vni| header == [8, 0, 0, 0, 0, 0, *vni as u8, 0])?;
    if frame[..6] != C[0].octets() || !world.is_remote(segment, &frame[6..12]) {
        return None;
    }
    let inner = Inner::parse(frame);
    if inner.network == Network::Truncated && inner.tags == 0 {
        return None;
    }
    let mut frame = frame.to_vec();
    finish(&mut frame, &inner);
    let finished = [&datagram[..16], &frame].concat();
    let accepts_none = world.family == Family::V4 || world.policy.zero_udp6 == ZeroUdp6::Accept;
    if !(if udp.checksum == 0 { accepts_none } else { is_right(&ip, &finished) }) {
        return None;
    }
    congest(&mut frame, &inner, ip.ecn)?;
    Some((PortId::new(segment as u16), frame))
}

fn octets(world: &World, host: usize) -> Vec<u8> {
    match address(world.family, host) {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn ipv4(packet: &[u8]) -> Option<Ip<'_>> {
    let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
    let whole = ip.ihl() == 5 && sum(&[ip.slice()]) == 0xffff && !ip.is_fragmenting_payload();
    let payload = packet.get(20..usize::from(ip.total_len()))?;
    let addresses = [ip.source(), ip.destination()].concat();
    (whole && ip.protocol() == IpNumber::UDP).then_some(Ip { addresses, ecn: ip.ecn().value(), payload })
}

fn ipv6(packet: &[u8]) -> Option<Ip<'_>> {
    let ip = Ipv6HeaderSlice::from_slice(packet).ok()?;
    let payload = packet.get(40..40 + usize::from(ip.payload_length()))?;
    let addresses = [ip.source(), ip.destination()].concat();
    (ip.next_header() == IpNumber::UDP).then_some(Ip { addresses, ecn: ip.ecn().value(), payload })
}

/// The one's complement sum (RFC 1071) of parts that are each of even length but for the last.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let words = words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    words.fold(0u16, |sum, word| {
        let sum = u32::from(sum) + word;
        ((sum & 0xffff) + (sum >> 16)) as u16
    })
}

/// Whether a UDP checksum is right, or left to a network card: then it is the pseudo-header's sum.
fn is_right(ip: &Ip<'_>, datagram: &[u8]) -> bool {
    let [a, b] = (datagram.len() as u16).to_be_bytes();
    let pseudo = [&ip.addresses[..], &[0, 17, a, b]];
    let unfinished = sum(&pseudo).to_be_bytes() == datagram[6..8];
    unfinished || sum(&[pseudo[0], pseudo[1], datagram]) == 0xffff
}

/// Carries a congestion mark inside (RFC 6040, section 4.2, figure 4); `None`: it cannot be carried.
fn congest(frame: &mut [u8], inner: &Inner, outer: u8) -> Option<()> {
    // To the kernel, a tagged frame carries no IP.
    if inner.tags > 0 {
        return Some(());
    }
    let (at, is_v4) = match inner.network {
        Network::V4 { at, .. } => (at, true),
        Network::V6 { at, .. } => (at, false),
        Network::Truncated | Network::Other => return Some(()),
    };
    let shift = if is_v4 { 0 } else { 4 };
    let found = frame[at + 1] >> shift & 3;
    // Rows: inner not-ECT, ECT(1), ECT(0), CE; columns: outer alike.
    let table = [[0, 0, 0, 9], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]];
    let becomes: u8 = table[usize::from(found)][usize::from(outer)];
    if becomes == 9 {
        return None;
    }
    if becomes != found {
        let intact = is_v4 && sum(&[&frame[at..at + 20]]) == 0xffff;
        frame[at + 1] = frame[at + 1] & !(3 << shift) | becomes << shift;
        if is_v4 {
            mend(frame, at, found, becomes, intact);
        }
    }
    Some(())
}

/// A wrong checksum stays as wrong as it was (RFC 1624, equation 3).
fn mend(frame: &mut [u8], at: usize, old: u8, new: u8, intact: bool) {
    let field = at + 10..at + 12;
    let checksum = u16::from_be_bytes([frame[at + 10], frame[at + 11]]);
    let updated = sum(&[&(!checksum).to_be_bytes(), &(!u16::from(old)).to_be_bytes(), &[0, new]]);
    frame[field].copy_from_slice(&(!updated).to_be_bytes());
    if intact {
        let header: Range<usize> = at..at + 20;
        assert!(sum(&[&frame[header]]) == 0xffff, "the judge's own arithmetic");
    }
}

/// The outer headers of a frame that host 0 sends for a container of a segment.
pub(super) fn inspect(world: &World, segment: usize, outer: &[u8]) {
    let packet = SlicedPacket::from_ethernet(outer).expect("well-formed");
    assert_eq!(outer[..12], [NIC[1].octets(), NIC[0].octets()].concat());
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("not UDP: {packet:?}") };
    let right = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(sum(&[ip.header().slice()]), 0xffff, "IPv4 header checksum");
            assert_eq!(
                [header.source.to_vec(), header.destination.to_vec()],
                [0, 1].map(|h| octets(world, h))
            );
            assert_ne!(header.time_to_live, 0);
            udp.to_header().calc_checksum_ipv4(&header, udp.payload()).expect("short")
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(
                [header.source.to_vec(), header.destination.to_vec()],
                [0, 1].map(|h| octets(world, h))
            );
            assert_ne!(header.hop_limit, 0);
            udp.to_header().calc_checksum_ipv6(&header, udp.payload()).expect("short")
        }
        other => panic!("not IP: {other:?}"),
    };
    let computed = world.policy.udp_checksum == UdpChecksum::Computed;
    assert_eq!(udp.checksum(), if computed { right } else { 0 });
    assert_eq!(usize::from(udp.length()), outer.len() - world.family.encap_room() + 16);
    assert_eq!(udp.destination_port(), UDP_PORT);
    let ports = world.policy.source_ports;
    assert!((ports.pick(0)..=ports.pick(u32::MAX)).contains(&udp.source_port()));
    assert_eq!(udp.payload()[..8], [8, 0, 0, 0, 0, 0, VNIS[segment] as u8, 0]);
}
