//! Looking at the rows of one vxlan device: only at those that matter, one question each.
//!
//! A dump would be simpler, but the kernel starts each of its messages at the head of the table and counts
//! its way to where the last one ended: dumping 200,000 rows of a bridge and a vxlan device takes 9 seconds,
//! a million would take minutes, however few of them are ours. Questions take the same time each.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use rtnetlink::Handle;
use vxdp_dataplane::wire::MacAddr;

use super::DUMP_ATTEMPTS;
use crate::kernel::ROWS_AT_ONCE;
use crate::kernel::desired::{Desired, Row};
use crate::kernel::ledger::Created;
use crate::kernel::netlink::{Refusal, dump, send};
use crate::kernel::observed::{FdbRow, Link, Rows};
use crate::kernel::place::{LinkAt, Place};

const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

/// The rows that matter on one vxlan device.
#[derive(Default)]
pub(super) struct Interest {
    single: HashSet<Question>,
    flood: bool,
}

/// What the kernel is asked for one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Question {
    Neighbour(IpAddr),
    Fdb(MacAddr),
    Bridge(MacAddr),
}

/// What `desired` and the ledger name, by namespace and vxlan device.
pub(super) fn interests(desired: &Desired, created: &Created) -> HashMap<Place, HashMap<String, Interest>> {
    let mut interests: HashMap<Place, HashMap<String, Interest>> = HashMap::new();
    let mut add = |at: LinkAt, rows: &mut dyn Iterator<Item = &Row>| {
        let interest = interests.entry(at.place).or_default().entry(at.name).or_default();
        for row in rows {
            let question = match *row {
                Row::Neighbour { address, .. } => Question::Neighbour(address),
                Row::Fdb { mac, .. } => Question::Fdb(mac),
                Row::Bridge { mac } => Question::Bridge(mac),
                Row::Flood { .. } => {
                    interest.flood = true;
                    continue;
                }
            };
            interest.single.insert(question);
        }
    };
    for overlay in &desired.overlays {
        let place = Place::Named(overlay.spec.netns.to_string());
        let flood: Vec<Row> = overlay.spec.flood.iter().map(|&vtep| Row::Flood { vtep }).collect();
        add(LinkAt::new(&place, &overlay.spec.vxlan), &mut overlay.rows.iter().chain(&flood));
    }
    for (at, rows) in &created.rows {
        add(at.clone(), &mut rows.iter());
    }
    interests
}

/// The rows of `interest` that the device has.
pub(super) async fn rows(handle: &mut Handle, link: &Link, interest: &Interest) -> Result<Rows, Refusal> {
    let mut rows = Rows::default();
    // A device that is no bridge's port has no bridge rows, and the kernel does not like the question.
    let fits = |question: &&Question| link.master.is_some() || !matches!(question, Question::Bridge(_));
    let questions: Vec<Question> = interest.single.iter().filter(fits).copied().collect();
    for batch in questions.chunks(ROWS_AT_ONCE) {
        let mut asked = Vec::with_capacity(batch.len());
        for question in batch {
            let message = question.message(link.index);
            asked.push(send(handle, RouteNetlinkMessage::GetNeighbour(message), 0)?);
        }
        for (question, asked) in batch.iter().zip(asked) {
            match asked.answer().await {
                Ok(Some(RouteNetlinkMessage::NewNeighbour(answer))) => {
                    question.read(&answer, link, &mut rows)
                }
                Ok(_) => {}
                // EOPNOTSUPP: the device is the port of something that is not a bridge.
                Err(refusal) if refusal.is(Errno::ENOENT) || refusal.is(Errno::EOPNOTSUPP) => {}
                Err(refusal) => return Err(refusal),
            }
        }
    }
    if interest.flood {
        rows.flood = flood(handle, link.index).await?;
    }
    Ok(rows)
}

