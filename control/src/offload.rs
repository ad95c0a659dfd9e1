//! Offload features of a device (`ethtool -k`, `ethtool -K`), over generic netlink.
//!
//! The `ethtool` crate reads features and cannot set them, so the two messages needed stand here
//! (`Documentation/networking/ethtool-netlink.rst`, FEATURES_GET and FEATURES_SET).

use std::collections::BTreeSet;
use std::io;

use genetlink::GenetlinkError;
use netlink_packet_core::{DefaultNla, Emitable, Nla, NlasIterator};

use crate::genl::{self, Failure, Family, Message};
use crate::netns::Netns;

/// The sender inserts 802.1Q tags by hardware; on a veth the tag then never stands in the frame's bytes.
pub const TX_VLAN: &str = "tx-vlan-hw-insert";
/// The same for 802.1ad tags.
pub const TX_VLAN_STAG: &str = "tx-vlan-stag-hw-insert";

/// The sender leaves TCP and UDP checksums to the device.
pub const TX_CHECKSUM: &str = "tx-checksum-ip-generic";
/// The receiver puts packets of a flow together; on a veth it has NAPI then, without which it takes no XDP frames.
pub const GRO: &str = "rx-gro";

/// The receiver takes 802.1Q tags off by hardware; an XDP program does not see them then.
pub const RX_VLAN: &str = "rx-vlan-hw-parse";
/// The same for 802.1ad tags.
pub const RX_VLAN_STAG: &str = "rx-vlan-stag-hw-parse";

/// The device cuts packets that are in a UDP tunnel already.
pub const TUNNEL_SEGMENTATION: &str = "tx-udp_tnl-segmentation";
/// The device joins packets before anybody sees them.
pub const LRO: &str = "rx-lro";

// include/uapi/linux/ethtool_netlink.h
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_HW: u16 = 2;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const HEADER_DEV_NAME: u16 = 2;
const HEADER_FLAGS: u16 = 3;
const FLAG_OMIT_REPLY: u32 = 2;
const BITSET_NOMASK: u16 = 1;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
const NESTED: u16 = 1 << 15;

/// The ethtool family.
#[derive(Debug, Clone)]
struct Ethtool;

impl Family for Ethtool {
    const NAME: &'static str = "ethtool";
}

/// Why features could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum OffloadError {
    /// No socket in the namespace of the device.
    #[error("cannot open generic netlink in {netns}")]
    Open {
        /// The namespace.
        netns: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The request could not be sent, or the kernel has no ethtool netlink.
    #[error("cannot ask for the offloads of {device}")]
    Request {
        /// The device.
        device: String,
        /// What went wrong.
        source: GenetlinkError,
    },
    /// The kernel refused.
    #[error("the kernel refuses to {what} the offloads of {device}")]
    Refused {
        /// Read or set.
        what: &'static str,
        /// The device.
        device: String,
        /// Its answer.
        source: io::Error,
    },
}

/// Features that were switched off, to be restored.
///
/// It does not hold the namespace: that would keep a dead container's devices alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchedOff {
    device: String,
    features: Vec<&'static str>,
}

impl SwitchedOff {
    /// These features of the device, which were on.
    pub fn new(device: &str, features: Vec<&'static str>) -> Self {
        Self { device: device.to_owned(), features }
    }

    /// The device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What was on before.
    pub fn features(&self) -> &[&'static str] {
        &self.features
    }

    /// Switches the features on again, in the namespace where the device is. A device that is gone needs
    /// no restoring.
    pub async fn restore(&self, netns: &Netns) -> Result<(), OffloadError> {
        gone_is_fine(set(netns, &self.device, &self.features, true).await)
    }
}

/// A feature that was switched on, to be switched off again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchedOn {
    device: String,
    feature: &'static str,
}

impl SwitchedOn {
    /// Switches the feature off again, in the namespace where the device is. A device that is gone needs no
    /// restoring.
    pub async fn restore(&self, netns: &Netns) -> Result<(), OffloadError> {
        gone_is_fine(set(netns, &self.device, &[self.feature], false).await)
    }
}

/// Switches a feature on; `None` where it was.
pub async fn switch_on(
    netns: &Netns,
    device: &str,
    feature: &'static str,
) -> Result<Option<SwitchedOn>, OffloadError> {
    if active(netns, device).await?.contains(feature) {
        return Ok(None);
    }
    set(netns, device, &[feature], true).await?;
    Ok(Some(SwitchedOn { device: device.to_owned(), feature }))
}

