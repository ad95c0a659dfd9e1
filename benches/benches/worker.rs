//! Micro benches of a worker's turn over rings in memory: what the rings cost beside what is done to packets.

mod scene;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use scene::{SIZES, forbid_allocations};
use vxdp_dataplane::table::{Publisher, UdpChecksum};
use vxdp_dataplane::worker::{Forward, InMemory};
use vxdp_dataplane::{BATCH, DropReason, Family, Local, Nanos, Slot, Tunnel, Verdict};

/// Sends every frame out as it is.
struct Across;

impl Forward for Across {
    fn process(&mut self, _now: Nanos, batch: &mut [Slot<'_>]) {
        for slot in batch {
            slot.verdict = Verdict::ToUnderlay { len: slot.data.len() };
        }
    }

    fn dropped(&mut self, reason: DropReason, frames: u64) {
        panic!("{frames} frames found no way out: {reason:?}");
    }
}

/// A full batch through two turns: how long they took. The first carries it from the port's RX ring to the
/// underlay's completion ring, the second brings its frames home and tops the fill ring up with them.
fn turn(worker: &mut InMemory<impl Forward>, frame: &[u8]) -> Duration {
    for _ in 0..BATCH {
        assert!(worker.deliver(frame), "the fill ring was topped up");
    }
    let start = Instant::now();
    let received = worker.turn(Nanos(1)) + worker.turn(Nanos(1));
    let spent = start.elapsed();
    assert_eq!(received, BATCH);
    spent
}

/// The figure is per frame.
fn bench(criterion: &mut Criterion, name: &str, size: usize, forward: impl Forward) {
    let frame = scene::departing(Family::V4, &scene::frame(size, 0));
    let mut worker = InMemory::new(forward).expect("enough frames");
    // The first turns find rings that have never wrapped.
    for _ in 0..4 {
        turn(&mut worker, &frame);
    }
    forbid_allocations(&format!("turn/{name}/{size}"), || {
        turn(&mut worker, &frame);
    });
    let before = worker.sent();
    turn(&mut worker, &frame);
    assert_eq!(worker.sent() - before, BATCH as u64, "turn/{name}/{size} measures drops");
    let mut group = criterion.benchmark_group("turn");
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new(name, size), |bencher| {
        bencher.iter_custom(|frames| {
            let rounds = frames.div_ceil(BATCH as u64).max(1);
            let spent: Duration = (0..rounds).map(|_| turn(&mut worker, &frame)).sum();
            spent.mul_f64(frames as f64 / (rounds * BATCH as u64) as f64)
        });
    });
}

fn turns(criterion: &mut Criterion) {
    bench(criterion, "rings", 64, Across);
    let publisher = Publisher::new(scene::tables(Family::V4, UdpChecksum::Zero, 0));
    for size in SIZES {
        bench(criterion, "encap", size, Tunnel::new(publisher.reader(), Local::new(0)));
    }
}

criterion_group!(benches, turns);
criterion_main!(benches);
