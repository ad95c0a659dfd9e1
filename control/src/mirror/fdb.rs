//! Decides for every MAC of one overlay whether the fast path may carry it, and where to.
//!
//! The fast path carries a MAC only where the kernel's answer is one single thing: one container port, or
//! one VTEP with the device's own VNI and UDP port, behind the bridge's tunnel port.
//! Everything else stays with the kernel.

use std::collections::HashMap;
use std::net::IpAddr;

use vxdp_dataplane::wire::{MacAddr, Vni};

use super::message::{BridgeRow, Life, TunnelRow};

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

/// What one event asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing that the fast path would notice.
    Same,
    /// A new target.
    Changed(TargetChange),
    /// The event does not tell whether a VTEP was replaced or appended: the fast path lets go of the MAC
    /// (`change`, if it had it), and the kernel must be asked for the first VTEP of the row.
    Ask {
        /// The MAC to ask for.
        mac: MacAddr,
        /// Its loss of a target, if it had one.
        change: Option<TargetChange>,
    },
}

/// The VTEPs of one MAC, as far as they matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tunnel {
    /// No row.
    None,
    /// One VTEP, with the device's VNI and UDP port.
    One(IpAddr),
    /// A second VTEP was reported beside `old`; whether it took its place is being asked.
    Unsure { old: IpAddr, new: IpAddr },
    /// Several VTEPs, a next-hop group, or another VNI, UDP port or device: the kernel's business.
    Special,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    tunnel: Tunnel,
    tunnel_life: Life,
    bridge: Option<(u32, Life)>,
    target: Option<Target>,
}

impl Default for Entry {
    fn default() -> Self {
        Self { tunnel: Tunnel::None, tunnel_life: Life::Dynamic, bridge: None, target: None }
    }
}

