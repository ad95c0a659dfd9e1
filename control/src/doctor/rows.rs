//! What the kernel's tables say of an overlay: behind which VTEPs it has MACs, and where those of the configuration are.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::ready;
use std::io;
use std::net::IpAddr;

use futures::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use nix::net::if_::{if_indextoname, if_nametoindex};
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
    /// Reads the rows of the overlay's bridge and vxlan device, one by one.
    ///
    /// # Errors
    /// When they are not there, or the kernel does not answer.
    pub(super) async fn of(overlay: &Overlay) -> io::Result<Self> {
        let netns = Netns::named(overlay.netns.as_str())?;
        let index = |device: &str| if_nametoindex(device);
        let (vxlan, bridge) =
            netns.run(|| Ok((index(overlay.vxlan.as_str())?, index(overlay.bridge.as_str())?)))?;
        let configured: HashSet<MacAddr> = overlay.remotes.iter().map(|remote| remote.mac).collect();
        let (mut vteps, mut behind_vteps, mut ports) = (BTreeSet::new(), BTreeSet::new(), HashMap::new());
        let handle = netns.netlink()?;
        let rows = query::rows(&handle, AddressFamily::Bridge);
        let read = rows.try_for_each(|row| {
            match row {
                Row::Tunnel(row) if row.device == vxlan => {
                    vteps.extend(row.vtep);
                    if let Some(vtep) = row.vtep.filter(|_| configured.contains(&row.mac)) {
                        behind_vteps.insert((row.mac, Place::Vtep(vtep)));
                    }
                }
                Row::Bridge(row) if row.bridge == bridge && configured.contains(&row.mac) => {
                    ports.insert(row.mac, row.port);
                }
                _ => {}
            }
            ready(Ok(()))
        });
        read.await.map_err(io::Error::other)?;
        let name = |(mac, port): (&MacAddr, &u32)| {
            let name = if_indextoname(*port).ok()?.to_string_lossy().into_owned();
            Some((*mac, Place::Port(name)))
        };
        let named: Vec<_> = netns.run(|| Ok(ports.iter().filter_map(name).collect()))?;
        let mut remotes = behind_vteps;
        remotes.extend(named);
        Ok(Self { vteps, remotes })
    }
}
