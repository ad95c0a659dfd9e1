//! Inner frames: what containers send to each other, well-formed and not.

use etherparse::{Ethernet2Header, IpNumber, Ipv4Header, PacketBuilder, PacketBuilderStep};
use vxdp_dataplane::wire::checksum::Sum;

/// The container on h1.
pub(crate) const C1: [u8; 6] = [0x02, 0x42, 0x0a, 0, 0, 2];
/// A station behind a bridge in the container on h1.
pub(crate) const NESTED: [u8; 6] = [0x02, 0x66, 0, 0, 4, 1];
/// The container on h2.
pub(crate) const C2: [u8; 6] = [0x02, 0x42, 0x0a, 0, 0, 3];

const C1_V4: [u8; 4] = [10, 0, 0, 2];
/// An address of nobody: the container with the MAC stays silent.
const C2_V4: [u8; 4] = [10, 0, 0, 200];
/// Where the overlay says that c2 is: `proxy` answers for it.
pub(crate) const REMOTE_V4: [u8; 4] = [10, 0, 0, 3];
const C1_V6: [u8; 16] = [0xfd, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const C2_V6: [u8; 16] = [0xfd, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];

/// IEEE 802: local experiments. No receiver looks into it.
pub(crate) const EXPERIMENT: u16 = 0x88b5;

/// IP protocol numbers.
pub(crate) mod protocol {
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const GRE: u8 = 47;
    pub(crate) const ESP: u8 = 50;
    pub(crate) const SCTP: u8 = 132;
}

/// Any frame from c1 to c2.
pub(crate) fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&C2, &C1, &ethertype.to_be_bytes()[..], payload].concat()
}

/// The frame with other MACs.
pub(crate) fn between(source: [u8; 6], destination: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame
}

/// The frame with VLAN tags, each an EtherType and a TCI, the outermost first.
pub(crate) fn tagged(tags: &[(u16, u16)], frame: Vec<u8>) -> Vec<u8> {
    let tags = tags.iter().flat_map(|(ethertype, control)| [ethertype.to_be_bytes(), control.to_be_bytes()]);
    let tags = tags.flatten().collect::<Vec<_>>();
    [&frame[..12], &tags, &frame[12..]].concat()
}

/// Bytes that differ from each other, so that a shift shows.
pub(crate) fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|position| (position % 251) as u8).collect()
}

fn ethernet() -> PacketBuilderStep<Ethernet2Header> {
    PacketBuilder::ethernet2(C1, C2)
}

/// An ICMP echo request.
pub(crate) fn ping() -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet()
        .ipv4(C1_V4, C2_V4, 64)
        .icmpv4_echo_request(7, 1)
        .write(&mut frame, &payload(56))
        .expect("fits");
    frame
}

/// The same over IPv6.
pub(crate) fn ping6() -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet()
        .ipv6(C1_V6, C2_V6, 64)
        .icmpv6_echo_request(7, 1)
        .write(&mut frame, &payload(56))
        .expect("fits");
    frame
}

/// A UDP datagram over IPv4.
pub(crate) fn udp4(length: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet().ipv4(C1_V4, C2_V4, 64).udp(1000, 2000).write(&mut frame, &payload(length)).expect("fits");
    frame
}

/// A UDP datagram over IPv6.
pub(crate) fn udp6(length: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet().ipv6(C1_V6, C2_V6, 64).udp(1000, 2000).write(&mut frame, &payload(length)).expect("fits");
    frame
}

/// A TCP segment over IPv4.
pub(crate) fn tcp4(length: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet()
        .ipv4(C1_V4, C2_V4, 64)
        .tcp(1000, 2000, 1, 512)
        .ack(1)
        .write(&mut frame, &payload(length))
        .expect("fits");
    frame
}

/// A TCP segment over IPv6.
pub(crate) fn tcp6(length: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet()
        .ipv6(C1_V6, C2_V6, 64)
        .tcp(1000, 2000, 1, 512)
        .ack(1)
        .write(&mut frame, &payload(length))
        .expect("fits");
    frame
}

/// An IPv4 packet of any protocol.
pub(crate) fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header =
        Ipv4Header::new(payload.len() as u16, 64, IpNumber(protocol), C1_V4, C2_V4).expect("short");
    header.header_checksum = header.calc_header_checksum();
    [frame(0x0800, &header.to_bytes()), payload.to_vec()].concat()
}

/// Changes the IPv4 header of an untagged frame and mends its checksum.
pub(crate) fn with_ipv4(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let header = &mut frame[14..34];
    change(header);
    header[10..12].fill(0);
    let checksum = Sum::of(header).checksum();
    header[10..12].copy_from_slice(&checksum);
    frame
}

/// The frame with this tos or traffic class.
pub(crate) fn with_tos(mut frame: Vec<u8>, tos: u8) -> Vec<u8> {
    if frame[12..14] == [0x08, 0x00] {
        return with_ipv4(frame, |ip| ip[1] = tos);
    }
    frame[14] = 0x60 | tos >> 4;
    frame[15] = frame[15] & 0x0f | tos << 4;
    frame
}

/// The first `length` bytes.
pub(crate) fn cut(frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame[..length].to_vec()
}

