//! The follower over one namespace that is host and overlay in one, and the tables that its facts make.
#![allow(dead_code, reason = "every test file includes this module and uses a part of it")]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use vxdp_control::mirror::audit::Rhythm;
use vxdp_control::mirror::fact::{Ask, Fact, FollowCounters, Source, UnderlayLink};
use vxdp_control::mirror::follow::Follower;
use vxdp_control::mirror::nexthop::Resolution;
use vxdp_control::mirror::state::{Change, Place};
use vxdp_control::watch::BUFFER;
use vxdp_dataplane::wire::{MacAddr, Vni};

use crate::namespace::Host;

/// Longest wait for a change; it takes milliseconds, but a loaded machine must not fail the test.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// The tables as the facts have made them.
pub(crate) struct Tables {
    pub(crate) facts: mpsc::Receiver<Vec<Fact>>,
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) macs: HashMap<MacAddr, Place>,
    pub(crate) vteps: HashMap<IpAddr, Resolution>,
    pub(crate) ports: HashMap<usize, u32>,
    pub(crate) underlay: Option<UnderlayLink>,
    pub(crate) lost: Option<String>,
    /// Times a MAC was taken out.
    pub(crate) forgotten: usize,
    pub(crate) counters: Arc<FollowCounters>,
}

impl Tables {
    pub(crate) async fn follow(host: &Host) -> Self {
        Self::follow_audited(host, Rhythm::default()).await
    }

    pub(crate) async fn follow_audited(host: &Host, rhythm: Rhythm) -> Self {
        Self::follow_both(host, host, rhythm).await
    }

    /// The same with a bridge and a vxlan device in another namespace.
    pub(crate) async fn follow_both(host: &Host, overlay: &Host, rhythm: Rhythm) -> Self {
        let source = Source {
            macs: Vec::new(),
            netns: overlay.netns(),
            vni: Vni::from_wire([0, 0, 42]),
            port: 4789,
            bridge: "br0".into(),
            vxlan: "vxlan1".into(),
            ports: vec!["veth2".into()],
        };
        let follower =
            Follower::open(&host.netns(), "eth0", ip("192.168.10.21"), vec![source], BUFFER).await.unwrap();
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
    pub(crate) async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Duration {
        let begun = Instant::now();
        while !done(self) {
            let left = limit.saturating_sub(begun.elapsed());
            let facts = tokio::time::timeout(left, self.facts.recv()).await;
            let facts = facts.unwrap_or_else(|_| {
                panic!("{what}: not within {limit:?}; {} MACs, {:?}", self.macs.len(), self.counters.read())
            });
            facts.expect("the follower lives").into_iter().for_each(|fact| self.take(fact));
        }
        begun.elapsed()
    }

    pub(crate) fn take(&mut self, fact: Fact) {
        match fact {
            Fact::Underlay(link) => self.underlay = link,
            Fact::CaughtUp => {}
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

pub(crate) fn overlay(name: &str) -> Host {
    overlay_with(name, "")
}

/// The same, with `words` for the vxlan device.
pub(crate) fn overlay_with(name: &str, words: &str) -> Host {
    let host = Host::new(name);
    set(&host, "ipv6/conf/default/accept_dad", "0");
    host.ip("link add eth0 type veth peer name wire");
    host.ip("link set eth0 up");
    host.ip("link set wire up");
    host.ip("address add 192.168.10.21/24 dev eth0");
    host.ip("address add fd00:10::21/64 dev eth0 nodad");
    add_bridge(&host, words);
    host
}

/// A bridge, and `words` for the vxlan device on it.
pub(crate) fn add_bridge(host: &Host, words: &str) {
    host.ip("link add br0 type bridge");
    host.ip(&format!("link add vxlan1 type vxlan id 42 dstport 4789{words}"));
    host.ip("link set vxlan1 master br0");
    host.ip("link set br0 up");
    host.ip("link set vxlan1 up");
}

/// Sets what `sysctl net.…` would.
pub(crate) fn set(host: &Host, name: &str, value: &str) {
    let write = || std::fs::write(format!("/proc/sys/net/{name}"), value);
    host.netns().run(write).unwrap_or_else(|error| panic!("{name}: {error}"));
}

pub(crate) fn remote(last: u8) -> MacAddr {
    MacAddr::new([2, 0x42, 10, 0, 0, last])
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Lines for `bridge -batch` that begin with `words`, for remotes of these numbers behind 192.168.10.22.
pub(crate) fn many(words: &str, numbers: std::ops::Range<u32>) -> String {
    let mut lines = String::new();
    for number in numbers {
        let [_, a, b, c] = number.to_be_bytes();
        for table in ["master static", "self dst 192.168.10.22"] {
            lines += &format!("{words} 02:43:00:{a:02x}:{b:02x}:{c:02x} dev vxlan1 {table}\n");
        }
    }
    lines
}

/// Asserts that in more than half of the cases a change was told within the 100 ms that are promised.
pub(crate) fn in_time(what: &str, took: &mut [Duration]) {
    took.sort();
    let (least, median, most) = (took[0], took[took.len() / 2], took[took.len() - 1]);
    eprintln!("{what}: told after {least:.1?}, {median:.1?}, {most:.1?} (least, median, most)");
    assert!(median < Duration::from_millis(100), "{what}: {took:?}");
}
