//! Finishes TCP and UDP checksums that a sender left to its network card.
//!
//! A container's kernel expects its veth to finish checksums (`CHECKSUM_PARTIAL`), and a veth never does: the
//! flag travels with the buffer to the receiver. XDP does not see the flag, so a frame comes with the sum of the
//! pseudo-header, folded but not complemented, in the checksum field (`include/linux/skbuff.h`, "CHECKSUM_PARTIAL"),
//! and would be thrown away by whoever receives it from a wire.
//!
//! # Why it is safe to recognise such a frame by that value
//!
//! Write P for the folded pseudo-header sum, S for the sum of the segment without its checksum field.
//!
//! - An *unfinished* frame has the field P. The finished one has C = ~(P + S), which depends on addresses, protocol,
//!   length and segment only, not on the field. This is what is written.
//! - A *correct* frame has the field C. It is touched only if C = P, which for ordinary data happens once in
//!   65535 frames; then C is computed again and the same C is written. (The two zeros of one's complement
//!   arithmetic are the one exception: a TCP checksum of 0xffff becomes 0x0000, which means the same.)
//! - A *damaged* frame has neither. It stays as it is, for the receiver to drop, unless by chance (one damaged
//!   frame in 65535) its field is P; then the damage is sealed. That is the very chance at which a 16-bit sum
//!   overlooks damage anyway, and these frames have crossed no wire whose damage the sum should show, or come
//!   from one that has a check sequence of its own.
//!
//! So a field that equals P may be finished without knowing which of the three the frame is.
//!
//! P is never zero (a protocol number is part of it), so a UDP checksum of zero, "none", is never taken for it.
//!
//! A packet that is itself a tunnel (GRE, VXLAN within the container) has its unfinished checksum deeper inside
//! than this looks; such senders must finish it themselves (`ethtool -K … tx off`).

use crate::wire::checksum::Sum;
use crate::wire::{Inner, IpProtocol, Ipv4Header, Ipv6Header, Network, Transport, UdpHeader};

/// Offset of the checksum in a TCP header (RFC 9293, section 3.1).
const TCP_CHECKSUM: usize = 16;

/// What the checksum of a segment turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// Left to the network card; it has been finished.
    Finished,
    /// Not recognised as unfinished: right, absent, wrong, or not there at all.
    Untouched,
}

/// The sum of a TCP or UDP pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1).
pub(super) fn pseudo_header(addresses: Sum, protocol: u8, length: usize) -> Sum {
    // Segments are shorter than 64 KiB, for they lie in an IP packet.
    addresses.add_u16(u16::from(protocol)).add_u16(length as u16)
}

/// Finishes the checksum of the segment in `frame`, if it is unfinished.
#[inline(always)]
pub fn finish(frame: &mut [u8], inner: &Inner) -> Checksum {
    finish_segment(frame, inner).unwrap_or(Checksum::Untouched)
}

#[inline(always)]
fn finish_segment(frame: &mut [u8], inner: &Inner) -> Option<Checksum> {
    let (Network::V4 { transport, .. } | Network::V6 { transport, .. }) = inner.network else {
        return None;
    };
    let Transport::Segment { protocol, at, end } = transport else {
        return None;
    };
    let field = at + if protocol == IpProtocol::TCP { TCP_CHECKSUM } else { UdpHeader::CHECKSUM };
    let pseudo = pseudo_header(address_sum(frame, inner)?, protocol, end - at);
    let found: [u8; 2] = *frame.get(field..)?.first_chunk()?;
    if found != pseudo.folded() {
        return None;
    }
    complete(frame, at..end, field, protocol);
    Some(Checksum::Finished)
}

#[inline]
fn address_sum(frame: &[u8], inner: &Inner) -> Option<Sum> {
    match inner.network {
        Network::V4 { at, .. } => Some(Ipv4Header::parse(frame.get(at..)?)?.0.address_sum()),
        Network::V6 { at, .. } => Some(Ipv6Header::parse(frame.get(at..)?)?.0.address_sum()),
        Network::Truncated | Network::Other => None,
    }
}

/// Writes the checksum of a segment whose field holds the pseudo-header's sum: as it is summed along with the
/// segment, the field stands in for the pseudo-header.
#[inline(never)]
fn complete(frame: &mut [u8], segment: std::ops::Range<usize>, field: usize, protocol: u8) {
    let sum = Sum::of(frame.get(segment).unwrap_or_default());
    let checksum = match sum.checksum() {
        // A UDP checksum of zero would mean "none" (RFC 768).
        [0, 0] if protocol == IpProtocol::UDP => [0xff, 0xff],
        checksum => checksum,
    };
    if let Some(place) = frame.get_mut(field..field + 2) {
        place.copy_from_slice(&checksum);
    }
}
