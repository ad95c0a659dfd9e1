//! One change to the host: what it is, what it creates, and how it is taken back.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use vxdp_dataplane::wire::{MacAddr, Vni};

use super::desired::Row;
use super::ledger::Entry;
use super::place::LinkAt;
use super::vxlan::{Field, Vxlan};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make `/run/netns/NAME`.
    CreateNetns {
        /// File name.
        name: String,
    },
    /// Remove `/run/netns/NAME`.
    RemoveNetns {
        /// File name.
        name: String,
    },
    /// Make a bridge.
    CreateBridge {
        /// Device.
        at: LinkAt,
        /// MTU in bytes.
        mtu: u32,
    },
    /// Make a vxlan device whose UDP socket is in the host's namespace.
    CreateVxlan {
        /// Device.
        at: LinkAt,
        /// Attributes.
        vxlan: Box<Vxlan>,
        /// MTU in bytes.
        mtu: u32,
    },
    /// Change attributes of a vxlan device while it works.
    ChangeVxlan {
        /// Device.
        at: LinkAt,
        /// The attributes to change.
        fields: Vec<Field>,
        /// Their values afterwards.
        to: Box<Vxlan>,
        /// Their values now.
        from: Box<Vxlan>,
    },
    /// Make a veth with one end here and one in a container.
    CreateVeth {
        /// End on the bridge.
        at: LinkAt,
        /// End in the container.
        inside: LinkAt,
        /// MAC of the end in the container.
        mac: MacAddr,
        /// MTU of both ends in bytes.
        mtu: u32,
        /// Queues of both ends.
        queues: u16,
    },
    /// Remove a device, and with it its rows, its addresses and, of a veth, the other end.
    RemoveLink {
        /// Device.
        at: LinkAt,
        /// Why.
        why: Why,
    },
    /// Change a device's MTU.
    SetMtu {
        /// Device.
        at: LinkAt,
        /// Now.
        from: u32,
        /// Afterwards.
        to: u32,
    },
    /// Change a device's MAC.
    SetMac {
        /// Device.
        at: LinkAt,
        /// Now.
        from: Option<MacAddr>,
        /// Afterwards.
        to: MacAddr,
    },
    /// Make a device a port of a bridge in the same namespace.
    Enslave {
        /// Device.
        at: LinkAt,
        /// The bridge.
        bridge: String,
        /// Whose port it is now.
        from: Option<String>,
    },
    /// Set a device up.
    SetUp {
        /// Device.
        at: LinkAt,
    },
    /// Add an address to a device.
    AddAddress {
        /// Device.
        at: LinkAt,
        /// Address and prefix length.
        address: IpNet,
    },
    /// Remove an address from a device.
    RemoveAddress {
        /// Device.
        at: LinkAt,
        /// Address and prefix length.
        address: IpNet,
    },
    /// Add or replace a row of a vxlan device.
    AddRow {
        /// The vxlan device; shared, for there may be a million such steps.
        at: Arc<LinkAt>,
        /// VNI and port written into FDB rows.
        tunnel: (Vni, u16),
        /// The row.
        row: Row,
        /// The permanent row that it replaces.
        was: Option<Row>,
    },
    /// Remove a row of a vxlan device.
    RemoveRow {
        /// The vxlan device; shared, for there may be a million such steps.
        at: Arc<LinkAt>,
        /// VNI and port of FDB rows.
        tunnel: (Vni, u16),
        /// The row.
        row: Row,
    },
}

/// Why a device is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The configuration does not have it any more.
    NotWanted,
    /// Its UDP socket is not in the host's namespace, so it cannot reach the underlay.
    WrongNetns,
    /// The kernel cannot change these attributes of a standing device.
    Attributes(Vec<Field>),
    /// It is of another kind or VNI than the configuration now asks for.
    OtherDevice,
    /// Its other end is not in the container.
    LostPeer,
    /// A later step failed.
    Undo,
}

impl Step {
    /// The device that the step is about, if it is about one.
    pub fn link(&self) -> Option<&LinkAt> {
        match self {
            Self::CreateNetns { .. } | Self::RemoveNetns { .. } => None,
            Self::CreateBridge { at, .. }
            | Self::CreateVxlan { at, .. }
            | Self::ChangeVxlan { at, .. }
            | Self::CreateVeth { at, .. }
            | Self::RemoveLink { at, .. }
            | Self::SetMtu { at, .. }
            | Self::SetMac { at, .. }
            | Self::Enslave { at, .. }
            | Self::SetUp { at }
            | Self::AddAddress { at, .. }
            | Self::RemoveAddress { at, .. } => Some(at),
            Self::AddRow { at, .. } | Self::RemoveRow { at, .. } => Some(at),
        }
    }

    /// The ledger's entries for what the step creates.
    pub(super) fn creates(&self) -> Vec<Entry> {
        match self {
            Self::CreateNetns { name } => vec![Entry::Netns { name: name.clone(), inode: None }],
            Self::AddAddress { at, address } => vec![Entry::Address { at: at.clone(), address: *address }],
            Self::AddRow { at, row, .. } => vec![Entry::Row { at: (**at).clone(), row: *row }],
            _ => self.made().into_iter().map(|at| Entry::Link { at: at.clone(), index: None }).collect(),
        }
    }

