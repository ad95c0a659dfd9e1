//! Planning one container's veth.

use super::{Note, Planner};
use crate::kernel::desired::{DesiredOverlay, DesiredPort};
use crate::kernel::error::PlanError;
use crate::kernel::observed::{Kind, Link, Space};
use crate::kernel::place::{LinkAt, Place};
use crate::kernel::step::{Step, Why};
use crate::netns::Netns;

impl Planner<'_> {
    pub(super) fn port(
        &mut self,
        overlay: &DesiredOverlay,
        port: &DesiredPort,
        bridge: &LinkAt,
    ) -> Result<(), PlanError> {
        let container = &port.container;
        let outside = LinkAt::new(&bridge.place, &container.host_interface);
        self.wanted.links.insert(outside.clone());
        let Some(netns) = &port.netns else {
            self.plan.notes.push(Note::Away { at: outside });
            return Ok(());
        };
        let inside = LinkAt::new(&Place::of_container(netns), &container.interface);
        self.wanted.links.insert(inside.clone());
        let paired = self.paired(&outside, &inside, netns);
        if !paired {
            for (end, other) in [(&outside, &inside), (&inside, &outside)] {
                if self.standing(end).is_none() {
                    continue;
                }
                if !self.ledger.created().owns(end) {
                    return Err(self.taken(end, &format!("a veth with its other end {other}")));
                }
                self.clear(end, Why::LostPeer);
            }
            self.fresh.extend([outside.clone(), inside.clone()]);
            self.step(Step::CreateVeth {
                at: outside.clone(),
                inside: inside.clone(),
                mac: container.mac,
                mtu: overlay.mtu,
                queues: self.desired.queues,
            });
        }
        self.veth_ends(overlay, port, &outside, &inside);
        self.enslave(&outside, bridge);
        for address in &container.addresses {
            self.address(&inside, *address);
        }
        self.up(&outside);
        self.up(&inside);
        Ok(())
    }

    /// What may have drifted on a standing veth.
    fn veth_ends(&mut self, overlay: &DesiredOverlay, port: &DesiredPort, outside: &LinkAt, inside: &LinkAt) {
        self.mtu(outside, overlay.mtu);
        self.mtu(inside, overlay.mtu);
        let mac = self.standing(inside).map(|link| link.mac);
        if let Some(from) = mac.filter(|mac| *mac != Some(port.container.mac)) {
            self.step(Step::SetMac { at: inside.clone(), from, to: port.container.mac });
        }
        if let Some(has) = self.standing(outside).map(|link| link.queues)
            && has < u32::from(self.desired.queues)
        {
            self.plan.notes.push(Note::Queues { at: outside.clone(), has, asked: self.desired.queues });
        }
    }

    /// Whether the two are the ends of one veth.
    fn paired(&self, outside: &LinkAt, inside: &LinkAt, container: &Netns) -> bool {
        let Some(link) = self.standing(outside) else { return false };
        let space = self.observed.spaces.get(&outside.place);
        let leads_inside = space.is_some_and(|space| leads_to(link, space, container.inode()));
        let ends = self
            .standing(inside)
            .filter(|other| leads_inside && link.peer == Some(other.index) && other.peer == Some(link.index));
        link.kind == Kind::Veth && ends.is_some()
    }
}

/// Whether a veth's other end is in the namespace with this inode.
fn leads_to(link: &Link, from: &Space, inode: u64) -> bool {
    match link.netnsid {
        Some(id) => from.nsids.get(&inode) == Some(&id),
        None => from.inode == inode,
    }
}
