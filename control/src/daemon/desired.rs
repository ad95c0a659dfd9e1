//! Turns configuration and remembered rows into what the host should look like right now.

use std::collections::BTreeMap;
use std::io;

use futures::TryStreamExt;
use netlink_packet_route::link::LinkAttribute;

use super::places::Fingerprint;
use crate::config::Config;
use crate::container::{self, Resolved};
use crate::kernel::desired::{Desired, DesiredOverlay, DesiredPort, Row, UnderlayFacts};
use crate::netns::Netns;
use crate::segment::Segment;

/// What the host should look like, and what was found on the way.
#[derive(Debug)]
pub(crate) struct Found {
    /// For the kernel.
    pub(crate) desired: Desired,
    /// Containers that were not found, by overlay and device on the bridge, and why.
    pub(crate) away: BTreeMap<(Segment, String), container::Error>,
    /// Oddities.
    pub(crate) warnings: Vec<container::Warning>,
    /// The namespaces of the containers as they were.
    pub(crate) places: Fingerprint,
}

/// Why that cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The underlay NIC is not there.
    #[error("there is no device `{device}` for the underlay")]
    NoUnderlay {
        /// The configured NIC.
        device: String,
    },
    /// The host's namespace cannot be asked.
    #[error("cannot ask the kernel about `{device}`: {source}")]
    Netlink {
        /// The configured NIC.
        device: String,
        /// Its answer.
        source: Box<rtnetlink::Error>,
    },
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
}

/// Finds the underlay and each container.
pub(crate) async fn find(
    host: &Netns,
    config: &Config,
    rows: &[(Segment, Vec<Row>)],
) -> Result<Found, Error> {
    let underlay = underlay(host, config).await?;
    let (mut away, mut warnings) = (BTreeMap::new(), Vec::new());
    let mut places = Fingerprint::default();
    let mut overlays = Vec::new();
    for spec in &config.overlays {
        let segment = Segment::of(spec);
        let mut overlay = DesiredOverlay::new(spec.clone(), &underlay);
        for (_, rows) in rows.iter().filter(|(other, _)| *other == segment) {
            overlay.rows.extend(rows);
        }
        for container in &spec.containers {
            let netns = match container::resolve(&container.attach).await {
                Ok(Resolved { netns, warning }) => {
                    warnings.extend(warning);
                    Some(netns)
                }
                Err(error) => {
                    away.insert((segment, container.host_interface.to_string()), error);
                    None
                }
            };
            places.note(&container.attach, netns.as_ref());
            overlay.ports.push(DesiredPort { container: container.clone(), netns });
        }
        overlays.push(overlay);
    }
    let queues = config.dataplane.workers.max(1);
    let desired = Desired { host: host.clone(), underlay, queues, overlays };
    Ok(Found { desired, away, warnings, places })
}

async fn underlay(host: &Netns, config: &Config) -> Result<UnderlayFacts, Error> {
    let device = config.underlay.device.to_string();
    let handle = host.netlink()?;
    let answer = handle.link().get().match_name(device.clone()).execute().try_next().await;
    let link = match answer {
        Ok(Some(link)) => link,
        Ok(None) => return Err(Error::NoUnderlay { device }),
        Err(rtnetlink::Error::NetlinkError(answer)) if answer.raw_code() == -nix::libc::ENODEV => {
            return Err(Error::NoUnderlay { device });
        }
        Err(source) => return Err(Error::Netlink { device, source: Box::new(source) }),
    };
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    Ok(UnderlayFacts {
        ifindex: link.header.index,
        mtu: mtu.unwrap_or_default(),
        local: config.underlay.local,
    })
}
