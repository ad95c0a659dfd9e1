//! The planner against a model of the kernel: no privileges, thousands of states.

use std::num::NonZeroU8;
use std::path::Path;

use proptest::prelude::*;
use vxdp_dataplane::wire::MacAddr;

use super::*;
use crate::config::{Attach, Container, Df, IfName, NsName, Overlay, Tos, Ttl};
use crate::kernel::desired::{DesiredPort, UnderlayFacts};
use crate::kernel::ledger::Entry;
use crate::kernel::observed::{FdbRow, Space};
use crate::netns::Netns;

/// A host made of maps, which does to itself what the kernel would do.
struct Model {
    observed: Observed,
    ledger: Ledger,
    host: Netns,
    containers: Vec<Netns>,
    next: u32,
    _directory: tempfile::TempDir,
}

impl Model {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        // For the planner a namespace is an inode and a path; plain files have both.
        let file = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, "").expect("written");
            Netns::open(&path, name).expect("opened")
        };
        let mut model = Self {
            observed: Observed::default(),
            ledger: Ledger::open(Path::new(&directory.path().join("ledger"))).expect("an empty ledger"),
            host: file("host"),
            containers: vec![file("c0"), file("c1")],
            next: 1,
            _directory: directory,
        };
        for netns in model.containers.clone() {
            model.observed.spaces.insert(Place::of_container(&netns), model.space(netns.inode()));
        }
        model
    }

    fn space(&self, inode: u64) -> Space {
        let mut space = Space { inode, ..Space::default() };
        space.links.insert("lo".into(), Link { index: 1, kind: Kind::Loopback, ..Link::default() });
        space
    }

    fn desired(&self, overlays: &[DesiredOverlay]) -> Desired {
        let underlay = UnderlayFacts { ifindex: 2, mtu: 1500, local: [192, 0, 2, 1].into() };
        let mut overlays = overlays.to_vec();
        for port in overlays.iter_mut().flat_map(|overlay| &mut overlay.ports) {
            let Attach::Pid(number) = port.container.attach else { unreachable!("made below") };
            port.netns = Some(self.containers[number as usize].clone());
        }
        Desired { host: self.host.clone(), underlay, queues: 1, overlays }
    }

    /// Plans, carries out, and returns the steps.
    fn reconcile(&mut self, overlays: &[DesiredOverlay]) -> Vec<Step> {
        self.ledger.forget_gone(&self.observed).expect("written");
        let desired = self.desired(overlays);
        let plan = plan(&desired, &self.observed, &self.ledger).expect("a plan");
        for step in &plan.steps {
            self.ledger.add(&step.creates()).expect("written");
            self.apply(step);
            let removes: Vec<Entry> = step.removes().into_iter().collect();
            self.ledger.remove(&removes).expect("written");
        }
        plan.steps
    }

    fn insert(&mut self, at: &LinkAt, link: Link) -> u32 {
        self.next += 1;
        let space = self.observed.spaces.get_mut(&at.place).expect("its namespace is there");
        let before = space.links.insert(at.name.clone(), Link { index: self.next, ..link });
        assert_eq!(before, None, "{at} is not there yet");
        self.next
    }

    fn link(&mut self, at: &LinkAt) -> &mut Link {
        let space = self.observed.spaces.get_mut(&at.place).expect("its namespace is there");
        space.links.get_mut(&at.name).unwrap_or_else(|| panic!("{at} is there"))
    }

    /// Names a namespace in another one.
    fn nsid(&mut self, place: &Place, inode: u64) -> Option<i32> {
        let id = i32::try_from(inode % 1_000_000).ok();
        self.observed.spaces.get_mut(place)?.nsids.insert(inode, id?);
        id
    }

    fn remove(&mut self, at: &LinkAt) {
        let Some(space) = self.observed.spaces.get_mut(&at.place) else { return };
        let Some(link) = space.links.remove(&at.name) else { return };
        for other in space.links.values_mut().filter(|other| other.master == Some(link.index)) {
            other.master = None;
        }
        if link.kind == Kind::Veth {
            // Indices are unique in the model, so a peer is found wherever it is.
            for space in self.observed.spaces.values_mut() {
                space.links.retain(|_, other| Some(other.index) != link.peer);
            }
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::CreateNetns { name } => {
                self.next += 1;
                let space = self.space(u64::from(self.next) << 40);
                assert!(self.observed.spaces.insert(Place::Named(name.clone()), space).is_none());
            }
            Step::RemoveNetns { name } => {
                let place = Place::Named(name.clone());
                let links: Vec<String> = self.observed.spaces[&place].links.keys().cloned().collect();
                links.iter().for_each(|name| self.remove(&LinkAt::new(&place, name)));
                self.observed.spaces.remove(&place);
            }
            Step::CreateBridge { at, mtu } => {
                self.insert(at, Link { kind: Kind::Bridge, mtu: *mtu, ..Link::default() });
            }
            Step::CreateVxlan { at, vxlan, mtu } => {
                let links = self.observed.spaces.values().flat_map(|space| space.links.values());
                let mut others = links.filter_map(|link| match &link.kind {
                    Kind::Vxlan(other) => Some(other.vni),
                    _ => None,
                });
                assert!(others.all(|vni| vni != vxlan.vni), "the VNI is free for {at}");
                let netnsid = self.nsid(&at.place, self.host.inode());
                let kind = Kind::Vxlan(vxlan.clone());
                self.insert(at, Link { kind, mtu: *mtu, netnsid, ..Link::default() });
            }
            Step::CreateVeth { at, inside, mac, mtu, queues } => self.veth(at, inside, *mac, *mtu, *queues),
            Step::ChangeVxlan { at, to, .. } => self.link(at).kind = Kind::Vxlan(to.clone()),
            Step::RemoveLink { at, .. } => self.remove(at),
            Step::SetMtu { at, to, .. } => self.link(at).mtu = *to,
            Step::SetMac { at, to, .. } => self.link(at).mac = Some(*to),
            Step::Enslave { at, bridge, .. } => {
                let index = self.link(&LinkAt::new(&at.place, bridge)).index;
                self.link(at).master = Some(index);
            }
            Step::SetUp { at } => self.link(at).up = true,
            Step::AddAddress { at, address } => {
                self.link(at).addresses.insert(*address);
            }
            Step::RemoveAddress { at, address } => {
                self.link(at).addresses.remove(address);
            }
            Step::AddRow { at, row, .. } => self.row(at, row, true),
            Step::RemoveRow { at, row, .. } => self.row(at, row, false),
        }
    }

    fn veth(&mut self, at: &LinkAt, inside: &LinkAt, mac: MacAddr, mtu: u32, queues: u16) {
        let inode = |place: &Place| self.observed.spaces[place].inode;
        let (outer, inner) = (inode(&at.place), inode(&inside.place));
        let queues = u32::from(queues);
        let end = |netnsid, mac| Link { kind: Kind::Veth, mtu, netnsid, queues, mac, ..Link::default() };
        let there = self.nsid(&at.place, inner);
        let index = self.insert(at, end(there, None));
        let back = self.nsid(&inside.place, outer);
        let peer = self.insert(inside, end(back, Some(mac)));
        self.link(at).peer = Some(peer);
        self.link(inside).peer = Some(index);
    }

    fn row(&mut self, at: &LinkAt, row: &Row, there: bool) {
        let rows = &mut self.link(at).rows;
        match (*row, there) {
            (Row::Neighbour { address, mac }, true) => {
                rows.neighbours.insert(address, Some(mac));
            }
            (Row::Neighbour { address, .. }, false) => {
                rows.neighbours.remove(&address);
            }
            (Row::Fdb { mac, vtep }, true) => {
                rows.fdb.insert(mac, FdbRow { vtep: Some(vtep), fixed: true, plain: true });
            }
            (Row::Fdb { mac, .. }, false) => {
                rows.fdb.remove(&mac);
            }
            (Row::Bridge { mac }, true) => {
                rows.bridge.insert(mac);
            }
            (Row::Bridge { mac }, false) => {
                rows.bridge.remove(&mac);
            }
            (Row::Flood { vtep }, true) => {
                rows.flood.insert(vtep);
            }
            (Row::Flood { vtep }, false) => {
                rows.flood.remove(&vtep);
            }
        }
    }

    /// Something that happens to a device behind our back.
    fn mishap(&mut self, (device, what): (usize, u8)) {
        let mut all: Vec<LinkAt> = Vec::new();
        for (place, space) in &self.observed.spaces {
            let ours = space.links.keys().filter(|name| *name != "lo" && *name != "stranger");
            all.extend(ours.map(|name| LinkAt::new(place, name)));
        }
        all.sort();
        let Some(at) = all.get(device % all.len().max(1)).cloned() else { return };
        let link = self.link(&at);
        match what {
            0 => link.up = false,
            1 => link.mtu = 576,
            2 => link.master = None,
            3 => link.addresses.clear(),
            4 => link.rows = Default::default(),
            5 => link.netnsid = None,
            6 => link.rows.fdb.values_mut().for_each(|row| row.fixed = false),
            7 => link.peer = Some(0),
            _ => self.remove(&at),
        }
    }
}

