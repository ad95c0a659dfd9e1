//! Outer Ethernet, IP and UDP headers, and every way of being wrong.

use vxdp_dataplane::DropReason::UdpCsum;
use vxdp_ebpf::Verdict::{BadLength, Fragment, HeaderChecksum, IpOptions, NotOurs, OuterTag};
use vxdp_lab::Family::{V4, V6};
use vxdp_lab::Offload;

use crate::outer::{Checksum, Outer};
use crate::row::{Received, Sent, dropped, fast, kernel, refused};

/// `IP_MF` of `include/net/ip.h`.
const MORE_FRAGMENTS: u16 = 0x2000;

pub(crate) fn rows() -> Vec<Received> {
    [ethernet(), ipv4(), ipv4_options(), ipv6(), lengths(), udp()].into_iter().flatten().collect()
}

fn ethernet() -> Vec<Received> {
    vec![
        fast("a valid packet", |_| {}),
        refused("another destination MAC", NotOurs, |outer| outer.destination_mac[5] ^= 0x40),
        kernel("a broadcast MAC with our IP address", NotOurs, |outer| outer.destination_mac = [0xff; 6]),
        kernel("a multicast MAC with our IP address", NotOurs, |outer| {
            outer.destination_mac = [0x01, 0, 0x5e, 0, 0, 1];
        }),
        fast("a zero source MAC", |outer| outer.source_mac = [0; 6]),
        fast("a group source MAC", |outer| outer.source_mac = [0x01, 0, 0x5e, 0, 0, 1]),
        fast("our own MAC as the source MAC", |outer| outer.source_mac = outer.destination_mac),
        kernel("an outer priority tag", OuterTag, |outer| outer.tags.push([0x81, 0, 0xa0, 0])),
        refused("an outer tag of VLAN 5", OuterTag, |outer| outer.tags.push([0x81, 0, 0, 5])),
        kernel("an outer 802.1ad priority tag", OuterTag, |outer| outer.tags.push([0x88, 0xa8, 0, 0])),
        refused("the EtherType of ARP", NotOurs, |outer| outer.ethertype = 0x0806),
    ]
}

fn ipv4() -> Vec<Received> {
    let rows = vec![
        refused("another destination address", NotOurs, |outer| {
            outer.destination = [192, 168, 10, 99].into()
        }),
        kernel("the subnet's broadcast address", NotOurs, |outer| {
            outer.destination = [192, 168, 10, 255].into();
        }),
        refused("IP version 5", NotOurs, |outer| outer.version = 5),
        refused("an IP header of four words", NotOurs, |outer| outer.header_words = Some(4)),
        refused("an IP header that claims options", IpOptions, |outer| outer.header_words = Some(6)),
        refused("a wrong header checksum", HeaderChecksum, |outer| outer.header_checksum_error = 0x0100),
        refused("a header checksum of another byte order", HeaderChecksum, |outer| {
            outer.header_checksum_error = 0x8001;
        }),
        fast("don't fragment", |outer| outer.fragment = 0x4000),
        fast("the reserved flag of the IP header", |outer| outer.fragment = 0x8000),
        refused("a first fragment that holds a whole inner frame", Fragment, |outer| {
            outer.fragment = MORE_FRAGMENTS;
        }),
        refused("a later fragment alone", Fragment, |outer| outer.fragment = 9),
        kernel("two fragments in order", Fragment, |_| {}).sent_as(|outer| fragments(outer).into()),
        kernel("two fragments in reverse", Fragment, |_| {}).sent_as(|outer| {
            let [first, last] = fragments(outer);
            vec![last, first]
        }),
    ];
    rows.into_iter().map(|row| row.over(V4)).collect()
}

/// The packet in two parts.
fn fragments(outer: &Outer) -> [Sent; 2] {
    let datagram = outer.datagram();
    // Offsets count eight bytes.
    let (head, tail) = datagram.split_at(64);
    let part = |fragment, bytes: &[u8]| Outer { fragment, ..outer.clone() }.carrying(bytes).into();
    [part(MORE_FRAGMENTS, head), part(64 / 8, tail)]
}

fn ipv4_options() -> Vec<Received> {
    let option = |name: &str, options: &'static [u8]| {
        kernel(name, IpOptions, move |outer| outer.options = options.to_vec())
    };
    let bad = |name: &str, options: &'static [u8]| {
        refused(name, IpOptions, move |outer| outer.options = options.to_vec())
    };
    let rows = vec![
        option("IP options without meaning", &[1, 1, 1, 0]),
        option("a router alert", &[0x94, 4, 0, 0]),
        option("a timestamp option", &[68, 8, 5, 0, 0, 0, 0, 0]),
        option("a record route option", &[7, 7, 4, 0, 0, 0, 0, 0]),
        bad("a source route that is not at its end", &[131, 7, 4, 192, 168, 10, 77, 0]),
        bad("an option that reaches beyond the header", &[7, 40, 4, 0]),
    ];
    rows.into_iter().map(|row| row.over(V4)).collect()
}

