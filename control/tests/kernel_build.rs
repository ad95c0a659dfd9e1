//! The kernel overlay built on a bare host, and removed again.

mod kernel_host;
mod scenario;

use std::slice;

use kernel_host::{
    container, ip, json, link, names, on_a_host, overlay, remote, rows, run, scenario, snapshot,
};
use vxdp_control::config::{Df, NsName, Overlay, Tos, Ttl};
use vxdp_control::kernel::desired::Row;

#[test]
#[ignore = "needs root"]
fn a_bare_host_gets_the_scenario() {
    on_a_host(async |host| {
        run("ip netns add c1");
        let mut kernel = host.kernel().await;
        let report = kernel.reconcile(&host.desired(&[scenario()])).await.expect("built");
        assert!(report.notes.is_empty(), "{:?}", report.notes);

        assert_eq!(names("overlay"), ["br0", "lo", "veth2", "vxlan1"]);
        let vxlan = link("overlay", "vxlan1");
        assert_eq!(vxlan["mtu"], 1450);
        assert_eq!(vxlan["master"], "br0");
        assert!(vxlan["link_netnsid"].is_number(), "its socket is in the host's namespace: {vxlan}");
        let data = &vxlan["linkinfo"]["info_data"];
        assert_eq!(data["id"], 42);
        assert_eq!(data["port"], 4789);
        assert_eq!(data["local"], "192.168.10.21");
        assert_eq!(data["port_range"]["low"], 49152);
        assert_eq!(data["port_range"]["high"], 65535);
        assert_eq!(data["ageing"], 300);
        for flag in ["learning", "proxy", "l2miss", "l3miss"] {
            assert_eq!(data[flag], true, "{flag} in {data}");
        }
        assert_eq!(data["udp_csum"], false);
        assert_eq!(link("overlay", "veth2")["master"], "br0");
        let inside = link("c1", "eth1");
        assert_eq!((&inside["address"], &inside["mtu"]), (&"02:42:0a:00:00:02".into(), &1450.into()));
        run("ip netns exec c1 ping -c 1 -W 2 10.0.0.1");
        assert_eq!(
            rows("overlay"),
            [
                r#"fdb "vxlan1" "02:42:0a:00:00:03" "192.168.10.22" "permanent""#,
                r#"fdb "vxlan1" "02:42:0a:00:00:03" null "static""#,
                r#"neigh "vxlan1" "10.0.0.3" "02:42:0a:00:00:03""#,
            ]
        );
        assert!(run("ip netns list").contains("overlay"));
    });
}

#[test]
#[ignore = "needs root"]
fn a_complete_overlay_is_left_alone() {
    on_a_host(async |host| {
        run("ip netns add c1");
        host.kernel().await.reconcile(&host.desired(&[scenario()])).await.expect("built");
        let before = snapshot(&["overlay", "c1"]);
        // A new process, which knows the ledger only from its file.
        let report = host.kernel().await.reconcile(&host.desired(&[scenario()])).await.expect("fine");
        assert_eq!(report.steps, []);
        assert_eq!(snapshot(&["overlay", "c1"]), before);
    });
}

#[test]
#[ignore = "needs root"]
fn down_removes_everything_that_was_built_and_can_be_repeated() {
    on_a_host(async |host| {
        run("ip netns add c1");
        host.kernel().await.reconcile(&host.desired(&[scenario()])).await.expect("built");
        let mut kernel = host.kernel().await;
        kernel.down().await.expect("removed");
        assert_eq!(run("ip netns list").trim(), "c1");
        assert_eq!(names("c1"), ["lo"]);
        assert!(!host.ledger().exists());
        assert_eq!(kernel.down().await.expect("nothing to do").steps, []);
        // VNI and port are free again.
        kernel.reconcile(&host.desired(&[scenario()])).await.expect("built again");
    });
}

