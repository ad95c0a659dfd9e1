//! The outer headers (RFC 7348, section 5), as `dataplane/src/path/encap.rs` writes them.

use vxdp_ebpf::{Family, INHERIT, Port, Settings, Vtep, df};

use super::entropy;
use super::frame::{Be16, Ethernet, Ipv4, Mac, Udp, Vxlan, fold, words};
use super::inner::{Inner, ecn};

/// Outer headers over IPv4, and the inner Ethernet header behind them.
#[repr(C)]
pub(super) struct Headers {
    outer: Ethernet,
    ip: Ipv4,
    udp: Udp,
    vxlan: Vxlan,
    inner: Ethernet,
}

const ETHERNET: usize = size_of::<Ethernet>();
const IP: usize = size_of::<Ipv4>();
const VXLAN: usize = size_of::<Udp>() + size_of::<Vxlan>();

impl Headers {
    /// Bytes that a frame grows by.
    pub(super) const ROOM: usize = size_of::<Self>() - ETHERNET;

    /// The headers of a frame of `length` bytes that begins with `ethernet`.
    #[inline(always)]
    pub(super) fn new(
        settings: &Settings,
        port: &Port,
        vtep: &Vtep,
        ethernet: Ethernet,
        inner: &Inner,
        length: usize,
        ident: u16,
    ) -> Self {
        let ethertype = const { Be16::new(Family::V4.ethertype()) };
        Self {
            outer: Ethernet {
                destination: Mac::new(vtep.next_hop),
                source: Mac::new(settings.local_mac),
                ethertype,
            },
            ip: ip(settings, port, vtep, inner, length, ident),
            udp: Udp {
                source_port: Be16::new(entropy::port(inner.hash, port.first_source_port, port.source_ports)),
                destination_port: Be16::new(port.udp_port),
                length: Be16::new((VXLAN + length) as u16),
                checksum: Be16::new(0),
            },
            vxlan: Vxlan {
                flags: [Be16::new(0x0800), Be16::new(0)],
                vni_reserved: [Be16::new((port.vni >> 8) as u16), Be16::new((port.vni << 8) as u16)],
            },
            inner: ethernet,
        }
    }
}

#[inline(always)]
fn ip(settings: &Settings, port: &Port, vtep: &Vtep, inner: &Inner, length: usize, ident: u16) -> Ipv4 {
    let tos = if port.tos == INHERIT { inner.dsfield } else { port.tos as u8 };
    let mark = match inner.dsfield & ecn::MASK {
        // What `dataplane/src/path/ecn.rs` says of `Ecn::encapsulated`.
        ecn::CE => ecn::ECT_0,
        mark => mark,
    };
    let ttl = match port.ttl {
        INHERIT if inner.ttl != 0 => u16::from(inner.ttl),
        INHERIT | 0 => vtep.hop_limit,
        ttl => ttl,
    };
    let dont_fragment = port.df == df::SET || port.df == df::INHERIT && inner.dont_fragment;
    let mut ip = Ipv4 {
        version_ihl_tos: Be16::new(0x4500 | u16::from(tos & !ecn::MASK | mark)),
        total_length: Be16::new((IP + VXLAN + length) as u16),
        identification: Be16::new(ident),
        flags_fragment: Be16::new(if dont_fragment { 0x4000 } else { 0 }),
        ttl_protocol: Be16::new(ttl << 8 | 17),
        checksum: Be16::new(0),
        source: words(settings.local_address),
        destination: words(vtep.address),
    };
    ip.checksum = Be16::from_raw(!ip.sum());
    ip
}

/// The IPv4 header checksum after one of its words changed from `old` to `new` (RFC 1624, equation 3).
#[inline(always)]
pub(super) const fn updated(checksum: Be16, old: Be16, new: Be16) -> Be16 {
    let sum = !checksum.raw() as u32 & 0xffff;
    Be16::from_raw(!fold(sum + (!old.raw() as u32 & 0xffff) + new.raw() as u32))
}
