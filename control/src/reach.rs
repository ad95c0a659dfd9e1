//! Whether the kernel could send to another VTEP now: route, next hop, and its link-layer address. Sends nothing.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use futures::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use serde::{Deserialize, Serialize};

use crate::mirror::message::{NeighbourRow, Row, word};
use crate::mirror::nexthop::Route;
use crate::mirror::query;
use crate::netns::Netns;

/// What the kernel has about a VTEP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Outgoing device; absent without a route.
    pub device: Option<String>,
    /// The next hop: a gateway, or the VTEP itself.
    pub next_hop: IpAddr,
    /// MTU that the route names, in bytes.
    pub mtu: Option<u32>,
    /// The next hop's link-layer address, where it is resolved.
    pub mac: Option<String>,
    /// Whether the kernel has an entry for the next hop, resolved or not.
    pub asked: bool,
    /// The state of that entry: `reachable`, `stale`, `failed` …
    pub state: Option<String>,
}

/// Neighbour entries and their states, by device and address.
type Neighbours = HashMap<(u32, IpAddr), (NeighbourRow, &'static str)>;

impl Reach {
    /// Asks the kernel of `host`, whose VTEP address is `local`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn of(host: &Netns, local: IpAddr, vtep: IpAddr) -> io::Result<Self> {
        let mut only = Self::of_each(host, local, &[vtep]).await?;
        Ok(only.swap_remove(0))
    }

    /// The same for several, in their order; the neighbour table is read once.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn of_each(host: &Netns, local: IpAddr, vteps: &[IpAddr]) -> io::Result<Vec<Self>> {
        let netlink = host.netlink()?;
        let mut routes = Vec::new();
        for vtep in vteps {
            routes.push(query::route_to(&netlink, local, *vtep).await.map_err(io::Error::other)?);
        }
        let mut neighbours = Neighbours::new();
        for (family, is_v4) in [(AddressFamily::Inet, true), (AddressFamily::Inet6, false)] {
            let mut hops = vteps
                .iter()
                .zip(&routes)
                .filter_map(|(vtep, route)| Some(route.as_ref()?.gateway.unwrap_or(*vtep)));
            if hops.any(|hop| hop.is_ipv4() == is_v4) {
                let mut dump = netlink.neighbours().get().set_address_family(family).execute();
                while let Some(message) = dump.try_next().await.map_err(io::Error::other)? {
                    if let Some(Row::Neighbour(row)) = Row::read(&message) {
                        neighbours.insert((row.device, row.address), (row, word(message.header.state)));
                    }
                }
            }
        }
        host.run(|| {
            vteps.iter().zip(routes).map(|(vtep, route)| Self::from(*vtep, route, &neighbours)).collect()
        })
    }

    /// To be called inside the namespace.
    fn from(vtep: IpAddr, route: Option<Route>, neighbours: &Neighbours) -> io::Result<Self> {
        let Some(Route { device: index, gateway, mtu }) = route else {
            return Ok(Self {
                device: None,
                next_hop: vtep,
                mtu: None,
                mac: None,
                asked: false,
                state: None,
            });
        };
        let device = nix::net::if_::if_indextoname(index)?.to_string_lossy().into_owned();
        let next_hop = gateway.unwrap_or(vtep);
        let entry = neighbours.get(&(index, next_hop));
        let mac = entry.and_then(|(row, _)| row.mac.filter(|_| row.valid)).map(|mac| mac.to_string());
        let state = entry.map(|(_, state)| (*state).to_owned());
        Ok(Self { device: Some(device), next_hop, mtu, mac, asked: entry.is_some(), state })
    }

    /// What keeps frames from getting there, in words, and the command to look at it.
    pub fn trouble(&self, vtep: IpAddr) -> Option<(String, String)> {
        match (&self.device, &self.mac) {
            (None, _) => {
                Some((format!("no route leads to {vtep}"), format!("ip route add {vtep} via ROUTER")))
            }
            (Some(device), None) if self.asked => {
                let hop = self.next_hop;
                let what = format!("the next hop {hop} on {device} does not answer");
                Some((what, format!("ip neigh show {hop} dev {device}; ping -c1 {hop}")))
            }
            _ => None,
        }
    }
}