/// ARP, as in "who has `address`?", to `destination`.
pub(crate) fn arp(destination: [u8; 6], operation: u8, address: [u8; 4]) -> Vec<u8> {
    arp_from(C1_V4, destination, operation, address)
}

/// The same, by c1 under another address.
pub(crate) fn arp_from(asker: [u8; 4], destination: [u8; 6], operation: u8, address: [u8; 4]) -> Vec<u8> {
    let body = [&[0, 1, 8, 0, 6, 4, 0, operation], &C1[..], &asker, &[0; 6], &address].concat();
    between(C1, destination, frame(0x0806, &body))
}

/// Replaces the checksum of the segment that starts at `segment` by the folded sum of its pseudo-header, as a
/// kernel leaves it to a device (`CHECKSUM_PARTIAL`).
pub(crate) fn unfinished(mut frame: Vec<u8>, segment: usize, field: usize) -> Vec<u8> {
    let addresses = if frame[12..14] == [0x08, 0x00] { &frame[26..34] } else { &frame[22..54] };
    let protocol = if field == 16 { protocol::TCP } else { protocol::UDP };
    let length = (frame.len() - segment) as u16;
    let pseudo = Sum::of(addresses).add_u16(u16::from(protocol)).add_u16(length).folded();
    frame[segment + field..][..2].copy_from_slice(&pseudo);
    frame
}

/// The bytes of a captured frame, with the checksum finished that was left to a device.
pub(crate) fn finished(frame: vxdp_lab::Frame) -> Vec<u8> {
    let mut bytes = frame.bytes;
    if !frame.unfinished {
        return bytes;
    }
    let tag = |at: usize| matches!(bytes.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]));
    let ip = (12..).step_by(4).find(|at| !tag(*at)).unwrap_or(12) + 2;
    let (segment, addresses, protocol) = match bytes[ip] >> 4 {
        4 => (ip + usize::from(bytes[ip] & 15) * 4, ip + 12..ip + 20, bytes[ip + 9]),
        _ => (ip + 40, ip + 8..ip + 40, bytes[ip + 6]),
    };
    let field = segment + if protocol == protocol::TCP { 16 } else { 6 };
    bytes[field..field + 2].fill(0);
    let length = (bytes.len() - segment) as u16;
    let sum = Sum::of(&bytes[addresses]).add_u16(u16::from(protocol)).add_u16(length);
    let checksum = match sum.plus(Sum::of(&bytes[segment..])).checksum() {
        [0, 0] if protocol == protocol::UDP => [0xff, 0xff],
        checksum => checksum,
    };
    bytes[field..field + 2].copy_from_slice(&checksum);
    bytes
}

/// The frame with another EtherType.
pub(crate) fn with_ethertype(mut frame: Vec<u8>, ethertype: u16) -> Vec<u8> {
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
    frame
}

/// An untagged IPv4 frame with options.
pub(crate) fn with_ipv4_options(mut frame: Vec<u8>, options: &[u8]) -> Vec<u8> {
    frame.splice(34..34, options.iter().copied());
    frame[14] += (options.len() / 4) as u8;
    frame[17] += options.len() as u8;
    frame[24..26].fill(0);
    let checksum = Sum::of(&frame[14..34 + options.len()]).checksum();
    frame[24..26].copy_from_slice(&checksum);
    frame
}

/// An untagged IPv6 frame with the extension header `number` before what it carries.
pub(crate) fn with_extension(mut frame: Vec<u8>, number: u8, header: &[u8; 8]) -> Vec<u8> {
    let mut header = *header;
    header[0] = std::mem::replace(&mut frame[20], number);
    frame.splice(54..54, header);
    frame[19] += 8;
    frame
}

/// A neighbour solicitation (type 135) or advertisement (136) by unicast (RFC 4861, section 4.3).
pub(crate) fn neighbour_discovery(kind: u8) -> Vec<u8> {
    let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &C2_V6].concat();
    let length = (message.len() as u16).to_be_bytes();
    let header = [&[0x60, 0, 0, 0, length[0], length[1], 58, 255][..], &C1_V6, &C2_V6].concat();
    let pseudo = Sum::of(&header[8..]).add_u16(58).add_u16(message.len() as u16);
    let checksum = pseudo.plus(Sum::of(&message)).checksum();
    let mut frame = frame(0x86dd, &[header, message].concat());
    frame[56..58].copy_from_slice(&checksum);
    frame
}

/// A UDP datagram whose checksum is computed as zero, and so must be sent as 0xffff (RFC 768).
pub(crate) fn udp4_summing_to_zero() -> Vec<u8> {
    let mut frame = udp4(20);
    // Adding a one's complement sum's own complement to a word that was zero makes it all ones.
    frame[60..62].fill(0);
    let mut bare = frame.clone();
    bare[40..42].fill(0);
    let pseudo = Sum::of(&bare[26..34]).add_u16(17).add_u16(28);
    let checksum = pseudo.plus(Sum::of(&bare[34..])).checksum();
    frame[60..62].copy_from_slice(&checksum);
    frame[40..42].fill(0xff);
    frame
}
