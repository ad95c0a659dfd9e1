//! Compiles the configuration and the mirror's changes into the tables of workers and XDP programs.
//!
//! One model, two compilers of it: [`dataplane::Tables`](vxdp_dataplane::Tables) for userspace, map writes
//! for the XDP programs.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use vxdp_dataplane::table::{
    Change as Table, Df, NextHop, Overlay, Policy, PortRange, Tos, Ttl, UdpChecksum, Vtep, ZeroUdp6,
};
use vxdp_dataplane::wire::MacAddr;
use vxdp_dataplane::{OverlayId, VtepId};

use crate::config;
use crate::mirror::nexthop::{Resolution, Unresolved};
use crate::mirror::state::{Change, Place};

/// What is known of the underlay's routes beside the mirror's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// MTU of the underlay device, in bytes.
    pub mtu: u32,
    /// The host's default time to live (`net.ipv4.ip_default_ttl`) or hop limit.
    pub hop_limit: u8,
}

/// What is known of each VTEP: its address, and how to reach it.
pub type Vteps = HashMap<VtepId, (IpAddr, Resolution)>;

/// A write to the maps of the XDP programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapWrite {
    /// A MAC's place; `None` removes it.
    Mac {
        /// Its segment.
        overlay: OverlayId,
        /// The address.
        mac: MacAddr,
        /// Where it is.
        place: Option<Place>,
    },
    /// A VTEP's address, and whether the programs may redirect frames for it.
    Vtep {
        /// Its number.
        id: VtepId,
        /// Its underlay address.
        address: IpAddr,
        /// Its next hop, where frames may be redirected.
        next_hop: Option<NextHop>,
    },
}

/// What changes bring about, in the order in which it must be done: a program must never redirect a frame
/// that the worker's tables do not know.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// First: what the programs must stop redirecting.
    pub before: Vec<MapWrite>,
    /// Second: the workers' tables.
    pub tables: Vec<Table>,
    /// Third: what the programs may redirect from now on.
    pub after: Vec<MapWrite>,
}

/// The segment of an overlay of the configuration.
pub fn overlay(overlay: &config::Overlay) -> Overlay {
    let policy = Policy {
        ttl: match overlay.ttl {
            config::Ttl::Auto => Ttl::Auto,
            config::Ttl::Inherit => Ttl::Inherit,
            config::Ttl::Fixed(hops) => Ttl::Fixed(hops),
        },
        tos: match overlay.tos {
            config::Tos::Inherit => Tos::Inherit,
            config::Tos::Fixed(tos) => Tos::Fixed(tos),
        },
        df: match overlay.df {
            config::Df::Unset => Df::Unset,
            config::Df::Set => Df::Set,
            config::Df::Inherit => Df::Inherit,
        },
        udp_checksum: if overlay.udp_checksum { UdpChecksum::Computed } else { UdpChecksum::Zero },
        // As the kernel's device is made (`kernel::vxlan`).
        zero_udp6: ZeroUdp6::Accept,
        source_ports: PortRange::new(overlay.source_ports.0, overlay.source_ports.1),
    };
    Overlay { vni: overlay.vni, port: overlay.port, policy }
}

