//! Looking at what is little: devices, and the neighbours of the host. Tables are for `readings`.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use rtnetlink::Handle;

use super::fact::Fact;
use super::follow::{Failure, Follower, Namespace, empty_fdb};
use super::link::{find_underlay, name_of};
use super::message::{NeighbourRow, Row};
use super::readings::ATTEMPTS;
use super::work::Work;
use crate::kernel::netlink::dump;

impl Follower {
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
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            let found = all(&self.host, Message::GetNeighbour(request)).await?;
            rows.extend(found.iter().filter_map(|message| match message {
                Message::NewNeighbour(message) => match Row::read(message)? {
                    Row::Neighbour(row) => Some(row),
                    _ => None,
                },
                _ => None,
            }));
        }
        work.take(self.mirror.neighbours_dumped(link.map_or(0, |link| link.device), &rows));
        Ok(())
    }

    /// Looks which devices a namespace has now; whether a bridge or a vxlan device was made anew.
    ///
    /// Of the rows of a port that comes or goes the kernel tells; those of these two went with them, or came before
    /// we knew them.
    pub(super) async fn look_at_devices(
        &mut self,
        namespace: usize,
        work: &mut Work,
        out: &mut Vec<Fact>,
    ) -> Result<bool, Failure> {
        let devices = self.devices_of(namespace).await?;
        let old = std::mem::replace(&mut self.namespaces[namespace].devices, devices);
        self.port_facts(namespace, &old, work, out);
        let Namespace { overlays, devices, .. } = &self.namespaces[namespace];
        let mut anew = false;
        for overlay in overlays.iter().copied() {
            let source = &self.sources[usize::from(overlay.get())];
            if [&source.bridge, &source.vxlan].into_iter().any(|name| old.get(name) != devices.get(name)) {
                let vxlan = devices.get(&source.vxlan).copied().unwrap_or(0);
                work.take(self.mirror.dumped(overlay, empty_fdb(source, vxlan)));
                anew = true;
            }
        }
        Ok(anew)
    }

    /// The devices of our names that are in a namespace now.
    pub(super) async fn devices_of(&self, namespace: usize) -> Result<HashMap<String, u32>, Failure> {
        let handle = &self.namespaces[namespace].handle;
        let links = all(handle, Message::GetLink(LinkMessage::default())).await?;
        let named = |message: &Message| match message {
            Message::NewLink(link) => Some((name_of(link)?.to_owned(), link.header.index)),
            _ => None,
        };
        Ok(links.iter().filter_map(named).filter(|(name, _)| self.ours(namespace, name)).collect())
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

/// What the kernel has of what `request` asks for, asked again where that changed meanwhile.
async fn all(handle: &Handle, request: Message) -> Result<Vec<Message>, Failure> {
    let mut handle = handle.clone();
    let mut attempt = 1;
    loop {
        let mut found = Vec::new();
        let fits = dump(&mut handle, request.clone(), |message| found.push(message)).await?;
        if fits || attempt == ATTEMPTS {
            return Ok(found);
        }
        attempt += 1;
    }
}
