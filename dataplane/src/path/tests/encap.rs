//! What outer headers look like.

use std::num::NonZeroU8;

use etherparse::{NetSlice, TransportSlice};

use super::*;
use crate::table::{Df, PortRange, Tos, Ttl, UdpChecksum};
use crate::wire::{Inner, VxlanHeader};

fn sent(family: Family, policy: Policy, frame: &[u8]) -> Vec<u8> {
    send(&tables(family, 0, policy), PORT, frame).expect("it is sent")
}

struct Ip {
    dsfield: u8,
    ttl: u8,
    dont_fragment: bool,
}

fn outer_ip(outer: &[u8]) -> Ip {
    match sliced(outer).net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            Ip {
                dsfield: header.dcp().value() << 2 | header.ecn().value(),
                ttl: header.ttl(),
                dont_fragment: header.dont_fragment(),
            }
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            Ip { dsfield: header.traffic_class(), ttl: header.hop_limit(), dont_fragment: true }
        }
        other => panic!("not IP: {other:?}"),
    }
}

#[test]
fn every_outer_field_over_ipv4_is_as_the_scenario_shows_it() {
    let frame = udp4(&[0; 56]);
    assert_eq!(frame.len(), 98);
    let outer = sent(Family::V4, Policy::default(), &frame);
    assert_eq!(outer.len(), 148);
    let packet = sliced(&outer);
    let link = packet.link.as_ref().and_then(|link| link.to_header()).expect("Ethernet");
    let link = link.ethernet2().expect("Ethernet II");
    assert_eq!((link.source, link.destination), (HOST[0].octets(), HOST[1].octets()));
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("not IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!((header.source, header.destination), ([192, 168, 10, 21], [192, 168, 10, 22]));
    assert_eq!((header.total_len, header.time_to_live, header.protocol.0), (134, 64, 17));
    assert_eq!(header.identification, 8, "one more than the seed");
    assert!(!header.dont_fragment && !header.more_fragments);
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("not UDP") };
    assert_eq!((udp.destination_port(), udp.length(), udp.checksum()), (4789, 114, 0));
    assert!(udp.source_port() >= 49152);
    assert_eq!(udp.payload()[..8], [8, 0, 0, 0, 0, 0, 42, 0]);
    assert_eq!(udp.payload()[8..], frame);
}

#[test]
fn every_outer_field_over_ipv6_is_right_with_its_checksum() {
    let frame = tcp6(b"payload");
    let policy = Policy { udp_checksum: UdpChecksum::Computed, ..Policy::default() };
    let outer = sent(Family::V6, policy, &frame);
    let packet = sliced(&outer);
    let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("not IPv6") };
    let header = ip.header().to_header();
    assert_eq!((header.traffic_class, header.flow_label.value(), header.hop_limit), (0, 0, 64));
    assert_eq!(usize::from(header.payload_length), outer.len() - 54);
    assert_eq!(address(Family::V6, 1), header.source_addr());
    assert_eq!(address(Family::V6, 2), header.destination_addr());
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("not UDP") };
    let expected = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).expect("short enough");
    assert_eq!(udp.checksum(), expected);
    assert_eq!(udp.payload()[8..], frame);
}

#[test]
fn a_computed_udp_checksum_over_ipv4_is_right() {
    let policy = Policy { udp_checksum: UdpChecksum::Computed, ..Policy::default() };
    // Odd and even lengths.
    for length in 0..64 {
        let outer = sent(Family::V4, policy, &udp4(&vec![0x5a; length]));
        let packet = sliced(&outer);
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (&packet.net, &packet.transport)
        else {
            panic!("not UDP over IPv4")
        };
        let header = ip.header().to_header();
        assert_eq!(Ok(udp.checksum()), udp.to_header().calc_checksum_ipv4(&header, udp.payload()));
    }
}

#[test]
fn ttl_is_the_routes_the_inner_packets_or_a_fixed_one() {
    for (family, frame, inner) in [(Family::V4, udp4(b""), 17), (Family::V6, tcp6(b""), 33)] {
        for (ttl, expected) in
            [(Ttl::Auto, 64), (Ttl::Inherit, inner), (Ttl::Fixed(NonZeroU8::new(9).expect("not zero")), 9)]
        {
            let outer = sent(family, Policy { ttl, ..Policy::default() }, &frame);
            assert_eq!(outer_ip(&outer).ttl, expected, "{ttl:?}");
        }
    }
}

#[test]
fn an_inherited_ttl_of_a_frame_without_ip_is_the_routes() {
    let arp = [&C2.octets()[..], &C1.octets(), &[0x08, 0x06], &[0; 28]].concat();
    let outer = sent(Family::V4, Policy { ttl: Ttl::Inherit, ..Policy::default() }, &arp);
    assert_eq!(outer_ip(&outer).ttl, 64);
}

