//! Headers as they lie in a frame, read in place.
//!
//! All fields are two-byte words or bytes: every header of a frame starts at an even address, and some
//! (the IPv4 addresses behind 14 bytes of Ethernet) at no better one.

use aya_ebpf::programs::{TcContext, XdpContext};
use vxdp_ebpf::Address;

/// A packet that a program was given, of whichever kind.
pub(super) trait Packet {
    /// Address of the first byte.
    fn start(&self) -> usize;
    /// Address behind the last byte that can be read in place.
    fn end(&self) -> usize;
    /// Length of the packet in bytes, more than can be read in place if it is scattered.
    fn length(&self) -> usize;
}

impl Packet for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.data_end() - self.data()
    }
}

impl Packet for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.len() as usize
    }
}

/// A big-endian word.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Be16(u16);

impl Be16 {
    #[inline(always)]
    pub(super) const fn new(value: u16) -> Self {
        Self(value.to_be())
    }

    #[inline(always)]
    pub(super) const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// As it lies in the packet.
    #[inline(always)]
    pub(super) const fn raw(self) -> u16 {
        self.0
    }

    /// From how it lies in the packet.
    #[inline(always)]
    pub(super) const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }
}

/// A MAC.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Mac([Be16; 3]);

impl Mac {
    #[inline(always)]
    pub(super) const fn new([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self([
            Be16(u16::from_ne_bytes([a, b])),
            Be16(u16::from_ne_bytes([c, d])),
            Be16(u16::from_ne_bytes([e, f])),
        ])
    }

    #[inline(always)]
    pub(super) const fn octets(self) -> [u8; 6] {
        let [[a, b], [c, d], [e, f]] =
            [self.0[0].0.to_ne_bytes(), self.0[1].0.to_ne_bytes(), self.0[2].0.to_ne_bytes()];
        [a, b, c, d, e, f]
    }

    #[inline(always)]
    pub(super) const fn is_group(self) -> bool {
        self.0[0].get() & 0x0100 != 0
    }
}

/// Ethernet II.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Ethernet {
    pub(super) destination: Mac,
    pub(super) source: Mac,
    pub(super) ethertype: Be16,
}

/// IPv4 without options (RFC 791, section 3.1).
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Ipv4 {
    pub(super) version_ihl_tos: Be16,
    pub(super) total_length: Be16,
    pub(super) identification: Be16,
    pub(super) flags_fragment: Be16,
    pub(super) ttl_protocol: Be16,
    pub(super) checksum: Be16,
    pub(super) source: [Be16; 2],
    pub(super) destination: [Be16; 2],
}

impl Ipv4 {
    /// Whether the one's complement sum over the header is right (RFC 1071).
    #[inline(always)]
    pub(super) fn checksum_holds(&self) -> bool {
        self.sum() == 0xffff
    }

    /// The folded one's complement sum over the header as it lies in the packet.
    #[inline(always)]
    pub(super) fn sum(&self) -> u16 {
        // The sum does not depend on byte order, only the order of the folded result would (RFC 1071, 2B).
        let sum = u32::from(self.version_ihl_tos.0)
            + u32::from(self.total_length.0)
            + u32::from(self.identification.0)
            + u32::from(self.flags_fragment.0)
            + u32::from(self.ttl_protocol.0)
            + u32::from(self.checksum.0)
            + u32::from(self.source[0].0)
            + u32::from(self.source[1].0)
            + u32::from(self.destination[0].0)
            + u32::from(self.destination[1].0);
        fold(sum)
    }
}

/// A sum of at most 2^16 words as one of 16 bits.
#[inline(always)]
pub(super) const fn fold(sum: u32) -> u16 {
    let folded = (sum & 0xffff) + (sum >> 16);
    // The first fold leaves a carry of at most one.
    ((folded & 0xffff) + (folded >> 16)) as u16
}

/// IPv6 (RFC 8200, section 3).
#[repr(C)]
pub(super) struct Ipv6 {
    pub(super) version_class_flow: [Be16; 2],
    pub(super) payload_length: Be16,
    pub(super) next_header_hop_limit: Be16,
    pub(super) source: [Be16; 8],
    pub(super) destination: [Be16; 8],
}

/// UDP (RFC 768).
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Udp {
    pub(super) source_port: Be16,
    pub(super) destination_port: Be16,
    pub(super) length: Be16,
    pub(super) checksum: Be16,
}

/// VXLAN (RFC 7348, section 5): 8 bits of flags and 24 reserved, 24 of VNI and 8 reserved.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Vxlan {
    pub(super) flags: [Be16; 2],
    pub(super) vni_reserved: [Be16; 2],
}

/// A 32-bit big-endian number in two words.
#[inline(always)]
pub(super) const fn number(words: [Be16; 2]) -> u32 {
    (words[0].get() as u32) << 16 | words[1].get() as u32
}

/// The wire bytes of two words as one, in the order of an [`Address`].
#[inline(always)]
const fn word(words: [Be16; 2]) -> u32 {
    if cfg!(target_endian = "little") {
        (words[1].0 as u32) << 16 | words[0].0 as u32
    } else {
        (words[0].0 as u32) << 16 | words[1].0 as u32
    }
}

/// An IPv4 address of the header.
#[inline(always)]
pub(super) const fn ipv4(words: [Be16; 2]) -> Address {
    Address::mapped(word(words))
}

/// An IPv6 address of the header.
#[inline(always)]
pub(super) const fn ipv6([a, b, c, d, e, f, g, h]: [Be16; 8]) -> Address {
    Address([word([a, b]), word([c, d]), word([e, f]), word([g, h])])
}

/// The address words of an IPv4-mapped address as they lie in a packet.
#[inline(always)]
pub(super) const fn words(address: Address) -> [Be16; 2] {
    let [a, b, c, d] = address.0[3].to_ne_bytes();
    [Be16(u16::from_ne_bytes([a, b])), Be16(u16::from_ne_bytes([c, d]))]
}

/// The header at `offset`, or nothing when the readable part of the packet ends before it does.
///
/// `T` is one of the types of this file. The reference must not be used after the packet was changed.
#[inline(always)]
pub(super) fn header<T>(packet: &impl Packet, offset: usize) -> Option<&T> {
    pointer(packet, offset).map(|pointer: *mut T| {
        // SAFETY: inside the packet, even, and every bit pattern of `T` is valid; the verifier checks the bounds.
        unsafe { &*pointer }
    })
}

/// Where a `T` at `offset` lies, if it lies in the readable part.
#[inline(always)]
pub(super) fn pointer<T>(packet: &impl Packet, offset: usize) -> Option<*mut T> {
    let start = packet.start() + offset;
    if start + size_of::<T>() > packet.end() {
        return None;
    }
    Some(start as *mut T)
}
