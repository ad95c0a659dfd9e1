//! Keys and values of the maps, in the layout both sides see.
//!
//! Numbers are in host order, addresses in wire order. Nothing has padding that the compiler chose, so a
//! value is its bytes, and those are what userspace hands to the kernel.

use core::net::IpAddr;

/// Queues an instance can serve: slots of `XSKS` and `HEARTBEATS`.
///
/// Above the queue count of any NIC one would give to a single tunnel; a frame from a queue beyond it
/// passes to the kernel. Higher costs 8 bytes per instance and queue.
pub const MAX_QUEUES: u32 = 256;

/// Words of 64 bits in `TUNNEL_PORTS`, one bit per UDP port.
pub const TUNNEL_PORT_WORDS: u32 = 65536 / 64;

/// Where the bit of a UDP port stands in `TUNNEL_PORTS`: its word and its mask.
pub const fn tunnel_port_bit(port: u16) -> (u32, u64) {
    (port as u32 / 64, 1 << (port % 64))
}

/// Names of the maps in the object.
pub mod map {
    /// Array of one [`Settings`](super::Settings).
    pub const SETTINGS: &str = "SETTINGS";
    /// Array of `u64`: `CLOCK_MONOTONIC` nanoseconds of the last sign of life of each queue's worker; 0 = never.
    pub const HEARTBEATS: &str = "HEARTBEATS";
    /// Array of `u64` words, see [`tunnel_port_bit`](super::tunnel_port_bit).
    pub const TUNNEL_PORTS: &str = "TUNNEL_PORTS";
    /// Hash of [`OverlayKey`](super::OverlayKey) to [`Overlay`](super::Overlay).
    pub const OVERLAYS: &str = "OVERLAYS";
    /// Hash of [`FdbKey`](super::FdbKey) to [`Row`](super::Row).
    pub const FDB: &str = "FDB";
    /// Array of [`Vtep`](super::Vtep) by VTEP number.
    pub const VTEPS: &str = "VTEPS";
    /// Array of [`Port`](super::Port) by port number.
    pub const PORTS: &str = "PORTS";
    /// XSKMAP by queue; every program instance has its own.
    pub const XSKS: &str = "XSKS";
    /// Per-CPU array of `u64` by [`Verdict`](crate::Verdict); every program instance has its own.
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`FdbKey`](super::FdbKey): the rows that traffic came from in this epoch.
    pub const HITS: &str = "HITS";
    /// Per-CPU array of [`Flows`](super::Flows) by VTEP number.
    pub const VTEP_FLOWS: &str = "VTEP_FLOWS";
    /// Per-CPU array of [`Flows`](super::Flows) by port number.
    pub const PORT_FLOWS: &str = "PORT_FLOWS";
    /// Per-CPU array of one `u32`: the next IPv4 identification.
    pub const IDENTS: &str = "IDENTS";
    /// DEVMAP of one device: the NIC that carries the tunnel.
    pub const UNDERLAY_DEVICE: &str = "UNDERLAY_DEVICE";
    /// DEVMAP by port number: the devices on the bridges.
    pub const PORT_DEVICES: &str = "PORT_DEVICES";

    /// The maps that all instances share.
    pub const SHARED: [&str; 13] = [
        SETTINGS,
        HEARTBEATS,
        TUNNEL_PORTS,
        OVERLAYS,
        FDB,
        VTEPS,
        PORTS,
        HITS,
        VTEP_FLOWS,
        PORT_FLOWS,
        IDENTS,
        UNDERLAY_DEVICE,
        PORT_DEVICES,
    ];
}

/// Names of the programs in the object.
pub mod program {
    /// XDP, for the NIC that carries the tunnel: hands frames to workers.
    pub const UNDERLAY: &str = "vxdp_underlay";
    /// XDP, for the host's end of a container's veth: hands frames to workers.
    pub const PORT: &str = "vxdp_port";
    /// tc ingress, for the NIC that carries the tunnel: decapsulates.
    pub const TC_UNDERLAY: &str = "vxdp_tc_underlay";
    /// tc ingress, for the host's end of a container's veth: encapsulates.
    pub const TC_PORT: &str = "vxdp_tc_port";
    /// tc ingress, for the uplink's end in the host's namespace: sends encapsulated packets to the NIC.
    pub const TC_DEPART: &str = "vxdp_tc_depart";
    /// tc ingress, for the uplink's end in the overlay's namespace: hands decapsulated frames to containers.
    pub const TC_ARRIVE: &str = "vxdp_tc_arrive";
    /// XDP, for the NIC that carries the tunnel: decapsulates, and sends to containers.
    pub const XDP_UNDERLAY: &str = "vxdp_xdp_underlay";
    /// XDP, for the host's end of a container's veth: encapsulates, and sends to the NIC.
    pub const XDP_PORT: &str = "vxdp_xdp_port";
    /// The `u32` constant of an instance of [`PORT`], [`TC_PORT`] or [`XDP_PORT`]: which entry of
    /// [`PORTS`](super::map::PORTS) it serves.
    pub const PORT_NUMBER: &str = "PORT_NUMBER";
}

