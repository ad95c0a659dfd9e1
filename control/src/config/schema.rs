//! The file format: every key, what it takes, its default and what it means.
//!
//! This table is the one place that knows defaults and key names: the reader takes them from here, and a test
//! holds `docs/configuration.md` to it.

/// A table of the file and its keys.
#[derive(Debug)]
pub(super) struct Section {
    /// As it is written in the file.
    pub(super) header: &'static str,
    /// Its keys.
    pub(super) keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// What it takes, for the manual.
    pub(super) takes: &'static str,
    pub(super) default: Fallback,
    /// What it does, for the manual.
    pub(super) meaning: &'static str,
}

/// What a key is worth when the file does not give it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fallback {
    /// It has to be there.
    Required,
    /// This value, in TOML.
    Value(&'static str),
    /// Something that depends on the rest, in words.
    Derived(&'static str),
}

use Fallback::{Derived, Required, Value};

const fn key(name: &'static str, takes: &'static str, default: Fallback, meaning: &'static str) -> Key {
    Key { name, takes, default, meaning }
}

impl Section {
    /// The key called `name`.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

pub(super) const ROOT: Section = Section {
    header: "the file",
    keys: &[
        key("underlay", "table", Required, "The tunnel's side towards the network."),
        key("dataplane", "table", Derived("every key's default"), "How frames are carried."),
        key("control", "table", Derived("every key's default"), "The daemon's own sockets."),
        key("overlay", "list of tables, at least one", Required, "The segments this host takes part in."),
    ],
};

pub(super) const UNDERLAY: Section = Section {
    header: "[underlay]",
    keys: &[
        key("device", "device name", Required, "NIC that carries the tunnel."),
        key(
            "local",
            "IPv4 or IPv6 address",
            Required,
            "Our VTEP address, present on `device`. Its family is the family of the whole underlay.",
        ),
    ],
};

pub(super) const DATAPLANE: Section = Section {
    header: "[dataplane]",
    keys: &[
        key(
            "mode",
            "`\"auto\"`, `\"kernel\"` or `\"xdp\"`",
            Value("\"auto\""),
            "What carries known unicast; `--mode` wins.",
        ),
        key(
            "engine",
            "`\"auto\"`, `\"userspace\"` or `\"inkernel\"`",
            Value("\"userspace\""),
            "Who carries frames in xdp mode: workers over AF_XDP, or the BPF programs themselves; `auto` takes \
             workers where the NIC offers zero-copy, outer UDP checksums are computed, or the underlay is IPv6. \
             `--engine` wins.",
        ),
        key(
            "hook",
            "`\"tc\"` or `\"xdp\"`",
            Value("\"tc\""),
            "Where the in-kernel engine's programs sit: `tc` leaves containers segmentation and checksum offload; \
             `xdp` carries the most frames that come as XDP frames, no more than `tc` of those that a container's \
             own stack makes, and leaves the NIC to no other engine.",
        ),
        key("workers", "1 to 256", Value("1"), "Queues used on the NIC and on every port, one thread each."),
        key(
            "cpus",
            "list of processor numbers, as many as `workers`",
            Derived("wherever the scheduler puts them"),
            "Processor of each worker, in the order of the queues.",
        ),
        key(
            "attach",
            "`\"auto\"`, `\"driver\"` or `\"generic\"`",
            Value("\"auto\""),
            "Where the XDP programs run.",
        ),
        key(
            "zero_copy",
            "`\"auto\"`, `\"require\"` or `\"off\"`",
            Value("\"auto\""),
            "Whether AF_XDP sockets are zero-copy.",
        ),
        key(
            "poll",
            "`\"adaptive\"`, `\"busy\"` or `\"interrupt\"`",
            Value("\"adaptive\""),
            "How workers wait for frames: they look for up to 50 µs as long as that pays and then sleep, never sleep, or always do.",
        ),
    ],
};

pub(super) const CONTROL: Section = Section {
    header: "[control]",
    keys: &[
        key(
            "socket",
            "absolute path, at most 107 bytes",
            Value("\"/run/vxdp/vxdp.sock\""),
            "Unix socket of the API, mode 0600.",
        ),
        key("metrics", "`\"ADDRESS:PORT\"`", Derived("off"), "Where Prometheus text is served over HTTP."),
    ],
};

pub(super) const OVERLAY: Section = Section {
    header: "[[overlay]]",
    keys: &[
        key("vni", "0 to 16777215", Required, "VXLAN network identifier."),
        key("port", "1 to 65535", Value("4789"), "UDP destination port."),
        key(
            "netns",
            "namespace name",
            Value("\"overlay\""),
            "Network namespace (`/run/netns/NAME`) of bridge and vxlan device.",
        ),
        key("bridge", "device name", Value("\"br0\""), "Bridge in that namespace."),
        key(
            "vxlan",
            "device name",
            Value("\"vxlan1\""),
            "vxlan device in that namespace, a port of the bridge.",
        ),
        key("gateway", "address/prefix, one or a list", Derived("none"), "Addresses on the bridge."),
        key(
            "mtu",
            "68 to 65535; 1280 and up with IPv6 inside",
            Derived("underlay MTU - 50 (IPv4) or - 70 (IPv6)"),
            "MTU of bridge, vxlan device and veths. The daemon puts it back where somebody changes it, on a container's own interface as well.",
        ),
        key(
            "learning",
            "boolean",
            Value("true"),
            "Learn from received frames which MAC is behind which VTEP.",
        ),
        key("proxy", "boolean", Value("true"), "Answer ARP and neighbour solicitations from the known rows."),
        key("l2miss", "boolean", Value("true"), "Report destination MACs that have no row."),
        key("l3miss", "boolean", Value("true"), "Report addresses that have no row."),
        key("ageing", "1 to 4294967295", Value("300"), "Seconds until an unused learned row is dropped."),
        key(
            "ttl",
            "`\"auto\"`, `\"inherit\"` or 1 to 255",
            Value("\"auto\""),
            "Outer time to live: the kernel's default, the inner one, or this one.",
        ),
        key(
            "tos",
            "`\"inherit\"`, 0 or 2 to 255",
            Value("0"),
            "Outer type of service or traffic class: the inner one, or this one.",
        ),
        key(
            "df",
            "`\"unset\"`, `\"set\"` or `\"inherit\"`",
            Value("\"unset\""),
            "Outer don't-fragment bit: clear, set, or the inner one.",
        ),
        key(
            "udp_checksum",
            "boolean",
            Derived("`false` over IPv4, `true` over IPv6"),
            "Whether the outer UDP checksum is computed; one that is zero is accepted in either case.",
        ),
        key(
            "source_ports",
            "`[FIRST, LAST]`, 1 to 65535",
            Value("[49152, 65535]"),
            "Range of the outer UDP source port.",
        ),
        key(
            "mode",
            "`\"auto\"`, `\"kernel\"` or `\"xdp\"`",
            Derived("`mode` of `[dataplane]`"),
            "This overlay's own mode.",
        ),
        key(
            "engine",
            "`\"auto\"`, `\"userspace\"` or `\"inkernel\"`",
            Derived("`engine` of `[dataplane]`"),
            "This overlay's own engine.",
        ),
        key(
            "flood",
            "list of addresses",
            Value("[]"),
            "VTEPs that get a copy of every frame without a row of its own (head-end replication).",
        ),
        key("container", "list of tables", Derived("none"), "Local containers."),
        key("remote", "list of tables", Derived("none"), "Containers on other hosts."),
    ],
};

pub(super) const CONTAINER: Section = Section {
    header: "[[overlay.container]]",
    keys: &[
        key("attach", "table with one of the keys below", Required, "Which container."),
        key("interface", "device name", Required, "Device inside the container."),
        key(
            "host_interface",
            "device name",
            Derived("`v`, VNI, `-`, hash of port and MAC"),
            "Device on the bridge.",
        ),
        key("mac", "unicast MAC address", Required, "MAC address of `interface`."),
        key("address", "address/prefix, one or a list", Required, "Addresses of `interface`."),
    ],
};

pub(super) const ATTACH: Section = Section {
    header: "attach",
    keys: &[
        key("docker", "name or id", Derived("none"), "A Docker container created with `--net=none`."),
        key("netns", "namespace name", Derived("none"), "A named network namespace (`/run/netns/NAME`)."),
        key("pid", "1 to 4294967295", Derived("none"), "The network namespace of a process."),
    ],
};

pub(super) const REMOTE: Section = Section {
    header: "[[overlay.remote]]",
    keys: &[
        key("mac", "unicast MAC address", Required, "MAC address of the remote container."),
        key(
            "address",
            "address, one or a list",
            Derived("none"),
            "Its addresses; each gets an ARP or neighbour row.",
        ),
        key("vtep", "address", Required, "Underlay address of its host."),
        key(
            "install",
            "`\"static\"` or `\"on-miss\"`",
            Value("\"static\""),
            "When its rows are written: at start, or when the kernel misses them.",
        ),
    ],
};

/// Every section, in the order of the manual.
pub(super) const SECTIONS: &[&Section] =
    &[&ROOT, &UNDERLAY, &DATAPLANE, &CONTROL, &OVERLAY, &CONTAINER, &ATTACH, &REMOTE];
