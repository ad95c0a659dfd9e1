//! Why a frame was dropped: one enum, counted, documented and shown under the same names.

/// Declares [`DropReason`] once, so that the list, the names and the descriptions cannot drift apart.
macro_rules! drop_reasons {
    ($($variant:ident $name:literal $text:literal,)*) => {
        /// Why a frame was dropped.
        ///
        /// Where Linux has a word for it, this is the word (`include/net/dropreason-core.h`, 6.12), so that the
        /// kernel's `skb:kfree_skb` and our counters speak of the same things. Names that begin with `VXDP_`
        /// are ours: most of them mean that the XDP program and the tables disagreed for a moment, because it
        /// passes to the kernel whatever the tables do not know.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $text] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of the enum.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable name: in metrics, in `--json` and in `docs/counters.md`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means, in one sentence.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

drop_reasons! {
    NotSpecified "NOT_SPECIFIED" "The frame was given back before it got a verdict.",
    PktTooSmall "PKT_TOO_SMALL" "A length field or a header reaches beyond the end of the packet.",
    PktTooBig "PKT_TOO_BIG" "The frame does not fit the MTU of the device it should leave by.",
    Otherhost "OTHERHOST" "The outer destination MAC or IP address is not ours.",
    UnhandledProto "UNHANDLED_PROTO" "The outer frame is not untagged IP of the underlay's family that carries UDP.",
    IpInhdr "IP_INHDR" "The outer IP header is malformed.",
    IpCsum "IP_CSUM" "The outer IPv4 header checksum is wrong.",
    UdpCsum "UDP_CSUM" "The outer UDP checksum is wrong, or is zero over IPv6 where that is not allowed.",
    NoSocket "NO_SOCKET" "The outer UDP destination port belongs to no overlay.",
    VxlanInvalidHdr "VXLAN_INVALID_HDR" "The VXLAN header lacks the I flag or has reserved bits set.",
    VxlanVniNotFound "VXLAN_VNI_NOT_FOUND" "No overlay has this VNI on this UDP port.",
    VxlanEntryExists "VXLAN_ENTRY_EXISTS" "The inner source MAC is known behind another VTEP than the sender.",
    VxlanNoRemote "VXLAN_NO_REMOTE" "No VTEP is known for the destination MAC of a frame from a container.",
    MacInvalidSource "MAC_INVALID_SOURCE" "The inner source MAC is a group address or zero.",
    LocalMac "LOCAL_MAC" "A frame from a VTEP names one of our own containers as its source.",
    IpTunnelEcn "IP_TUNNEL_ECN" "The outer header says congestion experienced, the inner packet cannot carry it (RFC 6040).",
    NeighFailed "NEIGH_FAILED" "The next hop towards the VTEP is not resolved.",
    FullRing "FULL_RING" "The transmit ring of the device it should leave by had no room.",
    Nomem "NOMEM" "No free UMEM frame was left.",
    DevReady "DEV_READY" "The device it should leave by is gone or not attached.",
    NoHeadroom "VXDP_NO_HEADROOM" "A frame from a container came without the room for the outer headers or without an Ethernet header.",
    OuterFragment "VXDP_OUTER_FRAGMENT" "The outer packet is a fragment, which only the kernel reassembles.",
    OuterOptions "VXDP_OUTER_OPTIONS" "The outer packet has IPv4 options or IPv6 extension headers, which only the kernel reads.",
    UnknownVtep "VXDP_UNKNOWN_VTEP" "The outer source address is no VTEP that the tables name.",
    UnknownSource "VXDP_UNKNOWN_SOURCE" "The inner source MAC is not known behind any VTEP.",
    UnknownDestination "VXDP_UNKNOWN_DESTINATION" "The inner destination MAC is not one of our containers.",
    UnknownPort "VXDP_UNKNOWN_PORT" "The tables have no row for the port that the frame came from or should leave by.",
}

impl DropReason {
    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();

    /// Position in [`DropReason::ALL`], for arrays.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_own_index_under_its_own_name() {
        let mut names = std::collections::HashSet::new();
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(names.insert(reason.name()), "{reason} twice");
            assert!(reason.description().ends_with('.'));
        }
    }
}
