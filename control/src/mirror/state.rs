//! The whole mirror: rows, ports, routes and neighbours of all overlays in, numbered table changes out.

use std::collections::HashMap;
use std::net::IpAddr;

use vxdp_dataplane::wire::MacAddr;
use vxdp_dataplane::{OverlayId, PortId, VtepId};

use super::fdb::{Ageing, Fdb, Limits, Target, TargetChange};
use super::message::{NeighbourRow, Row};
use super::nexthop::{Nexthops, Resolution, Route};

/// Where the fast path sends a MAC's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To this VTEP.
    Remote(VtepId),
    /// To this container port.
    Local(PortId),
}

/// A change of the fast path's tables. Changes take effect in the order in which they are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A MAC's place; `None`: the kernel's business.
    Mac {
        /// The overlay.
        overlay: OverlayId,
        /// The MAC.
        mac: MacAddr,
        /// Its place.
        place: Option<Place>,
    },
    /// A VTEP appeared, or its resolution changed.
    Vtep {
        /// Its number.
        id: VtepId,
        /// Its underlay address.
        address: IpAddr,
        /// Where frames to it go.
        resolution: Resolution,
    },
    /// No row names the VTEP any more; its number may be given again.
    VtepGone {
        /// Its number.
        id: VtepId,
        /// Its underlay address.
        address: IpAddr,
    },
}

/// What follows from an event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Table changes.
    pub changes: Vec<Change>,
    /// VTEPs whose route must be asked for.
    pub ask_route: Vec<IpAddr>,
    /// Whether the row was left to the kernel because the mirror is full.
    pub refused: bool,
}

#[derive(Debug)]
struct Overlay {
    fdb: Fdb,
    ports: HashMap<u32, PortId>,
}

#[derive(Debug)]
struct VtepEntry {
    id: VtepId,
    rows: usize,
}

/// The mirror of the kernel's forwarding state.
#[derive(Debug)]
pub struct Mirror {
    overlays: Vec<Overlay>,
    nexthops: Nexthops,
    vteps: HashMap<IpAddr, VtepEntry>,
    free: Vec<VtepId>,
    limits: Limits,
}

impl Mirror {
    /// An empty mirror of overlays whose tables are `fdbs`, over the underlay device with index `underlay`.
    ///
    /// Rows beyond the `limits` of each overlay stay with the kernel.
    pub fn new(underlay: u32, fdbs: Vec<Fdb>, limits: Limits) -> Self {
        let overlays = fdbs.into_iter().map(|fdb| Overlay { fdb, ports: HashMap::new() }).collect();
        Self { overlays, nexthops: Nexthops::new(underlay), vteps: HashMap::new(), free: Vec::new(), limits }
    }

    /// The next hops of all VTEPs.
    pub fn nexthops(&self) -> &Nexthops {
        &self.nexthops
    }

    /// The forwarding rows of an overlay.
    pub fn fdb(&self, overlay: OverlayId) -> Option<&Fdb> {
        self.overlays.get(usize::from(overlay.get())).map(|overlay| &overlay.fdb)
    }

    /// Number of a VTEP, if a row names it.
    pub fn vtep(&self, address: IpAddr) -> Option<VtepId> {
        self.vteps.get(&address).map(|entry| entry.id)
    }

