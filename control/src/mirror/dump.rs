//! Reading everything there is: at the start, after lost notifications, and for audits.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkMessage;
use vxdp_dataplane::OverlayId;

use super::fact::Fact;
use super::follow::{Failure, Follower, LIMITS, Namespace, empty_fdb};
use super::link::{find_underlay, name_of};
use super::message::{NeighbourRow, Row};
use super::query;
use super::reading::Reading;
use super::work::Work;

impl Follower {
    pub(super) async fn dump_all(&mut self, out: &mut Vec<Fact>) -> Result<(), Failure> {
        let namespaces = (0..self.namespaces.len()).collect();
        let work = Work { host: true, routes: true, namespaces, ..Work::default() };
        self.settle(work, out).await
    }

    pub(super) async fn dump_host(&mut self, work: &mut Work, out: &mut Vec<Fact>) -> Result<(), Failure> {
        self.counters.dumps.fetch_add(1, Relaxed);
        let link = find_underlay(&self.host, &self.underlay_name, self.local).await?;
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
        let devices = self.devices_of(namespace).await?;
        let old = std::mem::replace(&mut self.namespaces[namespace].devices, devices);
        self.port_facts(namespace, &old, work, out);
        let mut reading = self.begin_reading(namespace).await?;
        while let Some(rows) = reading.next().await? {
            self.take_rows(&mut reading, &rows);
        }
        reading.finish(&mut self.mirror, work);
        Ok(())
    }

    /// The devices of our names that are in a namespace now.
    pub(super) async fn devices_of(&self, namespace: usize) -> Result<HashMap<String, u32>, Failure> {
        let links = self.namespaces[namespace].handle.link().get().execute();
        let links: Vec<LinkMessage> = links.try_collect().await?;
        let named = |link: &LinkMessage| Some((name_of(link)?.to_owned(), link.header.index));
        Ok(links.iter().filter_map(named).filter(|(name, _)| self.ours(namespace, name)).collect())
    }

    /// Begins to read the tables of a namespace.
    pub(super) async fn begin_reading(&mut self, namespace: usize) -> Result<Reading, Failure> {
        self.counters.dumps.fetch_add(1, Relaxed);
        let Namespace { overlays, devices, .. } = &self.namespaces[namespace];
        let source = |overlay: OverlayId| &self.sources[usize::from(overlay.get())];
        let empty = |overlay: OverlayId| {
            let vxlan = devices.get(&source(overlay).vxlan).copied().unwrap_or(0);
            (overlay, empty_fdb(source(overlay), vxlan))
        };
        let fresh = overlays.iter().copied().map(empty).collect();
        // All overlays of a namespace name the same one.
        let netns = &source(overlays[0]).netns;
        Ok(Reading::begin(namespace, netns, fresh).await?)
    }

    /// Takes rows that were read.
    pub(super) fn take_rows(&self, reading: &mut Reading, rows: &[Row]) {
        for row in rows {
            if let Some(overlay) = self.overlay_of(reading.namespace, row) {
                reading.take(overlay, row, &self.mirror, LIMITS, &self.counters.refused);
            }
        }
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
