//! Micro benches of the data path: parse, hash, checksum, encapsulation and decapsulation per frame, and a naive
//! version for scale.

mod naive;
mod scene;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use scene::{OVERLAY, PORT, SIZES, Turns, UNDERLAYS, forbid_allocations, mac, print_allocations};
use vxdp_dataplane::path::entropy::flow_hash;
use vxdp_dataplane::path::unfinished;
use vxdp_dataplane::table::{Change, UdpChecksum};
use vxdp_dataplane::wire::Inner;
use vxdp_dataplane::wire::checksum::Sum;
use vxdp_dataplane::{BATCH, Family, Ingress, Tables, VtepId};

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    let frame = scene::frame(64, 0);
    let inner = Inner::parse(&frame);
    forbid_allocations("step/parse", || {
        black_box(Inner::parse(black_box(&frame)));
    });
    group.bench_function("parse", |bencher| bencher.iter(|| Inner::parse(black_box(&frame))));
    forbid_allocations("step/flow-hash", || {
        black_box(flow_hash(black_box(&frame), black_box(&inner)));
    });
    group.bench_function("flow-hash", |bencher| {
        bencher.iter(|| flow_hash(black_box(&frame), black_box(&inner)));
    });
    for size in SIZES {
        let frame = scene::frame(size, 0);
        group.throughput(Throughput::Bytes(size as u64));
        forbid_allocations(&format!("step/checksum/{size}"), || {
            black_box(Sum::of(black_box(&frame)).checksum());
        });
        group.bench_function(BenchmarkId::new("checksum", size), |bencher| {
            bencher.iter(|| Sum::of(black_box(&frame)).checksum());
        });
        let unfinished = scene::unfinished(size);
        let mut work = unfinished.clone();
        let mut finish = || {
            // The field alone has to be restored.
            work[40..42].copy_from_slice(&unfinished[40..42]);
            let inner = Inner::parse(&work);
            unfinished::finish(black_box(&mut work), &inner)
        };
        forbid_allocations(&format!("step/finish-checksum/{size}"), || {
            black_box(finish());
        });
        group.bench_function(BenchmarkId::new("finish-checksum", size), |bencher| bencher.iter(&mut finish));
    }
}

type Kinds = Vec<(Ingress, Vec<u8>)>;

fn bench(criterion: &mut Criterion, group: &str, name: &str, kinds: &Kinds, tables: &Tables) {
    let mut turns = Turns::new(kinds);
    forbid_allocations(&format!("{group}/{name}"), || {
        turns.turn(tables);
    });
    assert_eq!(turns.drops(), 0, "{group}/{name} measures drops");
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Elements(1));
    group.bench_function(name, |bencher| scene::per_frame(bencher, kinds, tables));
}

/// Whole turns of 64 frames; the figures are per frame.
fn turns(criterion: &mut Criterion) {
    for (underlay, family, checksum) in UNDERLAYS {
        let (here, there) = (scene::tables(family, checksum, 0), scene::tables(family, checksum, 1));
        for size in SIZES {
            let frame = scene::frame(size, 0);
            let out = vec![(Ingress::Port(PORT), scene::departing(family, &frame))];
            let back = vec![(Ingress::Underlay, scene::arriving(family, checksum, &frame))];
            let name = format!("{underlay}/{size}");
            bench(criterion, "encap", &name, &out, &here);
            bench(criterion, "decap", &name, &back, &there);
        }
    }
}

/// The branches that ordinary frames do not take; IPv4.
fn branches(criterion: &mut Criterion) {
    let (family, checksum) = (Family::V4, UdpChecksum::Zero);
    let (here, there) = (scene::tables(family, checksum, 0), scene::tables(family, checksum, 1));
    for size in SIZES {
        let frame = scene::unfinished(size);
        let out = vec![(Ingress::Port(PORT), scene::departing(family, &frame))];
        bench(criterion, "encap", &format!("unfinished/{size}"), &out, &here);
        let outer = scene::arriving(family, UdpChecksum::Computed, &scene::frame(size, 0));
        bench(criterion, "decap", &format!("udp-checksum/{size}"), &vec![(Ingress::Underlay, outer)], &there);
    }
    let outer = scene::congested(scene::arriving(family, checksum, &scene::frame(64, 2)));
    bench(criterion, "decap", "congested/64", &vec![(Ingress::Underlay, outer)], &there);
    // Half of the frames out, half in, alternating: the worst for the branch predictor.
    let frame = scene::frame(64, 0);
    let mut back = scene::frame(64, 0);
    back[..6].copy_from_slice(&scene::HERE.octets());
    back[6..12].copy_from_slice(&scene::THERE.octets());
    let mut data = scene::departing(family, &back);
    let mut slot = [vxdp_dataplane::Slot::new(Ingress::Port(PORT), &mut data)];
    vxdp_dataplane::process(vxdp_dataplane::Nanos(1), &mut slot, &there, &mut vxdp_dataplane::Local::new(0));
    let mixed = vec![(Ingress::Port(PORT), scene::departing(family, &frame)), (Ingress::Underlay, data)];
    bench(criterion, "mixed", "64", &mixed, &here);
}

/// As many flows as a batch has frames, each with a peer of its own: no lookup is the last one again.
fn flows(criterion: &mut Criterion) {
    let (family, checksum) = (Family::V4, UdpChecksum::Zero);
    let rows: Vec<_> = (0..BATCH as u32)
        .map(|n| Change::Remote { overlay: OVERLAY, mac: mac(n), vtep: Some(VtepId::new(0)) })
        .collect();
    let [here, there] =
        [0, 1].map(|host| scene::tables(family, checksum, host).with_changes(&rows).expect("valid"));
    let frame = |n: u32, at: usize| {
        let mut frame = scene::frame(64, 0);
        frame[34..36].copy_from_slice(&(n as u16).to_be_bytes());
        frame[at..at + 6].copy_from_slice(&mac(n).octets());
        frame
    };
    let numbers = 0..BATCH as u32;
    let out = |n| (Ingress::Port(PORT), scene::departing(family, &frame(n, 0)));
    bench(criterion, "encap", "flows/64", &numbers.clone().map(out).collect(), &here);
    let back = |n| (Ingress::Underlay, scene::arriving(family, checksum, &frame(n, 6)));
    bench(criterion, "decap", "flows/64", &numbers.map(back).collect(), &there);
}

/// The same job as a first version would do it.
fn naive(criterion: &mut Criterion) {
    for size in SIZES {
        let frame = scene::frame(size, 0);
        let outer = scene::arriving(Family::V4, UdpChecksum::Zero, &frame);
        let directory = naive::Directory::new();
        print_allocations(&format!("naive/encap/{size}"), || drop(naive::encap(&frame, &directory)));
        print_allocations(&format!("naive/decap/{size}"), || drop(naive::decap(&outer, &directory)));
        assert!(naive::decap(&outer, &directory).is_some_and(|(_, inner)| inner == frame));
        let mut group = criterion.benchmark_group("naive");
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("encap", size), |bencher| {
            bencher.iter(|| naive::encap(black_box(&frame), &directory));
        });
        group.bench_function(BenchmarkId::new("decap", size), |bencher| {
            bencher.iter(|| naive::decap(black_box(&outer), &directory));
        });
    }
}

criterion_group!(benches, steps, turns, branches, flows, naive);
criterion_main!(benches);