fn mac(last: u8) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, last])
}

fn any_row() -> impl Strategy<Value = Row> {
    (0..4u8, 0..3u8, 0..3u8).prop_map(|(kind, host, vtep)| match kind {
        0 => Row::Neighbour { address: [10, 0, 0, host].into(), mac: mac(vtep) },
        1 => Row::Fdb { mac: mac(host), vtep: [192, 0, 2, 10 + vtep].into() },
        2 => Row::Bridge { mac: mac(host) },
        _ => Row::Flood { vtep: [192, 0, 2, 10 + vtep].into() },
    })
}

fn any_overlay(number: u32, vni: u32) -> impl Strategy<Value = DesiredOverlay> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (flags, prop_oneof![Just(1450), Just(1300)], proptest::collection::vec(any_row(), 0..8)).prop_map(
        move |((proxy, learning, other), mtu, rows)| {
            let spec = Overlay {
                vni: Vni::new(vni).expect("a VNI"),
                port: 4789,
                netns: NsName::new(if other { "other" } else { "overlay" }).expect("a name"),
                bridge: IfName::new(&format!("br{number}")).expect("a name"),
                vxlan: IfName::new(&format!("vx{number}")).expect("a name"),
                gateway: if proxy { Vec::new() } else { vec!["10.0.0.1/24".parse().expect("a prefix")] },
                mtu: Some(mtu),
                learning,
                proxy,
                l2miss: true,
                l3miss: true,
                ageing: if learning { 0 } else { 300 },
                ttl: if proxy { Ttl::Auto } else { Ttl::Fixed(NonZeroU8::MAX) },
                tos: Tos::Fixed(0),
                df: Df::Unset,
                udp_checksum: false,
                source_ports: (49152, 65535),
                mode: None,
                engine: None,
                flood: Vec::new(),
                containers: Vec::new(),
                remotes: Vec::new(),
            };
            DesiredOverlay { spec, mtu, ports: Vec::new(), rows }
        },
    )
}

