//! The plan: which steps turn what is there into what should be. Pure; the kernel is not asked.
//!
//! Order: first away with what is not wanted any more (a renamed device would collide with its
//! successor), then namespaces, bridges, vxlan devices, veths, and rows last.

mod port;
mod removal;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use ipnet::IpNet;
use vxdp_dataplane::wire::Vni;

use self::rows::Key;
use super::desired::{Desired, DesiredOverlay, Row};
use super::error::PlanError;
use super::ledger::Ledger;
use super::observed::{Kind, Link, Observed};
use super::place::{LinkAt, Place};
use super::step::{Step, Why, list};
use super::vxlan::{Field, Remedy, Vxlan};

/// What to do, and what the operator should know about what is not done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes, in order.
    pub steps: Vec<Step>,
    /// Things left as they are.
    pub notes: Vec<Note>,
}

/// Something that is not as configured and left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A container is away, so its veth is not built.
    Away {
        /// The end that it would have on the bridge.
        at: LinkAt,
    },
    /// A vxlan device that somebody else made shapes its outer headers otherwise than configured, which
    /// only a new device could change.
    Adopted {
        /// The device.
        at: LinkAt,
        /// How it differs.
        fields: Vec<Field>,
    },
    /// A veth has another number of queues than asked for, which only a new one could change.
    Queues {
        /// The end on the bridge.
        at: LinkAt,
        /// What it has.
        has: u32,
        /// What was asked for.
        asked: u16,
    },
    /// An FDB row names a nexthop group, and the kernel does not turn it into one with a VTEP.
    NexthopGroup {
        /// The vxlan device.
        at: LinkAt,
        /// The row that was wanted instead.
        row: Row,
    },
    /// A namespace stays because others have devices in it.
    NetnsInUse {
        /// File name under `/run/netns`.
        name: String,
        /// Their devices.
        devices: Vec<String>,
    },
}

/// Plans one reconciliation. An empty list of steps means that everything is as it should be.
pub fn plan(desired: &Desired, observed: &Observed, ledger: &Ledger) -> Result<Plan, PlanError> {
    let mut planner = Planner {
        desired,
        observed,
        ledger,
        wanted: Wanted::default(),
        fresh: HashSet::new(),
        set_up: HashSet::new(),
        cleared: Vec::new(),
        plan: Plan::default(),
    };
    for overlay in &desired.overlays {
        planner.overlay(overlay)?;
    }
    planner.removals();
    Ok(planner.plan)
}

/// What the configuration names, whether it stands already or not.
#[derive(Default)]
struct Wanted {
    netns: BTreeSet<String>,
    links: BTreeSet<LinkAt>,
    addresses: HashSet<(LinkAt, IpNet)>,
    rows: BTreeMap<LinkAt, HashSet<Key>>,
}

