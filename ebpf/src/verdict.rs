//! What the programs decide about a frame, one counter each.

macro_rules! verdicts {
    ($($variant:ident $name:literal $meaning:literal,)*) => {
        /// What a program decided about a frame.
        ///
        /// Every verdict but [`Verdict::Redirected`] means that the untouched frame passes: the kernel's own
        /// path carries it. The numbers are the indices of the `COUNTERS` map.
        #[repr(u32)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Verdict {
            $(#[doc = $meaning] $variant,)*
        }

        impl Verdict {
            /// All verdicts, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name under which the verdict is counted and shown; it never changes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// One sentence on what the verdict means.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),* }
            }
        }
    };
}

verdicts! {
    Redirected "redirected" "Handed to the worker of its queue, or carried by the program itself.",
    Disabled "disabled" "The switch of the daemon, of the overlay or of the port is off, or the row's port has gone.",
    NotOurs "not_ours" "No VXLAN datagram for our MAC, VTEP address and UDP ports.",
    OuterTag "outer_tag" "An 802.1Q or 802.1ad tag stands before the outer IP header.",
    IpOptions "ip_options" "The outer header has IPv4 options or IPv6 extension headers.",
    Fragment "fragment" "The outer packet is a fragment.",
    HeaderChecksum "header_checksum" "The outer IPv4 header checksum is wrong.",
    BadLength "bad_length" "Frame, IP and UDP lengths disagree, or there is no whole inner Ethernet header.",
    Flags "flags" "The VXLAN flags are not exactly I, or a reserved bit is set.",
    UnknownVni "unknown_vni" "No overlay has this VNI on this UDP port.",
    Multicast "multicast" "The inner destination is a group address.",
    UnknownDestination "unknown_destination" "The FDB has no row for the inner destination.",
    WrongSide "wrong_side" "The inner destination is on the side the frame came from: remote on the underlay, local on a port.",
    UnknownSource "unknown_source" "The FDB has no row for the inner source: the kernel has it to learn.",
    MovedSource "moved_source" "The FDB has the inner source elsewhere, not behind this VTEP or port.",
    Neighbour "neighbour" "ARP or an IPv6 neighbour solicitation from a container, which the vxlan device may answer.",
    TooBig "too_big" "The frame does not fit the underlay's MTU once encapsulated, the container's port, or a worker's buffers.",
    UnresolvedVtep "unresolved_vtep" "The next hop towards the destination's VTEP is not resolved.",
    StaleHeartbeat "stale_heartbeat" "The worker of this queue, or the daemon, has not shown itself alive lately.",
    NoSocket "no_socket" "No AF_XDP socket serves this queue.",
    NoHeadroom "no_headroom" "The driver leaves no room for the outer headers before the frame.",
    NotPlain "not_plain" "The inner frame is not untagged IP without extension headers, which the in-kernel engine leaves to the kernel.",
    OuterChecksum "outer_checksum" "The outer UDP checksum would have to be computed or verified, which the in-kernel engine leaves to the kernel.",
    Congestion "congestion" "The outer header says congestion experienced and the inner packet cannot carry it: the kernel drops it.",
    Unfinished "unfinished" "The sender left the inner TCP or UDP checksum to its device, which the in-kernel engine at XDP leaves to the kernel.",
    NoDevice "no_device" "The device that the in-kernel engine at XDP would send to is gone.",
    Refused "refused" "The kernel did not let the in-kernel engine change the packet, as when it is a tunnel's packet already.",
}

impl Verdict {
    /// How many verdicts there are: the size of the `COUNTERS` map.
    pub const COUNT: u32 = Self::ALL.len() as u32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions_in_the_list() {
        for (position, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, position);
        }
    }
}
