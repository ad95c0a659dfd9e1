//! Many rows: loading, looking again, changing one, removing.

mod kernel_host;
mod scenario;

use std::slice;
use std::time::{Duration, Instant};

use kernel_host::{ip, on_a_host, overlay, run};
use vxdp_control::kernel::desired::{Desired, Row};
use vxdp_dataplane::wire::MacAddr;

/// Remotes; each is an FDB row and a bridge row.
const REMOTES: u32 = 20_000;

/// A whole order of magnitude above what a slow machine takes with an unoptimised build, and far below
/// what anything quadratic would take.
const BOUND: Duration = Duration::from_secs(60);

fn rows_of(number: u32) -> [Row; 2] {
    let [_, a, b, c] = number.to_be_bytes();
    let mac = MacAddr::new([2, 0x42, 0, a, b, c]);
    [
        Row::Fdb { mac, vtep: ip(if number.is_multiple_of(2) { "192.168.10.22" } else { "192.168.10.23" }) },
        Row::Bridge { mac },
    ]
}

#[test]
#[ignore = "needs root"]
fn many_rows_load_and_one_change_among_them_is_found() {
    on_a_host(async |host| {
        let start = Instant::now();
        let spec = overlay(42);
        let desired = || -> Desired {
            let mut desired = host.desired(slice::from_ref(&spec));
            desired.overlays[0].rows = (0..REMOTES).flat_map(rows_of).collect();
            desired
        };
        host.kernel().await.reconcile(&desired()).await.expect("loaded");
        assert_eq!(host.kernel().await.reconcile(&desired()).await.expect("fine").steps, []);
        run("bridge -n overlay fdb del 02:42:00:00:00:07 dev vxlan1 self");
        let mut kernel = host.kernel().await;
        let report = kernel.reconcile(&desired()).await.expect("repaired");
        assert_eq!(report.steps.len(), 1, "{:?}", report.steps);
        let spec = &desired().overlays[0].spec;
        kernel.install(spec, &rows_of(REMOTES)).await.expect("one more");
        host.kernel().await.down().await.expect("removed");
        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    });
}