/// The forwarding rows of one overlay.
#[derive(Debug)]
pub struct Fdb {
    vni: Vni,
    port: u16,
    vxlan: u32,
    entries: HashMap<MacAddr, Entry>,
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
        Self { vni, port, vxlan, entries: HashMap::new() }
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
            Tunnel::One(vtep) if entry.tunnel_life == Life::Dynamic => Some(vtep),
            _ => None,
        };
        (bridge_port.is_some() || vtep.is_some()).then_some(Ageing { bridge_port, vtep })
    }

    /// A bridge row appeared or changed.
    pub fn bridge_row(&mut self, row: &BridgeRow) -> Outcome {
        // A row of a VLAN-aware bridge says nothing of untagged frames; such overlays stay in the kernel.
        if row.vlan.is_some() {
            return Outcome::Same;
        }
        self.update(row.mac, |entry| entry.bridge = Some((row.port, row.life)))
    }

    /// A bridge row went.
    pub fn bridge_row_gone(&mut self, row: &BridgeRow) -> Outcome {
        if row.vlan.is_some() {
            return Outcome::Same;
        }
        self.update(row.mac, |entry| {
            if entry.bridge.is_some_and(|(port, _)| port == row.port) {
                entry.bridge = None;
            }
        })
    }

    /// A tunnel row appeared or changed.
    pub fn tunnel_row(&mut self, row: &TunnelRow) -> Outcome {
        if row.device != self.vxlan || row.mac.is_zero() {
            return Outcome::Same;
        }
        let plain = self.is_plain(row);
        let old = self.entries.get(&row.mac).map_or(Tunnel::None, |entry| entry.tunnel);
        let new = match (old, row.vtep) {
            (_, None) => Tunnel::Special,
            (Tunnel::None, Some(vtep)) if plain => Tunnel::One(vtep),
            (Tunnel::One(old), Some(vtep)) if plain && old == vtep => Tunnel::One(old),
            // The kernel reports a moved MAC, a replaced row and an appended VTEP by the same message.
            (Tunnel::One(old), Some(new)) if plain => Tunnel::Unsure { old, new },
            (Tunnel::Unsure { old, .. }, Some(new)) if plain => Tunnel::Unsure { old, new },
            (Tunnel::Special, Some(_)) | (_, Some(_)) => Tunnel::Special,
        };
        let change = self.update(row.mac, |entry| {
            entry.tunnel = new;
            entry.tunnel_life = row.life;
        });
        match (new, change) {
            (Tunnel::Unsure { .. }, Outcome::Changed(change)) => {
                Outcome::Ask { mac: row.mac, change: Some(change) }
            }
            (Tunnel::Unsure { .. }, _) => Outcome::Ask { mac: row.mac, change: None },
            (_, change) => change,
        }
    }

    /// A tunnel row, or one VTEP of it, went.
    pub fn tunnel_row_gone(&mut self, row: &TunnelRow) -> Outcome {
        if row.device != self.vxlan || row.mac.is_zero() {
            return Outcome::Same;
        }
        let Some(entry) = self.entries.get(&row.mac) else { return Outcome::Same };
        let (new, ask) = match (entry.tunnel, row.vtep) {
            (Tunnel::One(vtep), gone) if gone.is_none() || gone == Some(vtep) => (Tunnel::None, false),
            (Tunnel::Unsure { old, new }, Some(gone)) if gone == old => (Tunnel::One(new), false),
            (Tunnel::Unsure { old, new }, Some(gone)) if gone == new => (Tunnel::One(old), false),
            // One of several went: what is left must be asked.
            (Tunnel::Special, _) => (Tunnel::Special, true),
            (kept, _) => (kept, false),
        };
        match self.update(row.mac, |entry| entry.tunnel = new) {
            Outcome::Changed(change) if ask => Outcome::Ask { mac: row.mac, change: Some(change) },
            _ if ask => Outcome::Ask { mac: row.mac, change: None },
            outcome => outcome,
        }
    }

    /// The kernel's answer about `mac`: the first VTEP of its row, or `None` where it has no row.
    ///
    /// A row whose first VTEP is the new one was replaced; an appended VTEP stands behind the old one
    /// (`vxlan_fdb_append` adds at the tail, `drivers/net/vxlan/vxlan_core.c`).
    pub fn answered(&mut self, mac: MacAddr, first: Option<&TunnelRow>) -> Outcome {
        let Some(entry) = self.entries.get(&mac) else { return Outcome::Same };
        let tunnel = match (entry.tunnel, first) {
            (_, None) => Tunnel::None,
            (Tunnel::Unsure { new, .. }, Some(row)) if row.vtep == Some(new) && self.is_plain(row) => {
                Tunnel::One(new)
            }
            (Tunnel::Unsure { .. } | Tunnel::Special, Some(_)) => Tunnel::Special,
            (known, Some(_)) => known,
        };
        self.update(mac, |entry| entry.tunnel = tunnel)
    }

    /// The end of a dump into a fresh table: two VTEPs reported for one MAC are two, none was replaced.
    pub fn dumped(&mut self) {
        for entry in self.entries.values_mut() {
            if matches!(entry.tunnel, Tunnel::Unsure { .. }) {
                entry.tunnel = Tunnel::Special;
            }
        }
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

    fn update(&mut self, mac: MacAddr, change: impl FnOnce(&mut Entry)) -> Outcome {
        let entry = self.entries.entry(mac).or_default();
        change(entry);
        let target = match (entry.bridge, entry.tunnel) {
            (Some((port, _)), Tunnel::One(vtep)) if port == self.vxlan => Some(Target::Vtep(vtep)),
            // The bridge's own addresses are permanent rows on its ports and on itself.
            (Some((port, life)), _) if port != self.vxlan && life != Life::Permanent => {
                Some(Target::Port(port))
            }
            _ => None,
        };
        let before = std::mem::replace(&mut entry.target, target);
        if entry.bridge.is_none() && entry.tunnel == Tunnel::None {
            self.entries.remove(&mac);
        }
        if before == target { Outcome::Same } else { Outcome::Changed(TargetChange { mac, target }) }
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
        assert_eq!(fdb.tunnel_row(&tunnel(ip(22))), Outcome::Same);
        let change = TargetChange { mac: MAC, target: Some(Target::Vtep(ip(22))) };
        assert_eq!(fdb.bridge_row(&bridge(VXLAN)), Outcome::Changed(change));
        fdb
    }

    #[test]
    fn a_remote_needs_both_its_rows() {
        let mut fdb = known();
        let gone = TargetChange { mac: MAC, target: None };
        assert_eq!(fdb.bridge_row_gone(&bridge(VXLAN)), Outcome::Changed(gone));
        assert_eq!(fdb.tunnel_row_gone(&tunnel(ip(22))), Outcome::Same);
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
            assert_eq!(fdb.tunnel_row(&special), Outcome::Same, "{special:?}");
            assert_eq!(fdb.target(MAC), None);
        }
    }

    #[test]
    fn a_replaced_vtep_is_used_once_the_kernel_confirms_it() {
        let mut fdb = known();
        let gone = Some(TargetChange { mac: MAC, target: None });
        assert_eq!(fdb.tunnel_row(&tunnel(ip(23))), Outcome::Ask { mac: MAC, change: gone });
        let moved = TargetChange { mac: MAC, target: Some(Target::Vtep(ip(23))) };
        assert_eq!(fdb.answered(MAC, Some(&tunnel(ip(23)))), Outcome::Changed(moved));
    }

    #[test]
    fn an_appended_vtep_makes_the_mac_the_kernels_business_until_it_is_single_again() {
        let mut fdb = known();
        fdb.tunnel_row(&tunnel(ip(23)));
        assert_eq!(fdb.answered(MAC, Some(&tunnel(ip(22)))), Outcome::Same);
        assert_eq!(fdb.target(MAC), None);
        assert_eq!(fdb.tunnel_row_gone(&tunnel(ip(23))), Outcome::Ask { mac: MAC, change: None });
        // One answer cannot prove that a single VTEP is left: the next dump does.
        assert_eq!(fdb.answered(MAC, Some(&tunnel(ip(22)))), Outcome::Same);
        assert_eq!(fdb.target(MAC), None);
        assert_eq!(fdb.answered(MAC, None), Outcome::Same);
    }

    #[test]
    fn a_mac_that_moves_to_a_container_port_leaves_the_tunnel() {
        let mut fdb = known();
        let moved = TargetChange { mac: MAC, target: Some(Target::Port(8)) };
        assert_eq!(fdb.bridge_row(&BridgeRow { port: 8, ..bridge(VXLAN) }), Outcome::Changed(moved));
        // The row of the port it left is reported gone after that of the port it came to.
        assert_eq!(fdb.bridge_row_gone(&bridge(VXLAN)), Outcome::Same);
        assert_eq!(fdb.target(MAC), Some(Target::Port(8)));
    }

    #[test]
    fn the_bridges_own_addresses_are_no_targets() {
        let mut fdb = fdb();
        let own = BridgeRow { port: BRIDGE, life: Life::Permanent, ..bridge(0) };
        assert_eq!(fdb.bridge_row(&own), Outcome::Same);
        assert_eq!(fdb.target(MAC), None);
    }

    #[test]
    fn two_vteps_in_a_dump_are_two() {
        let mut fresh = fdb();
        fresh.bridge_row(&bridge(VXLAN));
        fresh.tunnel_row(&tunnel(ip(22)));
        fresh.tunnel_row(&tunnel(ip(23)));
        fresh.dumped();
        assert_eq!(fresh.changes_since(&known()), [TargetChange { mac: MAC, target: None }]);
        assert_eq!(fresh.answered(MAC, Some(&tunnel(ip(23)))), Outcome::Same);
        assert_eq!(fresh.target(MAC), None);
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
    fn the_flood_list_is_nobodys_target() {
        let mut fdb = fdb();
        assert_eq!(fdb.tunnel_row(&TunnelRow { mac: MacAddr::ZERO, ..tunnel(ip(22)) }), Outcome::Same);
        assert!(fdb.is_empty());
    }
}
