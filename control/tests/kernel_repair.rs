//! An overlay that drifted, was half built, or shares its host with others.

mod kernel_host;
mod scenario;

use std::slice;

use kernel_host::{
    container, if_name, ip, json, link, names, on_a_host, overlay, remote, rows, run, scenario, snapshot,
};
use vxdp_control::config::{Overlay, Tos, Ttl};
use vxdp_control::kernel::Note;

fn flooding() -> Overlay {
    Overlay { flood: vec![ip("192.168.10.22"), ip("192.168.10.23")], ..scenario() }
}

/// Each way of drifting, as commands.
const DRIFTS: &[(&str, &[&str])] = &[
    ("the bridge is down", &["ip -n overlay link set br0 down"]),
    ("the vxlan device is down", &["ip -n overlay link set vxlan1 down"]),
    ("a veth is down", &["ip -n overlay link set veth2 down"]),
    ("the container's end is down", &["ip -n c1 link set eth1 down"]),
    ("MTU of the vxlan device", &["ip -n overlay link set vxlan1 mtu 1500"]),
    ("MTU of a veth", &["ip -n overlay link set veth2 mtu 1400"]),
    ("MTU of the container's end", &["ip -n c1 link set eth1 mtu 1500"]),
    ("MTU of the bridge", &["ip -n overlay link set br0 mtu 1300"]),
    ("MAC of the container's end", &["ip -n c1 link set eth1 address 02:42:0a:00:00:99"]),
    ("the vxlan device is not in the bridge", &["ip -n overlay link set vxlan1 nomaster"]),
    ("a veth is not in the bridge", &["ip -n overlay link set veth2 nomaster"]),
    (
        "the vxlan device is in another bridge",
        &[
            "ip -n overlay link add br9 type bridge",
            "ip -n overlay link set vxlan1 master br9",
            "ip -n overlay link del br9",
        ],
    ),
    ("the gateway's address is gone", &["ip -n overlay addr del 10.0.0.1/24 dev br0"]),
    ("the container's address is gone", &["ip -n c1 addr del 10.0.0.2/24 dev eth1"]),
    (
        "wrong neighbour",
        &["ip -n overlay neigh replace 10.0.0.3 lladdr 02:42:0a:00:00:77 dev vxlan1 nud permanent"],
    ),
    (
        "neighbour not permanent",
        &["ip -n overlay neigh replace 10.0.0.3 lladdr 02:42:0a:00:00:03 dev vxlan1 nud stale"],
    ),
    ("no neighbour", &["ip -n overlay neigh del 10.0.0.3 dev vxlan1"]),
    (
        "wrong VTEP",
        &["bridge -n overlay fdb replace 02:42:0a:00:00:03 dev vxlan1 self permanent dst 192.168.10.77"],
    ),
    (
        "wrong port in a row",
        &[
            "bridge -n overlay fdb replace 02:42:0a:00:00:03 dev vxlan1 self permanent dst 192.168.10.22 port 8472",
        ],
    ),
    (
        "a row that ages",
        &["bridge -n overlay fdb replace 02:42:0a:00:00:03 dev vxlan1 self dynamic dst 192.168.10.22"],
    ),
    ("no FDB row", &["bridge -n overlay fdb del 02:42:0a:00:00:03 dev vxlan1 self"]),
    ("no bridge row", &["bridge -n overlay fdb del 02:42:0a:00:00:03 dev vxlan1 master"]),
    (
        "the bridge row points elsewhere",
        &["bridge -n overlay fdb replace 02:42:0a:00:00:03 dev veth2 master static"],
    ),
    (
        "one flood row is gone",
        &["bridge -n overlay fdb del 00:00:00:00:00:00 dev vxlan1 self dst 192.168.10.23"],
    ),
    ("ageing", &["ip -n overlay link set vxlan1 type vxlan ageing 5"]),
    ("learning", &["ip -n overlay link set vxlan1 type vxlan nolearning"]),
    ("ttl", &["ip -n overlay link set vxlan1 type vxlan ttl 3"]),
    ("local address", &["ip -n overlay link set vxlan1 type vxlan local 192.168.10.99"]),
    ("the vxlan device is gone", &["ip -n overlay link del vxlan1"]),
    ("the bridge is gone", &["ip -n overlay link del br0"]),
    ("a veth is gone", &["ip -n c1 link del eth1"]),
    ("the namespace is gone", &["ip netns del overlay"]),
    (
        "the vxlan device was made in the wrong namespace",
        &[
            "ip -n overlay link del vxlan1",
            "ip -n overlay link add vxlan1 type vxlan id 42 dstport 4789 l2miss l3miss proxy learning",
        ],
    ),
    (
        "the vxlan device has another port and no proxy",
        &[
            "ip -n overlay link del vxlan1",
            "ip link add vxlan1 type vxlan id 42 dstport 8472 l2miss l3miss learning",
            "ip link set vxlan1 netns overlay",
        ],
    ),
];

