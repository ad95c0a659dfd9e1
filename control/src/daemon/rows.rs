//! Reads an overlay's rows for `fdb show`, and removes what the kernel learned for `fdb del`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::ready;
use std::io;
use std::net::IpAddr;

use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use nix::net::if_::if_nameindex;
use vxdp_dataplane::wire::MacAddr;

use crate::api::status::{Origin, RowStatus, Table};
use crate::config::{NsName, Overlay};
use crate::kernel::desired::Row as Wanted;
use crate::mirror::message::{Life, Row, word};
use crate::mirror::query;
use crate::model::SeenRow;
use crate::netns::Netns;

/// Ticks per second of the times in a dump: `USER_HZ`, which is 100 on every architecture Linux still has
/// but alpha (`jiffies_to_clock_t`, `kernel/time/time.c`).
const USER_HZ: u32 = 100;

/// Rows that are looked through for VTEPs, so that a status never takes longer than about half a second.
const LOOKED_THROUGH: usize = 100_000;

/// Why rows cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No such namespace, or no socket in it.
    #[error("cannot look into namespace {netns}: {source}")]
    Namespace {
        /// Its name.
        netns: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The vxlan device or the bridge is not there.
    #[error("there is no {device} in namespace {netns}")]
    NoDevice {
        /// The device.
        device: String,
        /// The namespace's name.
        netns: String,
    },
    /// The kernel does not tell.
    #[error("cannot read the rows: {0}")]
    Netlink(Box<rtnetlink::Error>),
}

impl From<rtnetlink::Error> for Error {
    fn from(error: rtnetlink::Error) -> Self {
        Self::Netlink(Box::new(error))
    }
}

/// Devices of a namespace, by index.
type Names = HashMap<u32, String>;

/// The overlays of a namespace, by the devices that tell their rows apart.
struct Place<'a> {
    handle: rtnetlink::Handle,
    names: Names,
    vxlans: HashMap<u32, &'a Overlay>,
    bridges: HashMap<u32, &'a Overlay>,
    /// A device that is not there.
    missing: Option<Error>,
}

impl<'a> Place<'a> {
    fn open(netns: &NsName, overlays: &[&'a Overlay]) -> Result<Self, Error> {
        let fail = |source| Error::Namespace { netns: netns.to_string(), source };
        let space = Netns::named(netns.as_str()).map_err(fail)?;
        let names = space.run(|| {
            let listed = if_nameindex()?;
            Ok(listed.iter().map(|link| (link.index(), link.name().to_string_lossy().into_owned())).collect())
        });
        let names: Names = names.map_err(fail)?;
        let indices: HashMap<&str, u32> = names.iter().map(|(index, name)| (name.as_str(), *index)).collect();
        let mut missing = None;
        let mut index = |device: &str| {
            let found = indices.get(device).copied();
            if found.is_none() {
                missing = Some(Error::NoDevice { device: device.to_owned(), netns: netns.to_string() });
            }
            found
        };
        let (mut vxlans, mut bridges) = (HashMap::new(), HashMap::new());
        for overlay in overlays {
            vxlans.extend(index(overlay.vxlan.as_str()).map(|index| (index, *overlay)));
            bridges.extend(index(overlay.bridge.as_str()).map(|index| (index, *overlay)));
        }
        drop(indices);
        Ok(Self { handle: space.netlink().map_err(fail)?, names, vxlans, bridges, missing })
    }
}

/// Overlays by their namespaces. The kernel dumps the rows of a whole namespace, so each is asked once: asked for
/// each of a thousand overlays it would take minutes.
fn by_netns<'a>(overlays: impl IntoIterator<Item = &'a Overlay>) -> BTreeMap<&'a NsName, Vec<&'a Overlay>> {
    let mut spaces: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for overlay in overlays {
        spaces.entry(&overlay.netns).or_default().push(overlay);
    }
    spaces
}

/// Reads the rows of the overlays' vxlan devices and bridges.
pub(crate) async fn read(overlays: impl IntoIterator<Item = &Overlay>) -> Result<Vec<SeenRow>, Error> {
    let mut seen = Vec::new();
    for (netns, overlays) in by_netns(overlays) {
        let mut place = Place::open(netns, &overlays)?;
        if let Some(error) = place.missing.take() {
            return Err(error);
        }
        for family in [AddressFamily::Bridge, AddressFamily::Inet, AddressFamily::Inet6] {
            let mut dump = place.handle.neighbours().get().set_address_family(family).execute();
            while let Some(message) = dump.try_next().await? {
                seen.extend(of_message(&place, &message));
            }
        }
    }
    Ok(seen)
}

