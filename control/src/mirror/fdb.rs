//! Decides for every MAC of one overlay whether the fast path may carry it, and where to.
//!
//! The fast path carries a MAC only where the kernel's answer is one single thing: one container port, or
//! one VTEP with the device's own VNI and UDP port, behind the bridge's tunnel port.
//! Everything else stays with the kernel.

mod doubt;
mod limit;

use std::collections::HashMap;
use std::net::IpAddr;

use vxdp_dataplane::wire::{MacAddr, Vni};

use super::message::{BridgeRow, Life, Row, TunnelRow};

pub use limit::Limits;

/// Where the fast path sends frames for a MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A bridge port, by its device index.
    Port(u32),
    /// A VTEP.
    Vtep(IpAddr),
}

/// A change of what the fast path may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetChange {
    /// The MAC.
    pub mac: MacAddr,
    /// Its new target; `None`: the kernel's business.
    pub target: Option<Target>,
}

/// The tunnel row of one MAC, as far as it matters.
///
/// A unicast MAC has one VTEP: the kernel appends further ones only to multicast and all-zero rows
/// (`vxlan_fdb_update_existing`, `drivers/net/vxlan/vxlan_core.c`), so a report of another VTEP is a
/// move or a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tunnel {
    /// No row.
    None,
    /// A VTEP, with the device's VNI and UDP port.
    Vtep(IpAddr),
    /// A next-hop group, or another VNI, UDP port or device: the kernel's business.
    Special,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    tunnel: Tunnel,
    tunnel_life: Life,
    bridge: Option<(u32, Life)>,
    target: Option<Target>,
    /// Whether a row of it was not found when the tables were last read ([`Fdb::keep_doubtful`]).
    in_doubt: bool,
}

impl Default for Entry {
    fn default() -> Self {
        let (tunnel, tunnel_life) = (Tunnel::None, Life::Dynamic);
        Self { tunnel, tunnel_life, bridge: None, target: None, in_doubt: false }
    }
}

impl Entry {
    /// Whether no row of it was added by anybody.
    fn is_learned(&self) -> bool {
        let bridge = self.bridge.is_none_or(|(_, life)| life == Life::Dynamic);
        bridge && (self.tunnel == Tunnel::None || self.tunnel_life == Life::Dynamic)
    }
}

/// The forwarding rows of one overlay.
#[derive(Debug)]
pub struct Fdb {
    vni: Vni,
    port: u16,
    vxlan: u32,
    entries: HashMap<MacAddr, Entry>,
    /// Entries that were only learned.
    learned: usize,
    /// MACs that have a place whatever else is learned.
    expected: Vec<MacAddr>,
}

/// Which of a MAC's rows age out when nobody uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ageing {
    /// The bridge row's port.
    pub bridge_port: Option<u32>,
    /// The tunnel row's VTEP.
    pub vtep: Option<IpAddr>,
}

impl Fdb {
    /// An empty table of the overlay with this VNI and UDP port, whose vxlan device has index `vxlan`.
    pub fn new(vni: Vni, port: u16, vxlan: u32) -> Self {
        Self { vni, port, vxlan, entries: HashMap::new(), learned: 0, expected: Vec::new() }
    }

    /// Number of MACs that were only learned.
    pub fn learned(&self) -> usize {
        self.learned
    }

    /// Whether this MAC has any row.
    pub fn knows(&self, mac: MacAddr) -> bool {
        self.entries.contains_key(&mac)
    }

    /// Index of the vxlan device.
    pub fn vxlan(&self) -> u32 {
        self.vxlan
    }

    /// Number of MACs with any row.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no MAC has a row.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The fast path's target of `mac`.
    pub fn target(&self, mac: MacAddr) -> Option<Target> {
        self.entries.get(&mac).and_then(|entry| entry.target)
    }

