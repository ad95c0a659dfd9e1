//! The mirror's questions to a real kernel, in namespaces of their own.

mod namespace;

use std::net::IpAddr;

use futures::TryStreamExt;
use namespace::Host;
use netlink_packet_route::AddressFamily;
use vxdp_control::mirror::fdb::Ageing;
use vxdp_control::mirror::message::{Life, Row};
use vxdp_control::mirror::nexthop::Route;
use vxdp_control::mirror::query;
use vxdp_dataplane::wire::MacAddr;

fn underlay(host: &Host) -> u32 {
    host.ip("link add eth0 type veth peer name wire");
    host.ip("link set eth0 up");
    host.ip("link set wire up");
    host.ip("address add 192.168.10.21/24 dev eth0");
    host.index("eth0")
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_route_is_what_the_kernels_tunnel_would_take() {
    let host = Host::new("route");
    let device = underlay(&host);
    host.ip("route add 10.77.0.0/16 via 192.168.10.1 mtu 1400");
    host.ip("route add blackhole 10.78.0.0/16");
    host.ip("route add 10.76.0.0/16 via 192.168.10.1");
    host.ip("rule add from 192.168.10.21 to 10.76.0.0/16 lookup 76");
    host.ip("route add 10.76.0.0/16 via 192.168.10.2 table 76");
    let handle = host.netns().netlink().unwrap();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let route_to = async |text: &str| query::route_to(&handle, ip("192.168.10.21"), ip(text)).await.unwrap();

    assert_eq!(route_to("192.168.10.22").await, Some(Route { device, gateway: None, mtu: None }));
    let far = Some(Route { device, gateway: Some(ip("192.168.10.1")), mtu: Some(1400) });
    assert_eq!(route_to("10.77.0.1").await, far);
    let from_us = Some(Route { device, gateway: Some(ip("192.168.10.2")), mtu: None });
    assert_eq!(route_to("10.76.0.1").await, from_us, "a rule asks for the source");
    assert_eq!(route_to("10.78.0.1").await, None);
    assert_eq!(route_to("10.99.0.1").await, None);
    assert!(query::is_local(&handle, ip("192.168.10.21")).await.unwrap());
    for strange in ["192.168.10.22", "10.78.0.1", "10.99.0.1", "fd00::1"] {
        assert!(!query::is_local(&handle, ip(strange)).await.unwrap(), "{strange}");
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_dump_holds_bridge_rows_and_tunnel_rows_of_either_family() {
    let host = Host::new("dump");
    host.ip("link add br0 type bridge");
    host.ip("link add vxlan1 type vxlan id 42 dstport 4789");
    host.ip("link set vxlan1 master br0");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 self dst 192.168.10.22 vni 42 port 4789");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 master static");
    let handle = host.netns().netlink().unwrap();
    let rows: Vec<Row> = query::rows(&handle, AddressFamily::Bridge).try_collect().await.unwrap();

    let mac = MacAddr::new([2, 0x42, 10, 0, 0, 3]);
    let (vxlan, bridge) = (host.index("vxlan1"), host.index("br0"));
    let tunnel = rows.iter().find_map(|row| match row {
        Row::Tunnel(row) if row.mac == mac => Some(row),
        _ => None,
    });
    let tunnel = tunnel.expect("the tunnel row");
    assert_eq!((tunnel.device, tunnel.vtep), (vxlan, "192.168.10.22".parse().ok()));
    // The kernel leaves VNI and port out where they are the device's own.
    assert_eq!((tunnel.vni, tunnel.port), (None, None));
    let bridged = rows.iter().any(|row| match row {
        Row::Bridge(row) => {
            (row.bridge, row.port, row.mac, row.life) == (bridge, vxlan, mac, Life::Static)
                && row.vlan.is_none()
        }
        _ => false,
    });
    assert!(bridged, "{rows:?}");
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_next_hop_is_kept_resolved_until_it_is_released() {
    let host = Host::new("managed");
    let device = underlay(&host);
    let handle = host.netns().netlink().unwrap();
    let hop = "192.168.10.22".parse().unwrap();
    query::keep_resolved(&handle, device, hop).await.unwrap();
    query::keep_resolved(&handle, device, hop).await.unwrap();
    let show = || host.output("ip", "neigh show");
    assert!(show().contains("managed"), "{}", show());
    query::release(&handle, device, hop).await.unwrap();
    assert!(!show().contains("managed"), "{}", show());
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_refresh_makes_learned_rows_young_again() {
    let host = Host::new("refresh");
    host.ip("link add br0 type bridge");
    host.ip("link add vxlan1 type vxlan id 42 dstport 4789");
    host.ip("link set vxlan1 master br0");
    host.ip("link set br0 up");
    host.ip("link set vxlan1 up");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 self dynamic dst 192.168.10.22");
    host.bridge("fdb add 02:42:0a:00:00:03 dev vxlan1 master dynamic");
    let ages = || {
        let text = host.output("bridge", "-s fdb show");
        let rows = text.lines().filter(|line| line.starts_with("02:42:0a:00:00:03"));
        // `used USED/UPDATED`, in seconds: one of the two is what ageing looks at.
        let ages = rows.map(|line| {
            let used = line.split("used ").nth(1).unwrap().split(' ').next().unwrap();
            used.split('/').map(|age| age.parse::<u32>().unwrap()).min().unwrap()
        });
        ages.collect::<Vec<_>>()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while ages().contains(&0) {
        assert!(std::time::Instant::now() < deadline, "rows do not grow older: {:?}", ages());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let handle = host.netns().netlink().unwrap();
    let vxlan = host.index("vxlan1");
    let ageing = Ageing { bridge_port: Some(vxlan), vtep: "192.168.10.22".parse().ok() };
    query::refresh(&handle, vxlan, MacAddr::new([2, 0x42, 10, 0, 0, 3]), ageing).await.unwrap();
    assert_eq!(ages(), [0, 0]);
}
