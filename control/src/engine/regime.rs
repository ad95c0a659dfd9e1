//! Which engine suits an underlay, where the configuration leaves it open.
//!
//! Where the NIC reads and writes our memory itself (zero-copy), AF_XDP is the fastest way and userspace carries the
//! frames. Everywhere else each hop through a socket costs two copies and a wake-up, and TCP its segmentation
//! offload, so the programs carry them.

use std::io;

use futures::StreamExt as _;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _,
    NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use vxdp_dataplane::worker::ZeroCopy;

use super::{Kind, settings};
use crate::config::{Config, Overlay};
use crate::netns::Netns;

// include/uapi/linux/netdev.h
const DEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
const NDO_XMIT: u64 = 4;
/// BASIC and REDIRECT: what a driver that runs XDP programs itself has.
const NATIVE: u64 = 1 | 2;
const XSK_ZEROCOPY: u64 = 8;

/// Whether a device does AF_XDP with zero-copy, as its driver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroCopyOffer {
    /// It does.
    Offered,
    /// It does not.
    None,
    /// The kernel does not tell: it is older than Linux 6.3, or the device is not there.
    Untold,
}

/// What the driver of a device can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NicFeatures {
    /// Run XDP programs itself, and redirect.
    pub native: bool,
    /// Let AF_XDP sockets share its memory.
    pub zero_copy: bool,
}

/// What the driver says; `None` where the kernel does not tell.
pub async fn nic_features(host: &Netns, device: &str) -> Option<NicFeatures> {
    let features = features(host, device).await.ok()??;
    let (native, zero_copy) = (features & NATIVE == NATIVE, features & XSK_ZEROCOPY != 0);
    Some(NicFeatures { native, zero_copy })
}

/// The engine for an overlay that leaves it open, and why.
pub fn choose(config: &Config, overlay: &Overlay, offer: ZeroCopyOffer) -> (Kind, &'static str) {
    if config.underlay.local.is_ipv6() || overlay.udp_checksum {
        return (Kind::Userspace, "it computes outer UDP checksums");
    }
    match (settings::zero_copy(config), offer) {
        (Ok(ZeroCopy::IfOffered | ZeroCopy::Require), ZeroCopyOffer::Offered) => {
            (Kind::Userspace, "the NIC offers zero-copy")
        }
        (Ok(ZeroCopy::IfOffered | ZeroCopy::Require), ZeroCopyOffer::None) => {
            (Kind::InKernel, "the NIC offers no zero-copy")
        }
        (Ok(ZeroCopy::IfOffered | ZeroCopy::Require), ZeroCopyOffer::Untold) => {
            (Kind::InKernel, "the kernel does not tell whether the NIC offers zero-copy")
        }
        // As `settings::zero_copy` says: always so with containers.
        (Ok(ZeroCopy::Off) | Err(_), _) => (Kind::InKernel, "sockets would copy every frame"),
    }
}

/// Asks the kernel (`Documentation/netlink/specs/netdev.yaml`).
pub async fn zero_copy_offer(host: &Netns, device: &str) -> ZeroCopyOffer {
    match features(host, device).await {
        Ok(Some(features)) if features & XSK_ZEROCOPY != 0 => ZeroCopyOffer::Offered,
        Ok(Some(_)) => ZeroCopyOffer::None,
        Ok(None) | Err(_) => ZeroCopyOffer::Untold,
    }
}

/// Whether a device says that XDP programs of others cannot send through it.
pub(super) async fn refuses_xdp_frames(host: &Netns, device: &str) -> bool {
    matches!(features(host, device).await, Ok(Some(features)) if features & NDO_XMIT == 0)
}

async fn features(host: &Netns, device: &str) -> io::Result<Option<u64>> {
    let runtime = tokio::runtime::Handle::current();
    let (index, (connection, mut handle, _)) = host.run(|| {
        let _guard = runtime.enter();
        Ok((nix::net::if_::if_nametoindex(device)?, genetlink::new_connection()?))
    })?;
    runtime.spawn(connection);
    let request =
        Netdev { command: DEV_GET, attributes: vec![DefaultNla::new(IFINDEX, index.to_ne_bytes().into())] };
    let mut message = NetlinkMessage::from(GenlMessage::from_payload(request));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answers = Box::pin(handle.request(message).await.map_err(io::Error::other)?);
    let mut features = None;
    while let Some(answer) = answers.next().await {
        match answer.map_err(io::Error::other)?.payload {
            NetlinkPayload::InnerMessage(message) => {
                features = features.or(message.payload.number(XDP_FEATURES))
            }
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            _ => {}
        }
    }
    Ok(features)
}

/// A message of the netdev family.
#[derive(Debug, Clone)]
struct Netdev {
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl Netdev {
    fn number(&self, kind: u16) -> Option<u64> {
        let attribute = self.attributes.iter().find(|attribute| attribute.kind() == kind)?;
        let mut bytes = [0; 8];
        (attribute.value_len() == bytes.len()).then(|| attribute.emit_value(&mut bytes))?;
        Some(u64::from_ne_bytes(bytes))
    }
}

impl GenlFamily for Netdev {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Netdev {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Netdev {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(buffer).map(|part| {
            let part = part?;
            Ok(DefaultNla::new(part.kind(), part.value().to_vec()))
        });
        Ok(Self { command: header.cmd, attributes: attributes.collect::<Result<_, DecodeError>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(local: &str, overlay: &str, offer: ZeroCopyOffer) -> Kind {
        let text = format!("[underlay]\ndevice = 'eth0'\nlocal = '{local}'\n[[overlay]]\nvni = 1\n{overlay}");
        let loaded = crate::config::parse(std::path::Path::new("f"), text.as_bytes()).expect("valid");
        choose(&loaded.config, &loaded.config.overlays[0], offer).0
    }

    #[test]
    fn zero_copy_and_outer_checksums_are_for_userspace() {
        use ZeroCopyOffer::{None, Offered, Untold};
        assert_eq!(choice("192.0.2.1", "", Offered), Kind::Userspace);
        assert_eq!(choice("192.0.2.1", "", None), Kind::InKernel);
        assert_eq!(choice("192.0.2.1", "", Untold), Kind::InKernel);
        assert_eq!(choice("192.0.2.1", "udp_checksum = true", None), Kind::Userspace);
        assert_eq!(choice("2001:db8::1", "", None), Kind::Userspace);
    }
}
