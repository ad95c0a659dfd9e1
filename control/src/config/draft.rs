//! From the file's tables to checked values, item by item; what cannot be read is reported and left out.

use std::cell::RefCell;
use std::net::IpAddr;

use toml::de::DeTable;
use vxdp_dataplane::wire::{MacAddr, Vni};

use super::reader::{Findings, Table};
use super::{
    Attach, Container, Control, Dataplane, IfName, KeyPath, Overlay, Remote, Underlay, schema, value,
};

/// A configuration as far as it could be read.
pub(super) struct Draft {
    pub(super) underlay: Option<Underlay>,
    pub(super) dataplane: Dataplane,
    pub(super) control: Control,
    pub(super) overlays: Vec<Placed<OverlayDraft>>,
}

/// An overlay, its lists apart from it, because each of their items has a place of its own.
pub(super) struct OverlayDraft {
    /// Without containers and remotes.
    pub(super) overlay: Overlay,
    pub(super) containers: Vec<Placed<Container>>,
    pub(super) remotes: Vec<Placed<Remote>>,
}

/// A value and where it stands. Lists lose the items that could not be read, so a place in the list is no place
/// in the file.
pub(super) struct Placed<T> {
    pub(super) path: KeyPath,
    pub(super) value: T,
}

pub(super) fn read(document: &DeTable<'_>, findings: &RefCell<Findings>) -> Draft {
    let root = Table::open(document, &schema::ROOT, KeyPath::root(), findings);
    let empty = DeTable::new();
    let absent = |section, name| Table::open(&empty, section, KeyPath::root().key(name), findings);
    root.demand("underlay");
    let underlay = root.table("underlay", &schema::UNDERLAY).and_then(|table| underlay(&table));
    let family = underlay.as_ref().map(|underlay| underlay.local);
    let dataplane = root.table("dataplane", &schema::DATAPLANE);
    let control = root.table("control", &schema::CONTROL);
    let overlays = root.tables("overlay", &schema::OVERLAY);
    if !root.has("overlay") || root.is_empty_list("overlay") {
        root.report(KeyPath::root().key("overlay"), "missing; a host needs at least one [[overlay]]".into());
    }
    Draft {
        underlay,
        dataplane: self::dataplane(&dataplane.unwrap_or_else(|| absent(&schema::DATAPLANE, "dataplane"))),
        control: self::control(&control.unwrap_or_else(|| absent(&schema::CONTROL, "control"))),
        overlays: overlays.iter().filter_map(|table| placed(table, overlay(table, family)?)).collect(),
    }
}

fn placed<T>(table: &Table<'_>, value: T) -> Option<Placed<T>> {
    Some(Placed { path: table.path().clone(), value })
}

fn underlay(table: &Table<'_>) -> Option<Underlay> {
    let device = table.required("device", value::device);
    let local = table.required("local", value::address);
    Some(Underlay { device: device?, local: local? })
}

fn dataplane(table: &Table<'_>) -> Dataplane {
    Dataplane {
        mode: table.with_default("mode", value::mode),
        engine: table.with_default("engine", value::engine),
        hook: table.with_default("hook", value::hook),
        workers: table.with_default("workers", value::workers),
        cpus: table.list("cpus", value::cpu),
        attach: table.with_default("attach", value::xdp_attach),
        zero_copy: table.with_default("zero_copy", value::zero_copy),
        poll: table.with_default("poll", value::poll),
    }
}

fn control(table: &Table<'_>) -> Control {
    Control {
        socket: table.with_default("socket", value::socket),
        metrics: table.optional("metrics", value::metrics),
    }
}

