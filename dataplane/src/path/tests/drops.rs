//! One test for each reason to drop a frame.

use super::*;
use crate::table::ZeroUdp6;
use crate::wire::checksum::Sum;

/// Offsets in an outer frame over IPv4.
const IP: usize = 14;
const UDP: usize = 34;
const VXLAN: usize = 42;
const INNER: usize = 50;

fn here(family: Family) -> Tables {
    tables(family, 0, Policy { zero_udp6: ZeroUdp6::Accept, ..Policy::default() })
}

/// What happens to host 2's frame after `edit`; the outer IPv4 checksum is mended.
fn edited(edit: impl FnOnce(&mut Vec<u8>)) -> Result<(PortId, Vec<u8>), DropReason> {
    let mut outer = from_peer(Family::V4, &answer());
    edit(&mut outer);
    if outer.len() >= UDP {
        outer[24..26].fill(0);
        let checksum = Sum::of(&outer[IP..UDP]).checksum();
        outer[24..26].copy_from_slice(&checksum);
    }
    receive(&here(Family::V4), &outer)
}

fn edited_v6(edit: impl FnOnce(&mut Vec<u8>)) -> Result<(PortId, Vec<u8>), DropReason> {
    let mut outer = from_peer(Family::V6, &answer());
    edit(&mut outer);
    receive(&here(Family::V6), &outer)
}

#[test]
fn a_frame_without_a_defect_is_delivered() {
    assert_eq!(edited(|_| {}), Ok((PORT, answer())));
    assert_eq!(edited_v6(|_| {}), Ok((PORT, answer())));
}

#[test]
fn decap_drops_a_frame_that_ends_within_its_headers() {
    for family in [Family::V4, Family::V6] {
        let outer = from_peer(family, &answer());
        for length in 0..outer.len() {
            assert_eq!(receive(&here(family), &outer[..length]), Err(DropReason::PktTooSmall), "{length}");
        }
    }
}

#[test]
fn decap_drops_a_udp_length_beyond_the_ip_packet_or_short_of_the_inner_ethernet_header() {
    let length = |length: u16| edited(|outer| outer[UDP + 4..UDP + 6].copy_from_slice(&length.to_be_bytes()));
    let whole = (answer().len() + 16) as u16;
    assert!(length(whole).is_ok());
    assert_eq!(length(whole + 1), Err(DropReason::PktTooSmall));
    for short in [0, 7, 8, 15, 16, 29] {
        assert_eq!(length(short), Err(DropReason::PktTooSmall), "{short}");
    }
}

#[test]
fn decap_drops_an_inner_ip_header_that_is_cut_short() {
    let peer = tables(Family::V4, 1, Policy::default());
    for (ether_type, least) in [([0x08, 0x00], 20), ([0x86, 0xdd], 40)] {
        let received = |length| {
            // Encapsulated as no IP, since a peer like us would not send it.
            let inner = [&C1.octets()[..], &C2.octets(), &[0x88, 0xb5], &vec![0x45; length]].concat();
            let mut outer = send(&peer, PORT, &inner).expect("it is sent");
            outer[50 + 12..50 + 14].copy_from_slice(&ether_type);
            receive(&here(Family::V4), &outer)
        };
        for length in 0..least {
            assert_eq!(received(length), Err(DropReason::PktTooSmall), "{length}");
        }
        assert!(received(least).is_ok());
    }
}

#[test]
fn encap_drops_an_ip_header_that_is_cut_short_behind_tags_as_well() {
    let tables = here(Family::V4);
    for tags in 0..3 {
        for (ether_type, least) in [([0x08, 0x00], 20), ([0x86, 0xdd], 40)] {
            let head = [&C2.octets()[..], &C1.octets(), &[0x81, 0, 0, 5].repeat(tags), &ether_type].concat();
            let sent = |length| send(&tables, PORT, &[&head[..], &vec![0x45; length]].concat());
            assert_eq!(sent(least - 1), Err(DropReason::PktTooSmall));
            assert!(sent(least).is_ok());
        }
    }
}

#[test]
fn encap_drops_a_tagged_frame_without_two_bytes_behind_its_tag() {
    let head = [&C2.octets()[..], &C1.octets(), &[0x81, 0, 0, 5, 0x88, 0xb5]].concat();
    let sent = |length| send(&here(Family::V4), PORT, &[&head[..], &vec![0; length]].concat());
    assert_eq!([sent(0), sent(1)], [Err(DropReason::PktTooSmall), Err(DropReason::PktTooSmall)]);
    assert!(sent(2).is_ok());
}

#[test]
fn an_inner_frame_of_just_an_ethernet_header_is_delivered() {
    let frame = [&C1.octets()[..], &C2.octets(), &[0x88, 0xb5]].concat();
    let outer = from_peer(Family::V4, &frame);
    assert_eq!(receive(&here(Family::V4), &outer), Ok((PORT, frame)));
}

