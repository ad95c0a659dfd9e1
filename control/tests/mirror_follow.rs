//! The follower over a real kernel: what `bridge`, `ip` and the network change reaches the fast path's tables.

mod followed;
mod namespace;

use std::time::{Duration, Instant};

use followed::{LIMIT, Tables, in_time, ip, overlay, overlay_with, remote, set};
use namespace::Host;
use vxdp_control::mirror::fact::Ask;
use vxdp_control::mirror::nexthop::Resolution;
use vxdp_control::mirror::state::Place;
use vxdp_dataplane::wire::MacAddr;
use vxdp_dataplane::{OverlayId, PortId};

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
    in_time("our address", &mut took);
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
    in_time(vtep, &mut took);

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
