//! What the kernel has, as far as the overlays and the ledger are concerned.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use vxdp_dataplane::wire::MacAddr;

use super::desired::Row;
use super::place::{LinkAt, Place};
use super::vxlan::Vxlan;

/// The namespaces that were looked at.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// By place; a namespace that is not there has no entry.
    pub spaces: BTreeMap<Place, Space>,
    /// Names under `/run/netns` that are plain files: left behind by somebody who was interrupted between
    /// making the file and mounting the namespace on it.
    pub stale: HashSet<String>,
}

/// One network namespace.
#[derive(Debug, Clone, Default)]
pub struct Space {
    /// Its identity.
    pub inode: u64,
    /// Devices by name.
    pub links: HashMap<String, Link>,
    /// Ids under which devices here name other namespaces that matter, by inode (`RTM_GETNSID`).
    pub nsids: HashMap<u64, i32>,
}

/// One device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// What made it.
    pub kind: Kind,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// MAC, of Ethernet devices.
    pub mac: Option<MacAddr>,
    /// Index of the bridge (or other device) whose port it is.
    pub master: Option<u32>,
    /// Index of the other end of a veth, in that end's namespace.
    pub peer: Option<u32>,
    /// Id of the other end's namespace (veth), or of the namespace of the UDP socket (vxlan), if that is
    /// another one than the device's.
    pub netnsid: Option<i32>,
    /// Transmit queues.
    pub queues: u32,
    /// Addresses.
    pub addresses: HashSet<IpNet>,
    /// Rows, of vxlan devices that matter.
    pub rows: Rows,
}

/// What made a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Kind {
    /// `bridge`.
    Bridge,
    /// `vxlan`, with attributes.
    Vxlan(Box<Vxlan>),
    /// `veth`.
    Veth,
    /// Anything else: the kernel's name for it, empty for a plain NIC.
    Other(String),
    /// The loopback device.
    Loopback,
    /// A tunnel's fallback device, which the kernel makes in each namespace by itself.
    Fallback,
    /// Not reported.
    #[default]
    Unknown,
}

/// The rows of one vxlan device that the configuration or the ledger name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Neighbours; `None` where the row is not permanent (or not resolved) and so does not count.
    pub neighbours: HashMap<IpAddr, Option<MacAddr>>,
    /// FDB rows of the device.
    pub fdb: HashMap<MacAddr, FdbRow>,
    /// VTEPs of the all-zero row.
    pub flood: HashSet<IpAddr>,
    /// MACs of the bridge's static rows that point at the device.
    pub bridge: HashSet<MacAddr>,
}

/// One FDB row of a vxlan device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbRow {
    /// VTEP; `None` for a row that names a nexthop group instead.
    pub vtep: Option<IpAddr>,
    /// Permanent, not learned.
    pub fixed: bool,
    /// Carries the device's own VNI and port, and no interface of its own.
    pub plain: bool,
}

impl Observed {
    /// The device, if it is there.
    pub fn link(&self, at: &LinkAt) -> Option<&Link> {
        self.spaces.get(&at.place)?.links.get(&at.name)
    }
}

impl Space {
    /// Name of the device with this index.
    pub fn name_of(&self, index: u32) -> Option<&str> {
        self.links.iter().find(|(_, link)| link.index == index).map(|(name, _)| name.as_str())
    }
}

impl Rows {
    /// Whether exactly this row is there and permanent.
    pub fn has(&self, row: &Row) -> bool {
        match row {
            Row::Neighbour { address, mac } => self.neighbours.get(address) == Some(&Some(*mac)),
            Row::Fdb { mac, vtep } => {
                let wanted = FdbRow { vtep: Some(*vtep), fixed: true, plain: true };
                self.fdb.get(mac) == Some(&wanted)
            }
            Row::Bridge { mac } => self.bridge.contains(mac),
            Row::Flood { vtep } => self.flood.contains(vtep),
        }
    }

    /// The permanent row that stands where `row` would go, if it is another one.
    pub fn in_place_of(&self, row: &Row) -> Option<Row> {
        let other = match *row {
            Row::Neighbour { address, .. } => {
                Row::Neighbour { address, mac: self.neighbours.get(&address).copied()?? }
            }
            Row::Fdb { mac, .. } => match self.fdb.get(&mac)? {
                FdbRow { vtep: Some(vtep), fixed: true, .. } => Row::Fdb { mac, vtep: *vtep },
                _ => return None,
            },
            Row::Bridge { .. } | Row::Flood { .. } => return None,
        };
        (other != *row).then_some(other)
    }
}
