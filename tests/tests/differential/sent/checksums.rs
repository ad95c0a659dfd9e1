//! What a container's kernel leaves to its device: checksums to be finished, segments to be cut.

use vxdp_lab::{Offload, Segments};

use crate::inner::{self, tagged};
use crate::row::{Emitted, Sent, carried};

/// Offsets of the checksum in a TCP and in a UDP header.
const TCP: u16 = 16;
const UDP: u16 = 6;

/// Where the segment starts in an untagged frame.
const OVER_IPV4: u16 = 34;
const OVER_IPV6: u16 = 54;

pub(crate) fn rows() -> Vec<Emitted> {
    [finished(), unfinished(), cut()].into_iter().flatten().collect()
}

fn finished() -> Vec<Emitted> {
    let mut without = inner::udp4(40);
    without[40..42].fill(0);
    vec![carried("no UDP checksum", without), carried("a right TCP checksum", inner::tcp4(41))]
}

fn unfinished() -> Vec<Emitted> {
    let left = |frame: Vec<u8>, start: u16, field: u16| Sent {
        bytes: inner::unfinished(frame, start.into(), field.into()),
        offload: Offload::Checksum { start, field, segments: None },
    };
    let behind_a_tag = |Sent { bytes, offload }| match offload {
        Offload::Checksum { start, field, segments } => Sent {
            bytes: tagged(&[(0x8100, 5)], bytes),
            offload: Offload::Checksum { start: start + 4, field, segments },
        },
        Offload::None => panic!("nothing is left to the device"),
    };
    vec![
        carried("an unfinished UDP checksum", left(inner::udp4(101), OVER_IPV4, UDP)),
        carried("an unfinished TCP checksum", left(inner::tcp4(101), OVER_IPV4, TCP)),
        carried("an unfinished UDP checksum over IPv6", left(inner::udp6(101), OVER_IPV6, UDP)),
        carried("an unfinished TCP checksum over IPv6", left(inner::tcp6(101), OVER_IPV6, TCP)),
        carried(
            "an unfinished TCP checksum behind a tag",
            behind_a_tag(left(inner::tcp4(101), OVER_IPV4, TCP)),
        ),
        carried(
            "an unfinished UDP checksum that becomes zero",
            left(inner::udp4_summing_to_zero(), OVER_IPV4, UDP),
        ),
        carried("an unfinished TCP checksum of a full packet", left(inner::tcp4(1390), OVER_IPV4, TCP)),
    ]
}

/// Frames larger than any packet, which are cut before the tunnel.
fn cut() -> Vec<Emitted> {
    const SIZE: u16 = 1200;
    let row = |name: &str, frame: Vec<u8>, kind, start: u16, field: u16, header: u16| {
        let segments = Some(Segments { kind, headers: start + header, size: SIZE });
        let bytes = inner::unfinished(frame, start.into(), field.into());
        let sent = Sent { bytes, offload: Offload::Checksum { start, field, segments } };
        Emitted { seen: 3, leaves: Some(3), ..carried(name, sent) }
    };
    let length = usize::from(SIZE) * 2 + 500;
    vec![
        row("a TCP stream to be cut", inner::tcp4(length), Segments::TCP4, OVER_IPV4, TCP, 20),
        row("a TCP stream over IPv6 to be cut", inner::tcp6(length), Segments::TCP6, OVER_IPV6, TCP, 20),
        row("UDP datagrams to be cut", inner::udp4(length), Segments::UDP, OVER_IPV4, UDP, 8),
    ]
}
