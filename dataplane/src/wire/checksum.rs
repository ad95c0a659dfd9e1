//! The Internet checksum (RFC 1071): sums, folding, and updates of single words (RFC 1624).

/// A one's complement sum under way.
///
/// Words are added in the machine's byte order: the sum does not depend on the order as long as it is stored the
/// same way (RFC 1071, section 2 B), so no word is swapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum of these bytes. An odd last byte counts as if a zero followed, so nothing may be added behind it.
    pub fn of(bytes: &[u8]) -> Self {
        Self::ZERO.with(bytes)
    }

    /// The sum of a header of known size, a multiple of four: a handful of additions without a loop.
    #[inline]
    pub fn of_header<const N: usize>(header: &[u8; N]) -> Self {
        const { assert!(N.is_multiple_of(4), "whole words") };
        let (words, _) = header.as_chunks::<4>();
        Self(words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum())
    }

    /// Adds bytes that begin at an even offset.
    ///
    /// Four-byte words into eight-byte lanes need no carry for frames of any size (2^32 words would have to be
    /// added), which lets the compiler use vector registers: twice as fast as an add-with-carry chain.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let mut lanes = [self.0, 0, 0, 0];
        let mut blocks = bytes.chunks_exact(16);
        for block in &mut blocks {
            for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
                *lane += u64::from(word_of(word));
            }
        }
        let mut sum: u64 = lanes.iter().sum();
        let mut words = blocks.remainder().chunks_exact(2);
        for word in &mut words {
            sum += u64::from(half_of(word));
        }
        if let [last] = words.remainder() {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(sum)
    }

    /// Adds one 16-bit number, given in the machine's order.
    #[must_use]
    pub const fn add_u16(self, number: u16) -> Self {
        Self(self.0 + number.to_be() as u64)
    }

    /// Adds another sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        // Each has at most 48 significant bits after this, however often sums are added to sums.
        Self(self.0 + ((other.0 & 0xffff_ffff) + (other.0 >> 32)))
    }

    /// The sum folded to 16 bits, as it stands on the wire. Never zero unless everything added was zero.
    pub const fn folded(self) -> [u8; 2] {
        // Adding a number to itself with its halves exchanged leaves the sum of the halves, carry and all, in
        // the upper one.
        let sum = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        let sum = sum.wrapping_add(sum.rotate_left(16)) >> 16;
        (sum as u16).to_ne_bytes()
    }

    /// The checksum: the folded sum's complement, as it stands on the wire.
    pub const fn checksum(self) -> [u8; 2] {
        let [a, b] = self.folded();
        [!a, !b]
    }

    /// Whether the bytes added, with their checksum among them, are intact (RFC 1071, section 1).
    pub const fn is_intact(self) -> bool {
        matches!(self.folded(), [0xff, 0xff])
    }
}

fn word_of(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word))
}

fn half_of(bytes: &[u8]) -> u16 {
    bytes.first_chunk().map_or(0, |word| u16::from_ne_bytes(*word))
}

/// A checksum after one 16-bit word under it changed from `old` to `new` (RFC 1624, equation 3).
pub const fn updated(checksum: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let sum = !u16::from_be_bytes(checksum) as u32 + !u16::from_be_bytes(old) as u32;
    let sum = sum + u16::from_be_bytes(new) as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_checksum_is_the_one_that_pnet_computes(bytes in prop::collection::vec(any::<u8>(), 1..2000)) {
            // pnet skips the word at an index; one past the end skips nothing. Of nothing it makes 0, not 0xffff.
            let theirs = pnet_packet::util::checksum(&bytes, bytes.len());
            prop_assert_eq!(u16::from_be_bytes(Sum::of(&bytes).checksum()), theirs);
        }

        #[test]
        fn parts_add_up_wherever_they_are_split(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in 0usize..100,
        ) {
            let (head, tail) = bytes.split_at((at * 2).min(bytes.len() & !1));
            prop_assert_eq!(Sum::of(head).with(tail).folded(), Sum::of(&bytes).folded());
            prop_assert_eq!(Sum::of(head).plus(Sum::of(tail)).folded(), Sum::of(&bytes).folded());
        }

        #[test]
        fn an_updated_checksum_is_as_good_as_a_new_one(
            mut words in prop::collection::vec(any::<[u8; 2]>(), 2..20),
            new in any::<[u8; 2]>(),
        ) {
            let checksum = Sum::of(words.as_flattened()).checksum();
            let old = std::mem::replace(&mut words[1], new);
            let sum = Sum::of(words.as_flattened()).with(&updated(checksum, old, new));
            // All-zero data keeps a sum of zero, which stands for the same as 0xffff.
            prop_assert!(sum.is_intact() || sum.folded() == [0, 0]);
        }
    }

    #[test]
    fn the_example_of_rfc_1071_folds_to_ddf2() {
        let sum = Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), [0xdd, 0xf2]);
    }
}
