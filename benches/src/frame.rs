//! The measuring frame: what container 1 sends to container 2.

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use vxdp_ebpf::bench::{FIRST_SOURCE_PORT, MEASURING_PORT, SEQUENCE_OFFSET};

/// MAC of container 1 in every subject.
pub const MAC1: [u8; 6] = [0x02, 0x42, 0x0a, 0, 0, 2];
/// MAC of container 2 in every subject.
pub const MAC2: [u8; 6] = [0x02, 0x42, 0x0a, 0, 0, 3];
/// Address of container 1 in every subject.
pub const ADDRESS1: [u8; 4] = [10, 0, 0, 2];
/// Address of container 2 in every subject.
pub const ADDRESS2: [u8; 4] = [10, 0, 0, 3];

/// Where measuring frames come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// MACs of container 1 and container 2.
    pub macs: [[u8; 6]; 2],
    /// Addresses of container 1 and container 2.
    pub addresses: [[u8; 4]; 2],
}

impl Ends {
    /// Those of every subject on a lab.
    pub const LAB: Self = Self { macs: [MAC1, MAC2], addresses: [ADDRESS1, ADDRESS2] };
}

/// The MAC of destination number `number` where there are several.
pub fn destination(number: u32) -> [u8; 6] {
    let [_, a, b, c] = number.to_be_bytes();
    [0x02, 0x43, 0x0a, a, b, c]
}

/// Shortest frame with room for the sequence number.
pub const SHORTEST: usize = SEQUENCE_OFFSET + 8;
/// Longest frame that the scenario's MTU of 1450 bytes lets through.
pub const LONGEST: usize = 1450 + 14;

/// A UDP datagram of `length` bytes of Ethernet, without frame check sequence. Its UDP checksum is 0 (none,
/// RFC 768), so that a generator may change port and number without finishing it.
pub fn measuring(length: usize, ends: &Ends) -> Result<Vec<u8>> {
    ensure!(
        (SHORTEST..=LONGEST).contains(&length),
        "a frame of {length} bytes: the benchmark sends {SHORTEST} to {LONGEST}"
    );
    let payload = vec![0; length - SEQUENCE_OFFSET];
    let mut frame = Vec::with_capacity(length);
    let Ends { macs: [source, destination], addresses: [from, to] } = *ends;
    PacketBuilder::ethernet2(source, destination)
        .ipv4(from, to, 64)
        .udp(FIRST_SOURCE_PORT, MEASURING_PORT)
        .write(&mut frame, &payload)?;
    frame[40..42].fill(0);
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{SlicedPacket, TransportSlice};

    #[test]
    fn a_measuring_frame_has_the_length_asked_for_and_no_udp_checksum() {
        for length in [SHORTEST, 64, 1450, LONGEST] {
            let frame = measuring(length, &Ends::LAB).unwrap();
            assert_eq!(frame.len(), length);
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("not UDP") };
            assert_eq!((udp.destination_port(), udp.checksum()), (MEASURING_PORT, 0));
            assert_eq!(usize::from(udp.length()), length - 34);
        }
    }

    #[test]
    fn a_frame_that_the_overlay_would_refuse_is_an_error() {
        assert!(measuring(SHORTEST - 1, &Ends::LAB).is_err());
        assert!(measuring(LONGEST + 1, &Ends::LAB).is_err());
    }
}
