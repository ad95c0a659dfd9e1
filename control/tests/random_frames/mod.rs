//! Random frames of a container, and random packets of a tunnel: most as they should be, some wrong in each way.

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use vxdp_dataplane::wire::{Inner, Network, Transport};

/// Longest inner frame that a port takes here: an MTU of 1450 behind an Ethernet header.
pub(crate) const LONGEST: usize = 1464;
/// Bytes of the outer headers over IPv4.
pub(crate) const ROOM: usize = 50;
const ETHERNET: usize = 14;

/// A source of chance that gives the same in every run.
pub(crate) struct Dice(TestRng);

impl Dice {
    pub(crate) fn new(seed: u8) -> Self {
        Self(TestRng::from_seed(RngAlgorithm::XorShift, &[seed; 16]))
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.0.next_u64() % limit as u64) as usize
    }

    /// True once in `count` times.
    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn byte(&mut self) -> u8 {
        self.0.next_u32() as u8
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())]
    }
}

/// A frame from `source` to `destination`, at least 14 bytes: the kernel runs no program on less.
pub(crate) fn frame(dice: &mut Dice, source: [u8; 6], destination: [u8; 6]) -> Vec<u8> {
    let payload = match dice.below(64) {
        0..=31 => dice.below(64),
        32..=62 => dice.below(1400),
        _ => 1400 + dice.below(80),
    };
    let mut frame = [destination, source].concat();
    if dice.one_in(64) {
        frame[5] ^= 1 << dice.below(8);
    }
    if dice.one_in(64) {
        frame[11] ^= 1 << dice.below(8);
    }
    if dice.one_in(128) {
        frame[0] |= 1;
    }
    for _ in 0..if dice.one_in(16) { 1 + dice.below(7) } else { 0 } {
        frame.extend(dice.pick(&[[0x81, 0], [0x88, 0xa8]]));
        frame.extend([dice.byte(), dice.byte()]);
    }
    match dice.below(32) {
        0 => frame.extend([0x08, 0x06]),
        1 => frame.extend([dice.byte(), dice.byte()]),
        2..=18 => ipv4(dice, &mut frame, payload),
        _ => ipv6(dice, &mut frame, payload),
    }
    if frame.len() < ETHERNET + payload {
        let start = frame.len();
        frame.resize(ETHERNET + payload, 0);
        dice.fill(&mut frame[start..]);
    }
    if dice.one_in(16) {
        leave_unfinished(&mut frame);
    }
    if dice.one_in(16) {
        frame.truncate(ETHERNET + dice.below(frame.len() - ETHERNET + 1));
    }
    frame
}

/// The length field of a packet: mostly the truth.
fn length(dice: &mut Dice, truth: usize) -> [u8; 2] {
    let told = match dice.below(16) {
        0 => dice.below(0x1_0000),
        1 => truth + dice.below(9),
        2 | 3 => truth.saturating_sub(dice.below(50)),
        _ => truth,
    };
    (told as u16).to_be_bytes()
}

fn protocol(dice: &mut Dice, others: &[u8]) -> u8 {
    match dice.below(8) {
        0..=2 => 6,
        3..=5 => 17,
        6 => dice.pick(others),
        _ => dice.byte(),
    }
}

/// A version with a header length, or the upper bits of a traffic class: mostly right.
fn first_byte(dice: &mut Dice, right: u8) -> u8 {
    if dice.one_in(32) { dice.byte() } else { right }
}

