//! A throwaway host for the kernel overlay's tests: a thread with its own network and mount namespace.
//!
//! What the overlay looks like is read with `ip` and `bridge`, never with our own dump code.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use vxdp_control::config::{self, Attach, Container, IfName, Install, NsName, Overlay, Remote};
use vxdp_control::kernel::Kernel;
use vxdp_control::kernel::desired::{Desired, DesiredOverlay, DesiredPort, UnderlayFacts};
use vxdp_control::netns::Netns;
use vxdp_dataplane::wire::{MacAddr, Vni};

use crate::scenario::Scenario;

/// A host whose NIC `eth0` has 192.168.10.21 and 2001:db8:10::21.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    directory: tempfile::TempDir,
}

/// Runs a test on a host of its own; everything is gone when its thread ends, also after a panic.
pub(crate) fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send) {
    let run = || {
        let host = Host::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(test(host));
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(run);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

impl Host {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root, to make namespaces");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        std::fs::create_dir_all("/run/netns").expect("the directory of the namespaces");
        mount(Some("tmpfs"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).expect("a tmpfs");
        run("ip link set lo up");
        run("ip link add eth0 type veth peer name wire");
        run("ip link set eth0 up");
        run("ip link set wire up");
        run("ip addr add 192.168.10.21/24 dev eth0");
        run("ip addr add 2001:db8:10::21/64 dev eth0 nodad");
        let netns = Netns::current().expect("our namespace");
        Self { netns, directory: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.directory.path().join("vxdp.ledger")
    }

    pub(crate) async fn kernel(&self) -> Kernel {
        Kernel::open(self.netns.clone(), &self.ledger()).await.expect("a ledger")
    }

    pub(crate) fn underlay(&self, local: &str) -> UnderlayFacts {
        UnderlayFacts { ifindex: 2, mtu: 1500, local: ip(local) }
    }

    /// The desired state for overlays on the IPv4 underlay; containers are namespaces, looked up now.
    pub(crate) fn desired(&self, overlays: &[Overlay]) -> Desired {
        self.desired_over("192.168.10.21", overlays)
    }

    pub(crate) fn desired_over(&self, local: &str, overlays: &[Overlay]) -> Desired {
        let underlay = self.underlay(local);
        let overlays = overlays.iter().map(|spec| {
            let mut overlay = DesiredOverlay::new(spec.clone(), &underlay);
            overlay.ports = spec.containers.iter().map(port).collect();
            overlay
        });
        Desired { host: self.netns.clone(), underlay, queues: 1, overlays: overlays.collect() }
    }
}

fn port(container: &Container) -> DesiredPort {
    let Attach::Netns(name) = &container.attach else { panic!("tests attach by namespace") };
    DesiredPort { container: container.clone(), netns: Netns::named(name.as_str()).ok() }
}

/// Runs a command that must succeed; returns what it printed.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a command")).args(words).output().expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a command that prints JSON.
pub(crate) fn json(command: &str) -> Value {
    let text = run(command);
    if text.trim().is_empty() { Value::Array(Vec::new()) } else { serde_json::from_str(&text).expect("JSON") }
}

/// The device as `ip -d` shows it in namespace `netns`.
pub(crate) fn link(netns: &str, name: &str) -> Value {
    json(&format!("ip -n {netns} -j -d link show dev {name}"))[0].clone()
}

pub(crate) fn names(netns: &str) -> Vec<String> {
    let links = json(&format!("ip -n {netns} -j link"));
    let name = |link: &Value| link["ifname"].as_str().expect("a name").to_owned();
    let mut names: Vec<String> = links.as_array().expect("a list").iter().map(name).collect();
    // The kernel's own fallback tunnels, which every new namespace has.
    names.retain(|name| !name.ends_with('0') || name.starts_with("br") || name.starts_with("eth"));
    names.sort();
    names
}

/// What the overlay looks like from outside, without indices, counters and what the kernel learns.
pub(crate) fn snapshot(namespaces: &[&str]) -> String {
    let mut text = String::new();
    for netns in namespaces {
        for name in names(netns) {
            let link = link(netns, &name);
            let (mtu, master) = (&link["mtu"], &link["master"]);
            let flags = link["flags"].as_array().expect("flags");
            let up = flags.iter().any(|flag| flag == "UP");
            let data = if link["linkinfo"]["info_kind"] == "vxlan" {
                link["linkinfo"]["info_data"].to_string()
            } else {
                String::new()
            };
            text += &format!("{netns} {name} mtu {mtu} master {master} up {up} {data}\n");
            let mut addresses = Vec::new();
            for entry in json(&format!("ip -n {netns} -j addr show dev {name}")).as_array().expect("a list") {
                for address in entry["addr_info"].as_array().into_iter().flatten() {
                    if address["scope"] == "global" {
                        addresses.push(format!("{}/{}", address["local"], address["prefixlen"]));
                    }
                }
            }
            addresses.sort();
            text += &format!("  {addresses:?}\n");
            if name.starts_with("eth") {
                text += &format!("  {}\n", link["address"]);
            }
        }
        text += &format!("{netns} rows {:?}\n", rows(netns));
    }
    text
}

/// The permanent rows of a namespace, one line each.
pub(crate) fn rows(netns: &str) -> Vec<String> {
    let mut rows = Vec::new();
    for row in json(&format!("bridge -n {netns} -j fdb")).as_array().expect("a list") {
        let fixed = row["state"] == "permanent" || row["state"] == "static";
        let own = row["dst"].is_string();
        let of_bridge = row["state"] == "static" && row["vlan"].is_null();
        if fixed && (own || of_bridge) {
            rows.push(format!("fdb {} {} {} {}", row["ifname"], row["mac"], row["dst"], row["state"]));
        }
    }
    for family in ["-4", "-6"] {
        for row in
            json(&format!("ip -n {netns} {family} -j neigh show nud permanent")).as_array().expect("a list")
        {
            rows.push(format!("neigh {} {} {}", row["dev"], row["dst"], row["lladdr"]));
        }
    }
    rows.sort();
    rows
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn mac(text: &str) -> MacAddr {
    text.parse().expect("a MAC")
}

pub(crate) fn if_name(text: &str) -> IfName {
    IfName::new(text).expect("a device name")
}

/// The overlay of the scenario with another VNI, without containers and remotes.
pub(crate) fn overlay(vni: u32) -> Overlay {
    let (containers, remotes) = (Vec::new(), Vec::new());
    Overlay { vni: Vni::new(vni).expect("a VNI"), containers, remotes, ..scenario() }
}

pub(crate) fn container(netns: &str, host_interface: &str, mac_text: &str, addresses: &[&str]) -> Container {
    Container {
        attach: Attach::Netns(NsName::new(netns).expect("a name")),
        interface: if_name("eth1"),
        host_interface: if_name(host_interface),
        mac: mac(mac_text),
        addresses: addresses.iter().map(|text| text.parse().expect("a prefix")).collect(),
    }
}

pub(crate) fn remote(mac_text: &str, addresses: &[&str], vtep: &str) -> Remote {
    let addresses = addresses.iter().map(|text| ip(text)).collect();
    Remote { mac: mac(mac_text), addresses, vtep: ip(vtep), install: Install::Static }
}

/// The scenario: host 1 with container c1, which must exist.
pub(crate) fn scenario() -> Overlay {
    let text = Scenario::default().toml();
    let loaded = config::parse(Path::new("scenario"), text.as_bytes()).expect("valid");
    loaded.config.overlays.into_iter().next().expect("it has one")
}
