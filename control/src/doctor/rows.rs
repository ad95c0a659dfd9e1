//! What the kernel's tables say of overlays: behind which VTEPs they have MACs, and where those of the configuration are.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;

use futures::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use nix::net::if_::if_nameindex;
use vxdp_dataplane::wire::MacAddr;

use crate::config::Overlay;
use crate::mirror::message::Row;
use crate::mirror::query;
use crate::netns::Netns;

/// Where the kernel has a MAC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Behind another host.
    Vtep(IpAddr),
    /// Behind a port of the bridge.
    Port(String),
}

/// What the rows of an overlay say, however many there are.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Every VTEP that a row names.
    pub(super) vteps: BTreeSet<IpAddr>,
    /// Where the remote MACs of the configuration are.
    pub(super) remotes: BTreeSet<(MacAddr, Place)>,
}

impl Survey {
    /// Of each overlay, in their order; where nothing is built yet there are no rows.
    pub(super) async fn of_each(overlays: &[Overlay]) -> Vec<Self> {
        let mut surveys: Vec<Self> = overlays.iter().map(|_| Self::default()).collect();
        // The kernel dumps the rows of a whole namespace.
        let mut spaces: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, overlay) in overlays.iter().enumerate() {
            spaces.entry(overlay.netns.as_str()).or_default().push(number);
        }
        for (netns, members) in spaces {
            let _ = read(netns, overlays, &members, &mut surveys).await;
        }
        surveys
    }
}

/// Reads the rows of the overlays `members`, which are in this namespace, one by one.
async fn read(
    netns: &str,
    overlays: &[Overlay],
    members: &[usize],
    surveys: &mut [Survey],
) -> io::Result<()> {
    let netns = Netns::named(netns)?;
    let names: HashMap<u32, String> = netns.run(|| {
        let listed = if_nameindex()?;
        Ok(listed.iter().map(|link| (link.index(), link.name().to_string_lossy().into_owned())).collect())
    })?;
    let indices: HashMap<&str, u32> = names.iter().map(|(index, name)| (name.as_str(), *index)).collect();
    let (mut vxlans, mut bridges) = (HashMap::new(), HashMap::new());
    for number in members {
        let overlay = &overlays[*number];
        let remotes: HashSet<MacAddr> = overlay.remotes.iter().map(|remote| remote.mac).collect();
        vxlans.extend(indices.get(overlay.vxlan.as_str()).map(|index| (*index, (*number, remotes.clone()))));
        bridges.extend(indices.get(overlay.bridge.as_str()).map(|index| (*index, (*number, remotes))));
    }
    let handle = netns.netlink()?;
    let mut rows = std::pin::pin!(query::rows(&handle, AddressFamily::Bridge));
    while let Some(row) = rows.try_next().await.map_err(io::Error::other)? {
        match row {
            Row::Tunnel(row) => {
                let Some(((number, remotes), vtep)) = vxlans.get(&row.device).zip(row.vtep) else { continue };
                surveys[*number].vteps.insert(vtep);
                if remotes.contains(&row.mac) {
                    surveys[*number].remotes.insert((row.mac, Place::Vtep(vtep)));
                }
            }
            Row::Bridge(row) => {
                let ours = bridges.get(&row.bridge).filter(|(_, remotes)| remotes.contains(&row.mac));
                if let Some(((number, _), name)) = ours.zip(names.get(&row.port)) {
                    surveys[*number].remotes.insert((row.mac, Place::Port(name.clone())));
                }
            }
            Row::Neighbour(_) => {}
        }
    }
    Ok(())
}
