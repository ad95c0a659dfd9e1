//! Reads devices: their names, and the underlay's properties.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::Handle;
use vxdp_dataplane::wire::MacAddr;

use super::fact::UnderlayLink;
use super::query;

/// Finds the underlay device by its name, and whether the host has our VTEP address.
pub(super) async fn find_underlay(
    host: &Handle,
    name: &str,
    local: IpAddr,
) -> Result<Option<UnderlayLink>, rtnetlink::Error> {
    let addressed = query::is_local(host, local).await?;
    match host.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(link) => Ok(link.as_ref().and_then(|link| underlay_of(link, addressed))),
        // ENODEV: there is none of that name at the moment.
        Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The device's name.
pub(super) fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// The addresses that an address message is about: one, or that of a point-to-point device and its peer's.
pub(super) fn addresses_of(message: &AddressMessage) -> impl Iterator<Item = IpAddr> {
    message.attributes.iter().filter_map(|attribute| match attribute {
        AddressAttribute::Address(address) | AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
}

fn underlay_of(link: &LinkMessage, addressed: bool) -> Option<UnderlayLink> {
    let mut mac = None;
    let mut mtu = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            _ => {}
        }
    }
    Some(UnderlayLink { device: link.header.index, mac: MacAddr::new(mac?), mtu: mtu?, addressed })
}
