//! Who claims to have sent it: outer source addresses and inner source MACs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vxdp_ebpf::Verdict::{MovedSource, UnknownSource};
use vxdp_lab::Family::{V4, V6};

use crate::inner::{self, C2};
use crate::outer::Outer;
use crate::row::{Received, kernel, refused};

/// A MAC that the FDB has behind a VTEP other than h1.
pub(crate) const ELSEWHERE: [u8; 6] = [0x02, 0x66, 0, 0, 0, 1];
/// A second container of h2.
pub(crate) const C4: [u8; 6] = [0x02, 0x42, 0x0a, 0, 0, 4];
/// The vxlan device's own MAC.
pub(crate) const VXLAN_DEVICE: [u8; 6] = [0x02, 0x66, 0, 0, 0, 2];

/// What the kernel does with a packet from an address that is no host's on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Martian {
    /// Drops it.
    Refused,
    /// Delivers it: nothing but its own addresses is refused here (`fib_validate_source`).
    Delivered,
}

/// Addresses that are no host's on the wire, each with a MAC that the FDB has behind it.
pub(crate) fn martians() -> Vec<([u8; 6], IpAddr, &'static str, Martian)> {
    use Martian::{Delivered, Refused};
    let v4 = [
        (Ipv4Addr::LOCALHOST, "the loopback address", Refused),
        (Ipv4Addr::new(192, 168, 10, 22), "our own address", Refused),
        (Ipv4Addr::new(0, 0, 0, 9), "an address of this network", Delivered),
        (Ipv4Addr::new(239, 1, 1, 1), "a multicast address", Refused),
        (Ipv4Addr::BROADCAST, "the broadcast address", Refused),
        (Ipv4Addr::new(240, 0, 0, 1), "a reserved address", Delivered),
        (Ipv4Addr::new(192, 168, 10, 255), "the subnet's broadcast address", Delivered),
    ];
    let v6 = [
        (Ipv6Addr::LOCALHOST, "the loopback address", Refused),
        (Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0x22), "our own address", Delivered),
        (Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 1), "a multicast address", Refused),
    ];
    let v4 = v4.into_iter().map(|(address, what, fate)| (IpAddr::from(address), what, fate));
    let v6 = v6.into_iter().map(|(address, what, fate)| (IpAddr::from(address), what, fate));
    let numbered = (0x10..).zip(v4.chain(v6));
    numbered
        .map(|(number, (address, what, fate))| ([0x02, 0x66, 0, 0, 0, number], address, what, fate))
        .collect()
}

pub(crate) fn rows() -> Vec<Received> {
    let mut rows = vec![
        kernel("an unknown inner source", UnknownSource, |outer| from([0x02, 0x66, 0, 0, 1, 1], outer)),
        kernel("an unknown inner source from an unknown VTEP", UnknownSource, |outer| {
            from([0x02, 0x66, 0, 0, 1, 2], outer);
            outer.source = stranger(outer);
        }),
        refused("a known inner source from an unknown VTEP", MovedSource, |outer| {
            outer.source = stranger(outer)
        }),
        refused("an inner source that is behind another VTEP", MovedSource, |outer| from(ELSEWHERE, outer)),
        refused("a zero inner source", UnknownSource, |outer| from([0; 6], outer)),
        refused("a group inner source", UnknownSource, |outer| from([0x03, 0x66, 0, 0, 0, 0], outer)),
        refused("the broadcast address as inner source", UnknownSource, |outer| from([0xff; 6], outer)),
        refused("the vxlan device's own MAC as inner source", UnknownSource, |outer| {
            from(VXLAN_DEVICE, outer)
        }),
        kernel("a container of ours as inner source", MovedSource, |outer| from(C4, outer)),
    ];
    for (mac, address, what, fate) in martians() {
        let family = if address.is_ipv4() { V4 } else { V6 };
        let row = kernel(format!("{what} as outer source"), MovedSource, move |outer| {
            from(mac, outer);
            outer.source = address;
        });
        let row = if fate == Martian::Refused { row.arrives_not() } else { row };
        rows.push(row.over(family));
    }
    rows
}

fn from(mac: [u8; 6], outer: &mut Outer) {
    outer.inner = inner::between(mac, C2, std::mem::take(&mut outer.inner));
}

/// An address of the underlay that no row names.
fn stranger(outer: &Outer) -> IpAddr {
    match outer.source {
        IpAddr::V4(_) => [192, 168, 10, 77].into(),
        IpAddr::V6(_) => [0xfd00, 0x10, 0, 0, 0, 0, 0, 0x77].into(),
    }
}
