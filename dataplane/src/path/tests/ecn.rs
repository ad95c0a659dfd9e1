//! ECN on whole frames, exhaustively.

use super::*;
use crate::path::ecn::{Decapsulated, Ecn};

fn inner_v4(dsfield: u8) -> Vec<u8> {
    let mut frame = answer();
    frame[15] = dsfield;
    frame[24..26].fill(0);
    let checksum = crate::wire::checksum::Sum::of(&frame[14..34]).checksum();
    frame[24..26].copy_from_slice(&checksum);
    frame
}

fn inner_v6(dsfield: u8) -> Vec<u8> {
    let mut frame = tcp6(b"");
    frame[..6].copy_from_slice(&C1.octets());
    frame[6..12].copy_from_slice(&C2.octets());
    frame[14..16].copy_from_slice(&[0x60 | dsfield >> 4, dsfield << 4 | 5]);
    frame
}

/// The frame on the wire with another outer codepoint.
fn marked(family: Family, frame: &[u8], outer: u8) -> Vec<u8> {
    let mut data = from_peer(family, frame);
    match family {
        Family::V4 => {
            data[15] = data[15] & 0xfc | outer;
            data[24..26].fill(0);
            let checksum = crate::wire::checksum::Sum::of(&data[14..34]).checksum();
            data[24..26].copy_from_slice(&checksum);
        }
        Family::V6 => data[15] = data[15] & 0xcf | outer << 4,
    }
    data
}

fn expectation(outer: u8, dsfield: u8) -> Result<u8, DropReason> {
    match Ecn::decapsulated(Ecn::of(outer), Ecn::of(dsfield)) {
        Decapsulated::Unchanged => Ok(dsfield),
        Decapsulated::Set(ecn) => Ok(ecn.in_byte(dsfield)),
        Decapsulated::Drop => Err(DropReason::IpTunnelEcn),
    }
}

#[test]
fn every_outer_codepoint_meets_every_inner_tos() {
    let policy = Policy { zero_udp6: crate::table::ZeroUdp6::Accept, ..Policy::default() };
    for family in [Family::V4, Family::V6] {
        let tables = tables(family, 0, policy);
        for (outer, dsfield) in (0..4).flat_map(|outer| (0..=255).map(move |dsfield| (outer, dsfield))) {
            let v4 = receive(&tables, &marked(family, &inner_v4(dsfield), outer));
            let expected = expectation(outer, dsfield).map(|dsfield| (PORT, inner_v4(dsfield)));
            assert_eq!(v4, expected, "outer {outer}, inner IPv4 {dsfield:#x}");
            let v6 = receive(&tables, &marked(family, &inner_v6(dsfield), outer));
            let expected = expectation(outer, dsfield).map(|dsfield| (PORT, inner_v6(dsfield)));
            assert_eq!(v6, expected, "outer {outer}, inner IPv6 {dsfield:#x}");
        }
    }
}

#[test]
fn a_frame_without_ip_inside_is_delivered_whatever_the_outer_codepoint() {
    let arp = [&C1.octets()[..], &C2.octets(), &[0x08, 0x06], &[0; 28]].concat();
    let tables = tables(Family::V4, 0, Policy::default());
    for outer in 0..4 {
        assert_eq!(receive(&tables, &marked(Family::V4, &arp, outer)), Ok((PORT, arp.clone())));
    }
}

#[test]
fn a_tagged_frame_is_delivered_as_it_is_whatever_the_outer_codepoint() {
    let tables = tables(Family::V4, 0, Policy::default());
    for (outer, dsfield) in (0..4).flat_map(|outer| (0..4).map(move |dsfield| (outer, dsfield))) {
        let mut frame = inner_v4(dsfield);
        frame.splice(12..12, [0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x00, 0x09]);
        assert_eq!(receive(&tables, &marked(Family::V4, &frame, outer)), Ok((PORT, frame)));
    }
}
