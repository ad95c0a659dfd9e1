//! Header views, the look into a frame and the sums, against etherparse and against plain arithmetic.

use etherparse::{Ipv6ExtensionSlice, NetSlice, SlicedPacket, TransportSlice};
use vxdp_dataplane::path::entropy::flow_hash;
use vxdp_dataplane::path::unfinished::{Checksum, finish};
use vxdp_dataplane::wire::checksum::Sum;
use vxdp_dataplane::wire::{
    EthHeader, Inner, Ipv4Header, Ipv6Header, Network, Transport, UdpHeader, VxlanHeader,
};

/// Bytes of any kind are read as each header and as a whole frame.
pub(super) fn check(bytes: &[u8]) {
    headers(bytes);
    sums(bytes);
    let inner = Inner::parse(bytes);
    stays_inside(bytes, &inner);
    agrees(bytes, &inner);
    finished(bytes, &inner);
    let _ = flow_hash(bytes, &inner);
}

fn headers(bytes: &[u8]) {
    if let Some((eth, rest)) = EthHeader::parse(bytes) {
        let (theirs, their_rest) = etherparse::Ethernet2Header::from_slice(bytes).expect("14 bytes");
        assert_eq!((eth.destination().octets(), eth.source().octets()), (theirs.destination, theirs.source));
        assert_eq!((eth.ether_type().0, rest), (theirs.ether_type.0, their_rest));
    }
    if let (Some((ip, _)), Ok((theirs, _))) =
        (Ipv4Header::parse(bytes), etherparse::Ipv4Header::from_slice(bytes))
    {
        assert_eq!((ip.version(), ip.header_len()), (4, theirs.header_len()));
        assert_eq!(ip.tos(), theirs.dscp.value() << 2 | theirs.ecn.value());
        assert_eq!((ip.total_len(), ip.ttl()), (usize::from(theirs.total_len), theirs.time_to_live));
        assert_eq!((ip.protocol(), ip.dont_fragment()), (theirs.protocol.0, theirs.dont_fragment));
        assert_eq!(ip.is_fragment(), theirs.is_fragmenting_payload());
        assert_eq!((ip.source().octets(), ip.destination().octets()), (theirs.source, theirs.destination));
        if ip.header_len() == Ipv4Header::LEN {
            assert_eq!(ip.is_intact(), folded(&bytes[..Ipv4Header::LEN]) == 0xffff);
        }
    }
    if let (Some((ip, _)), Ok((theirs, _))) =
        (Ipv6Header::parse(bytes), etherparse::Ipv6Header::from_slice(bytes))
    {
        assert_eq!((ip.version(), ip.traffic_class()), (6, theirs.traffic_class));
        assert_eq!(
            (ip.payload_len(), ip.hop_limit()),
            (usize::from(theirs.payload_length), theirs.hop_limit)
        );
        assert_eq!(ip.next_header(), theirs.next_header.0);
        assert_eq!((ip.source().octets(), ip.destination().octets()), (theirs.source, theirs.destination));
    }
    if let Some((udp, _)) = UdpHeader::parse(bytes) {
        let (theirs, _) = etherparse::UdpHeader::from_slice(bytes).expect("8 bytes");
        assert_eq!(
            (udp.source_port(), udp.destination_port()),
            (theirs.source_port, theirs.destination_port)
        );
        assert_eq!(udp.length(), usize::from(theirs.length));
        assert_eq!(u16::from_be_bytes(udp.checksum()), theirs.checksum);
    }
    if let Some((vxlan, _)) = VxlanHeader::parse(bytes) {
        assert_eq!(vxlan.is_plain(), VxlanHeader::bytes(vxlan.vni())[..] == bytes[..VxlanHeader::LEN]);
    }
}

fn sums(bytes: &[u8]) {
    assert_eq!(u16::from_be_bytes(Sum::of(bytes).folded()), folded(bytes));
}

