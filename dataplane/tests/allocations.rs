//! Counts allocations on the data path: there are none, whatever the frames and the tables.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use vxdp_dataplane::table::{
    Change, NextHop, Overlay, Policy, Port, Publisher, UdpChecksum, Underlay, Vtep, ZeroUdp6,
};
use vxdp_dataplane::wire::{MacAddr, Vni};
use vxdp_dataplane::{
    DropReason, Ingress, Local, Nanos, OverlayId, PortId, Slot, Tables, Verdict, VtepId, process,
};

const HERE: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
const REMOTE: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 2]);

/// One segment; both MACs are behind the port and behind the VTEP, whose address is ours, so that every frame
/// that goes out can come in again.
fn tables(local: IpAddr, rows: u32) -> Tables {
    let overlay = OverlayId::new(0);
    let policy =
        Policy { udp_checksum: UdpChecksum::Computed, zero_udp6: ZeroUdp6::Accept, ..Policy::default() };
    let vni = Vni::new(42).expect("small enough");
    let next_hop = Some(NextHop { mac: HERE, mtu: 1500, hop_limit: 64 });
    let mut changes = vec![
        Change::Overlay(overlay, Some(Overlay { vni, port: 4789, policy })),
        Change::Vtep(VtepId::new(0), Some(Vtep { address: local, next_hop })),
        Change::Port(PortId::new(0), Some(Port { overlay, mtu: 1450 })),
        Change::Local { overlay, mac: HERE, port: Some(PortId::new(0)) },
        Change::Remote { overlay, mac: REMOTE, vtep: Some(VtepId::new(0)) },
    ];
    changes.extend((0..rows).map(|number| {
        let [a, b, c, d] = number.to_be_bytes();
        Change::Remote { overlay, mac: MacAddr::new([6, 6, a, b, c, d]), vtep: Some(VtepId::new(0)) }
    }));
    Tables::new(Underlay { local, mac: HERE }).with_changes(&changes).expect("valid")
}

fn frame(destination: MacAddr, source: MacAddr, payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(source.octets(), destination.octets())
        .ipv4([10, 0, 0, 2], [10, 0, 0, 3], 64)
        .udp(1, 2)
        .write(&mut frame, &vec![7; payload])
        .expect("a vector takes everything");
    frame
}

#[test]
fn a_batch_of_every_kind_of_frame_allocates_nothing() {
    for local in [IpAddr::from([192, 168, 10, 21]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])] {
        let publisher = Publisher::new(tables(local, 10_000));
        let reader = publisher.reader();
        let room = publisher.tables().underlay().family().encap_room();
        let mut state = Local::new(1);

        // What goes out with its addresses exchanged is what comes in.
        let mut arriving = [vec![0; room], frame(REMOTE, HERE, 1000)].concat();
        let mut batch = [Slot::new(Ingress::Port(PortId::new(0)), &mut arriving)];
        process(Nanos(1), &mut batch, &reader.load(), &mut state);
        assert!(matches!(batch[0].verdict, Verdict::ToUnderlay { .. }));
        let (one, other) = arriving[room..room + 12].split_at_mut(6);
        one.swap_with_slice(other);

        let departing = [vec![0; room], frame(REMOTE, HERE, 10)].concat();
        let mut frames: Vec<(Ingress, Vec<u8>)> = (0..256)
            .map(|number| match number % 4 {
                0 => (Ingress::Underlay, arriving.clone()),
                1 => (Ingress::Port(PortId::new(0)), departing.clone()),
                2 => (Ingress::Underlay, vec![number as u8; number]),
                _ => (Ingress::Port(PortId::new(number as u16)), departing.clone()),
            })
            .collect();
        let mut batch: Vec<_> = frames.iter_mut().map(|(from, data)| Slot::new(*from, data)).collect();

        let count = allocation_counter::measure(|| {
            for chunk in batch.chunks_mut(100) {
                process(Nanos(2_000_000_000), chunk, &reader.load(), &mut state);
            }
        });
        assert_eq!((count.count_total, count.bytes_total), (0, 0));
        let stats = state.stats();
        assert_eq!((stats.encap().frames, stats.decap().frames), (65, 64));
        assert_eq!(stats.drops(DropReason::UnknownPort), 64);
        assert_eq!(stats.all_drops(), 128);
    }
}

#[test]
fn the_counter_of_allocations_does_count() {
    let count = allocation_counter::measure(|| drop(std::hint::black_box(vec![0u8; 100])));
    assert_eq!(count.count_total, 1);
}
