//! Whether the kernel could send to another VTEP now: route, next hop, and its link-layer address. Sends nothing.

use std::io;
use std::net::IpAddr;

use futures::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use serde::Serialize;

use crate::mirror::message::Row;
use crate::mirror::query;
use crate::netns::Netns;

/// What the kernel has about a VTEP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
}

impl Reach {
    /// Asks the kernel of `host`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn of(host: &Netns, vtep: IpAddr) -> io::Result<Self> {
        let netlink = host.netlink()?;
        let route = query::route_to(&netlink, vtep).await.map_err(io::Error::other)?;
        let Some(route) = route else {
            return Ok(Self { device: None, next_hop: vtep, mtu: None, mac: None, asked: false });
        };
        let index = route.device;
        let device = host.run(|| Ok(nix::net::if_::if_indextoname(index)?.to_string_lossy().into_owned()))?;
        let next_hop = route.gateway.unwrap_or(vtep);
        let family = if next_hop.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let mut rows = Box::pin(query::rows(&netlink, family));
        let (mut mac, mut asked) = (None, false);
        while let Some(row) = rows.try_next().await.map_err(io::Error::other)? {
            if let Row::Neighbour(row) = row
                && (row.device, row.address) == (index, next_hop)
            {
                asked = true;
                mac = row.mac.filter(|_| row.valid).map(|mac| mac.to_string());
            }
        }
        Ok(Self { device: Some(device), next_hop, mtu: route.mtu, mac, asked })
    }

    /// What keeps frames from getting there, in words, and the command to look at it.
    pub fn trouble(&self, vtep: IpAddr) -> Option<(String, String)> {
        match (&self.device, &self.mac) {
            (None, _) => Some((format!("no route leads to {vtep}"), format!("ip route get {vtep}"))),
            (Some(device), None) if self.asked => {
                let hop = self.next_hop;
                let what = format!("the next hop {hop} on {device} does not answer");
                Some((what, format!("ip neigh show {hop} dev {device}; ping -c1 {hop}")))
            }
            _ => None,
        }
    }
}
