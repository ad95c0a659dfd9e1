//! Frames of a station behind a bridge in the container: their tags leave beside the bytes (`skb->vlan_tci`).

use vxdp_lab::Offload;

use crate::inner::{self, C2, NESTED, between, tagged};
use crate::row::{Emitted, Origin, Sent, carried};

pub(crate) fn rows() -> Vec<Emitted> {
    let nested = |name: &str, tags: &[(u16, u16)], frame| Emitted {
        origin: Origin::Nested,
        ..carried(name, between(NESTED, C2, tagged(tags, frame)))
    };
    let unfinished = Sent {
        bytes: between(NESTED, C2, tagged(&[(0x8100, 5)], inner::unfinished(inner::tcp4(101), 34, 16))),
        offload: Offload::Checksum { start: 38, field: 16, segments: None },
    };
    vec![
        nested("no tag, bridged", &[], inner::udp4(64)),
        nested("a tag beside the bytes", &[(0x8100, 5)], inner::udp4(64)),
        nested("a priority tag beside the bytes", &[(0x8100, 0xe000)], inner::udp4(64)),
        nested("an 802.1ad tag beside the bytes", &[(0x88a8, 100)], inner::udp4(64)),
        nested(
            "a tag beside the bytes and one in them",
            &[(0x88a8, 100), (0x8100, 5)],
            inner::with_tos(inner::udp4(64), 0x2e),
        ),
        nested("seven tags, one beside the bytes", &[(0x8100, 5); 7], inner::with_tos(inner::udp4(64), 0x2e)),
        nested("a tag beside an IPv6 packet", &[(0x8100, 6)], inner::with_tos(inner::udp6(64), 0x2e)),
        Emitted { origin: Origin::Nested, ..carried("a tag beside an unfinished checksum", unfinished) },
    ]
}