#[test]
#[ignore = "needs root"]
fn every_attribute_of_the_vxlan_device_reaches_the_kernel() {
    on_a_host(async |host| {
        let spec = Overlay {
            learning: false,
            proxy: false,
            l2miss: false,
            l3miss: false,
            ageing: 77,
            ttl: Ttl::Fixed(std::num::NonZeroU8::new(9).expect("not zero")),
            tos: Tos::Inherit,
            df: Df::Inherit,
            udp_checksum: true,
            source_ports: (1024, 2048),
            mtu: Some(1300),
            port: 8472,
            ..overlay(7)
        };
        host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await.expect("built");
        let vxlan = link("overlay", "vxlan1");
        let data = &vxlan["linkinfo"]["info_data"];
        assert_eq!(vxlan["mtu"], 1300);
        assert_eq!(link("overlay", "br0")["mtu"], 1300);
        for (key, value) in [("ttl", 9), ("ageing", 77), ("port", 8472)] {
            assert_eq!(data[key], value, "{data}");
        }
        // In JSON, ip shows "inherit" as the number that the kernel uses for it.
        assert_eq!(data["tos"], "0x1", "{data}");
        assert_eq!(data["df"], "inherit", "{data}");
        assert_eq!(data["udp_csum"], true, "{data}");
        assert_eq!(data["port_range"], serde_json::json!({"low": 1024, "high": 2048}));
        for flag in ["learning", "proxy", "l2miss", "l3miss"] {
            assert!(data[flag] == false || data[flag].is_null(), "{flag} in {data}");
        }
        assert_eq!(host.kernel().await.reconcile(&host.desired(&[spec])).await.expect("fine").steps, []);
    });
}

#[test]
#[ignore = "needs root"]
fn an_inherited_ttl_and_endless_ageing_are_stable() {
    on_a_host(async |host| {
        let spec = Overlay { ttl: Ttl::Inherit, ageing: 0, ..overlay(7) };
        host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await.expect("built");
        let data = &link("overlay", "vxlan1")["linkinfo"]["info_data"];
        assert_eq!(data["ageing"], u32::MAX, "{data}");
        assert_eq!(host.kernel().await.reconcile(&host.desired(&[spec])).await.expect("fine").steps, []);
    });
}

/// Two overlays in two namespaces, with equal device names, MACs and addresses.
fn twins() -> [Overlay; 2] {
    let first = Overlay { flood: vec![ip("192.168.10.22"), ip("192.168.10.23")], ..scenario() };
    let second = Overlay {
        netns: NsName::new("other").expect("a name"),
        containers: vec![
            container("c2", "veth2", "02:42:0a:00:00:02", &["10.0.0.2/24"]),
            container("c3", "veth3", "02:42:0a:00:00:04", &["10.0.0.4/24", "2001:db8::4/64"]),
        ],
        vni: overlay(43).vni,
        flood: vec![ip("192.168.10.23")],
        ..scenario()
    };
    [first, second]
}

#[test]
#[ignore = "needs root"]
fn two_overlays_with_equal_names_macs_and_addresses_stand_side_by_side() {
    on_a_host(async |host| {
        for name in ["c1", "c2", "c3"] {
            run(&format!("ip netns add {name}"));
        }
        host.kernel().await.reconcile(&host.desired(&twins())).await.expect("built");
        assert_eq!(names("overlay"), ["br0", "lo", "veth2", "vxlan1"]);
        assert_eq!(names("other"), ["br0", "lo", "veth2", "veth3", "vxlan1"]);
        let flood = |netns| rows(netns).iter().filter(|row| row.contains("00:00:00:00:00:00")).count();
        assert_eq!((flood("overlay"), flood("other")), (2, 1));
        run("ip netns exec c3 ping -c 1 -W 2 10.0.0.2");
        let report = host.kernel().await.reconcile(&host.desired(&twins())).await.expect("fine");
        assert_eq!(report.steps, []);
        // One overlay leaves the configuration, the other stays as it is.
        let before = snapshot(&["overlay", "c1"]);
        host.kernel().await.reconcile(&host.desired(&twins()[..1])).await.expect("one removed");
        assert_eq!(snapshot(&["overlay", "c1"]), before);
        assert!(!run("ip netns list").contains("other"));
        assert_eq!(names("c3"), ["lo"]);
    });
}

#[test]
#[ignore = "needs root"]
fn two_overlays_share_a_namespace() {
    on_a_host(async |host| {
        let second = Overlay {
            bridge: kernel_host::if_name("br1"),
            vxlan: kernel_host::if_name("vxlan2"),
            gateway: Vec::new(),
            ..overlay(43)
        };
        let both = [overlay(42), second];
        host.kernel().await.reconcile(&host.desired(&both)).await.expect("built");
        assert_eq!(names("overlay"), ["br0", "br1", "lo", "vxlan1", "vxlan2"]);
        assert_eq!(host.kernel().await.reconcile(&host.desired(&both)).await.expect("fine").steps, []);
    });
}

