//! Which engine suits an underlay, where the configuration leaves it open.
//!
//! Where the NIC reads and writes our memory itself (zero-copy), AF_XDP is the fastest way and userspace carries the
//! frames. Everywhere else each hop through a socket costs two copies and a wake-up, and TCP its segmentation
//! offload, so the programs carry them.

use std::io;

use netlink_packet_core::{DefaultNla, Nla as _};
use vxdp_dataplane::worker::ZeroCopy;

use super::{Kind, settings};
use crate::config::{self, Config, Overlay};
use crate::genl::{self, Failure, Family, Message};
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
    /// Send frames of XDP programs that run elsewhere; what it does not take is lost.
    pub takes_frames: bool,
    /// Let AF_XDP sockets share its memory.
    pub zero_copy: bool,
}

/// What the driver says; `None` where the kernel does not tell.
pub async fn nic_features(host: &Netns, device: &str) -> Option<NicFeatures> {
    let features = features(host, device).await.ok()??;
    let (native, zero_copy) = (features & NATIVE == NATIVE, features & XSK_ZEROCOPY != 0);
    Some(NicFeatures { native, takes_frames: features & NDO_XMIT != 0, zero_copy })
}

/// The engine for an overlay for which `asked` was asked, and why where that leaves it open.
pub fn engine_of(
    config: &Config,
    overlay: &Overlay,
    asked: config::Engine,
    offer: ZeroCopyOffer,
) -> (Kind, Option<&'static str>) {
    match asked {
        config::Engine::Userspace => (Kind::Userspace, None),
        config::Engine::InKernel => (Kind::InKernel, None),
        config::Engine::Auto => {
            let (kind, why) = choose(config, overlay, offer);
            (kind, Some(why))
        }
    }
}

/// The engine for an overlay that leaves it open, and why.
fn choose(config: &Config, overlay: &Overlay, offer: ZeroCopyOffer) -> (Kind, &'static str) {
    if config.underlay.local.is_ipv6() {
        return (Kind::Userspace, "it carries over IPv6");
    }
    if overlay.udp_checksum {
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

impl From<Option<NicFeatures>> for ZeroCopyOffer {
    fn from(features: Option<NicFeatures>) -> Self {
        match features {
            Some(NicFeatures { zero_copy: true, .. }) => Self::Offered,
            Some(_) => Self::None,
            None => Self::Untold,
        }
    }
}

/// Asks the kernel (`Documentation/netlink/specs/netdev.yaml`).
async fn features(host: &Netns, device: &str) -> io::Result<Option<u64>> {
    let index = host.run(|| Ok(nix::net::if_::if_nametoindex(device)?))?;
    let request = Message::<Netdev>::new(DEV_GET, vec![DefaultNla::new(IFINDEX, index.to_ne_bytes().into())]);
    let answers = request.ask(&mut genl::open(host)?).await.map_err(|failure| match failure {
        Failure::Exchange(error) => io::Error::other(error),
        Failure::Refused(error) => error,
    })?;
    Ok(answers.iter().find_map(|answer| number(answer, XDP_FEATURES)))
}

/// A number of eight bytes.
fn number(answer: &Message<Netdev>, kind: u16) -> Option<u64> {
    let attribute = answer.attributes.iter().find(|attribute| attribute.kind() == kind)?;
    genl::value(attribute).try_into().ok().map(u64::from_ne_bytes)
}

/// The netdev family.
#[derive(Debug, Clone)]
struct Netdev;

impl Family for Netdev {
    const NAME: &'static str = "netdev";
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
