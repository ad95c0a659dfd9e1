//! The configuration in the words of the dataplane.

use std::time::Duration;

use vxdp_dataplane::worker::{PollMode, UmemSpec, ZeroCopy};

use super::EngineError;
use super::compile::Path;
use crate::config::{self, Config};
use crate::kernel::desired::UnderlayFacts;
use crate::netns::Netns;

/// How often the rows that traffic keeps alive are refreshed in the kernel, where no overlay's ageing time asks
/// for more. Each time costs a walk over all rows.
const REFRESH: Duration = Duration::from_secs(15);

/// What the kernel keeps free in front of each received frame (`XDP_PACKET_HEADROOM`, `include/uapi/linux/bpf.h`).
const HEADROOM: u32 = 256;

/// The Ethernet header and one VLAN tag, which an MTU does not count.
const ETHERNET_AND_TAG: u32 = 14 + 4;

/// Whether the underlay's sockets are zero-copy; or why they cannot be as the configuration wants them.
///
/// A worker's sockets share one memory, and the kernel binds all of them in the mode of the first one. Ports
/// are veths, which only copy: a zero-copy underlay would leave every container to the kernel.
pub(super) fn zero_copy(config: &config::Config) -> Result<ZeroCopy, EngineError> {
    let has_ports = config.overlays.iter().any(|overlay| !overlay.containers.is_empty());
    match config.dataplane.zero_copy {
        config::ZeroCopy::Off => Ok(ZeroCopy::Off),
        config::ZeroCopy::Auto if has_ports => Ok(ZeroCopy::Off),
        config::ZeroCopy::Auto => Ok(ZeroCopy::IfOffered),
        config::ZeroCopy::Require if has_ports => Err(EngineError::ZeroCopy),
        config::ZeroCopy::Require => Ok(ZeroCopy::Require),
    }
}

/// Why the underlay's sockets copy, where they do.
pub(super) fn why_copy(config: &config::Config) -> &'static str {
    match (config.dataplane.zero_copy, zero_copy(config)) {
        (config::ZeroCopy::Off, _) => "copy as `zero_copy` says",
        (_, Ok(ZeroCopy::Off)) => "copy: veth ports only copy, and share its memory",
        _ => "copy: the driver has no zero-copy",
    }
}

/// The memory of a worker whose frames come from a device with this MTU. Frames that are still too long for
/// it pass to the kernel.
pub(super) fn umem(zero_copy: ZeroCopy, mtu: u32) -> UmemSpec {
    let fits = mtu.saturating_add(ETHERNET_AND_TAG) <= UmemSpec::DEFAULT.frame_size - HEADROOM;
    let frame_size = if fits { UmemSpec::DEFAULT.frame_size } else { 4096 };
    UmemSpec { zero_copy, frame_size, ..UmemSpec::DEFAULT }
}

/// Longest frame that the memory takes, in bytes.
pub(super) fn longest(umem: &UmemSpec) -> u32 {
    umem.frame_size - HEADROOM
}

/// How often the rows that traffic keeps alive are refreshed: at least four times in the shortest ageing time.
pub(super) fn refresh(config: &Config) -> Duration {
    let ageing = config.overlays.iter().map(|overlay| Duration::from_secs(overlay.ageing.into()) / 4);
    ageing.min().map_or(REFRESH, |shortest| shortest.min(REFRESH))
}

/// How a worker waits.
pub(super) fn poll(dataplane: &config::Dataplane) -> PollMode {
    match dataplane.poll {
        config::Poll::Adaptive => PollMode::Adaptive,
        config::Poll::Busy => PollMode::Busy,
        config::Poll::Interrupt => PollMode::Interrupt,
    }
}

/// What a packet over the underlay starts with and may have, where its route says nothing else.
pub(super) fn path(host: &Netns, ipv4: bool, mtu: u32) -> Path {
    let file = if ipv4 { "ipv4/ip_default_ttl" } else { "ipv6/conf/default/hop_limit" };
    // These files show the namespace of the thread that reads them.
    let read = host.run(|| std::fs::read_to_string(format!("/proc/sys/net/{file}")));
    let hop_limit = read.ok().and_then(|text| text.trim().parse().ok());
    // 64 is what every kernel starts with (`IPDEFTTL`, include/uapi/linux/ip.h).
    Path { mtu, hop_limit: hop_limit.unwrap_or(64) }
}

/// Longest inner frame, Ethernet header included, that the fast path carries: it fits the underlay in one
/// piece and, encapsulated, a worker's memory of frames of `longest` bytes; and the bridge would forward it
/// (one VLAN tag is free, `is_skb_forwardable`, net/core/dev.c).
pub(super) fn max_frame(overlay_mtu: u32, underlay: &UnderlayFacts, longest: u32) -> u32 {
    const ETHERNET: u32 = 14;
    // The outer Ethernet header does not count for an MTU.
    let outer = (underlay.mtu + ETHERNET).min(longest);
    (overlay_mtu + ETHERNET_AND_TAG).min(outer.saturating_sub(underlay.overhead()))
}

#[cfg(test)]
mod tests {
    use super::{UnderlayFacts, max_frame};

    fn v4(mtu: u32) -> UnderlayFacts {
        UnderlayFacts { ifindex: 2, mtu, local: [192, 0, 2, 1].into() }
    }

    fn v6(mtu: u32) -> UnderlayFacts {
        UnderlayFacts { local: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into(), ..v4(mtu) }
    }

    #[test]
    fn a_frame_of_the_overlays_mtu_fits_and_a_tag_too_many_does_not() {
        assert_eq!(max_frame(1450, &v4(1500), 1792), 1464);
        assert_eq!(max_frame(1430, &v6(1500), 1792), 1444);
    }

    #[test]
    fn a_frame_that_no_memory_takes_stays_with_the_kernel() {
        assert_eq!(max_frame(8950, &v4(9000), 3840), 3790);
    }

    #[test]
    fn a_smaller_overlay_mtu_is_the_bridges_limit() {
        assert_eq!(max_frame(1400, &v4(1500), 1792), 1418);
    }
}
