//! Properties of the whole path: there and back again, any bytes, batches, segments kept apart, marks.

use proptest::prelude::*;

use super::*;
use crate::table::{Df, MacRow, Tos, Ttl, UdpChecksum, ZeroUdp6};
use crate::wire::Inner;

fn policy() -> impl Strategy<Value = Policy> {
    let ttl = prop_oneof![Just(Ttl::Auto), Just(Ttl::Inherit)];
    let tos = prop_oneof![Just(Tos::Inherit), any::<u8>().prop_map(Tos::Fixed)];
    let df = prop_oneof![Just(Df::Unset), Just(Df::Set), Just(Df::Inherit)];
    let udp_checksum = prop_oneof![Just(UdpChecksum::Zero), Just(UdpChecksum::Computed)];
    (ttl, tos, df, udp_checksum).prop_map(|(ttl, tos, df, udp_checksum)| Policy {
        ttl,
        tos,
        df,
        udp_checksum,
        zero_udp6: ZeroUdp6::Accept,
        ..Policy::default()
    })
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

/// Frames from container 1 to container 2: whole packets, packets with a few bytes changed, and noise.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..1300);
    let packet = (payload, any::<bool>(), 0usize..3).prop_map(|(payload, v4, tags)| {
        let mut frame = if v4 { udp4(&payload) } else { tcp6(&payload) };
        for _ in 0..tags {
            frame.splice(12..12, [0x81, 0x00, 0x20, 0x07]);
        }
        frame
    });
    let changes = prop::collection::vec((12usize..100, any::<u8>()), 0..4);
    let mutated = (packet, changes).prop_map(|(mut frame, changes)| {
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame
    });
    let noise = prop::collection::vec(any::<u8>(), 2..1400)
        .prop_map(|noise| [&C2.octets()[..], &C1.octets(), &noise].concat());
    prop_oneof![3 => mutated, 1 => noise]
}

proptest! {
    #[test]
    fn what_is_encapsulated_decapsulates_to_the_same(frame in frame(), family in family(), policy in policy()) {
        let parsed = Inner::parse(&frame);
        match send(&tables(family, 0, policy), PORT, &frame) {
            Ok(outer) => {
                // An inner checksum that looked unfinished has been finished, once.
                let mut expected = frame.clone();
                crate::path::unfinished::finish(&mut expected, &parsed);
                prop_assert_eq!(receive(&tables(family, 1, policy), &outer), Ok((PORT, expected)));
            }
            Err(reason) => {
                prop_assert_eq!(reason, DropReason::PktTooSmall);
                let cut_in_ip = parsed.network == crate::wire::Network::Truncated;
                prop_assert!(cut_in_ip || parsed.tags > 0 && frame.len() < 20);
            }
        }
    }

    #[test]
    fn an_independent_parser_reads_every_outer_frame(frame in frame(), family in family(), policy in policy()) {
        // Those that are cut short in their headers.
        let Ok(outer) = send(&tables(family, 0, policy), PORT, &frame) else { return Ok(()) };
        let packet = sliced(&outer);
        let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else {
            return Err(TestCaseError::fail("not UDP"));
        };
        prop_assert_eq!(usize::from(udp.length()), frame.len() + 16);
        prop_assert_eq!(&udp.payload()[..8], &[8, 0, 0, 0, 0, 0, 42, 0]);
        let expected = match (&packet.net, policy.udp_checksum) {
            (_, UdpChecksum::Zero) => 0,
            (Some(etherparse::NetSlice::Ipv4(ip)), _) => {
                udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).expect("short")
            }
            (Some(etherparse::NetSlice::Ipv6(ip)), _) => {
                udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).expect("short")
            }
            other => return Err(TestCaseError::fail(format!("not IP: {other:?}"))),
        };
        prop_assert_eq!(udp.checksum(), expected);
        if let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net {
            let header = ip.header().to_header();
            prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
    }

    #[test]
    fn bytes_of_any_kind_get_a_verdict(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        family in family(),
        port in 0u16..4,
    ) {
        let tables = tables(family, 0, Policy::default());
        let _ = receive(&tables, &bytes);
        let _ = run(&tables, Ingress::Port(PortId::new(port)), &mut bytes.clone());
    }

    #[test]
    fn outer_frames_with_a_few_bytes_changed_get_a_verdict(
        changes in prop::collection::vec((0usize..110, any::<u8>()), 1..6),
        cut in 0usize..150,
        family in family(),
    ) {
        let mut outer = from_peer(family, &answer());
        for (at, byte) in changes {
            if let Some(place) = outer.get_mut(at) {
                *place = byte;
            }
        }
        outer.truncate(cut.max(1));
        if let Ok((port, frame)) = receive(&tables(family, 0, Policy::default()), &outer) {
            prop_assert!(frame.len() >= 14);
            prop_assert!(port == PORT || port == TWIN);
        }
    }
}

#[test]
fn equal_addresses_in_two_segments_stay_apart() {
    let here = tables(Family::V4, 0, Policy::default());
    let outer = from_peer(Family::V4, &answer());
    assert_eq!(receive(&here, &outer), Ok((PORT, answer())));
    // The other segment's container 2 is behind VTEP 3, so a frame of host 2 in it is refused, ...
    let mut other = outer.clone();
    other[48] = 43;
    assert_eq!(receive(&here, &other), Err(DropReason::VxlanEntryExists));
    // ... and one of VTEP 3 is delivered there and nowhere else.
    other[29] = 23;
    other[24..26].fill(0);
    let checksum = crate::wire::checksum::Sum::of(&other[14..34]).checksum();
    other[24..26].copy_from_slice(&checksum);
    assert_eq!(receive(&here, &other), Ok((TWIN, answer())));
}