/// Compiles changes of the mirror; `before` is what was known of the VTEPs before them.
pub fn changes(changes: &[Change], before: &Vteps, path: Path) -> Compiled {
    let mut tables = Vec::with_capacity(changes.len() * 2);
    // The programs' maps are written out of order, so of several writes of one entry only the last counts.
    let mut macs = HashMap::new();
    let mut vteps = HashMap::new();
    for change in changes {
        match *change {
            Change::Mac { overlay, mac, place } => {
                macs.insert((overlay, mac), place);
                let (vtep, port) = match place {
                    Some(Place::Remote(vtep)) => (Some(vtep), None),
                    Some(Place::Local(port)) => (None, Some(port)),
                    None => (None, None),
                };
                tables.push(Table::Remote { overlay, mac, vtep });
                tables.push(Table::Local { overlay, mac, port });
            }
            Change::Vtep { id, address, resolution } => {
                let next_hop = next_hop(resolution, path);
                // The programs know one longest frame per port, by the device's MTU. Over a narrower route the
                // kernel carries everything: it answers an oversize packet, which the worker could only drop.
                let whole = |hop: NextHop| hop.mtu >= u16::try_from(path.mtu).unwrap_or(u16::MAX);
                vteps.insert(id, (admitted(address, resolution), next_hop.filter(|hop| whole(*hop))));
                // What was redirected before a next hop was forgotten is in the rings, and still goes there.
                let last = || next_hop_before(before.get(&id)?.1, resolution, path);
                tables.push(Table::Vtep(id, Some(Vtep { address, next_hop: next_hop.or_else(last) })));
            }
            Change::VtepGone { id, address } => {
                vteps.insert(id, (address, None));
                tables.push(Table::Vtep(id, None));
            }
        }
    }
    let macs = macs.into_iter().map(|((overlay, mac), place)| MapWrite::Mac { overlay, mac, place });
    let vteps = vteps.into_iter();
    let vteps = vteps.map(|(id, (address, next_hop))| MapWrite::Vtep { id, address, next_hop });
    let (after, before) = vteps.chain(macs).partition(MapWrite::opens);
    Compiled { before, tables, after }
}

impl MapWrite {
    /// Whether the programs redirect more after it.
    fn opens(&self) -> bool {
        match self {
            Self::Mac { place, .. } => place.is_some(),
            Self::Vtep { next_hop, .. } => next_hop.is_some(),
        }
    }
}

