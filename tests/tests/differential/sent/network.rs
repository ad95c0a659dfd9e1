//! IP: what settings inherit, protocols, fragments, options, and headers that lie.

use crate::inner::{self, payload, protocol};
use crate::row::{Emitted, carried};

pub(crate) fn rows() -> Vec<Emitted> {
    [inherited(), protocols(), fragments(), lies()].into_iter().flatten().collect()
}

/// Type of service with every ECN codepoint, time to live, don't fragment.
fn inherited() -> Vec<Emitted> {
    let mut rows = Vec::new();
    for tos in [0, 1, 2, 3, 0x48, 0xb9, 0xfe, 0xff] {
        rows.push(carried(format!("IPv4 with tos {tos:#04x}"), inner::with_tos(inner::udp4(40), tos)));
        rows.push(carried(format!("IPv6 with class {tos:#04x}"), inner::with_tos(inner::udp6(40), tos)));
    }
    for ttl in [0, 1, 64, 255] {
        let frame = inner::with_ipv4(inner::udp4(40), |ip| ip[8] = ttl);
        rows.push(carried(format!("IPv4 with ttl {ttl}"), frame));
        let mut frame = inner::udp6(40);
        frame[21] = ttl;
        rows.push(carried(format!("IPv6 with hop limit {ttl}"), frame));
    }
    for (name, flags) in [("no flag", 0), ("don't fragment", 0x40), ("the reserved flag", 0x80)] {
        rows.push(carried(
            format!("IPv4 with {name}"),
            inner::with_ipv4(inner::udp4(40), |ip| ip[6] = flags),
        ));
    }
    let mut frame = inner::udp6(40);
    frame[15..18].copy_from_slice(&[0x05, 0x55, 0x55]);
    rows.push(carried("IPv6 with a flow label", frame));
    rows
}

fn protocols() -> Vec<Emitted> {
    let ipv4 = |number| inner::ipv4(number, &payload(60));
    vec![
        carried("ICMP", inner::ping()),
        carried("ICMPv6", inner::ping6()),
        carried("TCP", inner::tcp4(77)),
        carried("TCP over IPv6", inner::tcp6(77)),
        carried("UDP of no bytes", inner::udp4(0)),
        carried("SCTP", ipv4(protocol::SCTP)),
        carried("GRE", ipv4(protocol::GRE)),
        carried("ESP", ipv4(protocol::ESP)),
        carried("an IPv4 packet without payload", inner::ipv4(protocol::UDP, &[])),
        carried("a TCP header cut short", inner::ipv4(protocol::TCP, &payload(12))),
    ]
}

fn fragments() -> Vec<Emitted> {
    let fragment =
        |flags, offset| inner::with_ipv4(inner::udp4(64), |ip| ip[6..8].copy_from_slice(&[flags, offset]));
    let options = inner::with_ipv4_options(inner::udp4(40), &[1, 1, 1, 0]);
    vec![
        carried("a first fragment", fragment(0x20, 0)),
        carried("a later fragment", fragment(0x20, 8)),
        carried("a last fragment", fragment(0, 16)),
        carried("IPv4 options", options),
        carried(
            "a fragment header of IPv6",
            inner::with_extension(inner::udp6(40), 44, &[0, 0, 0, 9, 1, 2, 3, 4]),
        ),
        carried("hop-by-hop options", inner::with_extension(inner::udp6(40), 0, &[0, 0, 1, 4, 0, 0, 0, 0])),
        carried("destination options", inner::with_extension(inner::udp6(40), 60, &[0, 0, 1, 4, 0, 0, 0, 0])),
        carried("no next header", inner::with_extension(inner::udp6(40), 59, &[0; 8])),
    ]
}

/// Headers that are wrong; a tunnel does not look.
fn lies() -> Vec<Emitted> {
    let changed = |at: usize, value: u8| {
        let mut frame = inner::udp4(64);
        frame[at] = value;
        frame
    };
    vec![
        carried("IPv4 of version 5", changed(14, 0x55)),
        carried("IPv4 of version 6", changed(14, 0x65)),
        carried("an IPv4 header of four words", changed(14, 0x44)),
        carried("an IPv4 header of fifteen words", changed(14, 0x4f)),
        carried("a wrong IPv4 header checksum", changed(24, 0)),
        carried("a wrong UDP checksum", changed(41, 0)),
        carried("an IPv4 length beyond the frame", inner::with_ipv4(inner::udp4(64), |ip| ip[3] += 9)),
        carried("an IPv4 length that leaves a rest", inner::with_ipv4(inner::udp4(64), |ip| ip[3] -= 9)),
        carried("an IPv4 length of zero", inner::with_ipv4(inner::udp4(64), |ip| ip[2..4].fill(0))),
        carried("Ethernet padding", [inner::udp4(4), vec![0xee; 14]].concat()),
        carried("the EtherType of IPv6 before IPv4", inner::with_ethertype(inner::udp4(64), 0x86dd)),
        carried("the EtherType of IPv4 before IPv6", inner::with_ethertype(inner::udp6(64), 0x0800)),
    ]
}
