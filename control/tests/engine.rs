//! The fast path over real devices: two hosts, a container each, both engines, and what they carried.

mod namespace;
mod scenario;

use std::sync::Arc;
use std::time::{Duration, Instant};

use namespace::Host;
use scenario::Scenario;
use vxdp_control::config::{self, Config};
use vxdp_control::engine::{Engine, EngineReport, Kind, Part};
use vxdp_control::kernel::Kernel;
use vxdp_control::kernel::desired::{Desired, DesiredOverlay, DesiredPort, UnderlayFacts};
use vxdp_control::xdp::BpfFs;

/// One host: its namespace, its container's, its overlay's, and what runs over them.
struct Side {
    host: Host,
    container: Host,
    overlay: Host,
    config: Arc<Config>,
    _files: tempfile::TempDir,
}

impl Side {
    fn new(name: &str, number: u8, hook: &str) -> Self {
        let host = Host::new(&format!("{name}-h{number}"));
        let container = Host::new(&format!("{name}-c{number}"));
        let overlay = Host::new(&format!("{name}-o{number}"));
        let files = tempfile::tempdir().expect("a temporary directory");
        let path = files.path().join("host.toml");
        let socket = files.path().join("vxdp.sock");
        let names = Scenario {
            number,
            socket: &socket,
            overlay: overlay.name(),
            container: container.name(),
            ..Scenario::default()
        };
        let text = names.toml();
        assert!(text.contains("[dataplane]\n"), "{text}");
        let hook = format!("[dataplane]\nhook = '{hook}'\n");
        std::fs::write(&path, text.replace("[dataplane]\n", &hook)).expect("written");
        let config = config::load(&path).expect("valid").config;
        Self { host, container, overlay, config: Arc::new(config), _files: files }
    }

    async fn build(&self) {
        let netns = self.host.netns();
        let ledger = self.config.control.socket.with_extension("ledger");
        let mut kernel = Kernel::open(netns.clone(), &ledger).await.expect("opened");
        let underlay =
            UnderlayFacts { ifindex: self.host.index("eth0"), mtu: 1500, local: self.config.underlay.local };
        let mut overlay = DesiredOverlay::new(self.config.overlays[0].clone(), &underlay);
        let container = self.config.overlays[0].containers[0].clone();
        overlay.ports.push(DesiredPort { container, netns: Some(self.container.netns()) });
        let desired = Desired { host: netns, underlay, queues: 1, overlays: vec![overlay] };
        kernel.reconcile(&desired).await.expect("built");
    }

    async fn engine(&self, kind: Kind) -> Engine {
        let config = Arc::clone(&self.config);
        Engine::start(config, self.host.netns(), kind, vec![Part::Carried]).await.expect("started")
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        BpfFs::remove(&self.config.control.socket.with_extension("bpf")).expect("unmounted");
    }
}

fn wire(one: &Side, two: &Side) {
    one.host.ip(&format!("link add eth0 type veth peer name eth0 netns {}", two.host.name()));
    for (side, number) in [(one, 1), (two, 2)] {
        side.host.ip(&format!("address add 192.168.10.2{number}/24 dev eth0"));
        side.host.ip("link set eth0 up");
        side.host.ip("link set lo up");
        side.container.ip("link set lo up");
    }
}