/// `local` is our VTEP address, if it could be read.
fn overlay(table: &Table<'_>, local: Option<IpAddr>) -> Option<OverlayDraft> {
    let vni = table.required("vni", value::vni);
    let port = table.with_default("port", value::port);
    let overlay = Overlay {
        // The lists are read all the same, so that their problems are reported.
        vni: vni.unwrap_or(Vni::MAX),
        port,
        netns: table.with_default("netns", value::namespace),
        bridge: table.with_default("bridge", value::new_device),
        vxlan: table.with_default("vxlan", value::new_device),
        gateway: table.one_or_list("gateway", value::interface_address),
        mtu: table.optional("mtu", value::mtu),
        learning: table.with_default("learning", value::boolean),
        proxy: table.with_default("proxy", value::boolean),
        l2miss: table.with_default("l2miss", value::boolean),
        l3miss: table.with_default("l3miss", value::boolean),
        ageing: table.with_default("ageing", value::ageing),
        ttl: table.with_default("ttl", value::ttl),
        tos: table.with_default("tos", value::tos),
        df: table.with_default("df", value::df),
        // RFC 7348 wants it zero over IPv4; RFC 6935 lets a tunnel do without it over IPv6 only on demand.
        udp_checksum: table
            .optional("udp_checksum", value::boolean)
            .unwrap_or_else(|| local.is_some_and(|local| local.is_ipv6())),
        source_ports: table.with_default("source_ports", value::source_ports),
        mode: table.optional("mode", value::mode),
        engine: table.optional("engine", value::engine),
        flood: table.list("flood", value::address),
        containers: Vec::new(),
        remotes: Vec::new(),
    };
    let containers = table.tables("container", &schema::CONTAINER);
    let containers = containers.iter().filter_map(|table| placed(table, container(table, vni, port)?));
    let containers = containers.collect();
    let remotes = table.tables("remote", &schema::REMOTE);
    let remotes = remotes.iter().filter_map(|table| placed(table, remote(table)?)).collect();
    vni?;
    Some(OverlayDraft { overlay, containers, remotes })
}

fn container(table: &Table<'_>, vni: Option<Vni>, port: u16) -> Option<Container> {
    let attach = if table.demand("attach") { table.table("attach", &schema::ATTACH) } else { None };
    let attach = attach.and_then(|table| self::attach(&table));
    let interface = table.required("interface", value::new_device);
    let host_interface = table.optional("host_interface", value::new_device);
    let mac = table.required("mac", value::station_mac);
    let addresses = table.one_or_list("address", value::interface_address);
    if table.demand("address") && table.is_empty_list("address") {
        table.report(table.path().key("address"), "the list is empty; expected at least one address".into());
    }
    let mac = mac?;
    let host_interface = match host_interface {
        Some(name) => name,
        None => derived_host_interface(vni?, port, mac),
    };
    Some(Container { attach: attach?, interface: interface?, host_interface, mac, addresses })
}

fn attach(table: &Table<'_>) -> Option<Attach> {
    let docker = table.optional("docker", value::docker).map(Attach::Docker);
    let netns = table.optional("netns", value::namespace).map(Attach::Netns);
    let pid = table.optional("pid", value::pid).map(Attach::Pid);
    let given = ["docker", "netns", "pid"].into_iter().filter(|name| table.has(name)).count();
    if given != 1 {
        let message = format!("expected one of docker, netns and pid, found {given} of them");
        table.report(table.path().clone(), message);
    }
    docker.or(netns).or(pid)
}

fn remote(table: &Table<'_>) -> Option<Remote> {
    let mac = table.required("mac", value::station_mac);
    let addresses = table.one_or_list("address", value::address);
    let vtep = table.required("vtep", value::address);
    let install = table.with_default("install", value::install);
    Some(Remote { mac: mac?, addresses, vtep: vtep?, install })
}

/// The name of a container's veth on the bridge where the file gives none: `v`, the VNI in hexadecimal, `-`,
/// and 28 bits of a hash over UDP port and MAC, which together are at most 15 bytes. The same configuration
/// always gives the same name; should two containers ever get one name, validation says so.
fn derived_host_interface(vni: Vni, port: u16, mac: MacAddr) -> IfName {
    // 32-bit FNV-1a (draft-eastlake-fnv): the name must not change with the standard library's hasher.
    let bytes = port.to_be_bytes().into_iter().chain(mac.octets());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let name = format!("v{:x}-{:07x}", vni.get(), (hash >> 28) ^ (hash & 0x0fff_ffff));
    IfName::new(&name).expect("1 + 6 + 1 + 7 characters, all of them letters, digits or a dash")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_names_are_stable_and_short_enough() {
        let mac = MacAddr::new([2, 0x42, 0x0a, 0, 0, 2]);
        let name = |vni| derived_host_interface(Vni::new(vni).unwrap(), 4789, mac).to_string();
        assert_eq!(name(42), "v2a-03e5166");
        assert_eq!(name(0x00ff_ffff).len(), IfName::MAX);
    }
}
