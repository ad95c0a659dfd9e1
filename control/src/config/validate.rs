//! What has to hold between the items of a configuration.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;

use super::draft::{Draft, OverlayDraft, Placed};
use super::types::min_mtu;
use super::{Attach, Dataplane, Engine, Hook, IfName, Install, KeyPath, Mode, NsName, Underlay};

/// Problems found so far: the item to blame and what is wrong with it.
type Problems = Vec<(KeyPath, String)>;

/// Finds what does not fit together.
pub(super) fn check(draft: &Draft, problems: &mut Problems) {
    for Placed { path, value } in &draft.overlays {
        unique_in_overlay(path, value, problems);
        addresses_in_prefix(path, value, problems);
        room_for_ipv6(path, value, problems);
        answerable_misses(path, value, problems);
        if let Some(underlay) = &draft.underlay {
            vteps(path, value, underlay, problems);
        }
    }
    unique_on_host(draft, problems);
    one_processor_each(&draft.dataplane, problems);
    one_engine_at_xdp(draft, problems);
}

/// A NIC takes one XDP program, so with `hook = "xdp"` all overlays of the host have one engine. What `auto` comes
/// to is known beforehand only where outer UDP checksums are computed or the underlay is IPv6.
fn one_engine_at_xdp(draft: &Draft, problems: &mut Problems) {
    let Dataplane { mode, engine, hook, .. } = draft.dataplane;
    if hook != Hook::Xdp {
        return;
    }
    let ipv6 = draft.underlay.as_ref().is_some_and(|underlay| underlay.local.is_ipv6());
    let mut first: Option<(Engine, &KeyPath)> = None;
    for Placed { path, value } in &draft.overlays {
        let overlay = &value.overlay;
        let engine = match overlay.engine.unwrap_or(engine) {
            Engine::Auto if ipv6 || overlay.udp_checksum => Engine::Userspace,
            Engine::Auto => continue,
            named => named,
        };
        // As long as the kernel carries it, it has none.
        if overlay.mode.unwrap_or(mode) == Mode::Kernel {
            continue;
        }
        match first {
            None => first = Some((engine, path)),
            Some((other, at)) if other != engine => {
                let message = format!(
                    "{engine} here and {other} in {at}, but with dataplane.hook = \"xdp\" the NIC has room for \
                     one engine; expected the same in every overlay, or hook = \"tc\""
                );
                problems.push((path.key("engine"), message));
            }
            Some(_) => {}
        }
    }
}

/// Pinned workers have a processor each.
fn one_processor_each(dataplane: &Dataplane, problems: &mut Problems) {
    let Dataplane { workers, cpus, .. } = dataplane;
    let path = KeyPath::root().key("dataplane").key("cpus");
    if !cpus.is_empty() && cpus.len() != usize::from(*workers) {
        let message = format!("{} processors for {workers} workers; expected as many", cpus.len());
        problems.push((path.clone(), message));
    }
    let mut taken = Taken::new();
    for (index, cpu) in cpus.iter().enumerate() {
        taken.take(*cpu, path.index(index), format!("processor {cpu}"), problems);
    }
}

/// Who has a value already.
struct Taken<T>(HashMap<T, KeyPath>);

impl<T: Eq + Hash> Taken<T> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// Notes that `path` has `value`; a problem when another item had it before. `what` names the value.
    fn take(&mut self, value: T, path: KeyPath, what: impl Display, problems: &mut Problems) {
        match self.0.get(&value) {
            Some(first) => problems.push((path, format!("{what} is taken by {first}"))),
            None => drop(self.0.insert(value, path)),
        }
    }
}

/// Within a segment a MAC and an address each belong to one station.
fn unique_in_overlay(path: &KeyPath, draft: &OverlayDraft, problems: &mut Problems) {
    let (mut macs, mut addresses) = (Taken::new(), Taken::new());
    for gateway in &draft.overlay.gateway {
        addresses.take(gateway.addr(), path.key("gateway"), gateway.addr(), problems);
    }
    for Placed { path, value } in &draft.containers {
        macs.take(value.mac, path.key("mac"), value.mac, problems);
        for address in &value.addresses {
            addresses.take(address.addr(), path.key("address"), address.addr(), problems);
        }
    }
    for Placed { path, value } in &draft.remotes {
        macs.take(value.mac, path.key("mac"), value.mac, problems);
        for address in &value.addresses {
            addresses.take(*address, path.key("address"), address, problems);
        }
    }
}

