//! Netlink notifications on their way through the mirror into the workers' tables.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use vxdp_control::engine::compile::{self, Path};
use vxdp_control::mirror::fdb::{Fdb, Limits, Target};
use vxdp_control::mirror::message::Row;
use vxdp_control::mirror::nexthop::Route;
use vxdp_control::mirror::state::{Change, Effects, Mirror};
use vxdp_control::watch;
use vxdp_dataplane::table::Underlay;
use vxdp_dataplane::wire::{MacAddr, Vni};
use vxdp_dataplane::{OverlayId, PortId, Tables, VtepId};

const OVERLAY: OverlayId = OverlayId::new(0);
const NIC: u32 = 2;
const VXLAN: u32 = 5;
const VETH: u32 = 6;
const PORT: PortId = PortId::new(3);
const UNDERLAY: Underlay = Underlay {
    local: IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 10, 21)),
    mac: MacAddr::new([2, 0, 0, 0, 0, 0x21]),
};
const PATH: Path = Path { mtu: 1500, hop_limit: 64 };

/// Few, so that the bound is met.
const LIMITS: Limits = Limits { macs: 8, learned: 8 };

fn fdb() -> Fdb {
    Fdb::new(Vni::new(42).expect("small enough"), 4789, VXLAN)
}

/// The mirror and the tables that are made of what it says.
struct Follower {
    mirror: Mirror,
    tables: Tables,
}

/// A datagram's messages are read; the tables take what follows from them, and say what the mirror says.
pub(super) fn check(datagram: &[u8]) {
    let mut follower =
        Follower { mirror: Mirror::new(NIC, vec![fdb()], LIMITS), tables: Tables::new(UNDERLAY) };
    let up = follower.mirror.port_up(OVERLAY, VETH, PORT);
    follower.take(up);
    for message in watch::messages(datagram) {
        let (message, present) = match message {
            RouteNetlinkMessage::NewNeighbour(message) => (message, true),
            RouteNetlinkMessage::DelNeighbour(message) => (message, false),
            _ => continue,
        };
        let effects = match Row::read(&message) {
            Some(Row::Neighbour(row)) => follower.mirror.neighbour(&row, present),
            Some(row) => follower.mirror.row(OVERLAY, &row, present),
            None => continue,
        };
        follower.take(effects);
        follower.compare();
    }
    let down = follower.mirror.port_down(OVERLAY, VETH);
    follower.take(down);
    assert_eq!(follower.tables.locals().count(), 0, "rows of a port that is gone");
    let emptied = follower.mirror.dumped(OVERLAY, fdb());
    follower.take(emptied);
    follower.compare();
    assert_eq!(follower.mirror.vteps().count(), 0, "VTEPs that no row names");
    assert_eq!((follower.tables.remote_count(), follower.tables.vteps().count()), (0, 0));
}

impl Follower {
    /// Every VTEP is on the link.
    fn take(&mut self, effects: Effects) {
        let Effects { mut changes, ask_route, .. } = effects;
        for vtep in ask_route {
            let route = Route { device: NIC, gateway: None, mtu: None };
            changes.extend(self.mirror.routed(vtep, Some(route)).changes);
        }
        // The kernel refuses rows with a VTEP of the other family (EAFNOSUPPORT), so none reach the engine.
        let foreign = |change: &Change| matches!(change, Change::Vtep { address, .. } if !address.is_ipv4());
        changes.retain(|change| !foreign(change));
        match self.tables.with_changes(&compile::changes(&changes, &compile::Vteps::new(), PATH).tables) {
            Ok(tables) => self.tables = tables,
            Err(error) => panic!("the tables refuse what the mirror says: {error}"),
        }
    }

    fn compare(&self) {
        let fdb = self.mirror.fdb(OVERLAY).expect("there is one");
        assert!(fdb.len() <= LIMITS.macs, "{} MACs", fdb.len());
        let mut remotes = BTreeSet::new();
        let mut locals = BTreeSet::new();
        for (mac, target) in fdb.targets() {
            match target {
                Target::Vtep(vtep) => {
                    let id = self.mirror.vtep(vtep).expect("a VTEP that a row names has a number");
                    remotes.insert((mac, id));
                }
                Target::Port(VETH) => {
                    locals.insert((mac, PORT));
                }
                // Of no container.
                Target::Port(_) => {}
            }
        }
        let found: BTreeSet<(MacAddr, VtepId)> = self.tables.remotes().map(|row| (row.mac, row.at)).collect();
        assert_eq!(found, remotes);
        let found: BTreeSet<(MacAddr, PortId)> = self.tables.locals().map(|row| (row.mac, row.at)).collect();
        assert_eq!(found, locals);
        for (id, address, _) in self.mirror.vteps().filter(|(_, address, _)| address.is_ipv4()) {
            assert_eq!(self.tables.vtep(id).map(|row| row.address), Some(address));
        }
    }
}