    /// The ledger's entry for what the step removes or replaces.
    pub(super) fn removes(&self) -> Option<Entry> {
        Some(match self {
            Self::RemoveNetns { name } => Entry::Netns { name: name.clone(), inode: None },
            Self::RemoveLink { at, .. } => Entry::Link { at: at.clone(), index: None },
            Self::RemoveAddress { at, address } => Entry::Address { at: at.clone(), address: *address },
            Self::AddRow { at, was: Some(row), .. } | Self::RemoveRow { at, row, .. } => {
                Entry::Row { at: (**at).clone(), row: *row }
            }
            _ => return None,
        })
    }

    /// Whether the step is about a row, of which there may be very many.
    pub(super) fn is_row(&self) -> bool {
        matches!(self, Self::AddRow { .. } | Self::RemoveRow { .. })
    }

    /// Devices that the step makes: whatever is done to them later needs no undo of its own.
    pub(super) fn made(&self) -> Vec<&LinkAt> {
        match self {
            Self::CreateBridge { at, .. } | Self::CreateVxlan { at, .. } => vec![at],
            Self::CreateVeth { at, inside, .. } => vec![at, inside],
            _ => Vec::new(),
        }
    }

    /// The step that takes this one back; `None` for removals (what was removed was ours and not wanted,
    /// or broken) and for `SetUp` (a device that was down did nothing; nobody relies on that).
    pub(super) fn undo(&self) -> Option<Self> {
        let remove = |at: &LinkAt| Self::RemoveLink { at: at.clone(), why: Why::Undo };
        Some(match self {
            Self::CreateNetns { name } => Self::RemoveNetns { name: name.clone() },
            Self::CreateBridge { at, .. } | Self::CreateVxlan { at, .. } | Self::CreateVeth { at, .. } => {
                remove(at)
            }
            Self::ChangeVxlan { at, fields, to, from } => Self::ChangeVxlan {
                at: at.clone(),
                fields: fields.clone(),
                to: from.clone(),
                from: to.clone(),
            },
            Self::SetMtu { at, from, to } => Self::SetMtu { at: at.clone(), from: *to, to: *from },
            Self::SetMac { at, from, to } => Self::SetMac { at: at.clone(), from: Some(*to), to: (*from)? },
            Self::Enslave { at, bridge, from } => {
                Self::Enslave { at: at.clone(), bridge: from.clone()?, from: Some(bridge.clone()) }
            }
            Self::AddAddress { at, address } => Self::RemoveAddress { at: at.clone(), address: *address },
            Self::AddRow { at, tunnel, row, was: None } => {
                Self::RemoveRow { at: at.clone(), tunnel: *tunnel, row: *row }
            }
            Self::AddRow { at, tunnel, row, was: Some(was) } => {
                Self::AddRow { at: at.clone(), tunnel: *tunnel, row: *was, was: Some(*row) }
            }
            Self::RemoveNetns { .. }
            | Self::RemoveLink { .. }
            | Self::RemoveAddress { .. }
            | Self::RemoveRow { .. }
            | Self::SetUp { .. } => return None,
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateNetns { name } => write!(f, "create namespace {name}"),
            Self::RemoveNetns { name } => write!(f, "remove namespace {name}"),
            Self::CreateBridge { at, .. } => write!(f, "create bridge {at}"),
            Self::CreateVxlan { at, vxlan, .. } => {
                let Vxlan { vni, port, .. } = **vxlan;
                write!(f, "create vxlan device {} (vni {vni}, port {port}) in {}", at.name, at.place)
            }
            Self::ChangeVxlan { at, fields, .. } => write!(f, "change {} of {at}", list(fields)),
            Self::CreateVeth { at, inside, .. } => write!(f, "create veth {at} with other end {inside}"),
            Self::RemoveLink { at, why } => write!(f, "remove {at} ({why})"),
            Self::SetMtu { at, from, to } => write!(f, "set MTU of {at} from {from} to {to}"),
            Self::SetMac { at, to, .. } => write!(f, "set MAC of {at} to {to}"),
            Self::Enslave { at, bridge, .. } => write!(f, "make {at} a port of {bridge}"),
            Self::SetUp { at } => write!(f, "set {at} up"),
            Self::AddAddress { at, address } => write!(f, "add address {address} to {at}"),
            Self::RemoveAddress { at, address } => write!(f, "remove address {address} from {at}"),
            Self::AddRow { at, row, was: None, .. } => write!(f, "add {row} to {at}"),
            Self::AddRow { at, row, was: Some(was), .. } => write!(f, "replace {was} by {row} on {at}"),
            Self::RemoveRow { at, row, .. } => write!(f, "remove {row} from {at}"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWanted => f.write_str("not in the configuration any more"),
            Self::WrongNetns => f.write_str("made in another namespace than the underlay's"),
            Self::Attributes(fields) => {
                write!(f, "the kernel cannot change {} of a standing device", list(fields))
            }
            Self::OtherDevice => f.write_str("the configuration now asks for another device of this name"),
            Self::LostPeer => f.write_str("its other end is not in the container"),
            Self::Undo => f.write_str("a later step failed"),
        }
    }
}

pub(super) fn list(fields: &[Field]) -> String {
    fields.iter().map(Field::to_string).collect::<Vec<_>>().join(", ")
}