fn ipv6() -> Vec<Received> {
    let header = |name: &str, number: u8, bytes: &'static [u8], verdict| {
        kernel(name, verdict, move |outer| {
            outer.extension = Some(number);
            outer.options = bytes.to_vec();
        })
    };
    let rows = vec![
        refused("another IPv6 destination", NotOurs, |outer| {
            outer.destination = [0xfd00, 0x10, 0, 0, 0, 0, 0, 0x99].into();
        }),
        refused("IP version 5 with the EtherType of IPv6", NotOurs, |outer| outer.version = 5),
        header("hop-by-hop options", 0, &[0, 0, 1, 4, 0, 0, 0, 0], IpOptions),
        header("destination options", 60, &[0, 0, 1, 4, 0, 0, 0, 0], IpOptions),
        header("an unknown routing header with no segments left", 43, &[0, 0, 253, 0, 0, 0, 0, 0], IpOptions),
        header("a fragment header of a whole packet", 44, &[0; 8], Fragment),
        refused("a routing header of type 0", IpOptions, |outer| {
            outer.extension = Some(43);
            outer.options = [&[0, 2, 0, 1, 0, 0, 0, 0][..], &[0xfd; 16]].concat();
        }),
        refused("a hop-by-hop option to be dropped", IpOptions, |outer| {
            outer.extension = Some(0);
            outer.options = vec![0, 0, 0x7e, 4, 0, 0, 0, 0];
        }),
        refused("a first fragment that holds a whole inner frame, over IPv6", Fragment, |outer| {
            outer.extension = Some(44);
            outer.options = vec![0, 0, 0, 1, 0, 0, 0, 9];
        }),
        fast("a flow label", |_| {}).sent_as(|outer| {
            let mut frame = outer.bytes();
            frame[15] |= 0x0a;
            frame[17] = 0x55;
            vec![frame.into()]
        }),
    ];
    rows.into_iter().map(|row| row.over(V6)).collect()
}

/// Frame, IP and UDP lengths that disagree.
fn lengths() -> Vec<Received> {
    vec![
        fast("Ethernet padding behind the packet", |outer| outer.trailer = vec![0xee; 6]),
        refused("an IP length that ends before the datagram", BadLength, |outer| outer.ip_length = -1),
        refused("an IP length beyond the end of the frame", BadLength, |outer| outer.ip_length = 1),
        refused("an IP length beyond the datagram, filled up by padding", BadLength, |outer| {
            outer.ip_length = 4;
            outer.trailer = vec![0xee; 2];
        }),
        kernel("a UDP length short of the IP length", BadLength, |outer| outer.udp_length = -8)
            .arrives_as(|outer| outer.inner[..outer.inner.len() - 8].to_vec()),
        kernel("IP payload behind the datagram", BadLength, |outer| {
            outer.ip_length = 8;
            outer.trailer = vec![0xee; 8];
        }),
        refused("a UDP length beyond the IP length", BadLength, |outer| outer.udp_length = 1),
        refused("a UDP length shorter than its header", BadLength, |outer| outer.udp_length = -110),
        refused("a UDP length of zero", BadLength, |outer| outer.udp_length = -114).over(V4),
        // A jumbo datagram to the kernel: the length is the IP header's (`__udp6_lib_rcv`, net/ipv6/udp.c).
        kernel("a UDP length of zero over IPv6", BadLength, |outer| {
            outer.udp_length = -114;
            outer.udp_checksum = Checksum::Zero;
        })
        .over(V6),
        refused("an IP length shorter than its header", BadLength, |outer| outer.ip_length = -120).over(V4),
        refused("an IPv6 payload length of zero", BadLength, |outer| outer.ip_length = -114).over(V6),
    ]
}

fn udp() -> Vec<Received> {
    vec![
        fast("ttl 0", |outer| outer.ttl = 0),
        fast("ttl 1", |outer| outer.ttl = 1),
        fast("a class of service", |outer| outer.tos = 0xb8),
        fast("no UDP checksum", |outer| outer.udp_checksum = Checksum::Zero),
        fast("a right UDP checksum", |outer| outer.udp_checksum = Checksum::Right),
        dropped("a wrong UDP checksum", UdpCsum, |outer| outer.udp_checksum = Checksum::Wrong),
        fast("a UDP checksum that was left to the device", |outer| {
            outer.udp_checksum = Checksum::Unfinished;
        })
        .sent_as(|outer| {
            let offload = Offload::Checksum { start: outer.udp_offset(), field: 6, segments: None };
            vec![Sent { bytes: outer.bytes(), offload }]
        }),
        fast("a right UDP checksum with padding behind it", |outer| {
            outer.udp_checksum = Checksum::Right;
            outer.trailer = vec![0xee; 5];
        }),
        fast("source port 0", |outer| outer.source_port = 0),
        fast("the tunnel's port as the source port", |outer| outer.source_port = outer.destination_port),
        refused("another UDP port", NotOurs, |outer| outer.destination_port += 1),
        refused("another protocol than UDP", NotOurs, |outer| outer.protocol = 136),
        refused("TCP", NotOurs, |outer| outer.protocol = 6),
    ]
}