/// The mark (`skb->mark`) under which a packet crosses an uplink, in its upper half; the number of the port is
/// in the lower one.
///
/// The programs set it right before and clear it right after. A packet without it came from somewhere else
/// and is dropped: nobody else has business on an uplink.
pub const UPLINK_MARK: u32 = 0x7664_0000;

/// VTEPs that have counters of their own; those beyond are counted with their ports only. Each costs 32 bytes
/// per CPU.
pub const COUNTED_VTEPS: u32 = 4096;

/// Bytes of the ring of hits: room for twenty thousand rows between two visits of the daemon (16 bytes each).
/// A row that finds no room tries again with its next frame, so a smaller ring costs time, a larger one
/// only memory.
pub const HITS_BYTES: u32 = 1 << 19;

/// Declares a type that is its bytes: `repr(C)` without padding, every bit pattern valid.
macro_rules! shared {
    ($(#[$attribute:meta])* pub struct $name:ident { $($(#[$field_attribute:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$attribute])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name { $($(#[$field_attribute])* pub $field: $type,)* }

        impl $name {
            /// Size in bytes.
            pub const SIZE: usize = size_of::<Self>();

            /// The bytes that stand in the map.
            #[expect(unsafe_code, reason = "one conversion for all shared types")]
            pub const fn to_bytes(self) -> [u8; Self::SIZE] {
                const { assert!($name::SIZE == 0 $(+ size_of::<$type>())*, "padding") };
                // SAFETY: equal sizes, and by the assertion no byte of the value is padding.
                unsafe { core::mem::transmute(self) }
            }

            /// The value of bytes read from the map.
            #[expect(unsafe_code, reason = "one conversion for all shared types")]
            pub const fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
                // SAFETY: equal sizes, and the fields are integers and arrays of them: every value is valid.
                unsafe { core::mem::transmute(bytes) }
            }
        }
    };
}

/// Family of the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 50 bytes of encapsulation.
    V4,
    /// 70 bytes of encapsulation.
    V6,
}

impl Family {
    /// Bytes of the outer Ethernet, IP, UDP and VXLAN headers together: what an encapsulated frame is longer.
    pub const fn room(self) -> u32 {
        match self {
            Self::V4 => 14 + 20 + 8 + 8,
            Self::V6 => 14 + 40 + 8 + 8,
        }
    }

    /// The EtherType of the outer packet.
    pub const fn ethertype(self) -> u16 {
        match self {
            Self::V4 => 0x0800,
            Self::V6 => 0x86dd,
        }
    }
}

/// An underlay address: IPv6, or IPv4 mapped (`::ffff:a.b.c.d`); words of wire bytes.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// The IPv4-mapped form of an address whose wire bytes are those of `word`.
    #[inline(always)]
    pub const fn mapped(word: u32) -> Self {
        Self([0, 0, 0x0000_ffff_u32.to_be(), word])
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let (words, _) = octets.as_chunks::<4>();
        Self(core::array::from_fn(|i| u32::from_ne_bytes(words[i])))
    }
}

shared! {
    /// What holds for the whole host.
    pub struct Settings {
        /// Age in nanoseconds from which a heartbeat counts as stale.
        pub heartbeat_max_age_ns: u64,
        /// Our VTEP address.
        pub local_address: Address,
        /// MAC of the underlay device.
        pub local_mac: [u8; 6],
        /// EtherType of the underlay's family ([`Family::ethertype`]).
        pub ethertype: u16,
        /// Bytes to make room for before a frame from a port ([`Family::room`]).
        pub room: u32,
        /// Longest frame in bytes that a worker can take from the underlay: the kernel drops a redirected frame
        /// that does not fit the socket's buffers, so a longer one must pass.
        pub max_frame: u32,
        /// The switch: 0 passes every frame.
        pub enabled: u32,
        /// A number that changes whenever the daemon wants to know anew which rows are in use; never zero.
        pub epoch: u32,
        /// Index of the underlay device.
        pub underlay: u32,
        /// Zero.
        pub zero: u32,
    }
}

shared! {
    /// How a segment is recognised on the underlay.
    pub struct OverlayKey {
        /// VXLAN network identifier.
        pub vni: u32,
        /// UDP destination port.
        pub udp_port: u16,
        /// Zero.
        pub zero: u16,
    }
}

impl OverlayKey {
    /// The key of `vni` on `udp_port`.
    #[inline(always)]
    pub const fn new(vni: u32, udp_port: u16) -> Self {
        Self { vni, udp_port, zero: 0 }
    }
}

shared! {
    /// One segment.
    pub struct Overlay {
        /// Number under which the FDB knows the segment.
        pub overlay: u16,
        /// 0 passes the segment's frames from the underlay.
        pub enabled: u16,
    }
}

