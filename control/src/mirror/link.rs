//! Reads devices: their names, and the underlay's properties.

use futures::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::Handle;
use vxdp_dataplane::wire::MacAddr;

use super::fact::UnderlayLink;

/// Finds the underlay device by its name.
pub(super) async fn find_underlay(
    host: &Handle,
    name: &str,
) -> Result<Option<UnderlayLink>, rtnetlink::Error> {
    match host.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(link) => Ok(link.as_ref().and_then(underlay_of)),
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

fn underlay_of(link: &LinkMessage) -> Option<UnderlayLink> {
    let mut mac = None;
    let mut mtu = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            _ => {}
        }
    }
    let running = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    Some(UnderlayLink { device: link.header.index, mac: MacAddr::new(mac?), mtu: mtu?, running })
}
