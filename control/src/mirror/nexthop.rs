//! Next hops of the VTEPs: routes and neighbours in, resolved outer addresses out.
//!
//! The kernel's own route lookup is asked for each VTEP, so policy rules and gateways count as they do for
//! the kernel's tunnel; this file only remembers the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use vxdp_dataplane::wire::MacAddr;

use super::message::{NeighbourRow, Upkeep};

/// The kernel's answer to a route lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Outgoing device.
    pub device: u32,
    /// Gateway; `None`: the VTEP is on the link.
    pub gateway: Option<IpAddr>,
    /// Path MTU, where the route names one.
    pub mtu: Option<u32>,
}

/// What the fast path can do with a VTEP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Frames go to this link-layer address.
    Resolved {
        /// Destination of the outer Ethernet header.
        next_hop: MacAddr,
        /// Path MTU, where the route names one.
        mtu: Option<u32>,
    },
    /// Frames go to the kernel.
    Unresolved(Unresolved),
}

/// Why a VTEP has no next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The kernel has no route to it.
    #[error("no route")]
    NoRoute,
    /// Its route leaves through a device that is not the underlay's.
    #[error("its route leaves through another device")]
    OtherDevice,
    /// ARP or ND has no answer yet.
    #[error("next hop {0} has no link-layer address yet")]
    NoNeighbour(IpAddr),
}

/// The VTEPs in use and what is known of their next hops.
#[derive(Debug)]
pub struct Nexthops {
    underlay: u32,
    routes: BTreeMap<IpAddr, Option<Route>>,
    neighbours: BTreeMap<IpAddr, MacAddr>,
    /// Of the entries that more than use keeps valid.
    upkeep: BTreeMap<IpAddr, Upkeep>,
}

impl Nexthops {
    /// No VTEPs; `underlay` is the index of the underlay device.
    pub fn new(underlay: u32) -> Self {
        Self { underlay, routes: BTreeMap::new(), neighbours: BTreeMap::new(), upkeep: BTreeMap::new() }
    }

    /// Starts to follow a VTEP; true if it is new, and a route must be asked for.
    pub fn follow(&mut self, vtep: IpAddr) -> bool {
        if self.routes.contains_key(&vtep) {
            return false;
        }
        self.routes.insert(vtep, None);
        true
    }

    /// Ends following a VTEP.
    pub fn forget(&mut self, vtep: IpAddr) {
        self.routes.remove(&vtep);
    }

    /// The VTEPs followed.
    pub fn vteps(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.routes.keys().copied()
    }

    /// The next hops of all VTEPs.
    pub fn hops(&self) -> BTreeSet<IpAddr> {
        self.routes.iter().filter_map(|(vtep, route)| self.hop(*vtep, route.as_ref()?)).collect()
    }

    /// Whether a route leaves through `device`.
    pub fn leave_through(&self, device: u32) -> bool {
        self.routes.values().flatten().any(|route| route.device == device)
    }

    /// Who keeps the neighbour entry of `hop` valid.
    pub fn upkeep(&self, hop: IpAddr) -> Upkeep {
        self.upkeep.get(&hop).copied().unwrap_or(Upkeep::Use)
    }

    /// The kernel's answer about `vtep`: true if its resolution changed.
    pub fn routed(&mut self, vtep: IpAddr, route: Option<Route>) -> bool {
        let before = self.resolve(vtep);
        self.routes.insert(vtep, route);
        before != self.resolve(vtep)
    }

    /// A neighbour entry appeared or changed; answers the VTEPs whose resolution changed.
    pub fn neighbour(&mut self, row: &NeighbourRow) -> Vec<IpAddr> {
        if row.device != self.underlay {
            return Vec::new();
        }
        self.tend(row);
        match row.mac.filter(|_| row.valid) {
            Some(mac) if self.neighbours.insert(row.address, mac) == Some(mac) => Vec::new(),
            Some(_) => self.behind(row.address),
            None if self.neighbours.remove(&row.address).is_some() => self.behind(row.address),
            None => Vec::new(),
        }
    }

    fn tend(&mut self, row: &NeighbourRow) {
        match row.upkeep {
            Upkeep::Use => self.upkeep.remove(&row.address),
            kept => self.upkeep.insert(row.address, kept),
        };
    }

    /// A neighbour entry went; answers the VTEPs whose resolution changed.
    pub fn neighbour_gone(&mut self, row: &NeighbourRow) -> Vec<IpAddr> {
        if row.device != self.underlay {
            return Vec::new();
        }
        self.upkeep.remove(&row.address);
        match self.neighbours.remove(&row.address) {
            Some(_) => self.behind(row.address),
            None => Vec::new(),
        }
    }

