//! Inner frames: where to, how long, and what is in them.

use vxdp_dataplane::DropReason::PktTooSmall;
use vxdp_ebpf::Verdict::{BadLength, Multicast, TooBig, UnknownDestination, WrongSide};
use vxdp_lab::Offload;

use crate::inner::{self, C1, EXPERIMENT, cut, frame, payload, protocol, tagged};
use crate::outer::Outer;
use crate::row::{Received, Sent, dropped, fast, kernel, refused};

pub(crate) fn rows() -> Vec<Received> {
    [destinations(), runts(), contents(), sizes(), unfinished()].into_iter().flatten().collect()
}

fn destinations() -> Vec<Received> {
    let to = |mac: [u8; 6]| move |outer: &mut Outer| outer.inner[..6].copy_from_slice(&mac);
    vec![
        kernel("an unknown inner destination", UnknownDestination, to([0x02, 0x66, 0, 0, 2, 1])),
        kernel("an inner broadcast", Multicast, to([0xff; 6])),
        kernel("an inner multicast", Multicast, to([0x01, 0, 0x5e, 0, 0, 0xfb])),
        kernel("a zero inner destination", UnknownDestination, to([0; 6])),
        refused("an inner destination on the sender's side", WrongSide, to(C1)),
    ]
}

fn runts() -> Vec<Received> {
    let short =
        |length: usize| move |outer: &mut Outer| outer.inner = frame(EXPERIMENT, &[])[..length].to_vec();
    let ipv4 = |length: usize| move |outer: &mut Outer| outer.inner = cut(inner::udp4(20), length);
    let ipv6 = |length: usize| move |outer: &mut Outer| outer.inner = cut(inner::udp6(20), length);
    let behind_a_tag = |length: usize| {
        move |outer: &mut Outer| outer.inner = cut(tagged(&[(0x8100, 5)], inner::udp4(20)), length)
    };
    vec![
        refused("no inner frame", BadLength, short(0)),
        refused("an inner frame of 13 bytes", BadLength, short(13)),
        fast("an inner frame of 14 bytes", short(14)),
        fast("an inner frame of 15 bytes", |outer| outer.inner = frame(EXPERIMENT, &[1])),
        dropped("an inner IPv4 header of 0 bytes", PktTooSmall, ipv4(14)),
        dropped("an inner IPv4 header of 19 bytes", PktTooSmall, ipv4(33)),
        fast("an inner IPv4 header and nothing else", ipv4(34)),
        dropped("an inner IPv6 header of 39 bytes", PktTooSmall, ipv6(53)),
        fast("an inner IPv6 header and nothing else", ipv6(54)),
        fast("an IPv4 header cut short behind a tag", behind_a_tag(30)),
        // The container's kernel looks for two bytes behind a tag before it lets anybody see the frame
        // (`skb_vlan_untag`, net/core/skbuff.c).
        fast("a tag that is cut short", behind_a_tag(17)).arrives_not(),
        fast("a tag and nothing else", behind_a_tag(18)).arrives_not(),
        fast("a tag and two bytes", behind_a_tag(20)),
    ]
}

