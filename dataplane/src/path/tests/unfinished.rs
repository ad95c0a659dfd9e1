//! Checksums that the sender left to its network card.

use etherparse::{NetSlice, TransportSlice};

use super::*;
use crate::path::unfinished::{Checksum, finish};
use crate::table::{UdpChecksum, ZeroUdp6};
use crate::wire::Inner;
use crate::wire::checksum::Sum;

/// One frame of each kind, with correct checksums, and the offset of its checksum field.
fn samples(payload: &[u8]) -> Vec<(Vec<u8>, usize)> {
    let link = || PacketBuilder::ethernet2(C1.octets(), C2.octets());
    let (a, b) = ([10, 0, 0, 2], [10, 0, 0, 3]);
    let tcp4 = link().ipv4(a, b, 9).tcp(1, 2, 3, 4);
    let udp6 = link().ipv6([1; 16], [2; 16], 9).udp(1, 2);
    vec![
        (udp4(payload), 14 + 20 + 6),
        (built(0, |out| tcp4.write(out, payload)), 14 + 20 + 16),
        (built(0, |out| udp6.write(out, payload)), 14 + 40 + 6),
        (tcp6(payload), 14 + 40 + 16),
    ]
}

/// The folded pseudo-header sum of a frame without tags, in independent terms.
fn partial(frame: &[u8]) -> [u8; 2] {
    let packet = sliced(frame);
    let (addresses, header) = match &packet.net {
        Some(NetSlice::Ipv4(_)) => (&frame[26..34], 34),
        Some(NetSlice::Ipv6(_)) => (&frame[22..54], 54),
        other => panic!("not IP: {other:?}"),
    };
    let protocol = match packet.transport {
        Some(TransportSlice::Tcp(_)) => 6,
        _ => 17,
    };
    let length = (frame.len() - header) as u16;
    let [a, b] = length.to_be_bytes();
    let pseudo = [addresses, &[0, protocol, a, b]].concat();
    Sum::of(&pseudo).folded()
}

#[test]
fn an_unfinished_checksum_becomes_the_correct_one() {
    for length in [0, 1, 2, 7, 64, 333, 1400] {
        for (correct, field) in samples(&vec![0xc3; length]) {
            let mut frame = correct.clone();
            frame[field..field + 2].copy_from_slice(&partial(&correct));
            let inner = Inner::parse(&frame);
            assert_eq!(finish(&mut frame, &inner), Checksum::Finished);
            assert_eq!(frame, correct);
        }
    }
}