    /// A fresh dump takes the place of the neighbour table; answers the VTEPs whose resolution changed.
    ///
    /// `underlay` is the index of the underlay device now; it may have been replaced.
    pub fn neighbours_dumped(&mut self, underlay: u32, rows: &[NeighbourRow]) -> Vec<IpAddr> {
        let before: Vec<_> = self.vteps().map(|vtep| (vtep, self.resolve(vtep))).collect();
        self.underlay = underlay;
        self.upkeep.clear();
        rows.iter().filter(|row| row.device == underlay).for_each(|row| self.tend(row));
        let usable = rows.iter().filter(|row| row.device == underlay && row.valid);
        self.neighbours = usable.filter_map(|row| Some((row.address, row.mac?))).collect();
        let moved = before.into_iter().filter(|(vtep, resolution)| self.resolve(*vtep) != *resolution);
        moved.map(|(vtep, _)| vtep).collect()
    }

    /// What the fast path can do with `vtep`.
    pub fn resolve(&self, vtep: IpAddr) -> Resolution {
        let Some(Some(route)) = self.routes.get(&vtep) else {
            return Resolution::Unresolved(Unresolved::NoRoute);
        };
        let Some(hop) = self.hop(vtep, route) else {
            return Resolution::Unresolved(Unresolved::OtherDevice);
        };
        match self.neighbours.get(&hop) {
            Some(mac) => Resolution::Resolved { next_hop: *mac, mtu: route.mtu },
            None => Resolution::Unresolved(Unresolved::NoNeighbour(hop)),
        }
    }

    fn hop(&self, vtep: IpAddr, route: &Route) -> Option<IpAddr> {
        (route.device == self.underlay).then(|| route.gateway.unwrap_or(vtep))
    }

    fn behind(&self, hop: IpAddr) -> Vec<IpAddr> {
        let routes = self.routes.iter();
        let through = |(vtep, route): (&IpAddr, &Option<Route>)| {
            (self.hop(*vtep, route.as_ref()?)? == hop).then_some(*vtep)
        };
        routes.filter_map(through).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC: u32 = 2;
    const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 168, 10, last])
    }

    fn row(last: u8, mac: Option<MacAddr>) -> NeighbourRow {
        NeighbourRow { device: NIC, address: ip(last), mac, valid: mac.is_some(), upkeep: Upkeep::Use }
    }

    fn on_link() -> Nexthops {
        let mut hops = Nexthops::new(NIC);
        assert!(hops.follow(ip(22)));
        hops.routed(ip(22), Some(Route { device: NIC, gateway: None, mtu: None }));
        hops
    }

    #[test]
    fn a_vtep_on_the_link_is_resolved_by_its_own_neighbour() {
        let mut hops = on_link();
        assert_eq!(hops.resolve(ip(22)), Resolution::Unresolved(Unresolved::NoNeighbour(ip(22))));
        assert_eq!(hops.neighbour(&row(22, Some(MAC))), [ip(22)]);
        assert_eq!(hops.resolve(ip(22)), Resolution::Resolved { next_hop: MAC, mtu: None });
    }

    #[test]
    fn a_neighbour_confirmed_again_changes_nothing() {
        let mut hops = on_link();
        hops.neighbour(&row(22, Some(MAC)));
        assert!(hops.neighbour(&row(22, Some(MAC))).is_empty());
    }

    #[test]
    fn an_entry_that_somebody_writes_anew_is_kept_as_they_say() {
        let mut hops = on_link();
        hops.neighbour(&NeighbourRow { upkeep: Upkeep::Managed, ..row(22, Some(MAC)) });
        assert_eq!(hops.upkeep(ip(22)), Upkeep::Managed);
        hops.neighbour(&row(22, Some(MAC)));
        assert_eq!(hops.upkeep(ip(22)), Upkeep::Use);
        hops.neighbours_dumped(NIC, &[NeighbourRow { upkeep: Upkeep::Permanent, ..row(22, Some(MAC)) }]);
        assert_eq!(hops.upkeep(ip(22)), Upkeep::Permanent);
    }

    #[test]
    fn every_vtep_behind_a_gateway_moves_with_it() {
        let mut hops = Nexthops::new(NIC);
        for vtep in [ip(22), ip(23)] {
            hops.follow(vtep);
            hops.routed(vtep, Some(Route { device: NIC, gateway: Some(ip(1)), mtu: None }));
        }
        assert_eq!(hops.neighbour(&row(1, Some(MAC))), [ip(22), ip(23)]);
        assert_eq!(hops.hops(), BTreeSet::from([ip(1)]));
        assert_eq!(hops.neighbour(&row(1, None)), [ip(22), ip(23)]);
    }

    #[test]
    fn a_route_through_another_device_leaves_the_vtep_to_the_kernel() {
        let mut hops = on_link();
        hops.neighbour(&row(22, Some(MAC)));
        assert!(hops.routed(ip(22), Some(Route { device: 9, gateway: None, mtu: None })));
        assert_eq!(hops.resolve(ip(22)), Resolution::Unresolved(Unresolved::OtherDevice));
    }
}