#[test]
fn a_batch_of_any_length_and_mixture_gives_each_frame_its_own_verdict() {
    let here = tables(Family::V4, 0, Policy::default());
    let outer = from_peer(Family::V4, &answer());
    let departing = [vec![0; 50], udp4(b"x")].concat();
    for count in [0, 1, 63, 64, 65, 200] {
        let mut frames: Vec<_> = (0..count)
            .map(|n| match n % 3 {
                0 => (Ingress::Underlay, outer.clone()),
                1 => (Ingress::Port(PORT), departing.clone()),
                _ => (Ingress::Port(PortId::new(9)), departing.clone()),
            })
            .collect();
        let mut batch: Vec<_> = frames.iter_mut().map(|(from, data)| Slot::new(*from, data)).collect();
        let mut local = Local::new(0);
        process(Nanos(0), &mut batch, &here, &mut local);
        for (n, slot) in batch.iter().enumerate() {
            let expected = match n % 3 {
                0 => Verdict::ToPort { port: PORT, len: answer().len() },
                1 => Verdict::ToUnderlay { len: departing.len() },
                _ => Verdict::Drop(DropReason::UnknownPort),
            };
            assert_eq!(slot.verdict, expected);
        }
        let each = |rest| ((count + 2 - rest) / 3) as u64;
        let stats = local.stats();
        let flow = |frames, bytes: usize| Flow { frames, bytes: frames * bytes as u64 };
        assert_eq!(stats.decap(), flow(each(0), answer().len()));
        assert_eq!(stats.encap(), flow(each(1), udp4(b"x").len()));
        assert_eq!(stats.vtep(PEER), Some((stats.encap(), stats.decap())));
        assert_eq!(stats.port(PORT), Some((stats.encap(), stats.decap())));
        assert_eq!((stats.drops(DropReason::UnknownPort), stats.all_drops()), (each(2), each(2)));
    }
}

#[test]
fn frames_mark_the_row_of_their_sender_and_no_other() {
    let here = tables(Family::V4, 0, Policy::default());
    let remote = || here.remotes().map(|row: MacRow<_>| (row.overlay, row.last_frame)).collect::<Vec<_>>();
    let local = || here.locals().map(|row: MacRow<_>| (row.overlay, row.last_frame)).collect::<Vec<_>>();
    let sorted = |mut rows: Vec<_>| {
        rows.sort();
        rows
    };
    let other = OverlayId::new(1);
    // From VTEP 3, that is not where the source is.
    let mut spoofed = from_peer(Family::V4, &answer());
    spoofed[29] = 23;
    let _ = receive(&here, &spoofed);
    assert_eq!(sorted(remote()), [(SEGMENT, None), (other, None)]);
    receive(&here, &from_peer(Family::V4, &answer())).expect("it is delivered");
    assert_eq!(sorted(remote()), [(SEGMENT, Some(5)), (other, None)]);
    assert_eq!(sorted(local()), [(SEGMENT, None), (other, None)]);
    send(&here, PORT, &udp4(b"")).expect("it is sent");
    assert_eq!(sorted(local()), [(SEGMENT, Some(5)), (other, None)]);
}

#[test]
fn the_parser_agrees_with_etherparse_on_where_a_segment_is() {
    use crate::wire::{Network, Transport};
    let mut runner = proptest::test_runner::TestRunner::default();
    let outcome = runner.run(&frame(), |frame| {
        // etherparse refuses some packets whose lengths lie; ours says `Other` for their segment.
        let Ok(theirs) = etherparse::SlicedPacket::from_ethernet(&frame) else { return Ok(()) };
        let ours = Inner::parse(&frame);
        let transport = match ours.network {
            Network::V4 { transport, .. } | Network::V6 { transport, .. } => transport,
            Network::Truncated | Network::Other => return Ok(()),
        };
        let start = |slice: &[u8]| slice.as_ptr().addr() - frame.as_ptr().addr();
        if let Transport::Segment { protocol, at, end } = transport {
            let (their_protocol, slice, payload) = match &theirs.transport {
                Some(etherparse::TransportSlice::Udp(udp)) => (17, udp.slice(), udp.payload()),
                Some(etherparse::TransportSlice::Tcp(tcp)) => (6, tcp.slice(), tcp.payload()),
                other => return Err(TestCaseError::fail(format!("no segment: {other:?}"))),
            };
            prop_assert_eq!(protocol, their_protocol);
            prop_assert_eq!(at, start(slice));
            // A UDP length may fall short of the packet's.
            prop_assert!(start(payload) + payload.len() <= end);
        } else if let Some(segment) = &theirs.transport {
            use etherparse::TransportSlice::{Tcp, Udp};
            let routed = matches!(&theirs.net, Some(etherparse::NetSlice::Ipv6(ip)) if ip.extensions().first_header() == Some(etherparse::IpNumber::IPV6_ROUTE_HEADER));
            prop_assert!(routed || !matches!(segment, Udp(_) | Tcp(_)), "missed {segment:?}");
        }
        Ok(())
    });
    outcome.expect("both parsers agree");
}
