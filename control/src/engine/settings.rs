//! The configuration in the words of the dataplane.

use vxdp_dataplane::worker::{PollMode, UmemSpec, ZeroCopy};

use super::compile::Path;
use crate::config;
use crate::netns::Netns;

/// The memory of a worker.
pub(super) fn umem(dataplane: &config::Dataplane) -> UmemSpec {
    let zero_copy = match dataplane.zero_copy {
        config::ZeroCopy::Auto => ZeroCopy::IfOffered,
        config::ZeroCopy::Require => ZeroCopy::Require,
        config::ZeroCopy::Off => ZeroCopy::Off,
    };
    UmemSpec { zero_copy, ..UmemSpec::DEFAULT }
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
/// piece, and the bridge would forward it (one VLAN tag is free, `is_skb_forwardable`, net/core/dev.c).
pub(super) fn max_frame(overlay_mtu: u32, underlay_mtu: u32, room: u32) -> u32 {
    const ETHERNET: u32 = 14;
    const TAG: u32 = 4;
    // The outer Ethernet header does not count for an MTU.
    (overlay_mtu + ETHERNET + TAG).min((underlay_mtu + ETHERNET).saturating_sub(room))
}

#[cfg(test)]
mod tests {
    use super::max_frame;

    #[test]
    fn a_frame_of_the_overlays_mtu_fits_and_a_tag_too_many_does_not() {
        assert_eq!(max_frame(1450, 1500, 50), 1464);
        assert_eq!(max_frame(1430, 1500, 70), 1444);
    }

    #[test]
    fn a_smaller_overlay_mtu_is_the_bridges_limit() {
        assert_eq!(max_frame(1400, 1500, 50), 1418);
    }
}