#[test]
#[ignore = "needs root"]
fn every_drift_is_repaired() {
    on_a_host(async |host| {
        run("ip netns add c1");
        let spec = flooding();
        host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await.expect("built");
        let whole = snapshot(&["overlay", "c1"]);
        for (drift, commands) in DRIFTS {
            commands.iter().for_each(|command| drop(run(command)));
            let report = host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await;
            let report = report.unwrap_or_else(|error| panic!("{drift}: {error}"));
            assert!(!report.steps.is_empty(), "{drift} was not noticed");
            let again = host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await;
            assert_eq!(again.expect("fine").steps, [], "{drift} was not settled");
            if drift.starts_with("the vxlan device ha") || drift.starts_with("the vxlan device was") {
                assert!(link("overlay", "vxlan1")["link_netnsid"].is_number(), "{drift}");
            }
            assert_eq!(snapshot(&["overlay", "c1"]), whole, "{drift}");
        }
        host.kernel().await.down().await.expect("removed");
        assert_eq!(run("ip netns list").trim(), "c1");
        assert_eq!(names("c1"), ["lo"]);
    });
}

#[test]
#[ignore = "needs root"]
fn live_changes_keep_the_device_and_others_remake_it() {
    on_a_host(async |host| {
        let build = async |spec: &Overlay| {
            host.kernel().await.reconcile(&host.desired(slice::from_ref(spec))).await.expect("reconciled");
            link("overlay", "vxlan1")["ifindex"].as_u64()
        };
        let first = build(&overlay(42)).await;
        let live = Overlay {
            learning: false,
            ageing: 10,
            ttl: Ttl::Fixed(std::num::NonZeroU8::MAX),
            tos: Tos::Fixed(16),
            df: vxdp_control::config::Df::Set,
            mtu: Some(1400),
            ..overlay(42)
        };
        assert_eq!(build(&live).await, first);
        let data = &link("overlay", "vxlan1")["linkinfo"]["info_data"];
        assert_eq!((&data["ttl"], &data["df"], &data["ageing"]), (&255.into(), &"set".into(), &10.into()));
        let other = Overlay { source_ports: (50000, 60000), ..live };
        assert_ne!(build(&other).await, first);
        let next = Overlay { vni: overlay(43).vni, ..other };
        build(&next).await;
        assert_eq!(link("overlay", "vxlan1")["linkinfo"]["info_data"]["id"], 43);
    });
}