    /// Every MAC that the fast path carries.
    pub fn targets(&self) -> impl Iterator<Item = (MacAddr, Target)> + '_ {
        self.entries.iter().filter_map(|(mac, entry)| Some((*mac, entry.target?)))
    }

    /// Rows of `mac` that must be refreshed in the kernel while only the fast path uses them.
    pub fn ageing(&self, mac: MacAddr) -> Option<Ageing> {
        let entry = self.entries.get(&mac)?;
        let bridge_port = entry.bridge.filter(|(_, life)| *life == Life::Dynamic).map(|(port, _)| port);
        let vtep = match entry.tunnel {
            Tunnel::Vtep(vtep) if entry.tunnel_life == Life::Dynamic => Some(vtep),
            _ => None,
        };
        (bridge_port.is_some() || vtep.is_some()).then_some(Ageing { bridge_port, vtep })
    }

    /// A row appeared or changed (`present`), or went.
    pub fn row(&mut self, row: &Row, present: bool) -> Option<TargetChange> {
        match (row, present) {
            (Row::Bridge(row), true) => self.bridge_row(row),
            (Row::Bridge(row), false) => self.bridge_row_gone(row),
            (Row::Tunnel(row), true) => self.tunnel_row(row),
            (Row::Tunnel(row), false) => self.tunnel_row_gone(row),
            (Row::Neighbour(_), _) => None,
        }
    }

    /// Whether the row is one of this table's.
    pub fn is_about(&self, row: &Row) -> bool {
        match row {
            // A row of a VLAN-aware bridge says nothing of untagged frames; such overlays stay in the kernel.
            Row::Bridge(row) => row.vlan.is_none(),
            Row::Tunnel(row) => row.device == self.vxlan && !row.mac.is_zero(),
            Row::Neighbour(_) => false,
        }
    }

    /// A bridge row appeared or changed.
    pub fn bridge_row(&mut self, row: &BridgeRow) -> Option<TargetChange> {
        if row.vlan.is_some() {
            return None;
        }
        self.update(row.mac, |entry| entry.bridge = Some((row.port, row.life)))
    }

    /// A bridge row went.
    pub fn bridge_row_gone(&mut self, row: &BridgeRow) -> Option<TargetChange> {
        if row.vlan.is_some() {
            return None;
        }
        self.update(row.mac, |entry| {
            if entry.bridge.is_some_and(|(port, _)| port == row.port) {
                entry.bridge = None;
            }
        })
    }

    /// A tunnel row appeared or changed.
    pub fn tunnel_row(&mut self, row: &TunnelRow) -> Option<TargetChange> {
        if row.device != self.vxlan || row.mac.is_zero() {
            return None;
        }
        let tunnel = match row.vtep {
            Some(vtep) if self.is_plain(row) => Tunnel::Vtep(vtep),
            _ => Tunnel::Special,
        };
        self.update(row.mac, |entry| {
            entry.tunnel = tunnel;
            entry.tunnel_life = row.life;
        })
    }

    /// A tunnel row went.
    pub fn tunnel_row_gone(&mut self, row: &TunnelRow) -> Option<TargetChange> {
        if row.device != self.vxlan || row.mac.is_zero() {
            return None;
        }
        self.update(row.mac, |entry| entry.tunnel = Tunnel::None)
    }

    /// What changes for the fast path when this table takes the place of `old`.
    pub fn changes_since(&self, old: &Self) -> Vec<TargetChange> {
        let lost = old.targets().filter(|(mac, _)| self.target(*mac).is_none());
        let lost = lost.map(|(mac, _)| TargetChange { mac, target: None });
        let new = self.targets().filter(|(mac, target)| old.target(*mac) != Some(*target));
        lost.chain(new.map(|(mac, target)| TargetChange { mac, target: Some(target) })).collect()
    }

    fn is_plain(&self, row: &TunnelRow) -> bool {
        row.vni.is_none_or(|vni| vni == self.vni)
            && row.port.is_none_or(|port| port == self.port)
            && row.via.is_none_or(|via| via == 0)
    }

    fn update(&mut self, mac: MacAddr, change: impl FnOnce(&mut Entry)) -> Option<TargetChange> {
        let is_new = !self.entries.contains_key(&mac);
        let entry = self.entries.entry(mac).or_default();
        let was_learned = !is_new && entry.is_learned();
        entry.in_doubt = false;
        change(entry);
        let target = match (entry.bridge, entry.tunnel) {
            // The kernel takes a row for a group address, and forwards by its multicast database all the same.
            _ if !mac.is_valid_station() => None,
            (Some((port, _)), Tunnel::Vtep(vtep)) if port == self.vxlan => Some(Target::Vtep(vtep)),
            // The bridge's own addresses are permanent rows on its ports and on itself.
            (Some((port, life)), _) if port != self.vxlan && life != Life::Permanent => {
                Some(Target::Port(port))
            }
            _ => None,
        };
        let before = std::mem::replace(&mut entry.target, target);
        let is_empty = entry.bridge.is_none() && entry.tunnel == Tunnel::None;
        let is_learned = !is_empty && entry.is_learned();
        self.learned = self.learned + usize::from(is_learned) - usize::from(was_learned);
        if is_empty {
            self.entries.remove(&mac);
        }
        (before != target).then_some(TargetChange { mac, target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr::new([2, 0x42, 10, 0, 0, 3]);
    const VXLAN: u32 = 5;
    const BRIDGE: u32 = 4;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 168, 10, last])
    }

    fn fdb() -> Fdb {
        Fdb::new(Vni::from_wire([0, 0, 42]), 4789, VXLAN)
    }

    fn tunnel(vtep: IpAddr) -> TunnelRow {
        TunnelRow {
            device: VXLAN,
            mac: MAC,
            vtep: Some(vtep),
            vni: None,
            port: None,
            via: None,
            life: Life::Permanent,
        }
    }

    fn bridge(port: u32) -> BridgeRow {
        BridgeRow { bridge: BRIDGE, port, mac: MAC, vlan: None, life: Life::Static }
    }

    fn known() -> Fdb {
        let mut fdb = fdb();
        assert_eq!(fdb.tunnel_row(&tunnel(ip(22))), None);
        let change = TargetChange { mac: MAC, target: Some(Target::Vtep(ip(22))) };
        assert_eq!(fdb.bridge_row(&bridge(VXLAN)), Some(change));
        fdb
    }

    #[test]
    fn a_remote_needs_both_its_rows() {
        let mut fdb = known();
        let gone = TargetChange { mac: MAC, target: None };
        assert_eq!(fdb.bridge_row_gone(&bridge(VXLAN)), Some(gone));
        assert_eq!(fdb.tunnel_row_gone(&tunnel(ip(22))), None);
        assert!(fdb.is_empty());
    }

    #[test]
    fn a_row_of_another_vni_or_port_stays_with_the_kernel() {
        for special in [
            TunnelRow { vni: Vni::new(43).ok(), ..tunnel(ip(22)) },
            TunnelRow { port: Some(8472), ..tunnel(ip(22)) },
            TunnelRow { vtep: None, ..tunnel(ip(22)) },
            TunnelRow { via: Some(9), ..tunnel(ip(22)) },
        ] {
            let mut fdb = fdb();
            fdb.bridge_row(&bridge(VXLAN));
            assert_eq!(fdb.tunnel_row(&special), None, "{special:?}");
            assert_eq!(fdb.target(MAC), None);
        }
    }

    #[test]
    fn a_replaced_vtep_takes_the_place_of_the_old_one() {
        let mut fdb = known();
        let moved = TargetChange { mac: MAC, target: Some(Target::Vtep(ip(23))) };
        assert_eq!(fdb.tunnel_row(&tunnel(ip(23))), Some(moved));
    }

    #[test]
    fn a_mac_that_moves_to_a_container_port_leaves_the_tunnel() {
        let mut fdb = known();
        let moved = TargetChange { mac: MAC, target: Some(Target::Port(8)) };
        assert_eq!(fdb.bridge_row(&BridgeRow { port: 8, ..bridge(VXLAN) }), Some(moved));
        // The row of the port it left is reported gone after that of the port it came to.
        assert_eq!(fdb.bridge_row_gone(&bridge(VXLAN)), None);
        assert_eq!(fdb.target(MAC), Some(Target::Port(8)));
    }

    #[test]
    fn the_bridges_own_addresses_are_no_targets() {
        let mut fdb = fdb();
        let own = BridgeRow { port: BRIDGE, life: Life::Permanent, ..bridge(0) };
        assert_eq!(fdb.bridge_row(&own), None);
        assert_eq!(fdb.target(MAC), None);
    }

    #[test]
    fn a_dump_that_finds_what_was_known_changes_nothing() {
        assert!(known().changes_since(&known()).is_empty());
        assert_eq!(
            known().changes_since(&fdb()),
            [TargetChange { mac: MAC, target: Some(Target::Vtep(ip(22))) }]
        );
    }

    #[test]
    fn only_learned_rows_need_refreshing() {
        let mut fdb = known();
        assert_eq!(fdb.ageing(MAC), None);
        fdb.tunnel_row(&TunnelRow { life: Life::Dynamic, ..tunnel(ip(22)) });
        assert_eq!(fdb.ageing(MAC), Some(Ageing { bridge_port: None, vtep: Some(ip(22)) }));
    }

    #[test]
    fn a_group_address_is_nobodys_target() {
        let mut fdb = fdb();
        let group = MacAddr::new([1, 0, 0x5e, 0, 0, 1]);
        assert_eq!(fdb.bridge_row(&BridgeRow { mac: group, ..bridge(VXLAN) }), None);
        assert_eq!(fdb.tunnel_row(&TunnelRow { mac: group, ..tunnel(ip(22)) }), None);
        assert_eq!(fdb.bridge_row(&BridgeRow { mac: group, ..bridge(6) }), None);
        assert_eq!(fdb.targets().count(), 0);
    }

    #[test]
    fn learned_macs_have_a_limit_of_their_own_and_configured_ones_do_not_count() {
        let limits = Limits { macs: 3, learned: 1 };
        let learned = |last| {
            let mac = MacAddr::new([2, 0, 0, 0, 0, last]);
            BridgeRow { mac, life: Life::Dynamic, ..bridge(VXLAN) }
        };
        let mut fdb = known();
        assert!(fdb.has_room_for(&Row::Bridge(learned(1)), limits));
        fdb.bridge_row(&learned(1));
        fdb.bridge_row(&learned(1));
        assert!(!fdb.has_room_for(&Row::Bridge(learned(2)), limits));
        let first_again = TunnelRow { mac: learned(1).mac, life: Life::Dynamic, ..tunnel(ip(22)) };
        assert!(fdb.has_room_for(&Row::Tunnel(first_again), limits));
        let configured = BridgeRow { life: Life::Static, ..learned(3) };
        assert!(fdb.has_room_for(&Row::Bridge(configured), limits));
        // One that somebody adds later makes room for another one, and so does one that goes.
        fdb.bridge_row(&BridgeRow { life: Life::Static, ..learned(1) });
        assert!(fdb.has_room_for(&Row::Bridge(learned(2)), limits));
        fdb.bridge_row(&learned(2));
        assert!(!fdb.has_room_for(&Row::Bridge(configured), limits), "three MACs are all there may be");
        fdb.bridge_row_gone(&learned(2));
        assert!(fdb.has_room_for(&Row::Bridge(learned(4)), limits));
        let full = Limits { macs: 0, learned: 0 };
        assert!(!fdb.has_room_for(&Row::Bridge(learned(5)), full));
        let fdb = fdb.expecting(&[learned(5).mac]);
        assert!(fdb.has_room_for(&Row::Bridge(learned(5)), full), "a container of ours");
    }

    #[test]
    fn the_flood_list_is_nobodys_target() {
        let mut fdb = fdb();
        assert_eq!(fdb.tunnel_row(&TunnelRow { mac: MacAddr::ZERO, ..tunnel(ip(22)) }), None);
        assert!(fdb.is_empty());
    }
}