fn contents() -> Vec<Received> {
    let carries = |name: &str, make: fn() -> Vec<u8>| fast(name, move |outer| outer.inner = make());
    vec![
        carries("UDP inside", || inner::udp4(100)),
        carries("TCP inside", || inner::tcp4(100)),
        carries("IPv6 inside", inner::ping6),
        carries("SCTP inside", || inner::ipv4(protocol::SCTP, &payload(60))),
        carries("an inner checksum that is wrong", || {
            let mut frame = inner::udp4(64);
            frame[40] ^= 1;
            frame
        }),
        carries("an inner IPv4 header checksum that is wrong", || {
            let mut frame = inner::udp4(64);
            frame[24] ^= 1;
            frame
        }),
        carries("an inner IPv4 header of version 5", || {
            let mut frame = inner::udp4(64);
            frame[14] = 0x55;
            frame
        }),
        carries("an inner IPv4 header of four words", || {
            let mut frame = inner::udp4(64);
            frame[14] = 0x44;
            frame
        }),
        carries("an inner IPv4 length beyond the frame", || {
            inner::with_ipv4(inner::udp4(64), |ip| ip[3] += 9)
        }),
        carries("an inner IPv4 length that leaves a rest", || {
            inner::with_ipv4(inner::udp4(64), |ip| ip[3] -= 9)
        }),
        carries("an inner fragment", || inner::with_ipv4(inner::udp4(64), |ip| ip[6] = 0x20)),
        carries("unicast ARP inside", || inner::arp(inner::C2, 1, [10, 0, 0, 3])),
        carries("MPLS inside", || frame(0x8847, &payload(50))),
        carries("an 802.3 length inside", || frame(50, &payload(50))),
        carries("an inner 802.1Q tag", || tagged(&[(0x8100, 0x6005)], inner::udp4(64))),
        carries("an inner priority tag", || tagged(&[(0x8100, 0xe000)], inner::udp4(64))),
        carries("two inner tags", || tagged(&[(0x88a8, 100), (0x8100, 5)], inner::udp4(64))),
        carries("three inner tags", || tagged(&[(0x88a8, 1), (0x8100, 2), (0x8100, 3)], inner::udp4(64))),
    ]
}

/// The overlay's MTU is 1450; one tag is free (`is_skb_forwardable`, net/core/dev.c).
fn sizes() -> Vec<Received> {
    let plain = |length: usize| move |outer: &mut Outer| outer.inner = frame(EXPERIMENT, &payload(length));
    let tags = |count: usize, length: usize| {
        move |outer: &mut Outer| {
            outer.inner = tagged(&vec![(0x8100, 5); count], frame(EXPERIMENT, &payload(length)));
        }
    };
    vec![
        fast("an inner packet of the MTU", plain(1450)),
        fast("an inner packet of the MTU and a tag", tags(1, 1450)),
        fast("an inner packet four bytes longer than the MTU", plain(1454)),
        refused("an inner packet five bytes longer than the MTU", TooBig, plain(1455)),
        // The kernel keeps one tag beside the frame, where it does not count.
        kernel("an inner packet of the MTU and two tags", TooBig, tags(2, 1450)),
        refused("an inner packet of the MTU and three tags", TooBig, tags(3, 1450)),
    ]
}

/// Inner checksums that the sender left to its device, as a kernel peer over veths does. The outer checksum is
/// then the one of the finished frame (`lco_csum`, include/linux/skbuff.h).
fn unfinished() -> Vec<Received> {
    let partial = |name: &str, frame: fn() -> Vec<u8>| fast(name, move |outer| outer.inner = frame());
    vec![
        partial("an inner UDP checksum that was left to the device", || inner::udp4(101))
            .sent_as(|outer| left(outer, 34, 6)),
        partial("an inner TCP checksum that was left to the device", || inner::tcp4(101))
            .sent_as(|outer| left(outer, 34, 16)),
        partial("an inner UDP checksum over IPv6 that was left to the device", || inner::udp6(101))
            .sent_as(|outer| left(outer, 54, 6)),
        partial("an inner TCP checksum over IPv6 that was left to the device", || inner::tcp6(101))
            .sent_as(|outer| left(outer, 54, 16)),
    ]
}

/// The packet with the checksum left to the device of the inner segment that starts at `segment`.
fn left(outer: &Outer, segment: u16, field: u16) -> Vec<Sent> {
    let mut bytes = outer.bytes();
    let inner = outer.udp_offset() + 16;
    let unfinished = inner::unfinished(outer.inner.clone(), segment.into(), field.into());
    bytes[inner.into()..].copy_from_slice(&unfinished);
    let offload = Offload::Checksum { start: inner + segment, field, segments: None };
    vec![Sent { bytes, offload }]
}
