//! What the outer headers need to know of an inner packet, and congestion marks on it (RFC 6040).

use vxdp_ebpf::Verdict;

use super::entropy::mixed;
use super::frame::{Be16, Ipv4, Ipv6, Packet, fold, header};

const TCP: u16 = 6;
const UDP: u16 = 17;

/// ECN codepoints (RFC 3168, section 5).
pub(super) mod ecn {
    pub(in super::super) const MASK: u8 = 3;
    pub(in super::super) const NOT_ECT: u8 = 0;
    pub(in super::super) const ECT_1: u8 = 1;
    pub(in super::super) const ECT_0: u8 = 2;
    pub(in super::super) const CE: u8 = 3;
}

/// An inner packet as the outer headers see it.
pub(super) struct Inner {
    /// Type of service or traffic class.
    pub(super) dsfield: u8,
    /// Time to live or hop limit.
    pub(super) ttl: u8,
    /// Don't-fragment flag; always for IPv6.
    pub(super) dont_fragment: bool,
    /// Hash of its flow.
    pub(super) hash: u64,
    /// Bytes from the IP header's start to the end of the transport header; of the IP header alone where the
    /// transport is not TCP or UDP.
    pub(super) headers: usize,
}

/// Two words as eight bytes read little-endian would be.
#[inline(always)]
const fn word([a, b, c, d]: [Be16; 4]) -> u64 {
    a.raw() as u64 | (b.raw() as u64) << 16 | (c.raw() as u64) << 32 | (d.raw() as u64) << 48
}

/// Looks at the packet of `ethertype` at `at`.
#[inline(always)]
pub(super) fn look(packet: &impl Packet, ethertype: u16, at: usize) -> Result<Inner, Verdict> {
    match ethertype {
        0x0800 => look_v4(packet, at),
        0x86dd => look_v6(packet, at),
        _ => Err(Verdict::NotPlain),
    }
}

#[inline(always)]
fn look_v4(packet: &impl Packet, at: usize) -> Result<Inner, Verdict> {
    let ip = header::<Ipv4>(packet, at).ok_or(Verdict::BadLength)?;
    let version_ihl_tos = ip.version_ihl_tos.get();
    let length = usize::from(version_ihl_tos >> 8 & 0xf) * 4;
    let whole = version_ihl_tos >> 12 == 4 && length >= 20 && ip.flags_fragment.get() & 0x3fff == 0;
    let total = usize::from(ip.total_length.get());
    let mut inner = Inner {
        dsfield: version_ihl_tos as u8,
        ttl: (ip.ttl_protocol.get() >> 8) as u8,
        dont_fragment: ip.flags_fragment.get() & 0x4000 != 0,
        hash: mixed(0, word([ip.source[0], ip.source[1], ip.destination[0], ip.destination[1]])),
        headers: size_of::<Ipv4>(),
    };
    if whole && total <= packet.length() - at {
        segment(packet, &mut inner, ip.ttl_protocol.get() & 0xff, at, length, total)?;
    }
    Ok(inner)
}

#[inline(always)]
fn look_v6(packet: &impl Packet, at: usize) -> Result<Inner, Verdict> {
    const LENGTH: usize = size_of::<Ipv6>();
    let ip = header::<Ipv6>(packet, at).ok_or(Verdict::BadLength)?;
    let first = ip.version_class_flow[0].get();
    let protocol = ip.next_header_hop_limit.get() >> 8;
    // What follows them decides about the source port.
    if is_extension(protocol) {
        return Err(Verdict::NotPlain);
    }
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (ip.source, ip.destination);
    let hash = mixed(mixed(0, word([a, b, c, d])), word([e, f, g, h]));
    let mut inner = Inner {
        dsfield: (first >> 4) as u8,
        ttl: ip.next_header_hop_limit.get() as u8,
        dont_fragment: true,
        hash: mixed(mixed(hash, word([i, j, k, l])), word([m, n, o, p])),
        headers: LENGTH,
    };
    let total = LENGTH + usize::from(ip.payload_length.get());
    if first >> 12 == 6 && total <= packet.length() - at {
        segment(packet, &mut inner, protocol, at, LENGTH, total)?;
    }
    Ok(inner)
}