/// Two overlays, whose VNIs may be swapped, with each container in one of them or in none.
fn any_state() -> impl Strategy<Value = Vec<DesiredOverlay>> {
    let pair = any::<bool>().prop_flat_map(|swap| {
        let (first, second) = if swap { (43, 42) } else { (42, 43) };
        (any_overlay(0, first), any_overlay(1, second))
    });
    let places = proptest::collection::vec((0..3usize, 0..2u8), 2);
    (pair, 0..=2usize, places).prop_map(|(pair, count, places)| {
        let mut overlays: Vec<DesiredOverlay> = [pair.0, pair.1].into_iter().take(count).collect();
        for (number, (place, name)) in (0u8..).zip(places) {
            let Some(overlay) = overlays.get_mut(place) else { continue };
            let veth = format!("veth{}{}", place, if overlay.ports.is_empty() { name } else { number + 2 });
            let container = Container {
                attach: Attach::Pid(number.into()),
                interface: IfName::new("eth1").expect("a name"),
                host_interface: IfName::new(&veth).expect("a name"),
                mac: mac(100 + number),
                addresses: vec![IpNet::new([10, 0, 0, 100 + number].into(), 24).expect("a prefix")],
            };
            overlay.ports.push(DesiredPort { container, netns: None });
        }
        overlays
    })
}

proptest! {
    #[test]
    fn any_state_is_reached_from_any_other(
        states in proptest::collection::vec(any_state(), 1..4),
        mishaps in proptest::collection::vec((any::<usize>(), 0..9u8), 0..6),
    ) {
        let mut model = Model::new();
        for state in &states {
            model.reconcile(state);
            prop_assert_eq!(model.reconcile(state), []);
            mishaps.iter().for_each(|mishap| model.mishap(*mishap));
            model.reconcile(state);
            prop_assert_eq!(model.reconcile(state), []);
        }
        model.reconcile(&[]);
        prop_assert_eq!(model.observed.spaces.len(), 2, "only the containers' namespaces are left");
        for space in model.observed.spaces.values() {
            prop_assert_eq!(space.links.len(), 1, "only loopback is left in them");
        }
        prop_assert_eq!(model.ledger.created(), &Default::default());
    }

    #[test]
    fn a_stranger_is_never_named_by_a_step(from in any_state(), to in any_state()) {
        let mut model = Model::new();
        model.reconcile(&from);
        for place in model.observed.spaces.keys().cloned().collect::<Vec<_>>() {
            model.insert(&LinkAt::new(&place, "stranger"), Link::default());
        }
        let strangers = |model: &Model| {
            model.observed.spaces.values().filter(|space| space.links.contains_key("stranger")).count()
        };
        let before = strangers(&model);
        for state in [&to[..], &[]] {
            for step in model.reconcile(state) {
                prop_assert!(step.link().is_none_or(|at| at.name != "stranger"), "{step}");
            }
            prop_assert_eq!(strangers(&model), before);
        }
    }
}

#[test]
fn of_two_rows_that_contradict_each_other_the_later_one_is_planned() {
    let mut model = Model::new();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let tree = any_overlay(0, 42).new_tree(&mut runner).expect("an overlay");
    let mut overlay = proptest::strategy::ValueTree::current(&tree);
    let row = |last| Row::Fdb { mac: mac(1), vtep: [192, 0, 2, last].into() };
    overlay.rows = vec![row(1), row(2)];
    let steps = model.reconcile(&[overlay]);
    let rows: Vec<&Step> = steps.iter().filter(|step| step.is_row()).collect();
    assert!(matches!(rows[..], [Step::AddRow { row: planned, .. }] if *planned == row(2)), "{rows:?}");
}