/// The address from which the programs redirect a VTEP's frames: no address of the wire where its route does
/// not leave through the underlay device. Whether such a source is a martian or fails the reverse path filter
/// (`fib_validate_source`, net/ipv4/fib_frontend.c) is the kernel's to judge.
fn admitted(address: IpAddr, resolution: Resolution) -> IpAddr {
    match resolution {
        Resolution::Resolved { .. } | Resolution::Unresolved(Unresolved::NoNeighbour(_)) => address,
        Resolution::Unresolved(Unresolved::NoRoute | Unresolved::OtherDevice) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The next hop that the tables hold: none while unresolved.
fn next_hop(resolution: Resolution, path: Path) -> Option<NextHop> {
    let Resolution::Resolved { next_hop, mtu } = resolution else { return None };
    let mtu = mtu.map_or(path.mtu, |route| route.min(path.mtu));
    // An IP packet has no more than 65,535 bytes, whatever the device could take.
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    Some(NextHop { mac: next_hop, mtu, hop_limit: path.hop_limit })
}

/// The next hop that a VTEP had, if all that happened is that the kernel has forgotten its MAC.
fn next_hop_before(before: Resolution, now: Resolution, path: Path) -> Option<NextHop> {
    let forgotten = matches!(now, Resolution::Unresolved(Unresolved::NoNeighbour(_)));
    forgotten.then(|| next_hop(before, path)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vxdp_dataplane::PortId;

    const PATH: Path = Path { mtu: 1500, hop_limit: 64 };
    const OVERLAY: OverlayId = OverlayId::new(0);
    const MAC: MacAddr = MacAddr::new([2, 0x42, 10, 0, 0, 3]);
    const VTEP: VtepId = VtepId::new(1);

    fn compiled(news: &[Change]) -> Compiled {
        changes(news, &Vteps::new(), PATH)
    }

    fn ip() -> IpAddr {
        IpAddr::from([192, 168, 10, 22])
    }

    fn resolved(mtu: Option<u32>) -> Change {
        Change::Vtep { id: VTEP, address: ip(), resolution: Resolution::Resolved { next_hop: MAC, mtu } }
    }

    #[test]
    fn what_appears_is_in_the_tables_before_the_programs_know_it() {
        let place = Some(Place::Remote(VTEP));
        let result = compiled(&[resolved(None), Change::Mac { overlay: OVERLAY, mac: MAC, place }]);
        assert!(result.before.is_empty());
        assert_eq!(result.after.len(), 2);
    }

    #[test]
    fn what_goes_is_withdrawn_from_the_programs_first() {
        let unresolved = Resolution::Unresolved(Unresolved::NoNeighbour(ip()));
        let gone = [
            Change::Mac { overlay: OVERLAY, mac: MAC, place: None },
            Change::Vtep { id: VTEP, address: ip(), resolution: unresolved },
            Change::VtepGone { id: VTEP, address: ip() },
        ];
        let result = compiled(&gone);
        assert_eq!(result.before.len(), 2);
        assert!(result.after.is_empty());
    }

    #[test]
    fn what_comes_and_goes_at_once_is_never_left_with_the_programs() {
        let place = |place| Change::Mac { overlay: OVERLAY, mac: MAC, place };
        let result = compiled(&[place(Some(Place::Remote(VTEP))), place(None)]);
        assert!(result.after.is_empty());
        assert_eq!(result.before, [MapWrite::Mac { overlay: OVERLAY, mac: MAC, place: None }]);
    }

    #[test]
    fn a_mac_has_one_place_in_the_tables() {
        let place = Some(Place::Local(PortId::new(3)));
        let result = compiled(&[Change::Mac { overlay: OVERLAY, mac: MAC, place }]);
        assert_eq!(
            result.tables,
            [
                Table::Remote { overlay: OVERLAY, mac: MAC, vtep: None },
                Table::Local { overlay: OVERLAY, mac: MAC, port: Some(PortId::new(3)) },
            ]
        );
    }

    #[test]
    fn a_vtep_behind_a_narrow_route_is_left_to_the_kernel() {
        let opened = |route| compiled(&[resolved(route)]).after.len();
        assert_eq!([opened(None), opened(Some(1500)), opened(Some(1400))], [1, 1, 0]);
    }

    #[test]
    fn only_a_vtep_behind_the_underlay_device_is_admitted_by_the_programs() {
        let admitted = |unresolved| {
            let resolution = Resolution::Unresolved(unresolved);
            let change = Change::Vtep { id: VTEP, address: ip(), resolution };
            compiled(&[change]).before == [MapWrite::Vtep { id: VTEP, address: ip(), next_hop: None }]
        };
        assert!(admitted(Unresolved::NoNeighbour(ip())));
        assert!(!admitted(Unresolved::NoRoute));
        assert!(!admitted(Unresolved::OtherDevice));
    }

    #[test]
    fn the_narrower_of_route_and_device_is_the_paths_mtu() {
        let mtu = |route| match compiled(&[resolved(route)]).tables[..] {
            [Table::Vtep(_, Some(Vtep { next_hop: Some(hop), .. }))] => hop.mtu,
            ref other => panic!("{other:?}"),
        };
        assert_eq!([mtu(None), mtu(Some(1400)), mtu(Some(9000))], [1500, 1400, 1500]);
    }

    #[test]
    fn frames_under_way_still_find_a_next_hop_that_the_kernel_has_forgotten() {
        let known = Resolution::Resolved { next_hop: MAC, mtu: None };
        let before = Vteps::from([(VTEP, (ip(), known))]);
        let hop_after = |unresolved| {
            let resolution = Resolution::Unresolved(unresolved);
            let result = changes(&[Change::Vtep { id: VTEP, address: ip(), resolution }], &before, PATH);
            assert!(matches!(result.before[..], [MapWrite::Vtep { next_hop: None, .. }]));
            match result.tables[..] {
                [Table::Vtep(_, Some(Vtep { next_hop, .. }))] => next_hop.map(|hop| hop.mac),
                ref other => panic!("{other:?}"),
            }
        };
        assert_eq!(hop_after(Unresolved::NoNeighbour(ip())), Some(MAC));
        assert_eq!(hop_after(Unresolved::NoRoute), None);
        assert_eq!(hop_after(Unresolved::OtherDevice), None);
    }
}