#[test]
#[ignore = "needs root"]
fn an_ipv6_underlay_carries_ipv6_inside() {
    on_a_host(async |host| {
        run("ip netns add c1");
        let spec = Overlay {
            gateway: vec![
                "10.0.0.1/24".parse().expect("a prefix"),
                "2001:db8::1/64".parse().expect("a prefix"),
            ],
            containers: vec![container(
                "c1",
                "veth2",
                "02:42:0a:00:00:02",
                &["10.0.0.2/24", "2001:db8::2/64"],
            )],
            remotes: vec![remote("02:42:0a:00:00:03", &["10.0.0.3", "2001:db8::3"], "2001:db8:10::22")],
            flood: vec![ip("2001:db8:10::22")],
            udp_checksum: true,
            ..overlay(42)
        };
        let desired = || host.desired_over("2001:db8:10::21", slice::from_ref(&spec));
        host.kernel().await.reconcile(&desired()).await.expect("built");
        let vxlan = link("overlay", "vxlan1");
        assert_eq!(vxlan["mtu"], 1430);
        let data = &vxlan["linkinfo"]["info_data"];
        assert_eq!(data["local6"], "2001:db8:10::21", "{data}");
        assert_eq!(
            (&data["udp_zero_csum6_tx"], &data["udp_zero_csum6_rx"]),
            (&false.into(), &true.into()),
            "{data}"
        );
        assert_eq!(
            rows("overlay"),
            [
                r#"fdb "vxlan1" "00:00:00:00:00:00" "2001:db8:10::22" "permanent""#,
                r#"fdb "vxlan1" "02:42:0a:00:00:03" "2001:db8:10::22" "permanent""#,
                r#"fdb "vxlan1" "02:42:0a:00:00:03" null "static""#,
                r#"neigh "vxlan1" "10.0.0.3" "02:42:0a:00:00:03""#,
                r#"neigh "vxlan1" "2001:db8::3" "02:42:0a:00:00:03""#,
            ]
        );
        // Usable at once: no duplicate address detection.
        let tentative = json("ip -n c1 -j -6 addr show dev eth1 scope global tentative");
        assert!(
            tentative
                .as_array()
                .expect("a list")
                .iter()
                .all(|entry| entry["addr_info"].is_null() || entry["addr_info"] == serde_json::json!([])),
            "{tentative}"
        );
        assert_eq!(host.kernel().await.reconcile(&desired()).await.expect("fine").steps, []);
    });
}

#[test]
#[ignore = "needs root"]
fn over_ipv6_the_outer_checksum_is_as_configured_and_a_missing_one_is_accepted() {
    on_a_host(async |host| {
        for udp_checksum in [true, false, true] {
            let spec = Overlay { udp_checksum, remotes: Vec::new(), ..overlay(42) };
            let desired = || host.desired_over("2001:db8:10::21", slice::from_ref(&spec));
            host.kernel().await.reconcile(&desired()).await.expect("built");
            let data = &link("overlay", "vxlan1")["linkinfo"]["info_data"];
            assert_eq!(data["udp_zero_csum6_tx"], !udp_checksum, "{data}");
            assert_eq!(data["udp_zero_csum6_rx"], true, "{data}");
            assert_eq!(host.kernel().await.reconcile(&desired()).await.expect("fine").steps, []);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn rows_are_installed_and_removed_without_a_full_look() {
    on_a_host(async |host| {
        let spec = overlay(42);
        let mut kernel = host.kernel().await;
        kernel.reconcile(&host.desired(slice::from_ref(&spec))).await.expect("built");
        let new = Row::of_remote(&remote("02:42:0a:00:00:09", &["10.0.0.9", "2001:db8::9"], "192.168.10.23"));
        kernel.install(&spec, &new).await.expect("installed");
        kernel.install(&spec, &new).await.expect("there already");
        assert_eq!(rows("overlay").len(), 4);
        let moved = [Row::Fdb { mac: kernel_host::mac("02:42:0a:00:00:09"), vtep: ip("192.168.10.24") }];
        kernel.install(&spec, &moved).await.expect("moved");
        assert!(rows("overlay").iter().any(|row| row.contains("192.168.10.24")));
        kernel.remove_rows(&spec, &new[..2]).await.expect("removed");
        kernel.remove_rows(&spec, &new[..2]).await.expect("gone already");
        assert_eq!(rows("overlay").len(), 2);
        // Rows that the desired state does not name any more go with the next reconciliation.
        kernel.reconcile(&host.desired(&[spec])).await.expect("reconciled");
        assert_eq!(rows("overlay"), Vec::<String>::new());
    });
}
