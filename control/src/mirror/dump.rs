//! Reading everything there is: at the start, after lost notifications, and for audits.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkMessage;
use vxdp_dataplane::OverlayId;

use super::fact::Fact;
use super::fdb::{Fdb, Limits};
use super::follow::{Failure, Follower, LIMITS, Namespace, empty_fdb};
use super::link::{find_underlay, name_of};
use super::message::{NeighbourRow, Row};
use super::query;
use super::work::Work;

impl Follower {
    pub(super) async fn dump_all(&mut self, out: &mut Vec<Fact>) -> Result<(), Failure> {
        let namespaces = (0..self.namespaces.len()).collect();
        let work = Work { host: true, routes: true, namespaces, ..Work::default() };
        self.settle(work, out).await
    }

    pub(super) async fn dump_host(&mut self, work: &mut Work, out: &mut Vec<Fact>) -> Result<(), Failure> {
        self.counters.dumps.fetch_add(1, Relaxed);
        let link = find_underlay(&self.host, &self.underlay_name).await?;
        if link != self.underlay {
            self.underlay = link;
            out.push(Fact::Underlay(link));
            work.routes = true;
        }
        let mut rows: Vec<NeighbourRow> = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let dump: Vec<Row> = query::rows(&self.host, family).try_collect().await?;
            rows.extend(dump.iter().filter_map(|row| match row {
                Row::Neighbour(row) => Some(*row),
                _ => None,
            }));
        }
        work.take(self.mirror.neighbours_dumped(link.map_or(0, |link| link.device), &rows));
        Ok(())
    }

    pub(super) async fn dump_namespace(
        &mut self,
        namespace: usize,
        work: &mut Work,
        out: &mut Vec<Fact>,
    ) -> Result<(), Failure> {
        self.counters.dumps.fetch_add(1, Relaxed);
        let handle = self.namespaces[namespace].handle.clone();
        let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
        let named = |link: &LinkMessage| Some((name_of(link)?.to_owned(), link.header.index));
        let devices: HashMap<String, u32> =
            links.iter().filter_map(named).filter(|(name, _)| self.ours(namespace, name)).collect();
        let old = std::mem::replace(&mut self.namespaces[namespace].devices, devices);
        self.port_facts(namespace, &old, work, out);
        let mut fresh: HashMap<OverlayId, Fdb> = HashMap::new();
        for overlay in &self.namespaces[namespace].overlays {
            let source = &self.sources[usize::from(overlay.get())];
            let vxlan = self.namespaces[namespace].devices.get(&source.vxlan).copied().unwrap_or(0);
            fresh.insert(*overlay, empty_fdb(source, vxlan));
        }
        let mut newcomers: HashMap<OverlayId, usize> = HashMap::new();
        let mut rows = Box::pin(query::rows(&handle, AddressFamily::Bridge));
        while let Some(row) = rows.try_next().await? {
            let Some(overlay) = self.overlay_of(namespace, &row) else { continue };
            let Some(fdb) = fresh.get_mut(&overlay) else { continue };
            let (stays, learned) = (self.is_mirrored(overlay, &row), fdb.learned());
            let newcomers = newcomers.entry(overlay).or_default();
            if !fdb.has_room_for(&row, self.dump_limits(overlay, stays, *newcomers)) {
                self.counters.refused.fetch_add(1, Relaxed);
                continue;
            }
            match row {
                Row::Bridge(row) => fdb.bridge_row(&row),
                Row::Tunnel(row) => fdb.tunnel_row(&row),
                Row::Neighbour(_) => None,
            };
            if !stays && fdb.learned() > learned {
                *newcomers += 1;
            }
        }
        for (overlay, fdb) in fresh {
            work.take(self.mirror.dumped(overlay, fdb));
        }
        Ok(())
    }

    /// The limits that hold for a row of a dump: learned MACs that were mirrored before keep their place, and the
    /// rest is for others. By the order of the dump alone, a flood of made-up MACs would push known ones out.
    fn dump_limits(&self, overlay: OverlayId, stays: bool, newcomers: usize) -> Limits {
        let before = self.mirror.fdb(overlay).map_or(0, Fdb::learned);
        let room = newcomers < LIMITS.learned.saturating_sub(before);
        Limits { learned: if stays || room { usize::MAX } else { 0 }, ..LIMITS }
    }

    fn is_mirrored(&self, overlay: OverlayId, row: &Row) -> bool {
        self.mirror.fdb(overlay).zip(row.mac()).is_some_and(|(fdb, mac)| fdb.knows(mac))
    }

    fn port_facts(
        &mut self,
        namespace: usize,
        old: &HashMap<String, u32>,
        work: &mut Work,
        out: &mut Vec<Fact>,
    ) {
        let Namespace { overlays, devices, .. } = &self.namespaces[namespace];
        for overlay in overlays.iter().copied() {
            for (port, name) in self.sources[usize::from(overlay.get())].ports.iter().enumerate() {
                let (before, after) = (old.get(name), devices.get(name));
                if before == after {
                    continue;
                }
                if let Some(device) = before.copied() {
                    work.take(self.mirror.port_down(overlay, device));
                    out.push(Fact::PortVanished { overlay, port, device });
                }
                if let Some(device) = after.copied() {
                    out.push(Fact::PortAppeared { overlay, port, device });
                }
            }
        }
    }
}
