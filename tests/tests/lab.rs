//! The lab itself: what it isolates, what it leaves behind, and the scenario built by hand in it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use vxdp_lab::{Before, Capture, Lab, Outer, Ping, scenario, tcp_transfer, udp_exchange, wait_until};

const C1: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const C2: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs root"]
fn hosts_reach_each_other_over_both_address_families() {
    scenario("underlay", |lab| {
        Ping::new(lab.h2().ipv4()).count(1).expect_all(lab.h1())?;
        Ping::new(lab.h1().ipv6()).count(1).expect_all(lab.h2())?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn three_hosts_share_one_segment() {
    let lab = Lab::builder("switch").hosts(3).mtu(1600).build().unwrap();
    for host in &lab.hosts()[..2] {
        Ping::new(lab.hosts()[2].ipv4()).count(1).payload(1572).dont_fragment().expect_all(host).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn a_lab_that_is_dropped_leaves_nothing_behind() {
    let mut before = Before::look().unwrap();
    let lab = Lab::builder("clean").build().unwrap();
    lab.h1().container("c1").unwrap();
    let mut sleeper = lab.h2().command(["sleep", "1000"]).spawn().unwrap();
    before.remember(&lab).unwrap();
    wait_until("a lab that stands is seen", PATIENCE, || {
        Ok(before.left_behind(Duration::ZERO)?.iter().any(|line| line.contains("(sleep)")))
    })
    .unwrap();
    drop(lab);
    sleeper.wait().unwrap();
    assert_eq!(before.left_behind(PATIENCE).unwrap(), Vec::<String>::new());
}

#[test]
#[ignore = "needs root"]
fn a_kept_lab_stands_until_it_is_removed() {
    let mut before = Before::look().unwrap();
    let lab = Lab::builder("orphan").build().unwrap();
    before.remember(&lab).unwrap();
    let kept = lab.keep().unwrap();
    assert!(kept.place("h1").unwrap().exists());
    assert!(kept.place("h3").is_err());
    kept.remove().unwrap();
    assert!(kept.place("h1").is_err());
    assert_eq!(before.left_behind(PATIENCE).unwrap(), Vec::<String>::new());
}

/// Names the file through which the owner to be killed says that its lab stands.
const ORPHAN_VARIABLE: &str = "VXDP_LAB_TEST_ORPHAN";

#[test]
#[ignore = "needs root"]
fn a_lab_whose_owner_is_killed_removes_itself() {
    if let Some(path) = std::env::var_os(ORPHAN_VARIABLE) {
        let lab = Lab::builder("orphan").build().unwrap();
        let kept = serde_json::json!({ "holder": lab.h1().holder(), "dir": lab.dir() });
        std::fs::write(path, kept.to_string()).unwrap();
        loop {
            std::thread::park();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lab.json");
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "a_lab_whose_owner_is_killed_removes_itself"])
        .env(ORPHAN_VARIABLE, &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lab = serde_json::Value::Null;
    let stands = wait_until("the other process has its lab", Duration::from_secs(20), || {
        lab = serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_default()).unwrap_or_default();
        Ok(!lab.is_null())
    });
    owner.kill().unwrap();
    owner.wait().unwrap();
    stands.unwrap();
    let holder = format!("/proc/{}/ns/mnt", lab["holder"]);
    wait_until("the orphan is gone", Duration::from_secs(20), || {
        Ok(!Path::new(&holder).exists() && !Path::new(lab["dir"].as_str().unwrap()).exists())
    })
    .unwrap();
}

/// One host's part of the scenario by hand, in the order of the design: the vxlan device is created in the
/// host's namespace and then moved.
fn by_hand(lab: &Lab, number: usize) -> anyhow::Result<()> {
    let host = &lab.hosts()[number - 1];
    let (own, other) = (number + 1, 4 - number);
    let vtep = lab.hosts()[2 - number].ipv4();
    host.container(&format!("c{number}"))?;
    host.script(&format!(
        "ip netns add overlay
         ip -n overlay link add br0 type bridge
         ip link add vxlan1 type vxlan id 42 l2miss l3miss proxy learning dstport 4789
         ip link set vxlan1 netns overlay
         ip -n overlay link set vxlan1 mtu 1450 master br0
         ip -n overlay link add veth2 mtu 1450 type veth peer name eth1 mtu 1450 netns c{number}
         ip -n overlay link set veth2 master br0
         ip -n c{number} link set eth1 address 02:42:0a:00:00:0{own} up
         ip -n c{number} address add 10.0.0.{own}/24 dev eth1
         ip -n overlay address add 10.0.0.1/24 dev br0
         for device in br0 vxlan1 veth2; do ip -n overlay link set $device up; done
         ip -n overlay neighbour add 10.0.0.{other} lladdr 02:42:0a:00:00:0{other} dev vxlan1 nud permanent
         bridge -n overlay fdb add 02:42:0a:00:00:0{other} dev vxlan1 self dst {vtep} vni 42 port 4789"
    ))?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_scenario_by_hand_carries_ping_tcp_and_udp() {
    scenario("by-hand", |lab| {
        by_hand(lab, 1)?;
        by_hand(lab, 2)?;
        let (c1, c2) = (lab.h1().netns("c1"), lab.h2().netns("c2"));
        let wire = Capture::start(lab.h1(), "eth0")?;
        wait_until("the first ping crosses", Duration::from_secs(5), || {
            Ok(Ping::new(C2).count(1).run(&c1)?.received == 1)
        })?;
        let pinged = Ping::new(C2).run(&c1)?;
        assert!(pinged.rtt.is_some());
        let outer = wire.wait_for("an encapsulated frame", |frame| Outer::parse(&frame.bytes, 4789))?;
        assert_eq!((outer.vni, outer.flags), (42, 0x08), "{}", outer.lines());
        tcp_transfer(&c1, &c2, C2, 1 << 20)?;
        tcp_transfer(&c2, &c1, C1, 1 << 20)?;
        udp_exchange(&c1, &c2, C2, &[1, 100, 1422])?;
        udp_exchange(&c2, &c1, C1, &[1, 100, 1422])?;
        Ok(())
    });
}
