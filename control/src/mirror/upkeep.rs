//! What keeps the kernel's rows and next hops alive while only the fast path uses them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vxdp_dataplane::OverlayId;
use vxdp_dataplane::wire::MacAddr;

use super::fdb::Fdb;
use super::follow::Follower;
use super::message::Upkeep;
use super::query;

impl Follower {
    /// A row that went in the meantime needs no refreshing, and the next audit finds it gone.
    pub(super) async fn refresh(&self, macs: Vec<(OverlayId, MacAddr)>) {
        for (overlay, mac) in macs {
            let Some(ageing) = self.mirror.ageing(overlay, mac) else { continue };
            let Some(vxlan) = self.mirror.fdb(overlay).map(Fdb::vxlan) else { continue };
            let mut namespaces = self.namespaces.iter();
            if let Some(namespace) = namespaces.find(|namespace| namespace.overlays.contains(&overlay)) {
                let _ = query::refresh(&namespace.handle, vxlan, mac, ageing).await;
            }
        }
    }

    /// Keeps the next hops of all VTEPs resolved, and lets go of those no VTEP needs any more.
    pub(super) async fn keep_next_hops(&mut self) {
        let nexthops = self.mirror.nexthops();
        let wanted = nexthops.hops();
        let Some(device) = self.underlay.map(|link| link.device) else { return };
        for hop in wanted.iter().filter(|hop| nexthops.upkeep(**hop) == Upkeep::Use) {
            // Where it fails, frames keep the entry alive for as long as the kernel carries some.
            let _ = query::keep_resolved(&self.host, device, *hop).await;
        }
        self.release_next_hops(&wanted).await;
        self.kept = wanted;
    }

    pub(super) async fn release_next_hops(&self, wanted: &BTreeSet<IpAddr>) {
        let Some(device) = self.underlay.map(|link| link.device) else { return };
        // What is permanent somebody else wrote, or made so since.
        let permanent = |hop: IpAddr| self.mirror.nexthops().upkeep(hop) == Upkeep::Permanent;
        for hop in self.kept.difference(wanted).filter(|hop| !permanent(**hop)) {
            let _ = query::release(&self.host, device, *hop).await;
        }
    }
}