/// The VTEPs that rows of the overlays' vxlan devices name; those that are not there have none.
pub(crate) async fn vteps(overlays: impl IntoIterator<Item = &Overlay>) -> Result<BTreeSet<IpAddr>, Error> {
    let mut vteps = BTreeSet::new();
    for (netns, overlays) in by_netns(overlays) {
        let Ok(place) = Place::open(netns, &overlays) else { continue };
        let of_row = |row: Row| match row {
            Row::Tunnel(row) if place.vxlans.contains_key(&row.device) => row.vtep,
            _ => None,
        };
        let rows = query::rows(&place.handle, AddressFamily::Bridge).take(LOOKED_THROUGH);
        let found: BTreeSet<_> = rows.try_filter_map(|row| ready(Ok(of_row(row)))).try_collect().await?;
        vteps.extend(found);
    }
    Ok(vteps)
}

fn of_message(place: &Place<'_>, message: &NeighbourMessage) -> Option<SeenRow> {
    let (used_s, updated_s) = ages(message);
    let status = |overlay: &Overlay, table, mac: Option<MacAddr>, origin| RowStatus {
        vni: overlay.vni.get(),
        udp_port: overlay.port,
        table,
        mac: mac.map(|mac| mac.to_string()),
        address: None,
        vtep: None,
        device: None,
        state: word(message.header.state).to_owned(),
        origin,
        used_s,
        updated_s,
    };
    match Row::read(message)? {
        Row::Tunnel(row) => {
            let overlay = *place.vxlans.get(&row.device)?;
            let origin = if row.life == Life::Dynamic { Origin::Learned } else { Origin::Foreign };
            let mut seen = status(overlay, Table::Vxlan, Some(row.mac), origin);
            seen.vtep = row.vtep;
            seen.device = Some(overlay.vxlan.to_string());
            let wanted = row.vtep.map(|vtep| match row.mac {
                MacAddr::ZERO => Wanted::Flood { vtep },
                mac => Wanted::Fdb { mac, vtep },
            });
            Some((seen, wanted))
        }
        Row::Bridge(row) => {
            let overlay = *place.bridges.get(&row.bridge)?;
            let origin = match row.life {
                Life::Dynamic => Origin::Learned,
                // Addresses of the ports and of the bridge itself.
                Life::Permanent => Origin::Kernel,
                Life::Static => Origin::Foreign,
            };
            let mut seen = status(overlay, Table::Bridge, Some(row.mac), origin);
            seen.device = place.names.get(&row.port).cloned();
            let tunnel = place.vxlans.get(&row.port).is_some_and(|other| std::ptr::eq(*other, overlay));
            let wanted = tunnel.then_some(Wanted::Bridge { mac: row.mac });
            Some((seen, wanted))
        }
        Row::Neighbour(row) => {
            let overlay = *place.vxlans.get(&row.device)?;
            let origin = match message.header.state {
                NeighbourState::Permanent => Origin::Foreign,
                // Multicast and broadcast.
                NeighbourState::Noarp => Origin::Kernel,
                _ => Origin::Learned,
            };
            let mut seen = status(overlay, Table::Neighbour, row.mac, origin);
            seen.address = Some(row.address);
            seen.device = Some(overlay.vxlan.to_string());
            let wanted = row.mac.map(|mac| Wanted::Neighbour { address: row.address, mac });
            Some((seen, wanted))
        }
    }
}

/// Seconds since the row was used and since it changed.
fn ages(message: &NeighbourMessage) -> (Option<u64>, Option<u64>) {
    let info = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::CacheInfo(info) => Some(info),
        _ => None,
    });
    let seconds = |ticks: u32| u64::from(ticks / USER_HZ);
    (info.map(|info| seconds(info.used)), info.map(|info| seconds(info.updated)))
}

/// The rows that the kernel learned about `mac`, for removal. A refusal says why there is nothing to remove.
pub(crate) async fn learned(overlay: &Overlay, mac: MacAddr) -> Result<Vec<Wanted>, String> {
    let rows = read([overlay]).await.map_err(|error| error.to_string())?;
    let text = mac.to_string();
    let of_mac: Vec<&SeenRow> =
        rows.iter().filter(|(row, _)| row.mac.as_deref() == Some(text.as_str())).collect();
    let learned: Vec<Wanted> = of_mac
        .iter()
        .filter(|(row, _)| row.origin == Origin::Learned)
        .filter_map(|(_, wanted)| *wanted)
        .collect();
    if !learned.is_empty() {
        return Ok(learned);
    }
    Err(match of_mac.first() {
        None => format!("there is no row for {mac}"),
        Some((row, None)) => format!(
            "{mac} is behind {}, on this host; the kernel keeps that row",
            row.device.as_deref().unwrap_or("a device")
        ),
        Some((_, Some(_))) => {
            format!("the rows for {mac} were added by another program; remove them with `bridge fdb del`")
        }
    })
}