/// Where the bridge has an address of a family, stations of that family are its neighbours.
fn addresses_in_prefix(path: &KeyPath, draft: &OverlayDraft, problems: &mut Problems) {
    let gateways = &draft.overlay.gateway;
    let mut check = |owner: &KeyPath, address: IpAddr| {
        let family: Vec<&IpNet> =
            gateways.iter().filter(|net| net.addr().is_ipv4() == address.is_ipv4()).collect();
        if family.is_empty() || family.iter().any(|net| net.contains(&address)) {
            return;
        }
        let prefixes: Vec<_> = family.iter().map(|net| net.trunc().to_string()).collect();
        let prefixes = prefixes.join(" or ");
        let message = format!("{address} is outside {prefixes}, the prefix of {}", path.key("gateway"));
        problems.push((owner.key("address"), message));
    };
    for Placed { path, value } in &draft.containers {
        value.addresses.iter().for_each(|net| check(path, net.addr()));
    }
    for Placed { path, value } in &draft.remotes {
        value.addresses.iter().for_each(|address| check(path, *address));
    }
}

/// IPv6 inside needs a larger MTU than the reader asks for.
fn room_for_ipv6(path: &KeyPath, draft: &OverlayDraft, problems: &mut Problems) {
    let bridge = draft.overlay.gateway.iter().map(IpNet::addr);
    let local = draft.containers.iter().flat_map(|placed| &placed.value.addresses).map(IpNet::addr);
    let remote = draft.remotes.iter().flat_map(|placed| &placed.value.addresses).copied();
    let least = min_mtu(bridge.chain(local).chain(remote));
    if let Some(mtu) = draft.overlay.mtu.filter(|mtu| *mtu < least) {
        let message = format!("{mtu} is too small for IPv6 inside; expected {least} or more");
        problems.push((path.key("mtu"), message));
    }
}

/// A remote that waits for a miss needs the kernel to report it.
fn answerable_misses(path: &KeyPath, draft: &OverlayDraft, problems: &mut Problems) {
    let waiting = |remote: &&Placed<super::Remote>| remote.value.install == Install::OnMiss;
    for Placed { path: remote, value } in draft.remotes.iter().filter(waiting) {
        let mut unreported = |reported: bool, key: &str| {
            if !reported {
                let message = format!("\"on-miss\" waits for a miss, but {} is false", path.key(key));
                problems.push((remote.key("install"), message));
            }
        };
        unreported(draft.overlay.l2miss, "l2miss");
        if !value.addresses.is_empty() {
            unreported(draft.overlay.l3miss, "l3miss");
        }
    }
}

/// Every other VTEP has an address of our family that is not ours.
fn vteps(path: &KeyPath, draft: &OverlayDraft, underlay: &Underlay, problems: &mut Problems) {
    let local = underlay.local;
    let mut check = |path: KeyPath, vtep: IpAddr| {
        if vtep == local {
            problems.push((path, format!("{vtep} is our own address (underlay.local)")));
        } else if vtep.is_ipv4() != local.is_ipv4() {
            let family = if local.is_ipv4() { "IPv4" } else { "IPv6" };
            let message =
                format!("{vtep} is of another family than underlay.local; expected an {family} address");
            problems.push((path, message));
        }
    };
    for Placed { path, value } in &draft.remotes {
        check(path.key("vtep"), value.vtep);
    }
    let flood = &draft.overlay.flood;
    flood.iter().for_each(|vtep| check(path.key("flood"), *vtep));
    let mut taken = Taken::new();
    for vtep in flood {
        taken.take(*vtep, path.key("flood"), vtep, problems);
    }
}

/// What the host has only once: tunnels, device names in a namespace, places in a container.
fn unique_on_host(draft: &Draft, problems: &mut Problems) {
    let mut tunnels = Taken::new();
    let mut devices: Taken<(&NsName, &IfName)> = Taken::new();
    let mut inside: Taken<(&Attach, &IfName)> = Taken::new();
    for Placed { path, value } in &draft.overlays {
        let overlay = &value.overlay;
        let tunnel = format!("VNI {} on UDP port {}", overlay.vni, overlay.port);
        tunnels.take((overlay.vni, overlay.port), path.key("vni"), tunnel, problems);
        let netns = &overlay.netns;
        let mut device = |name, path, problems: &mut Problems| {
            devices.take((netns, name), path, format!("the name {name} in namespace {netns}"), problems);
        };
        device(&overlay.bridge, path.key("bridge"), problems);
        device(&overlay.vxlan, path.key("vxlan"), problems);
        for Placed { path, value } in &value.containers {
            device(&value.host_interface, path.key("host_interface"), problems);
            let what = format!("the name {} in that container", value.interface);
            inside.take((&value.attach, &value.interface), path.key("interface"), what, problems);
        }
    }
    own_namespaces(draft, problems);
}

/// A container inside an overlay's own namespace would meet its bridge by more than one way.
fn own_namespaces(draft: &Draft, problems: &mut Problems) {
    let owners: HashMap<&NsName, &KeyPath> =
        draft.overlays.iter().rev().map(|placed| (&placed.value.overlay.netns, &placed.path)).collect();
    for Placed { path, value } in draft.overlays.iter().flat_map(|placed| &placed.value.containers) {
        if let Attach::Netns(name) = &value.attach
            && let Some(owner) = owners.get(name)
        {
            let message = format!("namespace {name} belongs to {owner}; expected a container's");
            problems.push((path.key("attach"), message));
        }
    }
}
