//! Lengths up to the MTU and beyond, where settings decide whether the kernel cuts, drops or answers.

use vxdp_ebpf::Verdict::TooBig;
use vxdp_lab::Family;

use crate::inner::{self, EXPERIMENT, frame, payload, tagged};
use crate::row::{Emitted, carried, left};

/// The row, without a word on how many packets leave.
fn any(row: Emitted) -> Emitted {
    Emitted { leaves: None, ..row }
}

pub(crate) fn rows(family: Family) -> Vec<Emitted> {
    // The underlay has 1500 bytes: room for a packet of the overlay's MTU, and none for a tag.
    let mtu: usize = if family == Family::V4 { 1450 } else { 1430 };
    let tagged = |inner| tagged(&[(0x8100, 5)], inner);
    vec![
        carried("a packet of 1,000 bytes", frame(EXPERIMENT, &payload(1000))),
        carried("a packet of 1,001 bytes", frame(EXPERIMENT, &payload(1001))),
        carried("a packet of the MTU", frame(EXPERIMENT, &payload(mtu))),
        carried("UDP of the MTU", inner::udp4(mtu - 28)),
        carried("a tagged packet four bytes short of the MTU", tagged(frame(EXPERIMENT, &payload(mtu - 4)))),
        any(left("a tagged packet of the MTU", TooBig, tagged(frame(EXPERIMENT, &payload(mtu))))),
        any(left("tagged UDP of the MTU", TooBig, tagged(inner::udp4(mtu - 28)))),
        any(left("tagged UDP of the MTU over IPv6", TooBig, tagged(inner::udp6(mtu - 48)))),
    ]
}
