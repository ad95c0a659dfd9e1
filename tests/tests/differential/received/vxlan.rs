//! The VXLAN header (RFC 7348, section 5). The RFC wants reserved bits ignored; the kernel drops, and so do we.

use vxdp_ebpf::Verdict::{Flags, UnknownVni};

use crate::outer::Outer;
use crate::row::{Received, Sent, refused};

/// The I flag in the first word.
const I: u32 = 0x0800_0000;

pub(crate) fn rows() -> Vec<Received> {
    vec![
        refused("the I flag missing", Flags, |outer| outer.flags = 0),
        refused("all flags but I", Flags, |outer| outer.flags = !I),
        refused("each reserved bit of the first word", Flags, |_| {}).sent_as(|outer| {
            let bits = (0..32).map(|bit| 1 << bit).filter(|bit| *bit != I);
            bits.map(|bit| sent(outer, outer.flags | bit, outer.vni)).collect()
        }),
        refused("each reserved bit behind the VNI", Flags, |_| {})
            .sent_as(|outer| (0..8).map(|bit| sent(outer, outer.flags, outer.vni | 1 << bit)).collect()),
        refused("a VNI that nobody has", UnknownVni, |outer| outer.vni = 0x00ff_fffe << 8),
        refused("VNI 0", UnknownVni, |outer| outer.vni = 0),
        refused("our VNI in the other byte order", UnknownVni, |outer| {
            outer.vni = outer.vni.swap_bytes() << 8
        }),
    ]
}

fn sent(outer: &Outer, flags: u32, vni: u32) -> Sent {
    Outer { flags, vni, ..outer.clone() }.bytes().into()
}