fn gone_is_fine(result: Result<(), OffloadError>) -> Result<(), OffloadError> {
    match result {
        Err(OffloadError::Refused { source, .. }) if source.raw_os_error() == Some(ENODEV) => Ok(()),
        other => other,
    }
}

const ENODEV: i32 = nix::errno::Errno::ENODEV as i32;

/// Switches off those of `features` that are on; answers which, or `None` where none was.
pub async fn switch_off(
    netns: &Netns,
    device: &str,
    features: &[&'static str],
) -> Result<Option<SwitchedOff>, OffloadError> {
    let active = active(netns, device).await?;
    let on: Vec<&'static str> = features.iter().copied().filter(|name| active.contains(*name)).collect();
    if on.is_empty() {
        return Ok(None);
    }
    set(netns, device, &on, false).await?;
    Ok(Some(SwitchedOff { device: device.to_owned(), features: on }))
}

/// Names of the features that are on.
pub async fn active(netns: &Netns, device: &str) -> Result<BTreeSet<String>, OffloadError> {
    features(netns, device, FEATURES_ACTIVE).await
}

/// Names of the features that can be switched on and off.
pub async fn changeable(netns: &Netns, device: &str) -> Result<BTreeSet<String>, OffloadError> {
    features(netns, device, FEATURES_HW).await
}

async fn features(netns: &Netns, device: &str, which: u16) -> Result<BTreeSet<String>, OffloadError> {
    let request = Message::new(FEATURES_GET, vec![header(device, 0)]);
    let answers = exchange(netns, device, "read", request).await?;
    let attributes = answers.iter().flat_map(|answer| &answer.attributes);
    let features = attributes.filter(|attribute| attribute.kind() & !NESTED == which);
    Ok(features.flat_map(|attribute| bit_names(&genl::value(attribute))).collect())
}

async fn set(netns: &Netns, device: &str, features: &[&str], on: bool) -> Result<(), OffloadError> {
    let bit = |name: &&str| {
        let mut parts = vec![text(BIT_NAME, name)];
        if on {
            parts.push(DefaultNla::new(BIT_VALUE, Vec::new()));
        }
        nest(BITS_BIT, &parts)
    };
    let bits: Vec<DefaultNla> = features.iter().map(bit).collect();
    let wanted = nest(FEATURES_WANTED, &[nest(BITSET_BITS, &bits)]);
    let attributes = vec![header(device, FLAG_OMIT_REPLY), wanted];
    exchange(netns, device, "set", Message::new(FEATURES_SET, attributes)).await.map(drop)
}

async fn exchange(
    netns: &Netns,
    device: &str,
    what: &'static str,
    request: Message<Ethtool>,
) -> Result<Vec<Message<Ethtool>>, OffloadError> {
    let mut handle =
        genl::open(netns).map_err(|source| OffloadError::Open { netns: netns.label().to_owned(), source })?;
    request.ask(&mut handle).await.map_err(|failure| match failure {
        Failure::Exchange(source) => OffloadError::Request { device: device.to_owned(), source },
        Failure::Refused(source) => OffloadError::Refused { what, device: device.to_owned(), source },
    })
}

fn header(device: &str, flags: u32) -> DefaultNla {
    let flags = DefaultNla::new(HEADER_FLAGS, flags.to_ne_bytes().to_vec());
    nest(FEATURES_HEADER, &[text(HEADER_DEV_NAME, device), flags])
}

fn text(kind: u16, text: &str) -> DefaultNla {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

fn nest(kind: u16, parts: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; parts.buffer_len()];
    parts.emit(&mut bytes);
    DefaultNla::new(kind | NESTED, bytes)
}

/// The names in a bitset of the bits that are on; of a list without a mask, every bit that is there is.
fn bit_names(bitset: &[u8]) -> Vec<String> {
    let inside = |bytes: &[u8], kind: u16| -> Vec<Vec<u8>> {
        let parts = NlasIterator::new(bytes).filter_map(Result::ok);
        parts.filter(|part| part.kind() == kind).map(|part| part.value().to_vec()).collect()
    };
    let lists = inside(bitset, BITSET_BITS).into_iter();
    let all = !inside(bitset, BITSET_NOMASK).is_empty();
    let bits = lists.flat_map(|list| inside(&list, BITS_BIT));
    let bits = bits.filter(|bit| all || !inside(bit, BIT_VALUE).is_empty());
    let names = bits.flat_map(|bit| inside(&bit, BIT_NAME));
    names.map(|name| String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()).collect()
}