async fn carried(engine: &Engine, what: &str, enough: impl Fn(&EngineReport) -> bool) -> EngineReport {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let report = engine.counters().read().expect("the engine lives");
        if enough(&report) {
            return report;
        }
        assert!(Instant::now() < deadline, "{what}: {report:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn two_hosts(name: &str) -> (Side, Side) {
    two_hosts_at(name, "tc").await
}

async fn two_hosts_at(name: &str, hook: &str) -> (Side, Side) {
    let (one, two) = (Side::new(name, 1, hook), Side::new(name, 2, hook));
    wire(&one, &two);
    if hook == "xdp" {
        // Each veth takes the frames of XDP programs only if its other end has NAPI.
        for side in [&one, &two] {
            side.host.run("ethtool", "-K eth0 gro on");
        }
    }
    one.build().await;
    two.build().await;
    (one, two)
}

async fn goes_both_ways(name: &str, kind: Kind, hook: &str) {
    let (one, two) = two_hosts_at(name, hook).await;
    let (first, second) = (one.engine(kind).await, two.engine(kind).await);
    let ready = |report: &EngineReport| report.vteps_resolved == 1 && report.remotes == 1;
    carried(&first, "resolved", ready).await;
    carried(&second, "resolved", ready).await;
    one.container.run("ping", "-c 20 -i 0.02 -W 2 10.0.0.3");
    for engine in [&first, &second] {
        let report = carried(engine, "20 each way", |r| r.encap.frames >= 15 && r.decap.frames >= 15).await;
        assert!(report.drops.is_empty(), "{report:#?}");
        assert_eq!(report.kinds, [kind]);
    }
    first.stop().await;
    second.stop().await;
    one.container.run("ping", "-c 3 -i 0.02 -W 2 10.0.0.3");
}

async fn understands_the_kernel(name: &str, kind: Kind) {
    let (one, two) = two_hosts(name).await;
    let engine = one.engine(kind).await;
    carried(&engine, "resolved", |r| r.vteps_resolved == 1 && r.remotes == 1).await;
    one.container.run("ping", "-c 20 -i 0.02 -W 2 10.0.0.3");
    carried(&engine, "20 each way", |r| r.encap.frames >= 15 && r.decap.frames >= 15).await;
    two.container.run("ping", "-c 5 -i 0.02 -s 1400 -W 2 10.0.0.2");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn known_unicast_goes_through_userspace_both_ways() {
    goes_both_ways("both", Kind::Userspace, "tc").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn known_unicast_goes_through_the_programs_both_ways() {
    goes_both_ways("both-in", Kind::InKernel, "tc").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn known_unicast_goes_through_the_programs_at_xdp_both_ways() {
    goes_both_ways("both-xdp", Kind::InKernel, "xdp").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn one_side_in_userspace_understands_the_kernel_on_the_other() {
    understands_the_kernel("mixed", Kind::Userspace).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn one_side_in_the_programs_understands_the_kernel_on_the_other() {
    understands_the_kernel("mixed-in", Kind::InKernel).await;
}

/// Rows in the test of many; `VXDP_ROWS` asks for another number, such as the million of the design.
fn rows() -> u32 {
    std::env::var("VXDP_ROWS").map_or(20_000, |rows| rows.parse().expect("a number"))
}

fn many(number: u32) -> String {
    let [a, b, c, d] = number.to_be_bytes();
    format!("02:43:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn one_change_among_many_rows_is_published_in_milliseconds() {
    let (one, _two) = two_hosts("many").await;
    let count = rows();
    let line = |n| {
        let mac = many(n);
        format!("fdb add {mac} dev vxlan1 master static\nfdb add {mac} dev vxlan1 self dst 192.168.10.22\n")
    };
    let begun = Instant::now();
    one.overlay.bridge_batch(&(0..count).map(line).collect::<String>());
    eprintln!("{count} rows: loaded into the kernel in {:.1?}", begun.elapsed());
    let begun = Instant::now();
    let engine = one.engine(Kind::Userspace).await;
    let remotes = |report: &EngineReport| u32::try_from(report.remotes).expect("a row's number");
    assert_eq!(remotes(&engine.counters().read().expect("it lives")), count + 1);
    eprintln!("{count} rows: fast path started in {:.1?}", begun.elapsed());
    // As many again are heard of, not looked for.
    let begun = Instant::now();
    one.overlay.bridge_batch(&(count..2 * count).map(line).collect::<String>());
    let loaded = begun.elapsed();
    let report = loop {
        let report = engine.counters().read().expect("it lives");
        if remotes(&report) == 2 * count + 1 {
            break report;
        }
        assert!(begun.elapsed() < loaded + Duration::from_secs(600), "{report:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let overflows = report.netlink.overflows;
    eprintln!(
        "{count} more rows: loaded into the kernel in {loaded:.1?}, in the fast path after {:.1?}, {overflows} overflows",
        begun.elapsed()
    );
    let count = 2 * count;
    let mut took = Vec::new();
    for n in count..count + 15 {
        one.overlay.bridge(&format!("fdb add {} dev vxlan1 master static", many(n)));
        one.overlay.bridge(&format!("fdb add {} dev vxlan1 self dst 192.168.10.22", many(n)));
        let begun = Instant::now();
        while remotes(&engine.counters().read().expect("it lives")) != n + 2 {
            assert!(begun.elapsed() < Duration::from_secs(10), "row {n} is not published");
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        took.push(begun.elapsed());
    }
    took.sort();
    let (least, median, most) = (took[0], took[took.len() / 2], took[took.len() - 1]);
    eprintln!(
        "{count} rows: one more published after {least:.1?}, {median:.1?}, {most:.1?} (least, median, most)"
    );
    let status = std::fs::read_to_string("/proc/self/status").expect("our own");
    let resident = status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    eprintln!("{count} rows: {}", resident.collect::<Vec<_>>().join(", "));
    assert!(median < Duration::from_millis(100), "{took:?}");
    engine.stop().await;
}

/// In most of ten cases what `change` changes is published within the 100 ms that are promised.
async fn is_published_in_time(
    engine: &Engine,
    what: &str,
    change: impl Fn(u8),
    done: impl Fn(&EngineReport, u8) -> bool,
) {
    let mut took = Vec::new();
    for turn in 0..10 {
        change(turn);
        let begun = Instant::now();
        while !done(&engine.counters().read().expect("it lives"), turn) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{what} {turn} is not published");
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        took.push(begun.elapsed());
    }
    took.sort();
    eprintln!(
        "{what}: published after {:.1?}, {:.1?}, {:.1?} (least, median, most)",
        took[0], took[5], took[9]
    );
    assert!(took[5] < Duration::from_millis(100), "{what}: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn replaced_and_deleted_rows_next_hops_and_routes_are_published_in_time() {
    let (one, _two) = two_hosts("kinds").await;
    let row = |table: &str| one.overlay.bridge(&format!("fdb {table}"));
    let mac = many(0);
    row(&format!("add {mac} dev vxlan1 master static"));
    let engine = one.engine(Kind::Userspace).await;
    let resolved = |report: &EngineReport| report.vteps_resolved == 1 && report.remotes == 1;
    carried(&engine, "resolved", resolved).await;
    let next_hop = |report: &EngineReport, last: u8| {
        let address = std::net::IpAddr::from([192, 168, 10, last]);
        report.peers.iter().find(|peer| peer.address == address).map(|peer| peer.next_hop.clone())
    };

    let replace = |turn: u8| row(&format!("replace {mac} dev vxlan1 self dst 192.168.10.{}", 100 + turn));
    is_published_in_time(&engine, "replaced row", replace, |r, turn| next_hop(r, 100 + turn).is_some()).await;

    // The last of them is the VTEP whose next hop changes now.
    let hop = |turn: u8| format!("02:00:00:00:01:{turn:02x}");
    let neighbour = |turn: u8| {
        let hop = hop(turn);
        one.host.ip(&format!("neigh replace 192.168.10.109 lladdr {hop} dev eth0 nud reachable"));
    };
    let has_hop = |r: &EngineReport, turn: u8| next_hop(r, 109) == Some(Some(hop(turn)));
    is_published_in_time(&engine, "MAC of a neighbour", neighbour, has_hop).await;

    // By turns through the other host and by itself.
    let route = |turn: u8| match turn % 2 {
        0 => one.host.ip("route add 192.168.10.109/32 via 192.168.10.22"),
        _ => one.host.ip("route del 192.168.10.109/32"),
    };
    let through = |r: &EngineReport, turn: u8| {
        let other = next_hop(r, 22).flatten();
        let wanted = if turn.is_multiple_of(2) { other } else { Some(hop(9)) };
        wanted.is_some() && next_hop(r, 109).flatten() == wanted
    };
    is_published_in_time(&engine, "route", route, through).await;

    for n in 1..=10 {
        row(&format!("add {} dev vxlan1 master static", many(n)));
        row(&format!("add {} dev vxlan1 self dst 192.168.10.22", many(n)));
    }
    carried(&engine, "ten more rows", |report| report.remotes == 12).await;
    let delete = |turn: u8| row(&format!("del {} dev vxlan1 self", many(u32::from(turn) + 1)));
    let gone = |r: &EngineReport, turn: u8| r.remotes == 11 - usize::from(turn);
    is_published_in_time(&engine, "deleted row", delete, gone).await;
    engine.stop().await;
}
