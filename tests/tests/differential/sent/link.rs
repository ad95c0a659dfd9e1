//! Ethernet: MACs, EtherTypes, tags, runts, and what the vxlan device answers itself.

use vxdp_dataplane::DropReason::PktTooSmall;
use vxdp_ebpf::Verdict::{MovedSource, Multicast, Neighbour, UnknownDestination, UnknownSource, WrongSide};

use crate::inner::{self, C1, C2, EXPERIMENT, REMOTE_V4, between, cut, frame, payload, tagged};
use crate::row::{Emitted, Way, carried, kept, left};

/// A MAC that nobody has.
const NOBODY: [u8; 6] = [0x02, 0x66, 0, 0, 3, 1];

/// A remote container other than the destination: the bridge believes that it has moved, until the daemon
/// puts it back.
const FORGED: [u8; 6] = [0x02, 0x42, 0x0a, 0, 0, 5];

pub(crate) fn rows() -> Vec<Emitted> {
    [addresses(), neighbours(), types(), tags(), runts()].into_iter().flatten().collect()
}

fn addresses() -> Vec<Emitted> {
    let to = |mac| between(C1, mac, inner::udp4(20));
    let from = |mac| between(mac, C2, inner::udp4(20));
    vec![
        left("to nobody", UnknownDestination, to(NOBODY)),
        left("a broadcast", Multicast, to([0xff; 6])),
        left("a multicast", Multicast, to([0x01, 0, 0x5e, 0, 0, 0xfb])),
        left("to the zero address", UnknownDestination, to([0; 6])),
        kept("to the container itself", WrongSide, to(C1)),
        left("from an address not seen before", UnknownSource, from([0x02, 0x66, 0, 0, 3, 2])),
        Emitted { leaves: None, ..left("from a remote's address", MovedSource, from(FORGED)) },
        kept("from a group address", UnknownSource, from([0x03, 0x66, 0, 0, 0, 1])),
        kept("from the zero address", UnknownSource, from([0; 6])),
    ]
}

/// What `proxy` looks at: the vxlan device answers or swallows it.
fn neighbours() -> Vec<Emitted> {
    const UNKNOWN: [u8; 4] = [10, 0, 0, 99];
    vec![
        kept("an ARP request for the remote", Multicast, inner::arp([0xff; 6], 1, REMOTE_V4)),
        kept("an ARP request for nobody", Multicast, inner::arp([0xff; 6], 1, UNKNOWN)),
        kept("a unicast ARP request for the remote", Neighbour, inner::arp(C2, 1, REMOTE_V4)),
        kept("a unicast ARP request for nobody", Neighbour, inner::arp(C2, 1, UNKNOWN)),
        kept("a unicast ARP reply", Neighbour, inner::arp(C2, 2, REMOTE_V4)),
        kept("ARP cut short", Neighbour, cut(inner::arp(C2, 1, REMOTE_V4), 20)),
        Emitted {
            leaves: None,
            ..left("ARP behind a tag", Neighbour, tagged(&[(0x8100, 5)], inner::arp(C2, 1, REMOTE_V4)))
        },
        kept("a unicast neighbour solicitation", Neighbour, inner::neighbour_discovery(135)),
        carried("a unicast neighbour advertisement", inner::neighbour_discovery(136)),
    ]
}

fn types() -> Vec<Emitted> {
    vec![
        carried("an EtherType for experiments", frame(EXPERIMENT, &payload(64))),
        carried("MPLS", frame(0x8847, &payload(64))),
        carried("PPPoE", frame(0x8864, &payload(64))),
        carried("LLDP by unicast", frame(0x88cc, &payload(64))),
        carried("an 802.3 length", frame(60, &payload(60))),
        carried("EtherType 0", frame(0, &payload(64))),
        carried("EtherType 0xffff", frame(0xffff, &payload(64))),
    ]
}

fn tags() -> Vec<Emitted> {
    let tos = |tags: &[(u16, u16)], tos| tagged(tags, inner::with_tos(inner::udp4(64), tos));
    let mut rows = vec![
        carried("an 802.1Q tag before no IP", tagged(&[(0x8100, 5)], frame(EXPERIMENT, &payload(64)))),
        carried("a priority tag", tos(&[(0x8100, 0xe000)], 0)),
        carried("an 802.1ad tag", tos(&[(0x88a8, 100)], 0)),
        carried("a tag before IPv6", tagged(&[(0x8100, 5)], inner::with_tos(inner::udp6(64), 0x2e))),
        carried("two tags", tos(&[(0x88a8, 100), (0x8100, 5)], 0x2e)),
        carried("two 802.1Q tags", tos(&[(0x8100, 100), (0x8100, 5)], 0x2e)),
        carried("three tags", tos(&[(0x88a8, 1), (0x8100, 2), (0x8100, 3)], 0x2e)),
        carried("a tag with the drop-eligible bit", tos(&[(0x8100, 0x1005)], 0)),
    ];
    // How many the kernel looks behind.
    for count in 4..=9 {
        rows.push(carried(format!("{count} tags"), tos(&vec![(0x8100, 5); count], 0x2e)));
    }
    for vlan in 4..8 {
        for ecn in 0..4 {
            let name = format!("VLAN {vlan} before ECN codepoint {ecn}");
            rows.push(carried(name, tos(&[(0x8100, vlan)], 0x48 | ecn)));
        }
    }
    rows
}

/// Frames that end before they should.
fn runts() -> Vec<Emitted> {
    let ipv4 = |length| cut(inner::udp4(20), length);
    let ipv6 = |length| cut(inner::udp6(20), length);
    let behind_a_tag = |length| cut(tagged(&[(0x8100, 5)], inner::udp4(20)), length);
    // The kernel wants the whole fixed header of IP before it encapsulates, behind tags as well
    // (`skb_vlan_inet_prepare`, include/net/ip_tunnels.h).
    let dropped = |name, frame: Vec<u8>| Emitted {
        way: Way::Dropped(PktTooSmall),
        leaves: Some(0),
        ..carried(name, frame)
    };
    vec![
        carried("14 bytes", frame(EXPERIMENT, &[])),
        carried("15 bytes", frame(EXPERIMENT, &[1])),
        dropped("an IPv4 header of 0 bytes", ipv4(14)),
        dropped("an IPv4 header of 1 byte", ipv4(15)),
        dropped("an IPv4 header of 19 bytes", ipv4(33)),
        carried("an IPv4 header and nothing else", ipv4(34)),
        dropped("an IPv6 header of 0 bytes", ipv6(14)),
        dropped("an IPv6 header of 39 bytes", ipv6(53)),
        carried("an IPv6 header and nothing else", ipv6(54)),
        kept("a tag of 1 byte", Neighbour, behind_a_tag(15)),
        kept("a tag of 3 bytes", Neighbour, behind_a_tag(17)),
        dropped("a tag and nothing else", behind_a_tag(18)),
        dropped("a tag and two bytes of IPv4", behind_a_tag(20)),
        dropped("a tag and an IPv4 header of 19 bytes", behind_a_tag(37)),
        carried("a tag and an IPv4 header", behind_a_tag(38)),
        dropped("a tag before no IP and nothing else", tagged(&[(0x8100, 5)], frame(EXPERIMENT, &[]))),
        dropped("a tag before no IP and one byte", tagged(&[(0x8100, 5)], frame(EXPERIMENT, &[1]))),
        carried("a tag before no IP and two bytes", tagged(&[(0x8100, 5)], frame(EXPERIMENT, &[1, 2]))),
    ]
}
