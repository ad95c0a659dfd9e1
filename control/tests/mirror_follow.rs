//! The follower over a real kernel: what `bridge`, `ip` and the network change reaches the fast path's tables.

mod namespace;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use namespace::Host;
use tokio::sync::mpsc;
use vxdp_control::mirror::audit::Rhythm;
use vxdp_control::mirror::fact::{Ask, Fact, FollowCounters, Source, UnderlayLink};
use vxdp_control::mirror::follow::Follower;
use vxdp_control::mirror::nexthop::Resolution;
use vxdp_control::mirror::state::{Change, Place};
use vxdp_dataplane::wire::{MacAddr, Vni};
use vxdp_dataplane::{OverlayId, PortId};

/// Longest wait for a change; it takes milliseconds, but a loaded machine must not fail the test.
const LIMIT: Duration = Duration::from_secs(5);

/// The tables as the facts have made them.
struct Tables {
    facts: mpsc::Receiver<Vec<Fact>>,
    asks: mpsc::Sender<Ask>,
    macs: HashMap<MacAddr, Place>,
    vteps: HashMap<IpAddr, Resolution>,
    ports: HashMap<usize, u32>,
    underlay: Option<UnderlayLink>,
    lost: Option<String>,
    /// Times a MAC was taken out.
    forgotten: usize,
    counters: Arc<FollowCounters>,
}

impl Tables {
    async fn follow(host: &Host) -> Self {
        Self::follow_audited(host, Rhythm::default()).await
    }

    async fn follow_audited(host: &Host, rhythm: Rhythm) -> Self {
        let source = Source {
            macs: Vec::new(),
            netns: host.netns(),
            vni: Vni::from_wire([0, 0, 42]),
            port: 4789,
            bridge: "br0".into(),
            vxlan: "vxlan1".into(),
            ports: vec!["veth2".into()],
        };
        let follower =
            Follower::open(&host.netns(), "eth0", ip("192.168.10.21"), vec![source]).await.unwrap();
        let follower = follower.audited_every(rhythm);
        let counters = follower.counters();
        let (asks, asked) = mpsc::channel(16);
        let (out, facts) = mpsc::channel(16);
        tokio::spawn(follower.run(asked, out));
        let (macs, vteps, ports) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut tables =
            Self { facts, asks, macs, vteps, ports, underlay: None, lost: None, forgotten: 0, counters };
        tables.until("the first facts", Duration::from_secs(10), |tables| tables.underlay.is_some()).await;
        tables
    }

    /// Takes facts in until `done`, and says how long that took.
    async fn until(&mut self, what: &str, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        while !done(self) {
            let left = limit.saturating_sub(begun.elapsed());
            let facts = tokio::time::timeout(left, self.facts.recv()).await;
            let facts = facts.unwrap_or_else(|_| panic!("{what}: not within {limit:?}; {:?}", self.macs));
            facts.expect("the follower lives").into_iter().for_each(|fact| self.take(fact));
        }
        begun.elapsed()
    }

    fn take(&mut self, fact: Fact) {
        match fact {
            Fact::Underlay(link) => self.underlay = link,
            Fact::Lost(why) => self.lost = Some(why),
            Fact::PortAppeared { port, device, .. } => drop(self.ports.insert(port, device)),
            Fact::PortVanished { port, device, .. } => {
                assert_eq!(self.ports.remove(&port), Some(device));
            }
            Fact::Changes(changes) => changes.into_iter().for_each(|change| match change {
                Change::Mac { mac, place: Some(place), .. } => drop(self.macs.insert(mac, place)),
                Change::Mac { mac, place: None, .. } => {
                    self.macs.remove(&mac);
                    self.forgotten += 1;
                }
                Change::Vtep { address, resolution, .. } => drop(self.vteps.insert(address, resolution)),
                Change::VtepGone { address, .. } => drop(self.vteps.remove(&address)),
            }),
        }
    }
}