/// RFC 1071 word by word.
fn folded(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn stays_inside(bytes: &[u8], inner: &Inner) {
    let header = match inner.network {
        Network::V4 { at, .. } => at + Ipv4Header::LEN,
        Network::V6 { at, .. } => at + Ipv6Header::LEN,
        Network::Truncated | Network::Other => 0,
    };
    assert!(header <= bytes.len());
    if let Some((_, at, end)) = segment(inner) {
        assert!(header <= at && at < end && end <= bytes.len());
    }
}

fn segment(inner: &Inner) -> Option<(u8, usize, usize)> {
    let (Network::V4 { transport, .. } | Network::V6 { transport, .. }) = inner.network else { return None };
    match transport {
        Transport::Segment { protocol, at, end } => Some((protocol, at, end)),
        Transport::Other => None,
    }
}

/// What etherparse takes for whole, we read alike.
fn agrees(bytes: &[u8], inner: &Inner) {
    let Ok(theirs) = SlicedPacket::from_ethernet(bytes) else { return };
    let start = |slice: &[u8]| slice.as_ptr().addr() - bytes.as_ptr().addr();
    // They look through more kinds of tags than we do, and through fewer of them.
    let same_tags = theirs.link_exts.len() == inner.tags;
    match (segment(inner), &theirs.transport) {
        (Some((17, at, end)), Some(TransportSlice::Udp(udp))) => {
            assert_eq!(at, start(udp.slice()));
            assert!(at + udp.slice().len() <= end, "a UDP length may fall short of the packet's");
        }
        (Some((6, at, end)), Some(TransportSlice::Tcp(tcp))) => {
            assert_eq!((at, end), (start(tcp.slice()), at + tcp.slice().len()));
        }
        // They stop behind three.
        (Some(_), None) if inner.tags > 3 => {}
        (Some(ours), theirs) => panic!("we see {ours:?}, they {theirs:?}"),
        (None, Some(TransportSlice::Udp(_) | TransportSlice::Tcp(_))) if same_tags => {
            assert!(left_alone(&theirs), "missed {theirs:?}");
        }
        (None, _) => {}
    }
}

/// Segments that are none of ours: behind headers that we do not walk, or on a detour (RFC 8200, section 4.4).
fn left_alone(packet: &SlicedPacket<'_>) -> bool {
    match &packet.net {
        Some(NetSlice::Ipv4(ip)) => ip.extensions().auth.is_some(),
        Some(NetSlice::Ipv6(ip)) => {
            let headers = ip.extensions().clone().into_iter();
            let walked = |header: &Ipv6ExtensionSlice<'_>| {
                matches!(header, Ipv6ExtensionSlice::HopByHop(_) | Ipv6ExtensionSlice::DestinationOptions(_))
            };
            // They take a length of zero for a jumbogram's (RFC 2675).
            let jumbo = ip.header().payload_length() == 0;
            jumbo || headers.clone().count() > 8 || !headers.clone().all(|header| walked(&header))
        }
        _ => false,
    }
}

/// Finishing changes two bytes at most, and only once.
fn finished(bytes: &[u8], inner: &Inner) {
    let mut frame = bytes.to_vec();
    let outcome = finish(&mut frame, inner);
    let changed: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != frame[*at]).collect();
    match (outcome, segment(inner)) {
        (Checksum::Untouched, _) => assert!(changed.is_empty()),
        (Checksum::Finished, Some((protocol, at, _))) => {
            let field = at + if protocol == 6 { 16 } else { 6 };
            assert!(changed.iter().all(|at| (field..field + 2).contains(at)), "{changed:?}");
            assert_eq!(Inner::parse(&frame), *inner);
            let before = frame.clone();
            finish(&mut frame, inner);
            assert_eq!(before, frame, "a finished frame is changed again");
        }
        (Checksum::Finished, None) => panic!("a checksum without a segment"),
    }
}