impl Question {
    fn message(self, index: u32) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
        message.header.family = AddressFamily::Bridge;
        let lladdr = |mac: MacAddr| NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec());
        match self {
            Self::Neighbour(address) => {
                message.header.family = match address {
                    IpAddr::V4(_) => AddressFamily::Inet,
                    IpAddr::V6(_) => AddressFamily::Inet6,
                };
                message.attributes.push(NeighbourAttribute::Destination(address.into()));
            }
            Self::Fdb(mac) => {
                message.header.flags = NeighbourFlags::Own;
                message.attributes.push(lladdr(mac));
            }
            Self::Bridge(mac) => {
                message.header.flags = NeighbourFlags::Controller;
                message.attributes.push(lladdr(mac));
            }
        }
        message
    }

    fn read(self, answer: &NeighbourMessage, link: &Link, rows: &mut Rows) {
        let seen = Attributes::of(answer);
        let state = u16::from(answer.header.state);
        match self {
            Self::Neighbour(address) => {
                rows.neighbours.insert(address, seen.mac.filter(|_| state & NUD_PERMANENT != 0));
            }
            Self::Fdb(mac) => {
                let fixed = state & (NUD_PERMANENT | NUD_NOARP) != 0;
                rows.fdb.insert(mac, FdbRow { vtep: seen.destination, fixed, plain: seen.plain });
            }
            // The bridge has one row for each MAC; it counts if it is static and points at the device.
            Self::Bridge(mac) if answer.header.ifindex == link.index && state & NUD_NOARP != 0 => {
                rows.bridge.insert(mac);
            }
            Self::Bridge(_) => {}
        }
    }
}

/// VTEPs of the all-zero row. Asked for that row, the kernel names only the first of them, so here there is
/// no way around a dump.
async fn flood(handle: &mut Handle, index: u32) -> Result<HashSet<IpAddr>, Refusal> {
    let mut attempts = DUMP_ATTEMPTS;
    loop {
        let mut vteps = HashSet::new();
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        request.header.ifindex = index;
        let consistent = dump(handle, RouteNetlinkMessage::GetNeighbour(request), |message| {
            if let RouteNetlinkMessage::NewNeighbour(message) = message {
                vteps.extend(read_flood(&message, index));
            }
        });
        let consistent = consistent.await?;
        attempts -= 1;
        // A big table that others change all the time never gives an undisturbed dump. A row missed by the
        // disturbance is written once too often, which changes nothing.
        if consistent || attempts == 0 {
            return Ok(vteps);
        }
    }
}

fn read_flood(message: &NeighbourMessage, index: u32) -> Option<IpAddr> {
    let own = message.header.flags.contains(NeighbourFlags::Own) && message.header.ifindex == index;
    let fixed = u16::from(message.header.state) & (NUD_PERMANENT | NUD_NOARP) != 0;
    if !own || !fixed {
        return None;
    }
    let seen = Attributes::of(message);
    seen.destination.filter(|_| seen.plain && seen.mac == Some(MacAddr::ZERO))
}

struct Attributes {
    mac: Option<MacAddr>,
    destination: Option<IpAddr>,
    /// The kernel reports VNI, port and interface only where they are not the device's own.
    plain: bool,
}

impl Attributes {
    fn of(message: &NeighbourMessage) -> Self {
        let mut seen = Self { mac: None, destination: None, plain: true };
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(octets) => {
                    seen.mac = <[u8; 6]>::try_from(octets.as_slice()).ok().map(MacAddr::new);
                }
                NeighbourAttribute::Destination(address) => seen.destination = read_destination(address),
                NeighbourAttribute::Vni(_) | NeighbourAttribute::Port(_) | NeighbourAttribute::IfIndex(_) => {
                    seen.plain = false
                }
                _ => {}
            }
        }
        seen
    }
}

/// In a message of the bridge's family the crate leaves a VTEP's address as plain octets.
fn read_destination(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        NeighbourAddress::Other(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(octets.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(octets.as_slice()).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    }
}
