//! Reading captured frames, by a parser that is not the project's own.

use std::fmt::Write;
use std::net::IpAddr;

use etherparse::{LinkHeader, NetHeaders, PacketHeaders, PayloadSlice, TransportHeader};

/// Length of the VXLAN header (RFC 7348, section 5).
const VXLAN_HEADER: usize = 8;

/// The outer headers of an encapsulated frame, and the inner frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outer {
    /// Source and destination MAC.
    pub macs: ([u8; 6], [u8; 6]),
    /// Source and destination address.
    pub addresses: (IpAddr, IpAddr),
    /// Source and destination UDP port.
    pub ports: (u16, u16),
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// Don't-fragment bit; true on IPv6, where nobody fragments underway.
    pub dont_fragment: bool,
    /// UDP checksum as it stands in the frame.
    pub udp_checksum: u16,
    /// First byte of the VXLAN header.
    pub flags: u8,
    /// VXLAN network identifier.
    pub vni: u32,
    /// Length of the whole frame in bytes.
    pub outer_len: usize,
    /// The inner frame.
    pub inner: Vec<u8>,
}

impl Outer {
    /// Reads `frame` as VXLAN over UDP to `port`; `None` if it is something else.
    pub fn parse(frame: &[u8], port: u16) -> Option<Self> {
        let headers = PacketHeaders::from_ethernet_slice(frame).ok()?;
        let (Some(LinkHeader::Ethernet2(ethernet)), Some(TransportHeader::Udp(udp))) =
            (&headers.link, &headers.transport)
        else {
            return None;
        };
        let PayloadSlice::Udp(payload) = headers.payload else { return None };
        if udp.destination_port != port || payload.len() < VXLAN_HEADER {
            return None;
        }
        let (addresses, ttl, tos, dont_fragment) = match headers.net? {
            NetHeaders::Ipv4(ip, _) => {
                let tos = ip.dscp.value() << 2 | ip.ecn.value();
                ((ip.source.into(), ip.destination.into()), ip.time_to_live, tos, ip.dont_fragment)
            }
            NetHeaders::Ipv6(ip, _) => {
                ((ip.source.into(), ip.destination.into()), ip.hop_limit, ip.traffic_class, true)
            }
            NetHeaders::Arp(_) => return None,
        };
        let (vxlan, inner) = payload.split_at(VXLAN_HEADER);
        Some(Self {
            macs: (ethernet.source, ethernet.destination),
            addresses,
            ports: (udp.source_port, udp.destination_port),
            ttl,
            tos,
            dont_fragment,
            udp_checksum: udp.checksum,
            flags: vxlan[0],
            vni: u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]),
            outer_len: frame.len(),
            inner: inner.to_vec(),
        })
    }

    /// The frame in lines for people, outermost header first.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        let (source, destination) = self.addresses;
        let version = if source.is_ipv4() { 4 } else { 6 };
        let flag_names = if self.flags == 0x08 { " (I)" } else { "" };
        // Writing into a string cannot fail.
        let _ = writeln!(text, "outer Ethernet  {} → {}", mac(self.macs.0), mac(self.macs.1));
        let _ = writeln!(
            text,
            "outer IPv{version}      {source} → {destination}, ttl {}, tos {:#04x}{}",
            self.ttl,
            self.tos,
            if self.dont_fragment { ", DF" } else { "" }
        );
        let _ = writeln!(
            text,
            "outer UDP       {} → {}, checksum {:#06x}{}",
            self.ports.0,
            self.ports.1,
            self.udp_checksum,
            if self.udp_checksum == 0 { " (none)" } else { "" }
        );
        let _ = writeln!(text, "VXLAN           flags {:#04x}{flag_names}, vni {}", self.flags, self.vni);
        let _ = writeln!(text, "inner frame     {}", describe(&self.inner));
        let _ = write!(text, "lengths         {} outer, {} inner", self.outer_len, self.inner.len());
        text
    }
}

/// One line about a frame: MACs, addresses, what it carries, length.
pub fn describe(frame: &[u8]) -> String {
    let Ok(headers) = PacketHeaders::from_ethernet_slice(frame) else {
        return format!("{} bytes that are no Ethernet frame", frame.len());
    };
    let mut text = String::new();
    if let Some(LinkHeader::Ethernet2(ethernet)) = &headers.link {
        text = format!("{} → {}", mac(ethernet.source), mac(ethernet.destination));
    }
    match &headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => {
            let (source, destination) = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            let _ = write!(text, ", {source} → {destination}");
        }
        Some(NetHeaders::Ipv6(ip, _)) => {
            let (source, destination) = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            let _ = write!(text, ", {source} → {destination}");
        }
        Some(NetHeaders::Arp(_)) => text.push_str(", ARP"),
        None => {}
    }
    match &headers.transport {
        Some(TransportHeader::Icmpv4(icmp)) => {
            let _ = write!(text, ", ICMP {}", icmp_name(icmp.to_bytes()[0], [8, 0, 3]));
        }
        Some(TransportHeader::Icmpv6(icmp)) => {
            let _ = write!(text, ", ICMPv6 {}", icmp_name(icmp.icmp_type.type_u8(), [128, 129, 1]));
        }
        Some(TransportHeader::Udp(udp)) => {
            let _ = write!(text, ", UDP {} → {}", udp.source_port, udp.destination_port);
        }
        Some(TransportHeader::Tcp(tcp)) => {
            let _ = write!(text, ", TCP {} → {}", tcp.source_port, tcp.destination_port);
        }
        Some(TransportHeader::Igmp(_)) => text.push_str(", IGMP"),
        None => {}
    }
    let _ = write!(text, ", {} bytes", frame.len());
    text
}

/// Names an ICMP type; `known` are the numbers of echo request, echo reply and destination unreachable.
fn icmp_name(number: u8, known: [u8; 3]) -> String {
    let names = ["echo request", "echo reply", "destination unreachable"];
    let name = known.iter().zip(names).find(|(type_number, _)| **type_number == number);
    name.map_or_else(|| format!("type {number}"), |(_, name)| name.to_owned())
}

/// A MAC in the usual notation.
fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn encapsulated() -> Vec<u8> {
        let mut inner = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3])
            .ipv4([10, 0, 0, 2], [10, 0, 0, 3], 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut inner, &[0; 56])
            .unwrap();
        let payload = [&[8, 0, 0, 0, 0, 0, 42, 0], inner.as_slice()].concat();
        let mut outer = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2])
            .ipv4([192, 168, 10, 21], [192, 168, 10, 22], 64)
            .udp(50000, 4789)
            .write(&mut outer, &payload)
            .unwrap();
        outer
    }

    #[test]
    fn an_encapsulated_ping_is_read_to_the_inner_frame() {
        let outer = Outer::parse(&encapsulated(), 4789).unwrap();
        assert_eq!((outer.outer_len, outer.inner.len()), (148, 98));
        assert_eq!((outer.flags, outer.vni, outer.ports), (0x08, 42, (50000, 4789)));
        let text = outer.lines();
        assert!(text.contains("192.168.10.21 → 192.168.10.22"), "{text}");
        assert!(text.contains("10.0.0.2 → 10.0.0.3, ICMP echo request, 98 bytes"), "{text}");
    }

    #[test]
    fn a_datagram_to_another_port_is_not_ours() {
        assert_eq!(Outer::parse(&encapsulated(), 4790), None);
    }
}
