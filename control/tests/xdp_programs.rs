//! Loading, attaching, keeping and replacing the XDP programs on real devices.

mod namespace;

use std::path::Path;
use std::time::{Duration, Instant};

use namespace::Host;
use vxdp_control::config::XdpAttach;
use vxdp_control::mirror::state::Place;
use vxdp_control::xdp::{
    AttachError, BpfFs, Capacity, Device, Host as Settings, Instance, PortEntry, Programs, Regime, TableError,
};
use vxdp_dataplane::wire::{MacAddr, Vni};
use vxdp_dataplane::{OverlayId, PortId, VtepId};
use vxdp_ebpf::Verdict;

const OVERLAY: OverlayId = OverlayId::new(0);
const SMALL: Capacity = Capacity { rows: 16, vteps: 16, ports: 16, overlays: 16 };

/// A BPF file system of this test alone.
struct Mounted {
    directory: tempfile::TempDir,
    bpffs: BpfFs,
}

impl Mounted {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let bpffs = BpfFs::open(&directory.path().join("bpf")).expect("root mounts");
        Self { directory, bpffs }
    }

    fn root(&self) -> std::path::PathBuf {
        self.directory.path().join("bpf")
    }

    fn programs(&self) -> Programs {
        Programs::new(self.bpffs.clone(), SMALL).expect("loading")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        BpfFs::remove(&self.root()).expect("unmounting");
    }
}

/// A namespace with a veth `host`, whose peer `inside` is in the same namespace, both up.
fn veth(name: &str) -> (Host, Device) {
    let host = Host::new(name);
    host.ip("link add host index 100 type veth peer name inside");
    host.ip("link set host up");
    host.ip("link set inside up");
    let device = Device { netns: host.netns(), index: 100, name: "host".to_owned() };
    (host, device)
}

fn underlay(programs: &Programs) -> Instance {
    programs.underlay().expect("the verifier")
}

fn count(instance: &Instance, verdict: Verdict) -> u64 {
    let verdicts = instance.verdicts().read().expect("counters");
    verdicts.iter().find(|(other, _)| *other == verdict).expect("every verdict").1
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What is pinned in a BPF file system; `maps.debug` and `progs.debug` are the kernel's own.
fn pinned(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.ends_with(".debug")).collect()
}

#[test]
#[ignore = "needs root"]
fn a_program_runs_in_the_driver_of_a_veth_and_goes_with_its_instance() {
    let (_host, device) = veth("xdp-driver");
    let mounted = Mounted::new();
    let mut instance = underlay(&mounted.programs());
    let attached = instance.attach(&device, XdpAttach::Auto, None).expect("attaching");
    assert_eq!(attached.regime, Regime::Driver);
    assert_eq!(attached.program, instance.id().expect("an id"));
    assert_eq!(pinned(&mounted.root()), [""; 0], "loading leaves nothing behind");
    drop(instance);
    assert_eq!(device.attached().expect("the device"), None);
}

#[test]
#[ignore = "needs root"]
fn a_driver_without_xdp_gets_the_generic_mode_unless_that_is_ruled_out() {
    let host = Host::new("xdp-generic");
    host.ip("link set lo up");
    let device = Device { netns: host.netns(), index: 1, name: "lo".to_owned() };
    let mounted = Mounted::new();
    let mut instance = underlay(&mounted.programs());
    let refused = instance.attach(&device, XdpAttach::Driver, None);
    assert!(matches!(refused, Err(AttachError::Refused { regime: Regime::Driver, .. })), "{refused:?}");
    let attached = instance.attach(&device, XdpAttach::Auto, None).expect("attaching");
    assert_eq!(attached.regime, Regime::Generic);
}

