//! What the micro benches share: frames, tables, a clock per frame, and the count of allocations.

// Each bench is a crate of its own and uses its part of this.
#![allow(dead_code, reason = "shared by several benches")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use criterion::Bencher;
use etherparse::PacketBuilder;
use vxdp_dataplane::table::{Change, NextHop, Overlay, Policy, Port, UdpChecksum, Underlay, Vtep, ZeroUdp6};
use vxdp_dataplane::wire::checksum::Sum;
use vxdp_dataplane::wire::{MacAddr, Vni};
use vxdp_dataplane::{
    BATCH, Family, Ingress, Local, Nanos, OverlayId, PortId, Slot, Tables, VtepId, process,
};

pub(crate) const HERE: MacAddr = MacAddr::new([0x02, 0x42, 0x0a, 0, 0, 2]);
pub(crate) const THERE: MacAddr = MacAddr::new([0x02, 0x42, 0x0a, 0, 0, 3]);
pub(crate) const NIC: [MacAddr; 2] = [MacAddr::new([2, 0, 0, 0, 0, 1]), MacAddr::new([2, 0, 0, 0, 0, 2])];
pub(crate) const OVERLAY: OverlayId = OverlayId::new(0);
pub(crate) const PORT: PortId = PortId::new(0);

/// Sizes of inner frames: small requests and full ones.
pub(crate) const SIZES: [usize; 2] = [64, 1450];

/// Underlays: the common one, IPv6 as it is by default, and IPv6 with checksums left out.
pub(crate) const UNDERLAYS: [(&str, Family, UdpChecksum); 3] = [
    ("v4", Family::V4, UdpChecksum::Zero),
    ("v6", Family::V6, UdpChecksum::Computed),
    ("v6-zero", Family::V6, UdpChecksum::Zero),
];

/// A remote MAC.
pub(crate) fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr::new([0x06, 0x42, a, b, c, d])
}

/// The tables of one of two hosts with a container each; `host` is 0 or 1.
pub(crate) fn tables(family: Family, udp_checksum: UdpChecksum, host: u8) -> Tables {
    let address = |last: u8| match family {
        Family::V4 => IpAddr::from([192, 168, 10, 21 + last]),
        Family::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x21 + u16::from(last)]),
    };
    let (own, other) = if host == 0 { (HERE, THERE) } else { (THERE, HERE) };
    let policy = Policy { udp_checksum, zero_udp6: ZeroUdp6::Accept, ..Policy::default() };
    let vni = Vni::new(42).expect("small enough");
    let next_hop = Some(NextHop { mac: NIC[usize::from(1 - host)], mtu: 1600, hop_limit: 64 });
    Tables::new(Underlay { local: address(host), mac: NIC[usize::from(host)] })
        .with_changes(&[
            Change::Overlay(OVERLAY, Some(Overlay { vni, port: 4789, policy })),
            Change::Vtep(VtepId::new(0), Some(Vtep { address: address(1 - host), next_hop })),
            Change::Port(PORT, Some(Port { overlay: OVERLAY, mtu: 1450 })),
            Change::Local { overlay: OVERLAY, mac: own, port: Some(PORT) },
            Change::Remote { overlay: OVERLAY, mac: other, vtep: Some(VtepId::new(0)) },
        ])
        .expect("valid")
}

/// A UDP packet over IPv4 from one container to the other, as a frame of `size` bytes.
pub(crate) fn frame(size: usize, ecn: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(HERE.octets(), THERE.octets())
        .ipv4([10, 0, 0, 2], [10, 0, 0, 3], 64)
        .udp(1000, 2000)
        .write(&mut frame, &vec![0x5a; size - 42])
        .expect("a vector takes everything");
    frame[15] = ecn;
    set_checksum(&mut frame[14..34]);
    frame
}

/// The same with its UDP checksum left to the network card.
pub(crate) fn unfinished(size: usize) -> Vec<u8> {
    let mut frame = frame(size, 0);
    let length = (size - 34) as u16;
    let pseudo = Sum::of(&frame[26..34]).add_u16(17).add_u16(length).folded();
    frame[40..42].copy_from_slice(&pseudo);
    frame
}

fn set_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = Sum::of(header).checksum();
    header[10..12].copy_from_slice(&checksum);
}

/// What host 0 gets from its container's port: room, then the frame.
pub(crate) fn departing(family: Family, frame: &[u8]) -> Vec<u8> {
    [vec![0; family.encap_room()], frame.to_vec()].concat()
}

/// What host 1 gets from the wire for it.
pub(crate) fn arriving(family: Family, udp_checksum: UdpChecksum, frame: &[u8]) -> Vec<u8> {
    let mut data = departing(family, frame);
    let mut batch = [Slot::new(Ingress::Port(PORT), &mut data)];
    process(Nanos(1), &mut batch, &tables(family, udp_checksum, 0), &mut Local::new(0));
    data
}

/// The same with congestion experienced on the way; IPv4.
pub(crate) fn congested(mut outer: Vec<u8>) -> Vec<u8> {
    outer[15] |= 3;
    set_checksum(&mut outer[14..34]);
    outer
}

/// Measures what a frame costs in turns of [`BATCH`] frames. Restoring the frames between turns is not counted;
/// reading the clock twice per turn is, and is less than a nanosecond per frame.
pub(crate) fn per_frame(bencher: &mut Bencher<'_>, kinds: &[(Ingress, Vec<u8>)], tables: &Tables) {
    let mut turns = Turns::new(kinds);
    bencher.iter_custom(|frames| {
        let rounds = frames.div_ceil(BATCH as u64).max(1);
        let spent: Duration = (0..rounds).map(|_| turns.turn(tables)).sum();
        spent.mul_f64(frames as f64 / (rounds * BATCH as u64) as f64)
    });
}

/// Frames that are the same before every turn.
pub(crate) struct Turns {
    fresh: Vec<(Ingress, Vec<u8>)>,
    used: Vec<(Ingress, Vec<u8>)>,
    local: Local,
}

impl Turns {
    pub(crate) fn new(kinds: &[(Ingress, Vec<u8>)]) -> Self {
        let fresh: Vec<_> = kinds.iter().cycle().take(BATCH).cloned().collect();
        Self { used: fresh.clone(), fresh, local: Local::new(0) }
    }

    /// One turn: how long it took.
    pub(crate) fn turn(&mut self, tables: &Tables) -> Duration {
        for ((_, used), (_, fresh)) in self.used.iter_mut().zip(&self.fresh) {
            used.copy_from_slice(fresh);
        }
        let frames = self.used.iter_mut();
        let mut batch: arrayvec::ArrayVec<_, BATCH> =
            frames.map(|(from, data)| Slot::new(*from, data)).collect();
        let start = Instant::now();
        process(Nanos(1), &mut batch, tables, &mut self.local);
        let spent = start.elapsed();
        std::hint::black_box(&batch);
        spent
    }

    /// Frames dropped so far: a bench of drops would flatter.
    pub(crate) fn drops(&self) -> u64 {
        self.local.stats().all_drops()
    }
}

/// Prints how often `work` allocates.
pub(crate) fn print_allocations(name: &str, work: impl FnOnce()) -> u64 {
    let count = allocation_counter::measure(work);
    println!("{name:<40} allocations: {} ({} bytes)", count.count_total, count.bytes_total);
    count.count_total
}

/// The same for what is done per packet, where one allocation is a defect: the bench ends there.
pub(crate) fn forbid_allocations(name: &str, work: impl FnOnce()) {
    assert_eq!(print_allocations(name, work), 0, "{name} allocates on the data path");
}