/// Adds the ports of a whole TCP or UDP segment behind `length` bytes of IP header.
#[inline(always)]
fn segment(
    packet: &impl Packet,
    inner: &mut Inner,
    protocol: u16,
    at: usize,
    length: usize,
    total: usize,
) -> Result<(), Verdict> {
    let least = match protocol {
        TCP => 20,
        UDP => 8,
        _ => return Ok(()),
    };
    if length + least > total {
        return Ok(());
    }
    // Four words: the ports first, and in a TCP header the data offset behind twelve bytes.
    let transport = header::<[Be16; 4]>(packet, at + length).ok_or(Verdict::NotPlain)?;
    let ports = u64::from(transport[0].raw()) | u64::from(transport[1].raw()) << 16;
    inner.hash = mixed(inner.hash, ports << 8 | u64::from(protocol));
    inner.headers = length + 8;
    if protocol == TCP {
        let offset = header::<Be16>(packet, at + length + 12).ok_or(Verdict::NotPlain)?;
        inner.headers = length + usize::from(offset.get() >> 12) * 4;
    }
    Ok(())
}

/// Whether the sender left the checksum of a whole TCP or UDP segment to its device: the field holds the folded sum
/// of the pseudo-header (`dataplane/src/path/unfinished.rs` says why that tells). The packet at `at` has been
/// looked at.
#[inline(always)]
pub(super) fn is_unfinished(packet: &impl Packet, ethertype: u16, at: usize) -> bool {
    let segment = if ethertype == 0x0800 { segment_v4(packet, at) } else { segment_v6(packet, at) };
    let Some(Segment { protocol, start, length, addresses }) = segment else { return false };
    let (field, least) = if protocol == TCP { (16, 20) } else { (6, 8) };
    if length < least {
        return false;
    }
    let pseudo = addresses + u32::from(protocol.to_be()) + u32::from((length as u16).to_be());
    header::<Be16>(packet, at + start + field).is_some_and(|checksum| checksum.raw() == fold(pseudo))
}

/// A whole TCP or UDP segment in a packet.
struct Segment {
    protocol: u16,
    /// Where it starts in the packet.
    start: usize,
    length: usize,
    /// Sum of the words of the addresses, as they lie in the packet.
    addresses: u32,
}

#[inline(always)]
fn segment_v4(packet: &impl Packet, at: usize) -> Option<Segment> {
    let ip = header::<Ipv4>(packet, at)?;
    let start = usize::from(ip.version_ihl_tos.get() >> 8 & 0xf) * 4;
    let (protocol, total) = (ip.ttl_protocol.get() & 0xff, usize::from(ip.total_length.get()));
    let whole = ip.version_ihl_tos.get() >> 12 == 4
        && ip.flags_fragment.get() & 0x3fff == 0
        && start >= size_of::<Ipv4>()
        && total >= start
        && total <= packet.length() - at;
    let words = [ip.source[0], ip.source[1], ip.destination[0], ip.destination[1]];
    let addresses = words.iter().map(|word| u32::from(word.raw())).sum();
    (whole && matches!(protocol, TCP | UDP)).then_some(Segment {
        protocol,
        start,
        length: total - start,
        addresses,
    })
}

#[inline(always)]
fn segment_v6(packet: &impl Packet, at: usize) -> Option<Segment> {
    const START: usize = size_of::<Ipv6>();
    let ip = header::<Ipv6>(packet, at)?;
    let (protocol, length) = (ip.next_header_hop_limit.get() >> 8, usize::from(ip.payload_length.get()));
    let whole = ip.version_class_flow[0].get() >> 12 == 6 && START + length <= packet.length() - at;
    let addresses = ip.source.iter().chain(&ip.destination).map(|word| u32::from(word.raw())).sum();
    (whole && matches!(protocol, TCP | UDP)).then_some(Segment { protocol, start: START, length, addresses })
}

/// Whether an IPv6 packet has extension headers behind which a segment may hide.
#[inline(always)]
pub(super) fn has_extensions(packet: &impl Packet, at: usize) -> bool {
    header::<Ipv6>(packet, at).is_some_and(|ip| is_extension(ip.next_header_hop_limit.get() >> 8))
}

/// Hop-by-hop, routing, fragment, destination options.
#[inline(always)]
const fn is_extension(protocol: u16) -> bool {
    matches!(protocol, 0 | 43 | 44 | 60)
}