shared! {
    /// A MAC in a segment.
    pub struct FdbKey {
        /// Number of the segment.
        pub overlay: u16,
        /// The MAC.
        pub mac: [u8; 6],
    }
}

shared! {
    /// A [`Place`] as it stands in the map.
    pub struct Row {
        /// 0 remote, 1 local.
        pub kind: u32,
        /// Number of the VTEP or of the port.
        pub number: u32,
        /// [`Settings::epoch`] of the last frame from there that was reported to the daemon.
        pub seen: u32,
    }
}

/// Where a MAC is. A segment's MAC has one place, as in the kernel's bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Behind the VTEP of this number.
    Remote(u32),
    /// Behind the port of this number.
    Local(u32),
}

impl From<Place> for Row {
    fn from(place: Place) -> Self {
        match place {
            Place::Remote(number) => Self { kind: 0, number, seen: 0 },
            Place::Local(number) => Self { kind: 1, number, seen: 0 },
        }
    }
}

impl Row {
    /// The place of the row.
    #[inline(always)]
    pub const fn place(self) -> Place {
        if self.kind == 0 { Place::Remote(self.number) } else { Place::Local(self.number) }
    }
}

shared! {
    /// A remote VTEP.
    pub struct Vtep {
        /// Its underlay address.
        pub address: Address,
        /// 1 when the next hop's MAC is known.
        pub resolved: u32,
        /// That MAC.
        pub next_hop: [u8; 6],
        /// Time to live that packets on its route start with.
        pub hop_limit: u16,
    }
}

/// In [`Port::ttl`] and [`Port::tos`]: the inner packet's.
pub const INHERIT: u16 = 0x100;

/// In [`Port::df`].
pub mod df {
    /// Clear.
    pub const UNSET: u16 = 0;
    /// Set.
    pub const SET: u16 = 1;
    /// The inner packet's; set for IPv6 inside.
    pub const INHERIT: u16 = 2;
}

shared! {
    /// A container's port, and how the outer headers of its frames look.
    ///
    /// The programs that hand frames to workers read the first three fields only.
    pub struct Port {
        /// Number of the segment.
        pub overlay: u16,
        /// 0 passes the port's frames.
        pub enabled: u16,
        /// Longest inner frame in bytes, from the Ethernet header on, that fits the underlay and the port.
        pub max_frame: u32,
        /// VXLAN network identifier.
        pub vni: u32,
        /// Index of its device on the bridge, in the overlay's namespace.
        pub index: u32,
        /// Index of the uplink's end in the overlay's namespace.
        pub uplink_inside: u32,
        /// Index of the uplink's end in the host's namespace.
        pub uplink_outside: u32,
        /// How many UDP source ports there are, from the first on.
        pub source_ports: u32,
        /// The first UDP source port.
        pub first_source_port: u16,
        /// UDP destination port.
        pub udp_port: u16,
        /// Time to live: 0 = the route's, [`INHERIT`], or this.
        pub ttl: u16,
        /// Type of service: [`INHERIT`], or this.
        pub tos: u16,
        /// Don't-fragment flag, see [`df`].
        pub df: u16,
        /// 1 when the outer UDP checksum must be computed.
        pub udp_checksum: u16,
        /// MAC of the container's end.
        pub mac: [u8; 6],
        /// Zero.
        pub zero: u16,
    }
}

shared! {
    /// Frames and bytes of inner Ethernet frames, as the in-kernel engine carried them. What the kernel handles
    /// as one packet (segmentation offload) counts as one frame, as for its own devices.
    pub struct Flows {
        /// Frames that were encapsulated.
        pub encap_frames: u64,
        /// Their bytes.
        pub encap_bytes: u64,
        /// Frames that were decapsulated.
        pub decap_frames: u64,
        /// Their bytes.
        pub decap_bytes: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_mapped() {
        let address = Address::from(IpAddr::from([192, 168, 10, 21]));
        assert_eq!(address, Address::mapped(u32::from_ne_bytes([192, 168, 10, 21])));
        assert_eq!(address, Address::from(IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0xc0a8, 0x0a15])));
    }

    #[test]
    fn a_value_comes_back_from_its_bytes() {
        let key = FdbKey { overlay: 7, mac: [2, 0x42, 0x0a, 0, 0, 3] };
        assert_eq!(key.to_bytes(), [7, 0, 2, 0x42, 0x0a, 0, 0, 3], "little-endian machine assumed");
        assert_eq!(FdbKey::from_bytes(key.to_bytes()), key);
    }

    #[test]
    fn every_udp_port_has_a_bit_of_its_own() {
        assert_eq!(tunnel_port_bit(0), (0, 1));
        assert_eq!(tunnel_port_bit(4789), (74, 1 << 53));
        assert_eq!(tunnel_port_bit(65535), (TUNNEL_PORT_WORDS - 1, 1 << 63));
    }

    #[test]
    fn a_row_keeps_its_place() {
        for place in [Place::Remote(3), Place::Local(9)] {
            assert_eq!(Row::from(place).place(), place);
        }
    }
}
