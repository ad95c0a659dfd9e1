//! A hand-crafted outer packet: right in every field, until a row of a table makes one of them wrong.

use std::net::IpAddr;

use vxdp_dataplane::wire::checksum::Sum;

use crate::inner;

/// The outer UDP checksum of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// None.
    Zero,
    /// As it has to be.
    Right,
    /// Off by one bit.
    Wrong,
    /// Left to a device: the folded sum of the pseudo-header.
    Unfinished,
}

/// The fields of an outer packet, in the order in which they stand in it.
#[derive(Debug, Clone)]
pub(crate) struct Outer {
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source_mac: [u8; 6],
    /// Tags before the EtherType, each with its own.
    pub(crate) tags: Vec<[u8; 4]>,
    pub(crate) ethertype: u16,
    pub(crate) version: u8,
    /// IPv4 header length in words of four bytes, instead of the right one.
    pub(crate) header_words: Option<u8>,
    pub(crate) tos: u8,
    /// Added to the length in the IP header.
    pub(crate) ip_length: i32,
    /// IPv4 flags and fragment offset.
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    /// IP protocol behind all headers.
    pub(crate) protocol: u8,
    /// What is wrong with the IPv4 header checksum.
    pub(crate) header_checksum_error: u16,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// IPv4 options, or IPv6 extension headers behind the number of the first: each begins with a byte for the
    /// next one's number, which is filled in.
    pub(crate) options: Vec<u8>,
    /// Number of the IPv6 extension header in `options`.
    pub(crate) extension: Option<u8>,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// Added to the length in the UDP header.
    pub(crate) udp_length: i32,
    pub(crate) udp_checksum: Checksum,
    /// The first four bytes of the VXLAN header: flags.
    pub(crate) flags: u32,
    /// The other four: VNI and a reserved byte.
    pub(crate) vni: u32,
    pub(crate) inner: Vec<u8>,
    /// Bytes behind the datagram that the IP header does not count.
    pub(crate) trailer: Vec<u8>,
}

/// Who sends and who receives: h1 and h2 of a lab.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) macs: ([u8; 6], [u8; 6]),
    pub(crate) addresses: (IpAddr, IpAddr),
}

impl Outer {
    /// A packet that nothing is wrong with, from h1 to h2.
    pub(crate) fn valid(ends: &Ends) -> Self {
        let v4 = ends.addresses.0.is_ipv4();
        Self {
            destination_mac: ends.macs.1,
            source_mac: ends.macs.0,
            tags: Vec::new(),
            ethertype: if v4 { 0x0800 } else { 0x86dd },
            version: if v4 { 4 } else { 6 },
            header_words: None,
            tos: 0,
            ip_length: 0,
            fragment: 0,
            ttl: 64,
            protocol: 17,
            header_checksum_error: 0,
            source: ends.addresses.0,
            destination: ends.addresses.1,
            options: Vec::new(),
            extension: None,
            source_port: 50_000,
            destination_port: vxdp_lab::VXLAN_PORT,
            udp_length: 0,
            udp_checksum: if v4 { Checksum::Zero } else { Checksum::Right },
            flags: 0x0800_0000,
            vni: vxdp_lab::VNI << 8,
            inner: inner::ping(),
            trailer: Vec::new(),
        }
    }

    /// The UDP datagram with its VXLAN payload.
    pub(crate) fn datagram(&self) -> Vec<u8> {
        let payload = [&self.flags.to_be_bytes(), &self.vni.to_be_bytes(), self.inner.as_slice()].concat();
        let length = (8 + payload.len()) as i32 + self.udp_length;
        let mut datagram = Vec::new();
        datagram.extend(self.source_port.to_be_bytes());
        datagram.extend(self.destination_port.to_be_bytes());
        datagram.extend((length as u16).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        let pseudo = self.pseudo_header(length as u16);
        let covered = &datagram[..datagram.len().min(length.max(8) as usize)];
        let right = match Sum::of(covered).plus(pseudo).checksum() {
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        };
        let field = match self.udp_checksum {
            Checksum::Zero => [0, 0],
            Checksum::Right => right,
            Checksum::Wrong => [right[0], right[1] ^ 0x10],
            Checksum::Unfinished => pseudo.folded(),
        };
        datagram[6..8].copy_from_slice(&field);
        datagram
    }

    fn pseudo_header(&self, length: u16) -> Sum {
        let addresses = [octets(self.source), octets(self.destination)].concat();
        Sum::of(&addresses).add_u16(17).add_u16(length)
    }

    /// Where the UDP header starts in [`bytes`](Self::bytes).
    pub(crate) fn udp_offset(&self) -> u16 {
        let ip = if self.source.is_ipv4() { 20 } else { 40 };
        (14 + 4 * self.tags.len() + ip + self.options.len()) as u16
    }

    /// The whole frame.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.carrying(&self.datagram())
    }

    /// A frame with other bytes behind the IP header: a fragment of the datagram.
    pub(crate) fn carrying(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = [self.destination_mac, self.source_mac].concat();
        frame.extend(self.tags.as_flattened());
        frame.extend(self.ethertype.to_be_bytes());
        frame.extend(if self.source.is_ipv4() { self.ipv4(payload.len()) } else { self.ipv6(payload.len()) });
        frame.extend(payload);
        frame.extend(&self.trailer);
        frame
    }

    fn ipv4(&self, payload: usize) -> Vec<u8> {
        let words = (5 + self.options.len() / 4) as u8;
        let total = 20 + self.options.len() as i32 + payload as i32 + self.ip_length;
        let mut header = vec![self.version << 4 | self.header_words.unwrap_or(words), self.tos];
        header.extend((total as u16).to_be_bytes());
        header.extend([0x12, 0x34]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(octets(self.source));
        header.extend(octets(self.destination));
        header.extend(&self.options);
        let checksum = u16::from_be_bytes(Sum::of(&header).checksum()) ^ self.header_checksum_error;
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn ipv6(&self, payload: usize) -> Vec<u8> {
        let length = self.options.len() as i32 + payload as i32 + self.ip_length;
        let mut header = vec![self.version << 4 | self.tos >> 4, self.tos << 4, 0, 0];
        header.extend((length as u16).to_be_bytes());
        header.extend([self.extension.unwrap_or(self.protocol), self.ttl]);
        header.extend(octets(self.source));
        header.extend(octets(self.destination));
        let mut options = self.options.clone();
        if let (Some(next), Some(_)) = (options.first_mut(), self.extension) {
            *next = self.protocol;
        }
        header.extend(options);
        header
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
