//! The hash of an inner frame's flow, for the outer UDP source port (RFC 7348, section 5).
//!
//! The same numbers as `dataplane/src/path/entropy.rs`, in the arithmetic that BPF has: no products of 128 bits.
//! A test holds the two together (`control/tests/engines_agree.rs`).

/// Odd numbers with well-mixed bits (of the golden ratio and of pi).
const MIX: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0x2437_0d3b_243f_6a89];

/// One word more.
#[inline(always)]
pub(super) const fn mixed(hash: u64, word: u64) -> u64 {
    let (low, high) = product(hash ^ word ^ MIX[1], MIX[0]);
    low ^ high
}

/// The halves of a product, from four products of halves.
#[inline(always)]
const fn product(a: u64, b: u64) -> (u64, u64) {
    const HALF: u64 = 0xffff_ffff;
    let (a_low, a_high, b_low, b_high) = (a & HALF, a >> 32, b & HALF, b >> 32);
    let low = a_low * b_low;
    let middle = a_high * b_low + (low >> 32);
    let other = a_low * b_high + (middle & HALF);
    (a.wrapping_mul(b), a_high * b_high + (middle >> 32) + (other >> 32))
}

/// The port of a range for a hash, whose high bits count: `count` ports from `first` on.
#[inline(always)]
pub(super) const fn port(hash: u64, first: u16, count: u32) -> u16 {
    first.wrapping_add((((hash >> 32) * count as u64) >> 32) as u16)
}
