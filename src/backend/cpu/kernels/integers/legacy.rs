//! Q4_0 to Q8_0 and IQ4_NL: blocks of 32 weights with an f16 scale and, in the `_1` types, an f16 minimum.

use super::{Format, bytes, iq4};
use crate::backend::cpu::simd::Integers;

/// The 64 bits that lie in two blocks at `at`.
#[inline(always)]
fn fifth_bits(block: &[u8], at: usize, size: usize) -> u64 {
    let [a, b] = [at, at + size].map(|at| u64::from(u32::from_le_bytes(*bytes(block, at))));
    a | b << 32
}

/// A format: its name, bytes of a block, bits of a code, then a block's scales and offsets, then a quarter's codes.
macro_rules! format {
    ($name:ident, $size:literal, $bits:literal, |$s:ident, $block:ident| $scales:expr, |$at:ident| $codes:expr) => {
        pub(crate) struct $name;

        impl Format for $name {
            const BLOCK: usize = 32;
            const BITS: u32 = $bits;
            const RUN: usize = 32;
            type Bytes = [u8; 8 * $size];
            const ZERO: Self::Bytes = [0; 8 * $size];
            type Block<'a> = &'a Self::Bytes;

            #[inline(always)]
            fn open(bytes: &Self::Bytes) -> &Self::Bytes {
                bytes
            }

            #[inline(always)]
            fn scales<S: Integers>($s: S, $block: &&Self::Bytes) -> [S::Sixteen; 2] {
                $scales
            }

            #[inline(always)]
            fn codes<S: Integers>($s: S, $block: &&Self::Bytes, quarter: usize) -> S::Codes {
                let $at = 2 * $size * quarter;
                $codes
            }
        }
    };
}

/// Scales of codes around `zero`.
#[inline(always)]
fn centred<S: Integers>(s: S, block: &[u8], size: usize, zero: f32) -> [S::Sixteen; 2] {
    let scales = s.halves(block, 0, size);
    [scales, s.mul(scales, s.splat(zero))]
}

/// Scales of codes above a minimum.
#[inline(always)]
fn above<S: Integers>(s: S, block: &[u8], size: usize) -> [S::Sixteen; 2] {
    [s.halves(block, 0, size), s.mul(s.halves(block, 2, size), s.splat(-1.0))]
}

/// The nibbles that lie in two blocks at `at`.
#[inline(always)]
fn nibbles<S: Integers>(s: S, block: &[u8], at: usize, size: usize) -> S::Codes {
    s.nibbles(bytes(block, at), bytes(block, at + size))
}

/// The same with a fifth bit each from `bits` on.
#[inline(always)]
fn fives<S: Integers>(s: S, block: &[u8], [bits, at]: [usize; 2], size: usize) -> S::Codes {
    s.or(nibbles(s, block, at, size), s.select(fifth_bits(block, bits, size), 16))
}

format!(Q4_0, 18, 4, |s, block| centred(s, *block, 18, 8.0), |at| nibbles(s, *block, at + 2, 18));
format!(Q4_1, 20, 4, |s, block| above(s, *block, 20), |at| nibbles(s, *block, at + 4, 20));
format!(Q5_0, 22, 5, |s, block| centred(s, *block, 22, 16.0), |at| fives(s, *block, [at + 2, at + 6], 22));
format!(Q5_1, 24, 5, |s, block| above(s, *block, 24), |at| fives(s, *block, [at + 4, at + 8], 24));
format!(Q8_0, 34, 8, |s, block| centred(s, *block, 34, S::BIAS), |at| s
    .flip(s.codes(bytes(*block, at + 2), bytes(*block, at + 36))));
format!(Iq4Nl, 18, 8, |s, block| centred(s, *block, 18, S::BIAS), |at| s
    .lookup(&iq4::TABLE, nibbles(s, *block, at + 2, 18)));