#[test]
fn ethernet_padding_and_bytes_behind_the_udp_length_are_not_part_of_the_inner_frame() {
    assert_eq!(edited(|outer| outer.extend([0; 30])), Ok((PORT, answer())));
    let cut = edited(|outer| {
        let length = (answer().len() + 16 - 3) as u16;
        outer[UDP + 4..UDP + 6].copy_from_slice(&length.to_be_bytes());
    });
    assert_eq!(cut.map(|(_, frame)| frame.len()), Ok(answer().len() - 3));
}

#[test]
fn decap_drops_a_frame_that_is_too_big_for_its_port() {
    let frame = |length: usize| {
        let mut frame = answer();
        frame.resize(14 + length, 0);
        frame
    };
    let tables = here(Family::V4);
    let peer = change(
        &super::tables(Family::V4, 1, Policy::default()),
        &[Change::Vtep(
            PEER,
            Some(Vtep {
                address: address(Family::V4, 1),
                next_hop: Some(NextHop { mac: HOST[0], mtu: 9000, hop_limit: 64 }),
            }),
        )],
    );
    let outer = |length| send(&peer, PORT, &frame(length)).expect("the path takes it");
    assert!(receive(&tables, &outer(1454)).is_ok(), "a tag may exceed the MTU");
    assert_eq!(receive(&tables, &outer(1455)), Err(DropReason::PktTooBig));
}

#[test]
fn encap_drops_a_frame_that_does_not_fit_the_path() {
    for (family, largest) in [(Family::V4, 1450), (Family::V6, 1430)] {
        let frame = |length: usize| {
            let mut frame = udp4(b"");
            frame.resize(14 + length, 0);
            frame
        };
        assert!(send(&here(family), PORT, &frame(largest)).is_ok());
        assert_eq!(send(&here(family), PORT, &frame(largest + 1)), Err(DropReason::PktTooBig));
    }
}

#[test]
fn decap_drops_a_frame_for_another_mac_or_address() {
    assert_eq!(edited(|outer| outer[0] ^= 4), Err(DropReason::Otherhost));
    assert_eq!(edited(|outer| outer[33] ^= 4), Err(DropReason::Otherhost));
    assert_eq!(edited_v6(|outer| outer[53] ^= 4), Err(DropReason::Otherhost));
}

#[test]
fn decap_drops_what_is_not_udp_in_ip_of_the_underlays_family() {
    for ether_type in [[0x81, 0x00], [0x86, 0xdd], [0x08, 0x06]] {
        let result = edited(|outer| outer[12..14].copy_from_slice(&ether_type));
        assert_eq!(result, Err(DropReason::UnhandledProto));
    }
    assert_eq!(edited(|outer| outer[23] = 6), Err(DropReason::UnhandledProto));
    assert_eq!(edited_v6(|outer| outer[20] = 6), Err(DropReason::UnhandledProto));
}

#[test]
fn decap_drops_a_malformed_outer_ip_header() {
    assert_eq!(edited(|outer| outer[IP] = 0x65), Err(DropReason::IpInhdr));
    assert_eq!(edited(|outer| outer[IP] = 0x44), Err(DropReason::IpInhdr));
    assert_eq!(edited(|outer| outer[16..18].copy_from_slice(&[0, 19])), Err(DropReason::IpInhdr));
    assert_eq!(edited_v6(|outer| outer[IP] = 0x45), Err(DropReason::IpInhdr));
}

#[test]
fn decap_drops_a_wrong_outer_ip_checksum() {
    let mut outer = from_peer(Family::V4, &answer());
    outer[24] ^= 1;
    assert_eq!(receive(&here(Family::V4), &outer), Err(DropReason::IpCsum));
}

#[test]
fn decap_drops_fragments() {
    for fragment in [[0x20, 0x00], [0x00, 0x01], [0x3f, 0xff]] {
        let result = edited(|outer| outer[20..22].copy_from_slice(&fragment));
        assert_eq!(result, Err(DropReason::OuterFragment));
    }
    assert!(edited(|outer| outer[20] = 0x40).is_ok(), "don't fragment is not a fragment");
    assert_eq!(edited_v6(|outer| outer[20] = 44), Err(DropReason::OuterFragment));
}

#[test]
fn decap_drops_options_and_extension_headers() {
    assert_eq!(edited(|outer| outer[IP] = 0x46), Err(DropReason::OuterOptions));
    for extension in [0, 43, 60] {
        assert_eq!(edited_v6(|outer| outer[20] = extension), Err(DropReason::OuterOptions));
    }
}

#[test]
fn decap_drops_a_udp_port_of_no_overlay() {
    assert_eq!(edited(|outer| outer[UDP + 3] ^= 1), Err(DropReason::NoSocket));
}

#[test]
fn decap_drops_a_frame_for_an_unknown_vni() {
    assert_eq!(edited(|outer| outer[VXLAN + 6] = 44), Err(DropReason::VxlanVniNotFound));
}

