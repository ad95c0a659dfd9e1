//! Headers as they lie in a frame, read in place.
//!
//! All fields are two-byte words or bytes: every header of a frame starts at an even address, and some
//! (the IPv4 addresses behind 14 bytes of Ethernet) at no better one.

use aya_ebpf::programs::XdpContext;
use vxdp_ebpf::Address;

/// A big-endian word.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Be16(u16);

impl Be16 {
    #[inline(always)]
    pub(super) const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// A MAC.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Mac([Be16; 3]);

impl Mac {
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
pub(super) struct Ethernet {
    pub(super) destination: Mac,
    pub(super) source: Mac,
    pub(super) ethertype: Be16,
}

/// IPv4 without options (RFC 791, section 3.1).
#[repr(C)]
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
        let folded = (sum & 0xffff) + (sum >> 16);
        // Ten words carry at most 9, so the second fold carries at most once.
        (folded & 0xffff) + (folded >> 16) == 0xffff
    }
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
pub(super) struct Udp {
    pub(super) source_port: Be16,
    pub(super) destination_port: Be16,
    pub(super) length: Be16,
    pub(super) checksum: Be16,
}

/// VXLAN (RFC 7348, section 5): 8 bits of flags and 24 reserved, 24 of VNI and 8 reserved.
#[repr(C)]
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

/// Length of the frame in bytes.
#[inline(always)]
pub(super) fn length(ctx: &XdpContext) -> usize {
    ctx.data_end() - ctx.data()
}

/// The header at `offset`, or nothing when the frame ends before it does.
///
/// `T` is one of the types of this file. The reference must not be used after the head was moved.
#[inline(always)]
pub(super) fn header<T>(ctx: &XdpContext, offset: usize) -> Option<&T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: inside the frame, even, and every bit pattern of `T` is valid; the verifier checks the bounds.
    Some(unsafe { &*(start as *const T) })
}
