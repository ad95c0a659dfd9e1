//! Explicit congestion notification on decapsulation (RFC 6040, section 4.2, figure 4): all 16 combinations,
//! inside IPv4 and IPv6. A frame that is tagged or no IP is delivered as it is: the kernel looks at the
//! EtherType behind the MACs only (`IP_ECN_decapsulate`, include/net/inet_ecn.h).

use vxdp_dataplane::DropReason::IpTunnelEcn;

use crate::inner;
use crate::row::{Received, dropped, fast};

const NAMES: [&str; 4] = ["Not-ECT", "ECT(1)", "ECT(0)", "CE"];
const NOT_ECT: u8 = 0;
const CE: u8 = 3;

/// What the container gets, by inner (row) and outer (column) codepoint in the order of their numbers.
/// `None` is a drop.
const FIGURE_4: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

/// The other six bits, which must stay.
const CLASS: u8 = 0x48;

pub(crate) fn rows() -> Vec<Received> {
    let mut rows = Vec::new();
    for outer in NOT_ECT..=CE {
        for inner in NOT_ECT..=CE {
            rows.push(row("IPv4", inner, outer, |tos| inner::with_tos(inner::udp4(30), tos)));
            rows.push(row("IPv6", inner, outer, |tos| inner::with_tos(inner::udp6(30), tos)));
        }
        for vlan in 4..8 {
            let name = format!("{} outside of a frame of VLAN {vlan}", NAMES[usize::from(outer)]);
            rows.push(fast(name, move |packet| {
                packet.tos = outer;
                packet.inner = inner::tagged(&[(0x8100, vlan)], inner::with_tos(inner::udp4(30), CLASS));
            }));
        }
    }
    rows.push(fast("CE outside of a frame that is no IP", |packet| {
        packet.tos = CE;
        packet.inner = inner::frame(inner::EXPERIMENT, &inner::payload(50));
    }));
    rows
}

fn row(what: &str, inner: u8, outer: u8, frame: fn(u8) -> Vec<u8>) -> Received {
    let name = format!("{} outside, {} in {what}", NAMES[usize::from(outer)], NAMES[usize::from(inner)]);
    let make = move |packet: &mut crate::outer::Outer| {
        packet.tos = outer;
        packet.inner = frame(CLASS | inner);
    };
    match FIGURE_4[usize::from(inner)][usize::from(outer)] {
        // The header checksum of IPv4 is right in the frame that is expected.
        Some(ecn) => fast(name, make).arrives_as(move |_| frame(CLASS | ecn)),
        None => dropped(name, IpTunnelEcn, make),
    }
}
