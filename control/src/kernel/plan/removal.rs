//! Planning the removal of what the ledger names and the configuration does not.

use std::collections::BTreeSet;
use std::sync::Arc;

use vxdp_dataplane::wire::Vni;

use super::rows::Key;
use super::{Note, Planner};
use crate::kernel::ledger::Created;
use crate::kernel::observed::Kind;
use crate::kernel::place::{LinkAt, Place};
use crate::kernel::step::{Step, Why};

impl Planner<'_> {
    /// Puts the removals in front of the steps planned so far, and those of namespaces behind.
    pub(super) fn removals(&mut self) {
        let created = self.ledger.created();
        let going = self.links_not_wanted(created);
        let mut steps = self.rows_not_wanted(created, &going);
        steps.extend(self.addresses_not_wanted(created, &going));
        steps.extend(going.iter().map(|at| Step::RemoveLink { at: at.clone(), why: Why::NotWanted }));
        steps.append(&mut self.cleared);
        steps.append(&mut self.plan.steps);
        self.plan.steps = steps;
        for name in created.netns.keys() {
            if !self.wanted.netns.contains(name) {
                self.netns_not_wanted(name, &going);
            }
        }
    }

    fn links_not_wanted(&self, created: &Created) -> BTreeSet<LinkAt> {
        let links = created.links.keys().filter(|at| !self.wanted.links.contains(*at) && !self.kept(at));
        links.filter(|at| self.observed.link(at).is_some()).cloned().collect()
    }

    /// While some container cannot be found, what is in the others' namespaces cannot be told from what
    /// is in its own, so nothing in there counts as unwanted.
    fn kept(&self, at: &LinkAt) -> bool {
        let mut ports = self.desired.overlays.iter().flat_map(|overlay| &overlay.ports);
        matches!(at.place, Place::Container { .. }) && ports.any(|port| port.netns.is_none())
    }

    fn rows_not_wanted(&self, created: &Created, going: &BTreeSet<LinkAt>) -> Vec<Step> {
        let mut steps = Vec::new();
        for (at, rows) in &created.rows {
            let Some(link) = self.observed.link(at) else { continue };
            let replaced = self.fresh.contains(at) || going.contains(at);
            let Kind::Vxlan(vxlan) = &link.kind else { continue };
            if replaced {
                continue;
            }
            let tunnel: (Vni, u16) = (vxlan.vni, vxlan.port);
            // A row that a planned step overwrites is not removed first: that would only tear a gap.
            let wanted = self.wanted.rows.get(at);
            let mut away: Vec<_> = rows
                .iter()
                .filter(|row| wanted.is_none_or(|wanted| !wanted.contains(&Key::of(row))))
                .filter(|row| link.rows.has(row))
                .copied()
                .collect();
            away.sort_unstable();
            let device = Arc::new(at.clone());
            steps.extend(away.into_iter().map(|row| Step::RemoveRow { at: device.clone(), tunnel, row }));
        }
        steps
    }

    fn addresses_not_wanted(&self, created: &Created, going: &BTreeSet<LinkAt>) -> Vec<Step> {
        let addresses = created.addresses.iter().filter(|(at, address)| {
            let there = self.observed.link(at).is_some_and(|link| link.addresses.contains(address));
            let replaced = self.fresh.contains(at) || going.contains(at);
            there && !replaced && !self.kept(at) && !self.wanted.addresses.contains(&(at.clone(), *address))
        });
        addresses.map(|(at, address)| Step::RemoveAddress { at: at.clone(), address: *address }).collect()
    }

    fn netns_not_wanted(&mut self, name: &str, going: &BTreeSet<LinkAt>) {
        let place = Place::Named(name.to_owned());
        let mut others: Vec<String> = Vec::new();
        if let Some(space) = self.observed.spaces.get(&place) {
            let foreign = space.links.iter().filter(|(device, link)| {
                let by_itself = matches!(link.kind, Kind::Loopback | Kind::Fallback);
                !by_itself && !going.contains(&LinkAt::new(&place, device))
            });
            others.extend(foreign.map(|(device, _)| device.clone()));
        }
        if others.is_empty() {
            self.step(Step::RemoveNetns { name: name.to_owned() });
        } else {
            others.sort_unstable();
            self.plan.notes.push(Note::NetnsInUse { name: name.to_owned(), devices: others });
        }
    }
}
