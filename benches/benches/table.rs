//! Micro benches of the tables: lookups by number of rows, one at a time and by the batch, and changes.

mod scene;

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use scene::{OVERLAY, forbid_allocations, mac, print_allocations};
use vxdp_dataplane::table::{Change, Publisher, UdpChecksum};
use vxdp_dataplane::{BATCH, Family, Tables, VtepId};

const ROWS: [u32; 3] = [1_000, 100_000, 1_000_000];

fn row(number: u32, vtep: u32) -> Change {
    Change::Remote { overlay: OVERLAY, mac: mac(number), vtep: Some(VtepId::new(vtep)) }
}

fn filled(rows: u32) -> Tables {
    let changes: Vec<_> = (0..rows).map(|number| row(number, number % 100)).collect();
    scene::tables(Family::V4, UdpChecksum::Zero, 0).with_changes(&changes).expect("valid")
}

/// Numbers below `rows` in an order that no prefetcher foresees.
fn wander(rows: u32) -> impl Iterator<Item = u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((u64::from(state as u32) * u64::from(rows)) >> 32) as u32
    })
}

/// As the path does it: cache lines of large tables fetched ahead, then independent lookups one after the other.
/// The figure is per lookup.
fn lookups(criterion: &mut Criterion) {
    for rows in ROWS {
        let tables = filled(rows);
        let mut group = criterion.benchmark_group("lookup");
        group.throughput(Throughput::Elements(1));
        let mut numbers = wander(rows);
        forbid_allocations(&format!("lookup/{rows}"), || {
            black_box(tables.remote(OVERLAY, black_box(mac(rows / 2))));
        });
        group.bench_function(BenchmarkId::new("batch", rows), |bencher| {
            bencher.iter_custom(|lookups| {
                let rounds = lookups.div_ceil(BATCH as u64).max(1);
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    let macs: [_; BATCH] = std::array::from_fn(|_| mac(numbers.next().unwrap_or_default()));
                    let start = std::time::Instant::now();
                    if tables.is_large() {
                        black_box(macs.iter().fold(0, |read, mac| read ^ tables.touch(OVERLAY, *mac)));
                    }
                    let found = macs.map(|mac| tables.remote(OVERLAY, black_box(mac)));
                    spent += start.elapsed();
                    assert!(black_box(found).iter().all(Option::is_some));
                }
                spent.mul_f64(lookups as f64 / (rounds * BATCH as u64) as f64)
            });
        });
        group.bench_function(BenchmarkId::new("missing", rows), |bencher| {
            let mut numbers = wander(u32::MAX - rows);
            bencher.iter_batched(
                || mac(rows + numbers.next().unwrap_or_default()),
                |mac| tables.remote(OVERLAY, mac),
                BatchSize::SmallInput,
            );
        });
    }
}

/// One change among many rows, published while a worker has the tables on loan.
fn changes(criterion: &mut Criterion) {
    for rows in ROWS {
        let mut publisher = Publisher::new(filled(rows));
        let reader = publisher.reader();
        let mut numbers = wander(rows);
        let mut change = || {
            let loan = reader.load();
            let number = numbers.next().unwrap_or_default();
            publisher.change(&[row(number, number % 99)]).expect("valid");
            drop(loan);
        };
        print_allocations(&format!("publish/{rows}"), &mut change);
        criterion.bench_function(&format!("publish/{rows}"), |bencher| bencher.iter(&mut change));
    }
}

/// A million rows from nothing, as after a dump of the kernel's tables.
fn loading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    group.bench_function("1000000", |bencher| {
        bencher.iter_batched(|| (), |()| filled(1_000_000), BatchSize::PerIteration);
    });
}

criterion_group!(benches, lookups, changes, loading);
criterion_main!(benches);
