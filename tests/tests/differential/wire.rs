//! An outer packet on the wire: what may differ between two modes, and whether that is right by itself.

use std::ops::Range;

use vxdp_dataplane::wire::checksum::Sum;
use vxdp_lab::{Family, Frame, VXLAN_PORT};

use crate::fence::Fence;
use crate::policy::Policy;

const ETHERNET: usize = 14;

/// Default range of `source_ports`.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// A tunnel packet, whole or a fragment.
pub(crate) struct Packet {
    bytes: Vec<u8>,
    unfinished: bool,
    family: Family,
    /// Where the UDP header starts.
    udp: usize,
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// The UDP header is in it, the end is not.
    First,
    Later,
}

impl Packet {
    /// Reads what came in; `None` if it is no tunnel packet, or one of a fence frame or of the bridge itself.
    pub(crate) fn read(frame: Frame, family: Family) -> Option<Self> {
        let bytes = &frame.bytes;
        let ip = bytes.get(ETHERNET..)?;
        let (protocol, header, part) = match (family, bytes.get(12..14)?) {
            (Family::V4, [0x08, 0x00]) => {
                let fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]);
                (*ip.get(9)?, 20, part(fragment & 0x1fff, fragment & 0x2000 != 0))
            }
            (Family::V6, [0x86, 0xdd]) if ip.get(6) == Some(&44) => {
                let fragment = u16::from_be_bytes([*ip.get(42)?, *ip.get(43)?]);
                (*ip.get(40)?, 48, part(fragment & 0xfff8, fragment & 1 != 0))
            }
            (Family::V6, [0x86, 0xdd]) => (*ip.get(6)?, 40, Part::Whole),
            _ => return None,
        };
        let udp = ETHERNET + header;
        let tunnel = part == Part::Later || bytes.get(udp + 2..udp + 4)? == VXLAN_PORT.to_be_bytes();
        let inner = bytes.get(udp + 16..).unwrap_or_default();
        let ours = part == Part::Later || !crate::is_small_talk(inner) && !Fence::is(inner);
        let Frame { bytes, unfinished, outgoing } = frame;
        (protocol == 17 && tunnel && ours && !outgoing).then_some(Self {
            bytes,
            unfinished,
            family,
            udp,
            part,
        })
    }

    /// What is wrong with the fields that may differ.
    pub(crate) fn faults(&self, policy: &Policy) -> Vec<String> {
        let mut faults = Vec::new();
        if self.unfinished {
            faults.push("a checksum is unfinished".to_owned());
        }
        if self.family == Family::V4 && !Sum::of(&self.bytes[ETHERNET..ETHERNET + 20]).is_intact() {
            faults.push("the IP header checksum is wrong".to_owned());
        }
        if self.part == Part::Later {
            return faults;
        }
        let word = |at: usize| u16::from_be_bytes([self.bytes[self.udp + at], self.bytes[self.udp + at + 1]]);
        if !SOURCE_PORTS.contains(&word(0)) {
            faults.push(format!("source port {}", word(0)));
        }
        let wanted = policy.udp_checksum || self.family == Family::V6;
        if wanted != (word(6) != 0) {
            faults.push(format!("UDP checksum {:#06x}", word(6)));
        }
        if wanted && self.part == Part::Whole && !self.pseudo().with(&self.bytes[self.udp..]).is_intact() {
            faults.push("the UDP checksum is wrong".to_owned());
        }
        faults
    }

    fn pseudo(&self) -> Sum {
        let addresses = match self.family {
            Family::V4 => 26..34,
            Family::V6 => 22..54,
        };
        Sum::of(&self.bytes[addresses]).add_u16(17).add_u16((self.bytes.len() - self.udp) as u16)
    }

    /// The packet with zeros for identification, source port, and the checksums over these.
    pub(crate) fn without_what_may_differ(self) -> Vec<u8> {
        let mut bytes = self.bytes;
        let mut clear = |range: Range<usize>| bytes[range].fill(0);
        match self.family {
            Family::V4 => {
                clear(ETHERNET + 4..ETHERNET + 6);
                clear(ETHERNET + 10..ETHERNET + 12);
            }
            Family::V6 if self.udp == ETHERNET + 48 => clear(ETHERNET + 44..ETHERNET + 48),
            Family::V6 => {}
        }
        if self.part != Part::Later {
            clear(self.udp..self.udp + 2);
            clear(self.udp + 6..self.udp + 8);
        }
        bytes
    }
}

fn part(offset: u16, more: bool) -> Part {
    match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        _ => Part::Later,
    }
}