#[test]
#[ignore = "needs root"]
fn another_program_is_left_alone_in_whichever_mode_it_runs() {
    for theirs in [XdpAttach::Driver, XdpAttach::Generic] {
        let (_host, device) = veth("xdp-occupied");
        let mounted = Mounted::new();
        let mut other = underlay(&mounted.programs());
        let before = other.attach(&device, theirs, None).expect("attaching");
        let mut ours = underlay(&mounted.programs());
        for mode in [XdpAttach::Auto, XdpAttach::Driver, XdpAttach::Generic] {
            let refused = ours.attach(&device, mode, Some(&mounted.bpffs.link("kept")));
            let Err(AttachError::Occupied { program, regime, .. }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!((program, regime), (before.program, before.regime));
            assert_eq!(device.attached().expect("the device"), Some(before));
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_kept_program_stays_until_the_next_process_takes_it_over() {
    let (_host, device) = veth("xdp-kept");
    let mounted = Mounted::new();
    let pin = mounted.bpffs.link("host");
    let mut old = underlay(&mounted.programs());
    let first = old.attach(&device, XdpAttach::Auto, Some(&pin)).expect("attaching");

    let mut new = underlay(&mounted.programs());
    let second = new.attach(&device, XdpAttach::Auto, Some(&pin)).expect("taking over");
    assert_ne!(first.program, second.program);
    old.detach();
    assert_eq!(device.attached().expect("the device"), Some(second), "the old one's end changes nothing");

    drop(new);
    assert_eq!(device.attached().expect("the device"), Some(second), "kept without its process");

    let mut last = underlay(&mounted.programs());
    last.attach(&device, XdpAttach::Auto, Some(&pin)).expect("taking over what was left");
    last.detach();
    assert_eq!(device.attached().expect("the device"), None);
    assert_eq!(pinned(&mounted.root()), [""; 0]);
}

#[test]
#[ignore = "needs root"]
fn a_kept_program_in_a_mode_that_is_ruled_out_is_attached_anew_and_in_generic_mode_it_is_not_kept() {
    let (_host, device) = veth("xdp-mode");
    let mounted = Mounted::new();
    let pin = mounted.bpffs.link("host");
    drop(mounted.programs().underlay().map(|mut it| it.attach(&device, XdpAttach::Driver, Some(&pin))));
    assert_eq!(device.attached().expect("the device").map(|it| it.regime), Some(Regime::Driver));
    let mut instance = underlay(&mounted.programs());
    let attached = instance.attach(&device, XdpAttach::Generic, Some(&pin)).expect("attaching");
    assert_eq!(attached.regime, Regime::Generic);
    assert!(!instance.is_kept());
    drop(instance);
    // Programs that other tests start just then have the link's descriptor until they are executed.
    let deadline = Instant::now() + Duration::from_secs(5);
    while device.attached().expect("the device").is_some() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(device.attached().expect("the device"), None);
    assert_eq!(pinned(&mounted.root()), [""; 0]);
}

#[test]
#[ignore = "needs root"]
fn a_kept_link_whose_device_is_gone_does_not_stand_in_the_way() {
    let (host, device) = veth("xdp-gone");
    let mounted = Mounted::new();
    let pin = mounted.bpffs.link("host");
    let mut old = underlay(&mounted.programs());
    old.attach(&device, XdpAttach::Auto, Some(&pin)).expect("attaching");
    host.ip("link del host");
    host.ip("link add host index 100 type veth peer name inside");
    let mut new = underlay(&mounted.programs());
    new.attach(&device, XdpAttach::Auto, Some(&pin)).expect("attaching");
    old.detach();
    let attached = device.attached().expect("the device").expect("a program");
    assert_eq!(attached.program, new.id().expect("an id"));
}

#[test]
#[ignore = "needs root"]
fn a_device_that_is_gone_is_an_error() {
    let (host, device) = veth("xdp-missing");
    host.ip("link del host");
    let mounted = Mounted::new();
    let mut instance = underlay(&mounted.programs());
    let refused = instance.attach(&device, XdpAttach::Auto, None);
    assert!(matches!(refused, Err(AttachError::Device { .. })), "{refused:?}");
}

#[test]
#[ignore = "needs root"]
fn two_ports_with_one_index_in_two_namespaces_are_two_ports() {
    let mounted = Mounted::new();
    let programs = mounted.programs();
    let mut tables = programs.tables().expect("tables");
    tables
        .set_host(Settings {
            local: [192, 168, 10, 21].into(),
            mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
            max_frame: 2048,
            heartbeat_max_age: Duration::from_secs(1),
            device: 1,
        })
        .expect("the host");
    tables.set_switch(true).expect("the switch");
    let entry = |enabled| PortEntry { overlay: OVERLAY, max_frame: 1464, enabled, outer: None };
    tables.set_port(PortId::new(3), entry(true)).expect("a port");
    tables.set_port(PortId::new(4), entry(false)).expect("a port");

    let port = |name, number| {
        let (host, device) = veth(name);
        let mut instance = programs.port(PortId::new(number)).expect("the verifier");
        instance.attach(&device, XdpAttach::Auto, None).expect("attaching");
        // Its peer comes up and looks for routers and duplicates by multicast.
        host.ip("link set inside down");
        host.ip("link set inside up");
        (host, instance)
    };
    let (on_host, on) = port("xdp-on", 3);
    let (_off_host, off) = port("xdp-off", 4);
    eventually("frames on both", || count(&on, Verdict::Multicast) > 0 && count(&off, Verdict::Disabled) > 0);
    assert_eq!(count(&on, Verdict::Disabled), 0);
    assert_eq!(count(&off, Verdict::Multicast), 0);
    tables.set_switch(false).expect("the switch");
    on_host.ip("link set inside down");
    on_host.ip("link set inside up");
    eventually("the switch turned off for both", || count(&on, Verdict::Disabled) > 0);
}

#[test]
#[ignore = "needs root"]
fn a_full_table_says_so_and_what_is_gone_can_be_removed_again() {
    let mounted = Mounted::new();
    let mut tables = mounted.programs().tables().expect("tables");
    let mac = |number: u8| MacAddr::new([2, 0, 0, 0, 0, number]);
    for number in 0..16 {
        tables.set_mac(OVERLAY, mac(number), Place::Remote(VtepId::new(0))).expect("room");
        tables.set_mac(OVERLAY, mac(number), Place::Local(PortId::new(0))).expect("the same again");
    }
    let full = tables.set_mac(OVERLAY, mac(16), Place::Remote(VtepId::new(0)));
    assert!(matches!(full, Err(TableError::Full { table: "FDB" })), "{full:?}");
    let beyond = tables.set_vtep(VtepId::new(16), [192, 168, 10, 22].into(), None);
    assert!(matches!(beyond, Err(TableError::Full { table: "VTEPS" })), "{beyond:?}");
    for _ in 0..2 {
        tables.remove_mac(OVERLAY, mac(3)).expect("gone is fine");
        tables.remove_overlay(Vni::new(42).expect("a VNI"), 4789).expect("gone is fine");
    }
    tables.set_mac(OVERLAY, mac(16), Place::Remote(VtepId::new(0))).expect("room again");
}

#[test]
#[ignore = "needs root"]
fn a_million_macs_load_in_seconds() {
    let mounted = Mounted::new();
    let programs = Programs::new(mounted.bpffs.clone(), Capacity::default()).expect("loading");
    let mut tables = programs.tables().expect("tables");
    let start = Instant::now();
    for number in 0..1_000_000_u32 {
        let [a, b, c, d] = number.to_be_bytes();
        tables
            .set_mac(OVERLAY, MacAddr::new([2, 0x42, a, b, c, d]), Place::Remote(VtepId::new(number % 100)))
            .expect("room");
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    println!("{took:?}");
}