#[test]
#[ignore = "needs root"]
fn a_changed_configuration_moves_only_what_it_names() {
    on_a_host(async |host| {
        run("ip netns add c1");
        host.kernel().await.reconcile(&host.desired(&[flooding()])).await.expect("built");
        run("bridge -n overlay fdb append 00:00:00:00:00:00 dev vxlan1 self dst 192.168.10.99");
        run("bridge -n overlay fdb add 02:42:0a:00:00:55 dev vxlan1 self permanent dst 192.168.10.99");
        run("ip -n overlay neigh add 10.0.0.55 lladdr 02:42:0a:00:00:55 dev vxlan1 nud permanent");
        run("ip -n c1 addr add 10.9.9.9/24 dev eth1");
        let spec = Overlay {
            gateway: Vec::new(),
            flood: vec![ip("192.168.10.23")],
            containers: vec![container("c1", "veth7", "02:42:0a:00:00:02", &["10.0.0.7/24"])],
            remotes: vec![remote("02:42:0a:00:00:03", &["10.0.0.33"], "192.168.10.24")],
            ..overlay(42)
        };
        host.kernel().await.reconcile(&host.desired(&[spec])).await.expect("changed");
        assert_eq!(names("overlay"), ["br0", "lo", "veth7", "vxlan1"]);
        assert_eq!(
            rows("overlay"),
            [
                r#"fdb "vxlan1" "00:00:00:00:00:00" "192.168.10.23" "permanent""#,
                r#"fdb "vxlan1" "00:00:00:00:00:00" "192.168.10.99" "permanent""#,
                r#"fdb "vxlan1" "02:42:0a:00:00:03" "192.168.10.24" "permanent""#,
                r#"fdb "vxlan1" "02:42:0a:00:00:03" null "static""#,
                r#"fdb "vxlan1" "02:42:0a:00:00:55" "192.168.10.99" "permanent""#,
                r#"neigh "vxlan1" "10.0.0.33" "02:42:0a:00:00:03""#,
                r#"neigh "vxlan1" "10.0.0.55" "02:42:0a:00:00:55""#,
            ]
        );
        let addresses = json("ip -n overlay -j -4 addr show dev br0");
        assert!(!addresses.to_string().contains("10.0.0.1"), "{addresses}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_container_that_comes_back_in_a_new_namespace_is_attached_again() {
    on_a_host(async |host| {
        run("ip netns add c1");
        let spec = scenario();
        host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await.expect("built");
        let whole = snapshot(&["overlay", "c1"]);
        run("ip netns del c1");
        let report =
            host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await.expect("fine");
        assert!(matches!(report.notes[..], [Note::Away { .. }]), "{:?}", report.notes);
        run("ip netns add c1");
        host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await.expect("attached");
        assert_eq!(snapshot(&["overlay", "c1"]), whole);
    });
}

#[test]
#[ignore = "needs root"]
fn a_veth_whose_other_end_went_elsewhere_is_made_again() {
    on_a_host(async |host| {
        run("ip netns add c1");
        run("ip netns add thief");
        let spec = scenario();
        host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await.expect("built");
        let whole = snapshot(&["overlay", "c1"]);
        run("ip -n c1 link set eth1 netns thief");
        host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await.expect("made again");
        assert_eq!(snapshot(&["overlay", "c1"]), whole);
        assert_eq!(names("thief"), ["lo"]);
    });
}

#[test]
#[ignore = "needs root"]
fn a_name_taken_by_something_else_is_an_error_that_touches_nothing() {
    let spec = scenario();
    for (commands, message) in [
        (
            &["ip -n overlay tuntap add br0 mode tap"][..],
            "br0 in namespace overlay is a device of kind tun, not a bridge",
        ),
        (
            &["ip link add vxlan1 type vxlan id 99 dstport 4789", "ip link set vxlan1 netns overlay"],
            "vxlan1 in namespace overlay is a vxlan device with VNI 99, not a vxlan device with VNI 42",
        ),
        (&["ip -n overlay link add vxlan1 type bridge"], "vxlan1 in namespace overlay is a bridge"),
        (
            &["ip -n overlay link add veth2 type veth peer name other"],
            "veth2 in namespace overlay is a veth of somebody else",
        ),
        (
            &["ip -n c1 link add eth1 type veth peer name other"],
            "eth1 in container c1 is a veth of somebody else",
        ),
    ] {
        on_a_host(async |host| {
            run("ip netns add c1");
            run("ip netns add overlay");
            commands.iter().for_each(|command| drop(run(command)));
            let before = snapshot(&["overlay", "c1"]);
            let error = host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await;
            let text = error.expect_err("the name is taken").to_string();
            assert!(text.starts_with(message), "{text}");
            assert_eq!(snapshot(&["overlay", "c1"]), before);
            assert!(!host.ledger().exists());
        });
    }
}

/// DESIGN, section 1, by hand.
const BY_HAND: &[&str] = &[
    "ip netns add overlay",
    "ip -n overlay link add br0 type bridge",
    "ip link add vxlan_tmp type vxlan id 42 l2miss l3miss proxy learning dstport 4789",
    "ip link set vxlan_tmp netns overlay name vxlan1",
    "ip -n overlay link set vxlan1 master br0",
    "ip link add veth2 mtu 1450 type veth peer name veth3 mtu 1450",
    "ip link set veth2 netns overlay",
    "ip -n overlay link set veth2 master br0",
    "ip link set veth3 netns c1 name eth1",
    "ip -n c1 link set eth1 address 02:42:0a:00:00:02",
    "ip -n c1 addr add 10.0.0.2/24 dev eth1",
    "ip -n overlay addr add 10.0.0.1/24 dev br0",
    "ip -n overlay link set br0 up",
    "ip -n overlay link set vxlan1 up",
    "ip -n overlay link set veth2 up",
    "ip -n c1 link set eth1 up",
    "ip -n overlay neigh add 10.0.0.3 lladdr 02:42:0a:00:00:03 dev vxlan1 nud permanent",
    "bridge -n overlay fdb add 02:42:0a:00:00:03 dev vxlan1 self dst 192.168.10.22 vni 42 port 4789",
];

#[test]
#[ignore = "needs root"]
fn an_overlay_built_by_hand_is_adopted_and_outlives_down() {
    on_a_host(async |host| {
        run("ip netns add c1");
        BY_HAND.iter().for_each(|command| drop(run(command)));
        let indices = || ["br0", "vxlan1", "veth2"].map(|name| link("overlay", name)["ifindex"].clone());
        let (devices, by_hand) = (indices(), rows("overlay"));
        let spec = Overlay { flood: vec![ip("192.168.10.23")], ..scenario() };
        let report =
            host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await.expect("adopted");
        // The source ports and the checksum of a standing device cannot be changed; it is not replaced.
        assert!(
            matches!(&report.notes[..], [Note::Adopted { fields, .. }] if fields.len() == 2),
            "{:?}",
            report.notes
        );
        assert_eq!(indices(), devices);
        assert_eq!(link("overlay", "vxlan1")["mtu"], 1450);
        let again = host.kernel().await.reconcile(&host.desired(slice::from_ref(&spec))).await.expect("fine");
        assert_eq!(again.steps, []);
        assert_eq!(rows("overlay").len(), by_hand.len() + 2, "the bridge row and the flood row are new");

        host.kernel().await.down().await.expect("removed");
        assert_eq!(indices(), devices);
        assert_eq!(rows("overlay"), by_hand);
        assert_eq!(names("c1"), ["eth1", "lo"]);
        run("ip netns exec c1 ping -c 1 -W 2 10.0.0.1");
    });
}

#[test]
#[ignore = "needs root"]
fn down_leaves_what_others_put_beside_ours() {
    on_a_host(async |host| {
        run("ip netns add c1");
        host.kernel().await.reconcile(&host.desired(&[scenario()])).await.expect("built");
        run("ip -n overlay tuntap add mine mode tap");
        run("ip -n overlay link set mine master br0");
        run("ip -n overlay addr add 10.7.7.7/24 dev mine");
        run("ip -n c1 tuntap add mine mode tap");
        let report = host.kernel().await.down().await.expect("removed");
        assert!(
            matches!(&report.notes[..], [Note::NetnsInUse { devices, .. }] if devices == &["mine"]),
            "{:?}",
            report.notes
        );
        assert_eq!(names("overlay"), ["lo", "mine"]);
        assert_eq!(names("c1"), ["lo", "mine"]);
        assert!(run("ip -n overlay addr show dev mine").contains("10.7.7.7/24"));
        // When they are gone, so is the namespace.
        run("ip -n overlay link del mine");
        host.kernel().await.down().await.expect("removed");
        assert_eq!(run("ip netns list").trim(), "c1");
    });
}

#[test]
#[ignore = "needs root"]
fn a_device_made_again_by_somebody_else_is_not_ours_to_remove() {
    on_a_host(async |host| {
        host.kernel().await.reconcile(&host.desired(&[overlay(42)])).await.expect("built");
        run("ip -n overlay link del br0");
        run("ip -n overlay link add br0 type bridge");
        let second = Overlay { bridge: if_name("br1"), ..overlay(42) };
        host.kernel().await.reconcile(&host.desired(&[second])).await.expect("moved to another bridge");
        assert_eq!(names("overlay"), ["br0", "br1", "lo", "vxlan1"]);
        host.kernel().await.down().await.expect("removed");
        assert_eq!(names("overlay"), ["br0", "lo"]);
    });
}