fn overlay(name: &str) -> Host {
    overlay_with(name, "")
}

/// The same, with `words` for the vxlan device.
fn overlay_with(name: &str, words: &str) -> Host {
    let host = Host::new(name);
    set(&host, "ipv6/conf/default/accept_dad", "0");
    host.ip("link add eth0 type veth peer name wire");
    host.ip("link set eth0 up");
    host.ip("link set wire up");
    host.ip("address add 192.168.10.21/24 dev eth0");
    host.ip("address add fd00:10::21/64 dev eth0 nodad");
    host.ip("link add br0 type bridge");
    host.ip(&format!("link add vxlan1 type vxlan id 42 dstport 4789{words}"));
    host.ip("link set vxlan1 master br0");
    host.ip("link set br0 up");
    host.ip("link set vxlan1 up");
    host
}

/// Sets what `sysctl net.…` would.
fn set(host: &Host, name: &str, value: &str) {
    let write = || std::fs::write(format!("/proc/sys/net/{name}"), value);
    host.netns().run(write).unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn remote(last: u8) -> MacAddr {
    MacAddr::new([2, 0x42, 10, 0, 0, last])
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_row_added_with_bridge_reaches_the_tables_in_time_and_leaves_them_again() {
    let host = overlay("fdb");
    let mut tables = Tables::follow(&host).await;
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 master static");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 self dst 192.168.10.22");
    tables.until("added", LIMIT, |t| t.macs.contains_key(&remote(3))).await;
    let Some(Place::Remote(first)) = tables.macs.get(&remote(3)).copied() else { panic!("remote") };
    host.bridge("fdb replace 02:42:0a:00:00:03 dev vxlan1 self dst 192.168.10.23");
    tables
        .until("replaced", LIMIT, |t| t.macs.get(&remote(3)).is_some_and(|p| *p != Place::Remote(first)))
        .await;
    host.bridge("fdb del 02:42:0a:00:00:03 dev vxlan1 self");
    tables.until("deleted", LIMIT, |t| t.macs.is_empty() && t.vteps.is_empty()).await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn our_own_address_is_followed() {
    let host = overlay("own");
    let mut tables = Tables::follow(&host).await;
    let addressed = |is: bool| move |t: &Tables| t.underlay.is_some_and(|link| link.addressed == is);
    tables.until("ours at first", LIMIT, addressed(true)).await;
    let mut took = Vec::new();
    for _ in 0..5 {
        host.ip("address del 192.168.10.21/24 dev eth0");
        took.push(tables.until("taken away", LIMIT, addressed(false)).await);
        // The kernel takes packets for an address in through every device.
        host.ip("address add 192.168.10.21/32 dev wire");
        took.push(tables.until("on another device", LIMIT, addressed(true)).await);
        host.ip("address add 192.168.10.21/24 dev eth0");
        host.ip("address del 192.168.10.21/32 dev wire");
    }
    took.sort();
    // The fastest, as a busy machine makes single ones slow.
    assert!(took[0] < Duration::from_millis(100), "{took:?}");
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_vtep_is_resolved_follows_its_next_hop_and_is_kept_alive() {
    let host = overlay("hop");
    let mut tables = Tables::follow(&host).await;
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 master static");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 self dst 10.77.0.1");
    tables.until("unresolved", LIMIT, |t| t.vteps.contains_key(&ip("10.77.0.1"))).await;
    host.ip("neigh replace 192.168.10.1 lladdr 02:00:00:00:00:01 dev eth0 nud reachable");
    host.ip("route add 10.77.0.0/16 via 192.168.10.1");
    let through = |mac: [u8; 6]| {
        move |t: &Tables| {
            t.vteps.get(&ip("10.77.0.1"))
                == Some(&Resolution::Resolved { next_hop: MacAddr::new(mac), mtu: None })
        }
    };
    tables.until("routed", LIMIT, through([2, 0, 0, 0, 0, 1])).await;
    host.ip("neigh replace 192.168.10.1 lladdr 02:00:00:00:00:02 dev eth0 nud reachable");
    tables.until("next hop moved", LIMIT, through([2, 0, 0, 0, 0, 2])).await;
    let deadline = Instant::now() + Duration::from_secs(2);
    while !host.output("ip", "neigh show 192.168.10.1 dev eth0").contains("managed") {
        assert!(Instant::now() < deadline, "{}", host.output("ip", "neigh show"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    host.ip("route del 10.77.0.0/16");
    tables
        .until("unrouted", LIMIT, |t| {
            matches!(t.vteps.get(&ip("10.77.0.1")), Some(Resolution::Unresolved(_)))
        })
        .await;
}

/// Routes to `vtep`, which is in `prefix`, name objects through the neighbours `gateway`1 and `gateway`2.
async fn follows_next_hop_objects(host: &Host, vtep: &str, prefix: &str, gateway: &str) {
    // Otherwise the kernel tells of every route that names a changed object (networking/ip-sysctl.rst), for both
    // families.
    set(host, "ipv4/nexthop_compat_mode", "0");
    let object = |id: u8, last: u8| {
        host.ip(&format!("nexthop replace id {id} via {gateway}{last} dev eth0"));
    };
    for last in [1, 2] {
        let entry = format!("{gateway}{last} lladdr 02:00:00:00:00:0{last}");
        host.ip(&format!("neigh replace {entry} dev eth0 nud permanent"));
        object(last, last);
    }
    host.ip(&format!("route add {prefix} nhid 1"));
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 master static");
    host.bridge(&format!("fdb add 02:42:0a:00:00:03 dev vxlan1 self dst {vtep}"));
    let mut tables = Tables::follow(host).await;
    let through = |last: u8| {
        let next_hop = MacAddr::new([2, 0, 0, 0, 0, last]);
        let wanted = Resolution::Resolved { next_hop, mtu: None };
        move |t: &Tables| t.vteps.get(&ip(vtep)) == Some(&wanted)
    };
    tables.until("routed", LIMIT, through(1)).await;
    let mut took = Vec::new();
    for turn in 0..10 {
        let last = 2 - turn % 2;
        object(1, last);
        took.push(tables.until("object replaced", LIMIT, through(last)).await);
    }
    took.sort();
    eprintln!("{vtep}: told after {:.1?} to {:.1?}", took[0], took[9]);
    // Whatever else the machine does, once in ten times it lets us work.
    assert!(took[0] < Duration::from_millis(100), "{took:?}");

    for _ in 0..10 {
        host.ip("nexthop replace id 10 group 1");
        host.ip(&format!("route replace {prefix} nhid 10"));
        tables.until("a group", LIMIT, through(1)).await;
        host.ip("nexthop replace id 10 group 2");
        tables.until("another member", LIMIT, through(2)).await;
        host.ip("nexthop del id 10");
        let unrouted = |t: &Tables| matches!(t.vteps.get(&ip(vtep)), Some(Resolution::Unresolved(_)));
        tables.until("the route gone with its object", LIMIT, unrouted).await;
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_next_hop_object_that_is_replaced_or_deleted_is_followed_in_time() {
    let host = overlay("object");
    follows_next_hop_objects(&host, "10.77.0.1", "10.77.0.0/16", "192.168.10.").await;
    let host = overlay_with("object6", " local fd00:10::21");
    follows_next_hop_objects(&host, "fd00:77::1", "fd00:77::/64", "fd00:10::").await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_permanent_neighbour_stays_so_when_no_vtep_needs_it_any_more() {
    let host = overlay("permanent");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 master static");
    let mut tables = Tables::follow(&host).await;
    for last in [22, 23] {
        let entry = format!("192.168.10.{last} lladdr 02:00:00:00:00:{last}");
        host.ip(&format!("neigh replace {entry} dev eth0 nud permanent"));
        host.bridge(&format!("fdb replace 02:42:0a:00:00:03 dev vxlan1 self dst 192.168.10.{last}"));
        let vtep = ip(&format!("192.168.10.{last}"));
        let only = move |t: &Tables| {
            t.vteps.len() == 1 && matches!(t.vteps.get(&vtep), Some(Resolution::Resolved { .. }))
        };
        tables.until("resolved", LIMIT, only).await;
    }
    // The follower lets go of what it kept, and ends.
    let Tables { asks, mut facts, .. } = tables;
    drop(asks);
    while facts.recv().await.is_some() {}
    let neighbours = host.output("ip", "neigh show dev eth0");
    assert_eq!(neighbours.matches("PERMANENT").count(), 2, "{neighbours}");
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_port_that_comes_and_goes_takes_its_macs_along() {
    let host = overlay("port");
    let mut tables = Tables::follow(&host).await;
    host.ip("link add veth2 type veth peer name eth1");
    host.ip("link set veth2 master br0");
    host.bridge("fdb add 02:42:0a:00:00:02 dev veth2 master static");
    tables.until("appeared", LIMIT, |t| t.ports.contains_key(&0)).await;
    let device = tables.ports[&0];
    let port = PortId::new(4);
    tables.asks.send(Ask::PortUp { overlay: OverlayId::new(0), device, port }).await.unwrap();
    tables.until("local", LIMIT, |t| t.macs.get(&remote(2)) == Some(&Place::Local(port))).await;
    host.ip("link del veth2");
    tables.until("vanished", LIMIT, |t| t.ports.is_empty() && t.macs.is_empty()).await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_vxlan_device_made_anew_is_followed() {
    let host = overlay("anew");
    let mut tables = Tables::follow(&host).await;
    host.ip("link del vxlan1");
    host.ip("link add vxlan1 type vxlan id 42 dstport 4789");
    host.ip("link set vxlan1 master br0");
    host.ip("link set vxlan1 up");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 master static");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 self dst 192.168.10.22");
    tables.until("row of the new device", LIMIT, |t| t.macs.contains_key(&remote(3))).await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_overflow_ends_in_the_same_tables() {
    let host = overlay("storm");
    // No audit comes to help.
    let never = Rhythm { every: Duration::from_secs(3600), share: 0 };
    let mut tables = Tables::follow_audited(&host, never).await;
    // While nobody takes facts, the follower stops reading and the kernel's buffer runs over.
    let rows: String = (0..60_000u32)
        .map(|n| {
            let [_, a, b, c] = n.to_be_bytes();
            let mac = format!("02:43:00:{a:02x}:{b:02x}:{c:02x}");
            format!(
                "fdb add {mac} dev vxlan1 master static\nfdb add {mac} dev vxlan1 self dst 192.168.10.22\n"
            )
        })
        .collect();
    host.bridge_batch(&rows);
    tables.until("all rows", Duration::from_secs(60), |t| t.macs.len() == 60_000).await;
    assert!(tables.counters.read().overflows > 0, "{:?}", tables.counters.read());
    assert_eq!(tables.lost, None);
}

#[tokio::test]
#[ignore = "needs root"]
async fn what_comes_while_an_audit_reads_is_told_at_once_and_not_taken_back_by_its_end() {
    const STANDING: u32 = 5000;
    const COMING: u8 = 30;
    let host = overlay("audit");
    let mut batch = String::new();
    for row in 0..STANDING {
        let [.., high, low] = row.to_be_bytes();
        for table in ["master static", "self dst 192.168.10.22"] {
            batch += &format!("fdb add 02:99:00:00:{high:02x}:{low:02x} dev vxlan1 {table}\n");
        }
    }
    host.bridge_batch(&batch);
    // One audit after the other.
    let rhythm = Rhythm { every: Duration::ZERO, share: 0 };
    let mut tables = Tables::follow_audited(&host, rhythm).await;
    tables.until("all that stood", LIMIT, |t| t.macs.len() == STANDING as usize).await;
    let before = tables.counters.read().audits;
    for last in 0..COMING {
        let mac = remote(last);
        host.bridge(&format!("fdb add {mac} dev vxlan1 master static"));
        host.bridge(&format!("fdb add {mac} dev vxlan1 self dst 192.168.10.23"));
        tables.until("added", LIMIT, |t| t.macs.contains_key(&mac)).await;
    }
    let audits = tables.counters.read().audits;
    assert!(audits > before, "no audit has ended meanwhile");
    // Once more, so that each row has seen the end of one that began before it came.
    let deadline = Instant::now() + LIMIT;
    while tables.counters.read().audits < audits + 2 {
        assert!(Instant::now() < deadline, "audits have ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
        while let Ok(facts) = tables.facts.try_recv() {
            facts.into_iter().for_each(|fact| tables.take(fact));
        }
    }
    assert_eq!((tables.forgotten, tables.macs.len()), (0, STANDING as usize + usize::from(COMING)));
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_route_that_goes_with_its_device_or_its_address_uncovers_another_one() {
    let host = overlay("uncovered");
    host.ip("neigh replace 192.168.10.1 lladdr 02:00:00:00:00:01 dev eth0 nud reachable");
    host.ip("route add 10.77.0.0/16 via 192.168.10.1");
    host.ip("link add eth1 type veth peer name wire1");
    // Whose addresses would go with a word.
    set(&host, "ipv6/conf/eth1/disable_ipv6", "1");
    host.ip("link set wire1 up");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 master static");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 self dst 10.77.0.1");
    let mut tables = Tables::follow(&host).await;
    let next_hop = MacAddr::new([2, 0, 0, 0, 0, 1]);
    let wanted = Resolution::Resolved { next_hop, mtu: None };
    let by_the_underlay = move |t: &Tables| t.vteps.get(&ip("10.77.0.1")) == Some(&wanted);
    tables.until("the wide route", LIMIT, by_the_underlay).await;
    // Of neither does the kernel say that the route goes.
    for end in ["link set eth1 down", "address del 192.168.11.1/24 dev eth1"] {
        host.ip("link set eth1 up");
        host.ip("address replace 192.168.11.1/24 dev eth1");
        host.ip("route add 10.77.0.1/32 dev eth1 src 192.168.11.1");
        tables.until("the narrow route", LIMIT, |t| !by_the_underlay(t)).await;
        host.ip(end);
        tables.until(end, LIMIT, by_the_underlay).await;
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_audit_puts_right_what_no_notification_tells_and_counts_it() {
    let host = overlay_with("drift", " local fd00:10::21");
    for last in [1, 2] {
        let hop = format!("fd00:10::{last} lladdr 02:00:00:00:00:0{last}");
        host.ip(&format!("neigh replace {hop} dev eth0 nud reachable"));
    }
    host.ip("route add fd00:77::/64 via fd00:10::2");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 master static");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 self dst fd00:77::1");
    let rhythm = Rhythm { every: Duration::from_millis(100), share: 0 };
    let mut tables = Tables::follow_audited(&host, rhythm).await;
    let through = |last: u8| {
        let next_hop = MacAddr::new([2, 0, 0, 0, 0, last]);
        move |t: &Tables| {
            t.vteps.get(&ip("fd00:77::1")) == Some(&Resolution::Resolved { next_hop, mtu: None })
        }
    };
    tables.until("routed", LIMIT, through(2)).await;
    // From its last second on nobody takes this route any more; the kernel clears it away, and tells, half a
    // minute later (`fib6_run_gc`, net/ipv6/ip6_fib.c).
    host.ip("route add fd00:77::1/128 via fd00:10::1 expires 2");
    tables.until("routed for a while", LIMIT, through(1)).await;
    let before = tables.counters.read();
    tables.until("audited", LIMIT, through(2)).await;
    let after = tables.counters.read();
    assert!(after.drift > before.drift, "{before:?} {after:?}");
}
