//! A hash of an inner frame's flow, for the outer UDP source port (RFC 7348, section 5).

use crate::wire::{Inner, IpProtocol, Network, Transport};

/// Odd numbers with well-mixed bits (of the golden ratio and of pi): any such would do.
const MIX: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0x2437_0d3b_243f_6a89];

/// One word more: the full product of two mixed words, its halves folded on each other, so that every input bit
/// reaches every output bit.
#[inline]
fn mixed(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word ^ MIX[1]) * u128::from(MIX[0]);
    (product as u64) ^ (product >> 64) as u64
}

fn word(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|word| u64::from_le_bytes(*word))
}

/// The same number for every frame of a flow, on every host and every worker: addresses, protocol and ports of
/// TCP and UDP, addresses alone of other IP packets and of fragments (whose ports only the first one has), the
/// MAC addresses and the EtherType of the rest.
#[inline]
pub fn flow_hash(frame: &[u8], inner: &Inner) -> u32 {
    let hash = network_hash(frame, inner).or_else(|| link_hash(frame)).unwrap_or_default();
    (hash >> 32) as u32
}

#[inline]
fn network_hash(frame: &[u8], inner: &Inner) -> Option<u64> {
    let (addresses, transport) = match inner.network {
        Network::V4 { at, transport } => (frame.get(at + 12..at + 20)?, transport),
        Network::V6 { at, transport } => (frame.get(at + 8..at + 40)?, transport),
        Network::Truncated | Network::Other => return None,
    };
    let mut hash = 0;
    for chunk in addresses.chunks_exact(8) {
        hash = mixed(hash, word(chunk)?);
    }
    if let Transport::Segment { protocol, at, .. } = transport {
        let ports = u32::from_le_bytes(*frame.get(at..)?.first_chunk()?);
        hash = mixed(hash, u64::from(ports) << 8 | u64::from(protocol));
    }
    Some(hash)
}

fn link_hash(frame: &[u8]) -> Option<u64> {
    let head = frame.first_chunk::<14>()?;
    Some(mixed(mixed(0, word(head)?), word(head.get(6..)?)?))
}

/// Kept beside the hash: the protocols whose segments have ports where [`flow_hash`] reads them.
const _: () = assert!(IpProtocol::TCP == 6 && IpProtocol::UDP == 17);