#[test]
fn a_correct_checksum_stays() {
    for (correct, _) in samples(b"payload") {
        let mut frame = correct.clone();
        let inner = Inner::parse(&frame);
        assert_eq!(finish(&mut frame, &inner), Checksum::Untouched);
        assert_eq!(frame, correct);
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    for (correct, field) in samples(b"payload") {
        let mut frame = correct.clone();
        frame[field] ^= 0x55;
        let damaged = frame.clone();
        let inner = Inner::parse(&frame);
        assert_eq!(finish(&mut frame, &inner), Checksum::Untouched);
        assert_eq!(frame, damaged);
    }
}

#[test]
fn a_udp_checksum_of_none_stays_none() {
    let mut frame = udp4(b"payload");
    frame[40..42].fill(0);
    let inner = Inner::parse(&frame);
    assert_eq!(finish(&mut frame, &inner), Checksum::Untouched);
    assert_eq!(frame[40..42], [0, 0]);
}

#[test]
fn a_correct_checksum_that_looks_unfinished_comes_out_the_same() {
    // A payload word is searched for, such that the correct checksum is the pseudo-header's sum.
    for (field, make) in [(40, udp4 as fn(&[u8]) -> Vec<u8>), (70, tcp6)] {
        let ambiguous = (0..=u16::MAX)
            .map(|word| make(&word.to_be_bytes()))
            .find(|frame| frame[field..field + 2] == partial(frame));
        let correct = ambiguous.expect("one word in 65536 makes it so");
        let mut frame = correct.clone();
        let inner = Inner::parse(&frame);
        assert_eq!(finish(&mut frame, &inner), Checksum::Finished);
        assert_eq!(frame, correct);
    }
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_its_other_form() {
    let zero =
        (0..=u16::MAX).map(|word| udp4(&word.to_be_bytes())).find(|frame| frame[40..42] == [0xff, 0xff]);
    let correct = zero.expect("one word in 65536 makes it so");
    let mut frame = correct.clone();
    frame[40..42].copy_from_slice(&partial(&correct));
    let inner = Inner::parse(&frame);
    assert_eq!(finish(&mut frame, &inner), Checksum::Finished);
    assert_eq!(frame, correct);
}

#[test]
fn checksums_are_finished_behind_tags_and_extension_headers() {
    for (correct, field) in samples(b"payload") {
        let mut frame = correct.clone();
        frame[field..field + 2].copy_from_slice(&partial(&correct));
        for (at, tags) in [(4, &[0x81, 0, 0, 5][..]), (8, &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6])] {
            let mut tagged = frame.clone();
            tagged.splice(12..12, tags.iter().copied());
            let inner = Inner::parse(&tagged);
            assert_eq!(finish(&mut tagged, &inner), Checksum::Finished);
            assert_eq!(tagged[field + at..field + at + 2], correct[field..field + 2]);
        }
    }
    // Hop-by-hop options of eight bytes in front of TCP.
    let correct = tcp6(b"payload");
    let mut frame = correct.clone();
    frame[70..72].copy_from_slice(&partial(&correct));
    let length = (frame.len() - 54 + 8) as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = 0;
    frame.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
    let inner = Inner::parse(&frame);
    assert_eq!(finish(&mut frame, &inner), Checksum::Finished);
    assert_eq!(frame[78..80], correct[70..72]);
}

#[test]
fn fragments_are_left_alone() {
    let correct = udp4(b"payload");
    for fragment in [0x2000u16, 0x0001] {
        let mut frame = correct.clone();
        frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        frame[40..42].copy_from_slice(&partial(&correct));
        let before = frame.clone();
        let inner = Inner::parse(&frame);
        assert_eq!(finish(&mut frame, &inner), Checksum::Untouched);
        assert_eq!(frame, before);
    }
}

#[test]
fn encapsulation_and_decapsulation_both_finish_the_inner_checksum() {
    let tables = tables(Family::V4, 0, Policy::default());
    let correct = udp4(b"payload");
    let mut frame = correct.clone();
    frame[40..42].copy_from_slice(&partial(&correct));
    let outer = send(&tables, PORT, &frame).expect("it is sent");
    assert_eq!(outer[50..], correct);

    let correct = answer();
    let mut outer = from_peer(Family::V4, &correct);
    outer[90..92].copy_from_slice(&partial(&correct));
    assert_eq!(receive(&tables, &outer), Ok((PORT, correct)));
}

/// The frame of a kernel peer that computes outer checksums.
fn with_outer_checksum(family: Family, frame: &[u8]) -> Vec<u8> {
    let policy = Policy { udp_checksum: UdpChecksum::Computed, ..Policy::default() };
    send(&super::tables(family, 1, policy), PORT, frame).expect("host 2 sends it")
}

fn outer_field(family: Family) -> usize {
    family.encap_room() - 10
}

#[test]
fn a_right_outer_checksum_is_accepted_and_a_wrong_one_dropped() {
    for family in [Family::V4, Family::V6] {
        let tables = tables(family, 0, Policy::default());
        let outer = with_outer_checksum(family, &answer());
        assert_eq!(receive(&tables, &outer), Ok((PORT, answer())));
        for at in [outer_field(family), outer.len() - 1] {
            let mut damaged = outer.clone();
            damaged[at] ^= 1;
            assert_eq!(receive(&tables, &damaged), Err(DropReason::UdpCsum));
        }
    }
}

#[test]
fn an_unfinished_outer_checksum_is_accepted() {
    for family in [Family::V4, Family::V6] {
        let tables = tables(family, 0, Policy::default());
        let mut outer = with_outer_checksum(family, &answer());
        let field = outer_field(family);
        let sum = partial(&outer);
        outer[field..field + 2].copy_from_slice(&sum);
        assert_eq!(receive(&tables, &outer), Ok((PORT, answer())));
    }
}

#[test]
fn an_outer_checksum_over_an_unfinished_inner_one_is_the_finished_packets() {
    // As the kernel's local checksum offload leaves it.
    let correct = answer();
    let tables = tables(Family::V4, 0, Policy::default());
    let mut outer = with_outer_checksum(Family::V4, &correct);
    outer[90..92].copy_from_slice(&partial(&correct));
    assert_eq!(receive(&tables, &outer), Ok((PORT, correct)));
}

#[test]
fn a_zero_outer_checksum_over_ipv6_needs_permission() {
    let accepting = Policy { zero_udp6: ZeroUdp6::Accept, ..Policy::default() };
    let outer = from_peer(Family::V6, &answer());
    assert_eq!(receive(&tables(Family::V6, 0, Policy::default()), &outer), Err(DropReason::UdpCsum));
    assert_eq!(receive(&tables(Family::V6, 0, accepting), &outer), Ok((PORT, answer())));
}
