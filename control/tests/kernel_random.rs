//! Random desired states on the real kernel: they converge from anywhere, and strangers survive.

mod kernel_host;
mod scenario;

use std::process::Command;

use kernel_host::{Host, container, if_name, ip, on_a_host, overlay, remote, run, snapshot};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vxdp_control::config::{Df, NsName, Overlay, Remote, Tos, Ttl};

/// Random cases; each takes about a second, most of it waiting for the kernel to tear devices down.
const CASES: u32 = 8;

const CONTAINERS: [&str; 3] = ["c0", "c1", "c2"];

/// What goes wrong between two reconciliations. A command that does not apply to a state is not an error.
const MISHAPS: [&str; 10] = [
    "ip -n overlay link set br0 down",
    "ip -n overlay link del vx0",
    "ip -n other link del br1",
    "ip -n overlay link set vx0 nomaster",
    "ip -n c0 link del eth1",
    "ip -n c1 link set eth1 mtu 1300",
    "ip -n c2 addr flush dev eth1",
    "ip -n overlay neigh flush dev vx0 nud permanent",
    "bridge -n overlay fdb flush dev vx0 self",
    "ip netns del other",
];

fn remotes() -> impl Strategy<Value = Vec<Remote>> {
    let one = (0..6u8, 0..3u8, 0..2u8).prop_map(|(host, vtep, with_address)| {
        let inner = [format!("10.0.0.{}", 100 + host), format!("2001:db8::{:x}", 100 + host)];
        let inner: Vec<&str> = inner.iter().take(2 * usize::from(with_address)).map(String::as_str).collect();
        remote(&format!("02:42:0a:00:01:0{host}"), &inner, &format!("192.168.10.{}", 22 + vtep))
    });
    proptest::collection::vec(one, 0..6).prop_map(|mut remotes| {
        remotes.sort_by_key(|remote| remote.mac);
        remotes.dedup_by_key(|remote| remote.mac);
        remotes
    })
}

/// One overlay without its containers: `number` keeps names apart, `vni` comes from outside.
fn spec(number: usize, vni: u32) -> impl Strategy<Value = Overlay> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let shape = (0..3u8, 0..3u8, prop_oneof![Just(1450), Just(1300)], any::<bool>());
    let flood = proptest::sample::subsequence(vec!["192.168.10.22", "192.168.10.23"], 0..=2);
    (flags, shape, remotes(), flood).prop_map(move |(flags, (ttl, df, mtu, other), remotes, flood)| Overlay {
        netns: NsName::new(if other { "other" } else { "overlay" }).expect("a name"),
        bridge: if_name(&format!("br{number}")),
        vxlan: if_name(&format!("vx{number}")),
        learning: flags.0,
        proxy: flags.1,
        l2miss: flags.2,
        udp_checksum: flags.3,
        ttl: [Ttl::Auto, Ttl::Inherit, Ttl::Fixed(std::num::NonZeroU8::MIN)][usize::from(ttl)],
        df: [Df::Unset, Df::Set, Df::Inherit][usize::from(df)],
        tos: if flags.0 { Tos::Inherit } else { Tos::Fixed(8) },
        mtu: Some(mtu),
        gateway: if flags.3 { Vec::new() } else { overlay(1).gateway },
        flood: flood.into_iter().map(ip).collect(),
        remotes,
        ..overlay(vni)
    })
}

/// One to three overlays, with each container in one of them or in none.
fn host_state() -> impl Strategy<Value = Vec<Overlay>> {
    let vnis = Just(vec![42, 43, 44]).prop_shuffle();
    let specs = vnis.prop_flat_map(|vnis| (spec(0, vnis[0]), spec(1, vnis[1]), spec(2, vnis[2])));
    let places = proptest::collection::vec((0..4usize, 0..2usize), CONTAINERS.len());
    (specs, 1..=3usize, places).prop_map(|(specs, count, places)| {
        let mut overlays: Vec<Overlay> = [specs.0, specs.1, specs.2].into_iter().take(count).collect();
        for (number, (place, shift)) in places.into_iter().enumerate() {
            let Some(overlay) = overlays.get_mut(place) else { continue };
            let veth = format!("veth{}", (number + shift * place) % 3 + 3 * place);
            let addresses = [format!("10.0.0.{}/24", 10 + number), format!("2001:db8::{}/64", 10 + number)];
            let addresses = addresses.each_ref().map(String::as_str);
            let mac = format!("02:42:0a:00:00:0{number}");
            let taken = overlay.containers.iter().any(|other| other.host_interface.as_str() == veth);
            if !taken {
                overlay.containers.push(container(CONTAINERS[number], &veth, &mac, &addresses));
            }
        }
        overlays
    })
}

fn all() -> Vec<&'static str> {
    let known = run("ip netns list");
    let here = |name: &&str| known.lines().any(|line| line.split_whitespace().next() == Some(name));
    ["overlay", "other"].into_iter().chain(CONTAINERS).filter(here).collect()
}

async fn settle(host: &Host, state: &[Overlay]) {
    let first = host.kernel().await.reconcile(&host.desired(state)).await;
    first.unwrap_or_else(|error| panic!("{error}"));
    let second = host.kernel().await.reconcile(&host.desired(state)).await.expect("fine");
    assert_eq!(second.steps, [], "a second pass changes nothing");
}

fn make_containers() {
    CONTAINERS.iter().for_each(|name| drop(run(&format!("ip netns add {name}"))));
}

/// Strangers in every namespace that is there: a device with an address.
fn invite_strangers() -> Vec<&'static str> {
    let places = all();
    for netns in &places {
        run(&format!("ip -n {netns} tuntap add stranger mode tap"));
        run(&format!("ip -n {netns} addr add 10.77.0.1/24 dev stranger"));
    }
    places
}

fn check_and_dismiss_strangers(places: &[&str]) {
    for netns in places {
        let addresses = run(&format!("ip -n {netns} addr show dev stranger"));
        assert!(addresses.contains("10.77.0.1/24"), "{addresses}");
        run(&format!("ip -n {netns} link del stranger"));
    }
}

fn check(from: &[Overlay], mishaps: &[&str], to: &[Overlay]) {
    let mut expected = String::new();
    on_a_host(async |host| {
        make_containers();
        settle(&host, to).await;
        expected = snapshot(&all());
    });
    on_a_host(async |host| {
        make_containers();
        settle(&host, from).await;
        for mishap in mishaps {
            let mut words = mishap.split(' ');
            // Whether it applies depends on the state that it befalls.
            let _ = Command::new(words.next().expect("a command")).args(words).output().expect("it runs");
        }
        let strangers = invite_strangers();
        settle(&host, to).await;
        check_and_dismiss_strangers(&strangers);
        // A namespace that only a stranger kept goes now.
        settle(&host, to).await;
        assert_eq!(snapshot(&all()), expected);
        host.kernel().await.down().await.expect("removed");
        assert_eq!(all(), CONTAINERS);
        assert!(!host.ledger().exists());
    });
}

#[test]
#[ignore = "needs root"]
fn any_state_is_reached_from_any_other_and_strangers_survive() {
    let mishaps = proptest::sample::subsequence(MISHAPS.to_vec(), 0..4);
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&(host_state(), mishaps, host_state()), |(from, mishaps, to)| {
        check(&from, &mishaps, &to);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