#[test]
fn decap_drops_every_flag_but_i_and_every_reserved_bit() {
    for byte in [0, 1, 2, 3, 7] {
        for bit in 0..8 {
            let result = edited(|outer| outer[VXLAN + byte] ^= 1 << bit);
            assert_eq!(result, Err(DropReason::VxlanInvalidHdr), "byte {byte}, bit {bit}");
        }
    }
}

#[test]
fn decap_drops_a_group_address_or_zero_as_source() {
    for source in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
        let result = edited(|outer| outer[INNER + 6..INNER + 12].copy_from_slice(&source));
        assert_eq!(result, Err(DropReason::MacInvalidSource));
    }
}

#[test]
fn decap_drops_one_of_our_own_addresses_as_source() {
    let result = edited(|outer| outer[INNER + 6..INNER + 12].copy_from_slice(&C1.octets()));
    assert_eq!(result, Err(DropReason::LocalMac));
}

#[test]
fn decap_drops_a_source_that_is_known_behind_another_vtep() {
    let third = edited(|outer| outer[29] = 23);
    assert_eq!(third, Err(DropReason::VxlanEntryExists));
}

#[test]
fn decap_drops_a_sender_that_is_no_vtep() {
    assert_eq!(edited(|outer| outer[29] = 99), Err(DropReason::UnknownVtep));
}

#[test]
fn decap_drops_an_unknown_source() {
    assert_eq!(edited(|outer| outer[INNER + 11] ^= 0x80), Err(DropReason::UnknownSource));
}

#[test]
fn decap_drops_an_unknown_destination() {
    assert_eq!(edited(|outer| outer[INNER + 5] ^= 0x80), Err(DropReason::UnknownDestination));
    assert_eq!(edited(|outer| outer[INNER..INNER + 6].fill(0xff)), Err(DropReason::UnknownDestination));
}

#[test]
fn a_frame_without_room_or_without_an_ethernet_header_is_dropped() {
    for family in [Family::V4, Family::V6] {
        for length in 0..family.encap_room() + 14 {
            let verdict = run(&here(family), Ingress::Port(PORT), &mut vec![0; length]);
            assert_eq!(verdict, Verdict::Drop(DropReason::NoHeadroom));
        }
    }
}

#[test]
fn encap_drops_a_destination_behind_no_vtep() {
    let mut frame = udp4(b"");
    frame[5] ^= 0x80;
    assert_eq!(send(&here(Family::V4), PORT, &frame), Err(DropReason::VxlanNoRemote));
    frame[..6].fill(0xff);
    assert_eq!(send(&here(Family::V4), PORT, &frame), Err(DropReason::VxlanNoRemote));
}

#[test]
fn encap_drops_while_the_next_hop_is_unresolved() {
    let vtep = Vtep { address: address(Family::V4, 2), next_hop: None };
    let tables = change(&here(Family::V4), &[Change::Vtep(PEER, Some(vtep))]);
    assert_eq!(send(&tables, PORT, &udp4(b"")), Err(DropReason::NeighFailed));
}

#[test]
fn encap_drops_when_the_vtep_has_gone() {
    let tables = change(&here(Family::V4), &[Change::Vtep(PEER, None)]);
    assert_eq!(send(&tables, PORT, &udp4(b"")), Err(DropReason::UnknownVtep));
}

#[test]
fn encap_drops_when_the_overlay_has_gone() {
    let overlay = change(&here(Family::V4), &[Change::Overlay(SEGMENT, None)]);
    assert_eq!(send(&overlay, PORT, &udp4(b"")), Err(DropReason::VxlanNoRemote));
    // Rows that come before their overlay.
    let row = Change::Remote { overlay: SEGMENT, mac: C2, vtep: Some(PEER) };
    let early = change(&overlay, &[row]);
    assert_eq!(send(&early, PORT, &udp4(b"")), Err(DropReason::VxlanVniNotFound));
}

#[test]
fn a_port_without_a_row_sends_and_receives_nothing() {
    let tables = change(&here(Family::V4), &[Change::Port(PORT, None)]);
    assert_eq!(send(&tables, PORT, &udp4(b"")), Err(DropReason::UnknownPort));
    assert_eq!(send(&tables, PortId::new(999), &udp4(b"")), Err(DropReason::UnknownPort));
    let outer = from_peer(Family::V4, &answer());
    assert_eq!(receive(&tables, &outer), Err(DropReason::UnknownPort));
}

#[test]
fn a_row_that_leads_to_a_port_of_another_segment_delivers_nothing() {
    let row = Change::Local { overlay: SEGMENT, mac: C1, port: Some(TWIN) };
    let tables = change(&here(Family::V4), &[row]);
    let outer = from_peer(Family::V4, &answer());
    assert_eq!(receive(&tables, &outer), Err(DropReason::UnknownPort));
}
