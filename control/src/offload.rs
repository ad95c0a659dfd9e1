//! Offload features of a device (`ethtool -k`, `ethtool -K`), over generic netlink.
//!
//! The `ethtool` crate reads features and cannot set them, so the two messages needed stand here
//! (`Documentation/networking/ethtool-netlink.rst`, FEATURES_GET and FEATURES_SET).

use std::collections::BTreeSet;
use std::io;

use futures::StreamExt;
use genetlink::{GenetlinkError, GenetlinkHandle};
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla,
    NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

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

// include/uapi/linux/ethtool_netlink.h
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const HEADER_DEV_NAME: u16 = 2;
const HEADER_FLAGS: u16 = 3;
const FLAG_OMIT_REPLY: u32 = 2;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
const NESTED: u16 = 1 << 15;

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
    let request = Ethtool { command: FEATURES_GET, attributes: vec![header(device, 0)] };
    let answers = exchange(netns, device, "read", request).await?;
    let attributes = answers.iter().flat_map(|answer| &answer.attributes);
    let active = attributes.filter(|attribute| attribute.kind() & !NESTED == FEATURES_ACTIVE);
    Ok(active.flat_map(|attribute| bit_names(&value(attribute))).collect())
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
    exchange(netns, device, "set", Ethtool { command: FEATURES_SET, attributes }).await.map(drop)
}

async fn exchange(
    netns: &Netns,
    device: &str,
    what: &'static str,
    request: Ethtool,
) -> Result<Vec<Ethtool>, OffloadError> {
    let mut handle =
        open(netns).map_err(|source| OffloadError::Open { netns: netns.label().to_owned(), source })?;
    let mut message = NetlinkMessage::from(GenlMessage::from_payload(request));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let failed = |source| OffloadError::Request { device: device.to_owned(), source };
    let mut stream = Box::pin(handle.request(message).await.map_err(failed)?);
    let mut answers = Vec::new();
    while let Some(answer) = stream.next().await {
        match answer.map_err(|error| failed(error.into()))?.payload {
            NetlinkPayload::InnerMessage(message) => answers.push(message.payload),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(OffloadError::Refused { what, device: device.to_owned(), source: error.to_io() });
            }
            _ => {}
        }
    }
    Ok(answers)
}

fn open(netns: &Netns) -> io::Result<GenetlinkHandle> {
    let runtime = tokio::runtime::Handle::current();
    let (connection, handle, _) = netns.run(|| {
        let _guard = runtime.enter();
        genetlink::new_connection()
    })?;
    runtime.spawn(connection);
    Ok(handle)
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

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

/// The names in a bitset; of a list without a mask, every bit that is there is on.
fn bit_names(bitset: &[u8]) -> Vec<String> {
    let inside = |bytes: &[u8], kind: u16| -> Vec<Vec<u8>> {
        let parts = NlasIterator::new(bytes).filter_map(Result::ok);
        parts.filter(|part| part.kind() == kind).map(|part| part.value().to_vec()).collect()
    };
    let lists = inside(bitset, BITSET_BITS).into_iter();
    let bits = lists.flat_map(|list| inside(&list, BITS_BIT));
    let names = bits.flat_map(|bit| inside(&bit, BIT_NAME));
    names.map(|name| String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()).collect()
}

/// A message of the ethtool family.
#[derive(Debug, Clone)]
struct Ethtool {
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl GenlFamily for Ethtool {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Ethtool {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Ethtool {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(buffer).map(|part| {
            let part = part?;
            Ok(DefaultNla::new(part.kind(), part.value().to_vec()))
        });
        Ok(Self { command: header.cmd, attributes: attributes.collect::<Result<_, DecodeError>>()? })
    }
}
