//! Tests of the path: two hosts as tables, frames built and judged by etherparse.

mod drops;
mod ecn;
mod encap;
mod unfinished;
mod whole;

use std::net::IpAddr;

use etherparse::{PacketBuilder, SlicedPacket};

use crate::table::{Change, NextHop, Overlay, Policy, Port, Underlay, Vtep};
use crate::wire::{MacAddr, Vni};
use crate::*;

pub(super) const C1: MacAddr = MacAddr::new([0x02, 0x42, 0x0a, 0, 0, 2]);
pub(super) const C2: MacAddr = MacAddr::new([0x02, 0x42, 0x0a, 0, 0, 3]);
pub(super) const ROUTER: MacAddr = MacAddr::new([0x02, 0, 0, 0, 0, 1]);
pub(super) const HOST: [MacAddr; 2] =
    [MacAddr::new([0x02, 0, 0, 0, 0, 0x21]), MacAddr::new([0x02, 0, 0, 0, 0, 0x22])];
pub(super) const PORT: PortId = PortId::new(0);
/// The port of the second segment, whose containers have the same addresses.
pub(super) const TWIN: PortId = PortId::new(1);
pub(super) const SEGMENT: OverlayId = OverlayId::new(0);
pub(super) const PEER: VtepId = VtepId::new(0);

/// The underlay address of host 1 or 2 (3: a VTEP that only has rows in the second segment).
pub(super) fn address(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 168, 10, 20 + host]),
        Family::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x20 + u16::from(host)]),
    }
}

pub(super) fn vni(number: u32) -> Vni {
    Vni::new(number).expect("small enough")
}

/// The tables of host 1 (index 0) or host 2 (index 1), each with one container in each of two segments.
pub(super) fn tables(family: Family, host: usize, policy: Policy) -> Tables {
    let (own, other, peer) = if host == 0 { (C1, C2, 2) } else { (C2, C1, 1) };
    let hop = |mac| Some(NextHop { mac, mtu: 1500, hop_limit: 64 });
    let second = OverlayId::new(1);
    let overlay = |number| Some(Overlay { vni: vni(number), port: 4789, policy });
    Tables::new(Underlay { local: address(family, 3 - peer), mac: HOST[host] })
        .with_changes(&[
            Change::Overlay(SEGMENT, overlay(42)),
            Change::Overlay(second, overlay(43)),
            Change::Vtep(PEER, Some(Vtep { address: address(family, peer), next_hop: hop(HOST[1 - host]) })),
            Change::Vtep(VtepId::new(1), Some(Vtep { address: address(family, 3), next_hop: hop(ROUTER) })),
            Change::Port(PORT, Some(Port { overlay: SEGMENT, mtu: 1450 })),
            Change::Port(TWIN, Some(Port { overlay: second, mtu: 1450 })),
            Change::Local { overlay: SEGMENT, mac: own, port: Some(PORT) },
            Change::Local { overlay: second, mac: own, port: Some(TWIN) },
            Change::Remote { overlay: SEGMENT, mac: other, vtep: Some(PEER) },
            Change::Remote { overlay: second, mac: other, vtep: Some(VtepId::new(1)) },
        ])
        .expect("valid")
}

pub(super) fn change(tables: &Tables, changes: &[Change]) -> Tables {
    tables.with_changes(changes).expect("valid")
}

/// Runs one frame through and checks that the counters moved as the verdict says, and no others.
pub(super) fn run(tables: &Tables, ingress: Ingress, data: &mut [u8]) -> Verdict {
    let mut local = Local::new(7);
    let mut batch = [Slot::new(ingress, data)];
    process(Nanos(5_000_000_000), &mut batch, tables, &mut local);
    let (stats, verdict) = (local.stats(), batch[0].verdict);
    let frames = (stats.encap().frames, stats.decap().frames, stats.all_drops());
    match verdict {
        Verdict::ToUnderlay { .. } => assert_eq!(frames, (1, 0, 0)),
        Verdict::ToPort { .. } => assert_eq!(frames, (0, 1, 0)),
        Verdict::Drop(reason) => {
            assert_eq!(frames, (0, 0, 1));
            assert_eq!(stats.drops(reason), 1);
        }
    }
    verdict
}

/// Sends a frame from a container's port: the outer frame, or why there is none.
pub(super) fn send(tables: &Tables, port: PortId, frame: &[u8]) -> Result<Vec<u8>, DropReason> {
    // The room holds what was in memory before.
    let mut data = vec![0xa5; tables.underlay().family().encap_room()];
    data.extend_from_slice(frame);
    match run(tables, Ingress::Port(port), &mut data) {
        Verdict::ToUnderlay { len } => {
            data.truncate(len);
            Ok(data)
        }
        Verdict::ToPort { .. } => panic!("a port's frame went to a port"),
        Verdict::Drop(reason) => Err(reason),
    }
}

/// Takes a frame from the wire: the port and the inner frame, or why there is none.
pub(super) fn receive(tables: &Tables, outer: &[u8]) -> Result<(PortId, Vec<u8>), DropReason> {
    let mut data = outer.to_vec();
    match run(tables, Ingress::Underlay, &mut data) {
        Verdict::ToPort { port, len } => {
            data.truncate(len);
            Ok((port, data))
        }
        Verdict::ToUnderlay { .. } => panic!("a frame from the wire went back"),
        Verdict::Drop(reason) => Err(reason),
    }
}

/// A UDP packet over IPv4 from container 1 to container 2.
pub(super) fn udp4(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(C1.octets(), C2.octets())
        .ipv4([10, 0, 0, 2], [10, 0, 0, 3], 17)
        .udp(1000, 2000);
    built(builder.size(payload.len()), |out| builder.write(out, payload))
}

/// A TCP segment over IPv6 from container 1 to container 2.
pub(super) fn tcp6(payload: &[u8]) -> Vec<u8> {
    let (source, destination) = ([0xfd; 16], [0xfe; 16]);
    let builder = PacketBuilder::ethernet2(C1.octets(), C2.octets())
        .ipv6(source, destination, 33)
        .tcp(1000, 2000, 1, 4096);
    built(builder.size(payload.len()), |out| builder.write(out, payload))
}

pub(super) fn built<E: std::fmt::Debug>(
    size: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(size);
    write(&mut out).expect("a vector takes everything");
    out
}

/// An independent parser's view of a frame.
pub(super) fn sliced(frame: &[u8]) -> SlicedPacket<'_> {
    SlicedPacket::from_ethernet(frame).expect("a well-formed frame")
}

/// A frame that host 2 sends to container 1.
pub(super) fn from_peer(family: Family, frame: &[u8]) -> Vec<u8> {
    send(&tables(family, 1, Policy::default()), PORT, frame).expect("host 2 sends it")
}

/// A UDP packet over IPv4 from container 2 to container 1.
pub(super) fn answer() -> Vec<u8> {
    let mut frame = udp4(b"hello");
    frame[..6].copy_from_slice(&C1.octets());
    frame[6..12].copy_from_slice(&C2.octets());
    frame
}