struct Planner<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    ledger: &'a Ledger,
    wanted: Wanted,
    /// Devices that an earlier step of the plan makes: nothing observed under their names counts.
    fresh: HashSet<LinkAt>,
    /// Devices that an earlier step of the plan sets up.
    set_up: HashSet<LinkAt>,
    /// Removals of devices that must be made anew. They all come first: two devices may be about to swap
    /// their VNIs, or their places.
    cleared: Vec<Step>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn step(&mut self, step: Step) {
        self.plan.steps.push(step);
    }

    fn clear(&mut self, at: &LinkAt, why: Why) {
        self.cleared.push(Step::RemoveLink { at: at.clone(), why });
    }

    fn overlay(&mut self, overlay: &DesiredOverlay) -> Result<(), PlanError> {
        let spec = &overlay.spec;
        let place = Place::Named(spec.netns.to_string());
        let bridge = LinkAt::new(&place, &spec.bridge);
        let vxlan = LinkAt::new(&place, &spec.vxlan);
        self.netns(spec.netns.as_str(), &place)?;
        self.bridge(&bridge, overlay.mtu)?;
        self.vxlan(&vxlan, &Vxlan::of(spec, self.desired.underlay.local), overlay.mtu)?;
        self.enslave(&vxlan, &bridge);
        for address in &spec.gateway {
            self.address(&bridge, *address);
        }
        self.up(&bridge);
        self.up(&vxlan);
        for port in &overlay.ports {
            self.port(overlay, port, &bridge)?;
        }
        self.rows(overlay, &vxlan);
        Ok(())
    }

    fn netns(&mut self, name: &str, place: &Place) -> Result<(), PlanError> {
        let first = self.wanted.netns.insert(name.to_owned());
        let ours = self.ledger.created().owns_netns(name);
        if self.observed.stale.contains(name) && !ours {
            return Err(PlanError::NotANamespace { name: name.to_owned() });
        }
        let loopback = LinkAt::new(place, "lo");
        if !self.observed.spaces.contains_key(place) {
            if first {
                self.step(Step::CreateNetns { name: name.to_owned() });
                self.fresh.insert(loopback.clone());
                self.up(&loopback);
            }
        } else if ours {
            self.up(&loopback);
        }
        Ok(())
    }

    fn bridge(&mut self, at: &LinkAt, mtu: u32) -> Result<(), PlanError> {
        self.wanted.links.insert(at.clone());
        match self.standing(at) {
            Some(link) if link.kind == Kind::Bridge => self.mtu(at, mtu),
            Some(_) if !self.vacate(at) => return Err(self.taken(at, "a bridge")),
            _ if self.fresh.insert(at.clone()) => self.step(Step::CreateBridge { at: at.clone(), mtu }),
            _ => {}
        }
        Ok(())
    }

    fn vxlan(&mut self, at: &LinkAt, wanted: &Vxlan, mtu: u32) -> Result<(), PlanError> {
        self.wanted.links.insert(at.clone());
        let create = Step::CreateVxlan { at: at.clone(), vxlan: Box::new(wanted.clone()), mtu };
        let Some(link) = self.standing(at) else {
            self.fresh.insert(at.clone());
            self.step(create);
            return Ok(());
        };
        let ours = self.ledger.created().owns(at);
        let why = match &link.kind {
            Kind::Vxlan(seen) if seen.vni == wanted.vni => {
                if self.made_in_host(at, link.netnsid) {
                    self.vxlan_fields(at, wanted, seen, ours)
                } else {
                    Some(Why::WrongNetns)
                }
            }
            _ if ours => Some(Why::OtherDevice),
            _ => return Err(self.taken(at, &vxlan_of(wanted.vni))),
        };
        match why {
            Some(why) => {
                self.clear(at, why);
                self.fresh.insert(at.clone());
                self.step(create);
            }
            None => self.mtu(at, mtu),
        }
        Ok(())
    }

    /// Plans the live changes of a standing device, unless it must be made anew: then says why.
    fn vxlan_fields(&mut self, at: &LinkAt, wanted: &Vxlan, seen: &Vxlan, ours: bool) -> Option<Why> {
        let differences = wanted.differences(seen);
        let with = |remedy| {
            let fields = differences.iter().copied().filter(|field| wanted.remedy(*field, seen) == remedy);
            fields.collect::<Vec<_>>()
        };
        let mut recreate = with(Remedy::Recreate);
        let tolerable = with(Remedy::RecreateOurs);
        if ours {
            recreate.extend(&tolerable);
        }
        if !recreate.is_empty() {
            return Some(Why::Attributes(recreate));
        }
        if !tolerable.is_empty() {
            self.plan.notes.push(Note::Adopted { at: at.clone(), fields: tolerable });
        }
        let fields = with(Remedy::Live);
        if !fields.is_empty() {
            let (to, from) = (Box::new(wanted.clone()), Box::new(seen.clone()));
            self.step(Step::ChangeVxlan { at: at.clone(), fields, to, from });
        }
        None
    }

    /// Whether a vxlan device's UDP socket is in the host's namespace.
    fn made_in_host(&self, at: &LinkAt, netnsid: Option<i32>) -> bool {
        let Some(space) = self.observed.spaces.get(&at.place) else { return false };
        match netnsid {
            Some(id) => space.nsids.get(&self.desired.host.inode()) == Some(&id),
            // Made in the namespace where it is: right only if the overlay lives in the host's own.
            None => space.inode == self.desired.host.inode(),
        }
    }

    /// The device as it stands, unless an earlier step replaces it.
    fn standing(&self, at: &LinkAt) -> Option<&'a Link> {
        if self.fresh.contains(at) { None } else { self.observed.link(at) }
    }

    /// Plans the removal of a device of ours that is of the wrong kind; `false` if it is not ours.
    fn vacate(&mut self, at: &LinkAt) -> bool {
        let ours = self.ledger.created().owns(at);
        if ours {
            self.clear(at, Why::OtherDevice);
        }
        ours
    }

    fn taken(&self, at: &LinkAt, wanted: &str) -> PlanError {
        let found = match self.observed.link(at).map(|link| &link.kind) {
            Some(Kind::Vxlan(vxlan)) => vxlan_of(vxlan.vni),
            Some(Kind::Bridge) => "a bridge".to_owned(),
            Some(Kind::Veth) => "a veth of somebody else".to_owned(),
            Some(Kind::Other(kind)) if !kind.is_empty() => format!("a device of kind {kind}"),
            _ => "a device of another kind".to_owned(),
        };
        PlanError::Taken { at: at.clone(), found, wanted: wanted.to_owned() }
    }

    fn mtu(&mut self, at: &LinkAt, mtu: u32) {
        let Some(from) = self.standing(at).map(|link| link.mtu) else { return };
        if from != mtu {
            self.step(Step::SetMtu { at: at.clone(), from, to: mtu });
        }
    }

    fn up(&mut self, at: &LinkAt) {
        if self.standing(at).is_none_or(|link| !link.up) {
            // Two overlays may share a namespace or a bridge.
            if self.set_up.insert(at.clone()) {
                self.step(Step::SetUp { at: at.clone() });
            }
        }
    }

    fn enslave(&mut self, at: &LinkAt, bridge: &LinkAt) {
        let master = self.standing(at).and_then(|link| link.master);
        let bridge_index = self.standing(bridge).map(|link| link.index);
        if master.is_none() || master != bridge_index {
            let space = self.observed.spaces.get(&at.place);
            let from = master.and_then(|index| space?.name_of(index)).map(str::to_owned);
            self.step(Step::Enslave { at: at.clone(), bridge: bridge.name.clone(), from });
        }
    }

    fn address(&mut self, at: &LinkAt, address: IpNet) {
        let first = self.wanted.addresses.insert((at.clone(), address));
        if first && self.standing(at).is_none_or(|link| !link.addresses.contains(&address)) {
            self.step(Step::AddAddress { at: at.clone(), address });
        }
    }
}

fn vxlan_of(vni: Vni) -> String {
    format!("a vxlan device with VNI {vni}")
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away { at } => write!(f, "the container behind {at} is away"),
            Self::Adopted { at, fields } => write!(
                f,
                "{at} was made by somebody else and differs in {}, which the kernel cannot change while it \
                 stands; it is used as it is",
                list(fields)
            ),
            Self::Queues { at, has, asked } => {
                write!(f, "{at} has {has} queues, not {asked}; it is used as it is")
            }
            Self::NexthopGroup { at, row } => {
                write!(f, "{at} forwards to a nexthop group where the configuration has {row}; left as it is")
            }
            Self::NetnsInUse { name, devices } => {
                write!(f, "namespace {name} stays: others have devices in it ({})", devices.join(", "))
            }
        }
    }
}