    /// Every VTEP that a row names, with its number and its resolution.
    pub fn vteps(&self) -> impl Iterator<Item = (VtepId, IpAddr, Resolution)> + '_ {
        self.vteps.iter().map(|(address, entry)| (entry.id, *address, self.nexthops.resolve(*address)))
    }

    /// The rows of `mac` that only the fast path keeps alive.
    pub fn ageing(&self, overlay: OverlayId, mac: MacAddr) -> Option<Ageing> {
        self.fdb(overlay)?.ageing(mac)
    }

    /// A row of an overlay's namespace appeared, changed (`present`) or went.
    pub fn row(&mut self, overlay: OverlayId, row: &Row, present: bool) -> Effects {
        let mut effects = Effects::default();
        let limits = self.limits;
        let Some(entry) = self.overlays.get_mut(usize::from(overlay.get())) else { return effects };
        let fdb = &mut entry.fdb;
        if !fdb.is_about(row) {
            return effects;
        }
        if present && !fdb.has_room_for(row, limits) {
            effects.refused = true;
            return effects;
        }
        let before = row.mac().and_then(|mac| fdb.target(mac));
        if let Some(change) = fdb.row(row, present) {
            self.retarget(overlay, before, change, &mut effects);
        }
        effects
    }

    /// A fresh dump takes the place of an overlay's table.
    pub fn dumped(&mut self, overlay: OverlayId, fresh: Fdb) -> Effects {
        let mut effects = Effects::default();
        let Some(entry) = self.overlays.get_mut(usize::from(overlay.get())) else { return effects };
        let old = std::mem::replace(&mut entry.fdb, fresh);
        for change in entry.fdb.changes_since(&old) {
            self.retarget(overlay, old.target(change.mac), change, &mut effects);
        }
        effects
    }

    /// A container port took up service behind the bridge port with index `device`.
    pub fn port_up(&mut self, overlay: OverlayId, device: u32, port: PortId) -> Effects {
        self.port(overlay, device, Some(port))
    }

    /// The container port behind the bridge port with index `device` went out of service.
    pub fn port_down(&mut self, overlay: OverlayId, device: u32) -> Effects {
        self.port(overlay, device, None)
    }

    fn port(&mut self, overlay: OverlayId, device: u32, port: Option<PortId>) -> Effects {
        let mut effects = Effects::default();
        let Some(entry) = self.overlays.get_mut(usize::from(overlay.get())) else { return effects };
        let before = match port {
            Some(port) => entry.ports.insert(device, port),
            None => entry.ports.remove(&device),
        };
        if before == port {
            return effects;
        }
        let place = port.map(Place::Local);
        let behind = entry.fdb.targets().filter(|(_, target)| *target == Target::Port(device));
        effects.changes.extend(behind.map(|(mac, _)| Change::Mac { overlay, mac, place }));
        effects
    }

    /// The kernel's answer to a route lookup.
    pub fn routed(&mut self, vtep: IpAddr, route: Option<Route>) -> Effects {
        let mut effects = Effects::default();
        // The answer may come after the last row that named the VTEP went.
        if self.vteps.contains_key(&vtep) && self.nexthops.routed(vtep, route) {
            self.announce(vtep, &mut effects);
        }
        effects
    }

    /// Routes, rules or addresses changed: every route must be asked for again.
    pub fn routes_changed(&self) -> Effects {
        Effects { ask_route: self.nexthops.vteps().collect(), ..Effects::default() }
    }

    /// A neighbour of the host's namespace appeared, changed (`present`) or went.
    pub fn neighbour(&mut self, row: &NeighbourRow, present: bool) -> Effects {
        let mut effects = Effects::default();
        let moved = if present { self.nexthops.neighbour(row) } else { self.nexthops.neighbour_gone(row) };
        for vtep in moved {
            self.announce(vtep, &mut effects);
        }
        effects
    }

    /// A fresh dump takes the place of the neighbour table; `underlay` is the underlay device's index now.
    pub fn neighbours_dumped(&mut self, underlay: u32, rows: &[NeighbourRow]) -> Effects {
        let mut effects = Effects::default();
        for vtep in self.nexthops.neighbours_dumped(underlay, rows) {
            self.announce(vtep, &mut effects);
        }
        effects
    }

    fn announce(&self, vtep: IpAddr, effects: &mut Effects) {
        if let Some(id) = self.vtep(vtep) {
            effects.changes.push(Change::Vtep { id, address: vtep, resolution: self.nexthops.resolve(vtep) });
        }
    }

    /// Turns a MAC's new target into numbers; a VTEP is announced before the first row that names it, and
    /// goes after the last.
    fn retarget(
        &mut self,
        overlay: OverlayId,
        before: Option<Target>,
        change: TargetChange,
        effects: &mut Effects,
    ) {
        let place = match change.target {
            Some(Target::Vtep(vtep)) => self.acquire(vtep, effects).map(Place::Remote),
            Some(Target::Port(device)) => self.port_of(overlay, device).map(Place::Local),
            None => None,
        };
        effects.changes.push(Change::Mac { overlay, mac: change.mac, place });
        if let Some(Target::Vtep(vtep)) = before {
            self.release(vtep, effects);
        }
    }

    fn port_of(&self, overlay: OverlayId, device: u32) -> Option<PortId> {
        self.overlays.get(usize::from(overlay.get()))?.ports.get(&device).copied()
    }

    fn acquire(&mut self, vtep: IpAddr, effects: &mut Effects) -> Option<VtepId> {
        if let Some(entry) = self.vteps.get_mut(&vtep) {
            entry.rows += 1;
            return Some(entry.id);
        }
        // Numbers are dense: as many are in use as there are VTEPs, or wait in `free`. When they run out,
        // the MACs of further VTEPs stay with the kernel.
        let next =
            || u32::try_from(self.vteps.len()).ok().filter(|next| *next < VtepId::LIMIT).map(VtepId::new);
        let id = self.free.pop().or_else(next)?;
        self.vteps.insert(vtep, VtepEntry { id, rows: 1 });
        self.nexthops.follow(vtep);
        effects.ask_route.push(vtep);
        self.announce(vtep, effects);
        Some(id)
    }

    fn release(&mut self, vtep: IpAddr, effects: &mut Effects) {
        let Some(entry) = self.vteps.get_mut(&vtep) else { return };
        entry.rows -= 1;
        if entry.rows == 0 {
            let id = entry.id;
            self.vteps.remove(&vtep);
            self.free.push(id);
            self.nexthops.forget(vtep);
            effects.changes.push(Change::VtepGone { id, address: vtep });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::message::{BridgeRow, Life, TunnelRow, Upkeep};
    use crate::mirror::nexthop::Unresolved;
    use vxdp_dataplane::wire::Vni;

    const FIRST: OverlayId = OverlayId::new(0);
    const NIC: u32 = 2;
    const VXLAN: u32 = 5;
    const VETH: u32 = 6;
    const HOP: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);

    fn mac(last: u8) -> MacAddr {
        MacAddr::new([2, 0x42, 10, 0, 0, last])
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 168, 10, last])
    }

    fn fdb() -> Fdb {
        Fdb::new(Vni::from_wire([0, 0, 42]), 4789, VXLAN)
    }

    fn mirror() -> Mirror {
        Mirror::new(NIC, vec![fdb(), fdb()], Limits { macs: 1000, learned: 1000 })
    }

    fn tunnel(last: u8, vtep: IpAddr) -> Row {
        let (vni, port, via, life) = (None, None, None, Life::Permanent);
        Row::Tunnel(TunnelRow { device: VXLAN, mac: mac(last), vtep: Some(vtep), vni, port, via, life })
    }

    fn bridge(last: u8, port: u32) -> Row {
        Row::Bridge(BridgeRow { bridge: 4, port, mac: mac(last), vlan: None, life: Life::Static })
    }

    fn learn(mirror: &mut Mirror, overlay: u16, last: u8, vtep: IpAddr) -> Effects {
        let overlay = OverlayId::new(overlay);
        mirror.row(overlay, &bridge(last, VXLAN), true);
        mirror.row(overlay, &tunnel(last, vtep), true)
    }

    #[test]
    fn a_vtep_is_announced_before_the_first_row_that_names_it() {
        let mut mirror = mirror();
        let effects = learn(&mut mirror, 0, 3, ip(22));
        let unresolved = Resolution::Unresolved(Unresolved::NoRoute);
        assert_eq!(
            effects.changes,
            [
                Change::Vtep { id: VtepId::new(0), address: ip(22), resolution: unresolved },
                Change::Mac { overlay: FIRST, mac: mac(3), place: Some(Place::Remote(VtepId::new(0))) },
            ]
        );
        assert_eq!(effects.ask_route, [ip(22)]);
        assert!(learn(&mut mirror, 1, 3, ip(22)).ask_route.is_empty());
    }

    #[test]
    fn a_vtep_goes_after_its_last_row_and_its_number_is_given_again() {
        let mut mirror = mirror();
        learn(&mut mirror, 0, 3, ip(22));
        learn(&mut mirror, 0, 4, ip(22));
        let first = mirror.row(FIRST, &tunnel(3, ip(22)), false);
        assert_eq!(first.changes, [Change::Mac { overlay: FIRST, mac: mac(3), place: None }]);
        let last = mirror.row(FIRST, &tunnel(4, ip(22)), false);
        assert_eq!(last.changes.last(), Some(&Change::VtepGone { id: VtepId::new(0), address: ip(22) }));
        learn(&mut mirror, 0, 5, ip(23));
        assert_eq!(mirror.vtep(ip(23)), Some(VtepId::new(0)));
        assert_eq!(mirror.nexthops().vteps().collect::<Vec<_>>(), [ip(23)]);
    }

    #[test]
    fn a_mac_that_moves_between_vteps_is_never_without_one() {
        let mut mirror = mirror();
        learn(&mut mirror, 0, 3, ip(22));
        let effects = mirror.row(FIRST, &tunnel(3, ip(23)), true);
        let places: Vec<_> = effects.changes.iter().filter(|c| matches!(c, Change::Mac { .. })).collect();
        assert_eq!(
            places,
            [&Change::Mac { overlay: FIRST, mac: mac(3), place: Some(Place::Remote(VtepId::new(1))) }]
        );
        assert_eq!(effects.changes.last(), Some(&Change::VtepGone { id: VtepId::new(0), address: ip(22) }));
    }

    #[test]
    fn a_route_and_a_neighbour_together_resolve_a_vtep() {
        let mut mirror = mirror();
        learn(&mut mirror, 0, 3, ip(22));
        mirror.routed(ip(22), Some(Route { device: NIC, gateway: None, mtu: None }));
        let row =
            NeighbourRow { device: NIC, address: ip(22), mac: Some(HOP), valid: true, upkeep: Upkeep::Use };
        let effects = mirror.neighbour(&row, true);
        let resolution = Resolution::Resolved { next_hop: HOP, mtu: None };
        assert_eq!(effects.changes, [Change::Vtep { id: VtepId::new(0), address: ip(22), resolution }]);
        let effects = mirror.neighbours_dumped(NIC, &[]);
        let resolution = Resolution::Unresolved(Unresolved::NoNeighbour(ip(22)));
        assert_eq!(effects.changes, [Change::Vtep { id: VtepId::new(0), address: ip(22), resolution }]);
    }

    #[test]
    fn macs_behind_a_bridge_port_follow_its_port_in_and_out_of_service() {
        let mut mirror = mirror();
        let known = mirror.row(FIRST, &bridge(2, VETH), true);
        assert_eq!(known.changes, [Change::Mac { overlay: FIRST, mac: mac(2), place: None }]);
        let place = Some(Place::Local(PortId::new(7)));
        let change = |place| vec![Change::Mac { overlay: FIRST, mac: mac(2), place }];
        assert_eq!(mirror.port_up(FIRST, VETH, PortId::new(7)).changes, change(place));
        assert_eq!(mirror.port_up(FIRST, VETH, PortId::new(7)), Effects::default());
        assert_eq!(mirror.port_down(FIRST, VETH).changes, change(None));
    }

    #[test]
    fn one_overlays_rows_are_not_anothers() {
        let mut mirror = mirror();
        learn(&mut mirror, 0, 3, ip(22));
        assert_eq!(mirror.fdb(OverlayId::new(1)).map(Fdb::len), Some(0));
        learn(&mut mirror, 1, 3, ip(23));
        assert_eq!(mirror.fdb(FIRST).and_then(|fdb| fdb.target(mac(3))), Some(Target::Vtep(ip(22))));
    }

    #[test]
    fn a_full_mirror_leaves_new_macs_to_the_kernel_and_keeps_following_known_ones() {
        let mut mirror = Mirror::new(NIC, vec![fdb()], Limits { macs: 1, learned: 1 });
        learn(&mut mirror, 0, 3, ip(22));
        let refused = Effects { refused: true, ..Effects::default() };
        assert_eq!(learn(&mut mirror, 0, 4, ip(22)), refused);
        assert!(!learn(&mut mirror, 0, 3, ip(23)).changes.is_empty());
    }

    #[test]
    fn a_dump_after_lost_events_heals_the_table() {
        let mut mirror = mirror();
        learn(&mut mirror, 0, 3, ip(22));
        let mut fresh = fdb();
        for row in [bridge(4, VXLAN), tunnel(4, ip(23))] {
            fresh.row(&row, true);
        }
        mirror.dumped(FIRST, fresh);
        assert_eq!(mirror.vtep(ip(22)), None);
        assert_eq!(mirror.fdb(FIRST).and_then(|fdb| fdb.target(mac(4))), Some(Target::Vtep(ip(23))));
    }
}
