//! Uplinks: the doors through which the in-kernel engine's packets change namespace (`ebpf/src/programs/tc.rs`).
//!
//! A veth with one end beside the NIC and one beside a bridge. Nothing but the programs sends into it, and what
//! they send is taken off by the program at the other end before any protocol sees it. Both ends have one name,
//! made from the path of the daemon's API socket: by that a later daemon knows what a killed one left behind.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use futures::TryStreamExt as _;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use tokio::task::block_in_place;

use super::EngineError;
use crate::causes::chain;
use crate::netns::Netns;
use crate::xdp::{Classifier, Device, Owner, Programs};

/// The largest a veth takes: what is too long for the underlay was sorted out before.
const MTU: u32 = 65_535;

/// An open door. It must be closed; a dropped one stays until the next daemon finds it.
pub(super) struct Uplink {
    outside: Device,
    inside: Device,
    _depart: Classifier,
    _arrive: Classifier,
}

impl Uplink {
    /// Makes the veth between `host` and `overlay` and attaches its programs.
    pub(super) async fn open(
        host: &Netns,
        overlay: &Netns,
        socket: &Path,
        number: usize,
        programs: &Programs,
    ) -> Result<Self, EngineError> {
        let name = format!("{}{number}", prefix(socket));
        let lost = |error: rtnetlink::Error| {
            EngineError::Lost(format!(
                "cannot make the veth {name} to {}: {}",
                overlay.label(),
                chain(&error)
            ))
        };
        let netlink = host.netlink().map_err(|error| lost_to(host, &error))?;
        netlink.link().add(veth(&name, overlay)).execute().await.map_err(lost)?;
        let outside = ready(host, &name).await.map_err(lost)?;
        let inside = ready(overlay, &name).await.map_err(lost)?;
        let (mut depart, mut arrive) = (programs.tc_depart()?, programs.tc_arrive()?);
        block_in_place(|| depart.attach(&outside).and_then(|()| arrive.attach(&inside)))?;
        Ok(Self { outside, inside, _depart: depart, _arrive: arrive })
    }

    /// The namespace behind the door.
    pub(super) fn inside(&self) -> &Netns {
        &self.inside.netns
    }

    /// Indices of the ends: the overlay's, then the host's.
    pub(super) fn indices(&self) -> [u32; 2] {
        [self.inside.index, self.outside.index]
    }

    pub(super) fn name(&self) -> &str {
        &self.outside.name
    }

    /// Whether it is still there. With one end the other one goes.
    pub(super) fn stands(&self) -> bool {
        let index = self.outside.netns.run(|| Ok(nix::net::if_::if_nametoindex(self.name())?));
        index.is_ok_and(|index| index == self.outside.index)
    }

    /// Removes it.
    pub(super) async fn close(self) {
        if let Err(error) = remove(&self.outside.netns, self.outside.index).await {
            tracing::warn!("cannot remove {}: {}", self.outside, chain(&error));
        }
    }

    /// Removes what the daemon at `socket`, or one that was killed, has left in `host`.
    pub(super) async fn remove_all(host: &Netns, socket: &Path) -> Result<(), EngineError> {
        let lost = |error: rtnetlink::Error| lost_to(host, &error);
        let prefix = prefix(socket);
        let netlink = host.netlink().map_err(|error| lost_to(host, &error))?;
        let links: Vec<LinkMessage> = netlink.link().get().execute().try_collect().await.map_err(lost)?;
        let ours = |link: &&LinkMessage| {
            let name = |attribute: &LinkAttribute| match attribute {
                LinkAttribute::IfName(name) => {
                    name.strip_prefix(&prefix).is_some_and(|rest| rest.parse::<u16>().is_ok())
                }
                _ => false,
            };
            link.attributes.iter().any(name)
        };
        for link in links.iter().filter(ours) {
            remove(host, link.header.index).await.map_err(lost)?;
        }
        Ok(())
    }
}

fn lost_to(host: &Netns, error: &(dyn std::error::Error + 'static)) -> EngineError {
    EngineError::Lost(format!("cannot look at the devices of {}: {}", host.label(), chain(error)))
}

/// What the names of a daemon's uplinks begin with: `vx`, its number, and a dot.
fn prefix(socket: &Path) -> String {
    format!("vx{}.", Owner::of(socket))
}

fn veth(name: &str, overlay: &Netns) -> LinkMessage {
    let end = || vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(MTU)];
    let mut peer = LinkMessage::default();
    peer.attributes = end();
    peer.attributes.push(LinkAttribute::NetNsFd(overlay.as_fd().as_raw_fd()));
    let data = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)));
    let mut link = LinkMessage::default();
    link.attributes = end();
    link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), data]));
    link
}

/// Sets an end up, without an address of its own.
async fn ready(netns: &Netns, name: &str) -> Result<Device, rtnetlink::Error> {
    let index = netns.run(|| {
        // Where there is no IPv6 there is no such file. Without it the kernel would give the device an address.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        Ok(nix::net::if_::if_nametoindex(name)?)
    });
    let index = index.map_err(|_| rtnetlink::Error::RequestFailed)?;
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let netlink = netns.netlink().map_err(|_| rtnetlink::Error::RequestFailed)?;
    netlink.link().set(link).execute().await?;
    Ok(Device { netns: netns.clone(), index, name: name.to_owned() })
}

/// Removes a device; one that is gone is fine.
async fn remove(netns: &Netns, index: u32) -> Result<(), rtnetlink::Error> {
    let netlink = netns.netlink().map_err(|_: io::Error| rtnetlink::Error::RequestFailed)?;
    match netlink.link().del(index).execute().await {
        Err(rtnetlink::Error::NetlinkError(error))
            if error.to_io().raw_os_error() == Some(nix::libc::ENODEV) =>
        {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn a_name_is_stable_and_short_enough() {
        let prefix = prefix(std::path::Path::new("/run/vxdp/vxdp.sock"));
        assert_eq!(prefix.len(), 11, "a device name has 15 bytes: four digits are left");
        assert!(prefix.starts_with("vx") && prefix.ends_with('.'));
    }
}