fn ipv4(dice: &mut Dice, frame: &mut Vec<u8>, payload: usize) {
    let mut header = [0; 20];
    dice.fill(&mut header);
    let words = if dice.one_in(8) { 5 + dice.below(11) as u8 } else { 5 };
    header[0] = first_byte(dice, 0x40 | words);
    let whole = 4 * usize::from(words) + payload;
    header[2..4].copy_from_slice(&length(dice, whole));
    // Don't-fragment or not; at times a fragment.
    header[6] = if dice.one_in(16) { dice.byte() } else { dice.pick(&[0, 0x40]) };
    header[7] = if dice.one_in(16) { dice.byte() } else { 0 };
    header[8] = if dice.one_in(16) { 0 } else { header[8] };
    header[9] = protocol(dice, &[1, 2, 47, 50]);
    frame.extend([0x08, 0]);
    frame.extend(header);
    let end = frame.len() + whole - 20;
    let start = frame.len();
    frame.resize(end, 0);
    dice.fill(&mut frame[start..]);
}

fn ipv6(dice: &mut Dice, frame: &mut Vec<u8>, payload: usize) {
    let mut header = [0; 40];
    dice.fill(&mut header);
    let class = dice.byte() >> 4;
    header[0] = first_byte(dice, 0x60 | class);
    header[4..6].copy_from_slice(&length(dice, payload));
    header[6] = protocol(dice, &[0, 43, 44, 58, 60]);
    header[7] = if dice.one_in(16) { 0 } else { header[7] };
    frame.extend([0x86, 0xdd]);
    frame.extend(header);
    let start = frame.len();
    frame.resize(start + payload, 0);
    dice.fill(&mut frame[start..]);
    if header[6] == 58 && dice.one_in(2) && payload > 1 {
        // A neighbour solicitation, if its code is zero.
        frame[start] = 135;
        frame[start + 1] = dice.pick(&[0, 0, 1]);
    }
}

/// Leaves the checksum of a TCP or UDP segment to the device: the folded sum of the pseudo-header in its place
/// (`CHECKSUM_PARTIAL`, include/linux/skbuff.h).
fn leave_unfinished(frame: &mut [u8]) {
    let inner = Inner::parse(frame);
    let (Network::V4 { at: ip, transport } | Network::V6 { at: ip, transport }) = inner.network else {
        return;
    };
    let Transport::Segment { protocol, at, end } = transport else { return };
    let addresses = if frame[ip] >> 4 == 4 { ip + 12..ip + 20 } else { ip + 8..ip + 40 };
    let words = frame[addresses].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum = words.sum::<u32>() + u32::from(protocol) + (end - at) as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let field = at + if protocol == 6 { 16 } else { 6 };
    frame[field..field + 2].copy_from_slice(&(sum as u16).to_be_bytes());
}

/// Does something to a tunnel's packet over IPv4: half of the time nothing but a congestion mark.
pub(crate) fn disturb(dice: &mut Dice, packet: &mut Vec<u8>) {
    const IP: usize = ETHERNET;
    const UDP: usize = IP + 20;
    packet[IP + 1] = dice.byte();
    match dice.below(32) {
        // The source, the time to live and flags, lengths that lie.
        0 => packet[IP + 15] ^= 1 << dice.below(8),
        1 => packet[IP + 8] = dice.byte(),
        2 => packet[IP + 6] = dice.byte(),
        3 => packet[IP + 3] = packet[IP + 3].wrapping_sub(dice.byte() % 40),
        4 => packet[UDP + 5] = packet[UDP + 5].wrapping_sub(dice.byte() % 40),
        _ => {}
    }
    seal(packet);
    match dice.below(32) {
        0 => packet.extend((0..dice.below(30)).map(|_| 0)),
        1 => packet.truncate(UDP + dice.below(packet.len() - UDP + 1)),
        2 => dice.fill(&mut packet[UDP + 6..UDP + 8]),
        3 | 4 => {
            let (at, bit) = (dice.below(ROOM), dice.below(8));
            packet[at] ^= 1 << bit;
        }
        _ => {}
    }
}

/// Makes the outer IPv4 header checksum right (RFC 1071).
fn seal(packet: &mut [u8]) {
    let header = &mut packet[ETHERNET..ETHERNET + 20];
    header[10..12].fill(0);
    let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum + (sum >> 16)) as u16).to_be_bytes());
}