#[test]
fn tos_is_fixed_or_inherited_and_ecn_always_copied() {
    for dsfield in 0..=255u8 {
        let mut v4 = udp4(b"");
        v4[15] = dsfield;
        let mut v6 = tcp6(b"");
        v6[14..16].copy_from_slice(&[0x60 | dsfield >> 4, dsfield << 4]);
        let ecn = if dsfield & 3 == 3 { 2 } else { dsfield & 3 };
        for family in [Family::V4, Family::V6] {
            for frame in [&v4, &v6] {
                let inherited = sent(family, Policy { tos: Tos::Inherit, ..Policy::default() }, frame);
                assert_eq!(outer_ip(&inherited).dsfield, dsfield & 0xfc | ecn);
                let fixed = sent(family, Policy { tos: Tos::Fixed(0xb9), ..Policy::default() }, frame);
                assert_eq!(outer_ip(&fixed).dsfield, 0xb8 | ecn);
            }
        }
    }
}

#[test]
fn tos_ttl_and_ecn_are_inherited_from_behind_tags() {
    for tags in 1..=2 {
        let mut frame = udp4(b"x");
        frame[15] = 0x2e;
        for _ in 0..tags {
            frame.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        }
        let policy = Policy { tos: Tos::Inherit, ttl: Ttl::Inherit, df: Df::Inherit, ..Policy::default() };
        let ip = outer_ip(&sent(Family::V4, policy, &frame));
        assert_eq!((ip.dsfield, ip.ttl, ip.dont_fragment), (0x2e, 17, false));
    }
}

#[test]
fn df_is_unset_set_or_inherited() {
    let mut clear = udp4(b"");
    clear[20] &= !0x40;
    let mut set = udp4(b"");
    set[20] |= 0x40;
    for (df, frame, expected) in [
        (Df::Unset, &set, false),
        (Df::Set, &clear, true),
        (Df::Inherit, &set, true),
        (Df::Inherit, &clear, false),
        (Df::Inherit, &tcp6(b""), true),
    ] {
        let outer = sent(Family::V4, Policy { df, ..Policy::default() }, frame);
        assert_eq!(outer_ip(&outer).dont_fragment, expected, "{df:?}");
    }
}

fn source_port(outer: &[u8]) -> u16 {
    match sliced(outer).transport {
        Some(TransportSlice::Udp(udp)) => udp.source_port(),
        other => panic!("not UDP: {other:?}"),
    }
}

#[test]
fn source_ports_stay_in_their_range_and_spread_over_it() {
    let policy = Policy { source_ports: PortRange::new(5000, 5015), ..Policy::default() };
    let mut seen = std::collections::BTreeMap::new();
    for flow in 0..1600u16 {
        let mut frame = udp4(b"");
        frame[34..36].copy_from_slice(&flow.to_be_bytes());
        *seen.entry(source_port(&sent(Family::V4, policy, &frame))).or_insert(0u32) += 1;
    }
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), (5000..=5015).collect::<Vec<_>>());
    // 100 expected on each; six standard deviations either way.
    assert!(seen.values().all(|count| (40..160).contains(count)), "{seen:?}");
}

#[test]
fn a_range_of_one_port_is_that_port_and_ends_may_be_swapped() {
    for hash in [0, 1, u32::MAX] {
        assert_eq!(PortRange::new(7, 7).pick(hash), 7);
        assert!((10..=20).contains(&PortRange::new(20, 10).pick(hash)));
    }
    assert_eq!(PortRange::new(0, u16::MAX).pick(u32::MAX), u16::MAX);
}

#[test]
fn frames_of_one_flow_have_one_source_port_whatever_else_differs() {
    let mut other = udp4(b"another payload");
    other[15] = 0x10;
    other[22] = 99;
    let port = |frame: &[u8]| source_port(&sent(Family::V4, Policy::default(), frame));
    assert_eq!(port(&udp4(b"payload")), port(&other));
}

#[test]
fn all_fragments_of_a_packet_have_one_source_port() {
    let port = |fragment: u16, ports: [u8; 2]| {
        let mut frame = udp4(b"payload");
        frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        frame[34..36].copy_from_slice(&ports);
        source_port(&sent(Family::V4, Policy::default(), &frame))
    };
    assert_eq!(port(0x2000, [1, 2]), port(0x0010, [3, 4]));
}

#[test]
fn the_flow_hash_of_a_frame_without_ip_depends_on_its_addresses() {
    let hash = |last: u8| {
        let mut arp = [&C2.octets()[..], &C1.octets(), &[0x08, 0x06], &[0; 28]].concat();
        arp[11] = last;
        crate::path::entropy::flow_hash(&arp, &Inner::parse(&arp))
    };
    assert_ne!(hash(1), hash(2));
    assert_eq!(hash(1), hash(1));
}

#[test]
fn the_vni_on_the_wire_is_the_segments_own() {
    let tables = tables(Family::V4, 0, Policy::default());
    let outer = send(&tables, TWIN, &udp4(b"")).expect("it is sent");
    let (header, _) = VxlanHeader::parse(&outer[42..]).expect("long enough");
    assert_eq!(header.vni(), vni(43));
    assert_eq!(outer[..6], ROUTER.octets(), "the second segment's VTEP is behind a router");
}

#[test]
fn identifications_count_up() {
    let tables = tables(Family::V4, 0, Policy::default());
    let mut local = Local::new(u16::MAX - 1);
    for expected in [u16::MAX, 0, 1] {
        let mut data = [vec![0; 50], udp4(b"")].concat();
        let mut batch = [Slot::new(Ingress::Port(PORT), &mut data)];
        process(Nanos(0), &mut batch, &tables, &mut local);
        assert_eq!(data[18..20], expected.to_be_bytes());
    }
}
