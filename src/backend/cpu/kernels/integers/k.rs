//! Q2_K to Q6_K: 256 weights in 8 or 16 runs with a small integer scale each, and f16 scales of those.

use super::{Format, bytes};
use crate::backend::cpu::simd::Integers;
use crate::quant::k;

/// A format: its name, bytes of a block, bits of a code, weights with the same scale, then its scales and offsets, then a quarter's
/// codes.
macro_rules! format {
    ($name:ident, $size:literal, $bits:literal, $run:literal, |$s:ident, $block:ident| $scales:expr, |$quarter:ident| $codes:expr) => {
        pub(crate) struct $name;

        impl Format for $name {
            const BLOCK: usize = 256;
            const BITS: u32 = $bits;
            const RUN: usize = $run;
            type Bytes = [u8; $size];
            const ZERO: Self::Bytes = [0; $size];
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
            fn codes<S: Integers>($s: S, $block: &&Self::Bytes, $quarter: usize) -> S::Codes {
                $codes
            }
        }
    };
}

/// Scales `d * scales` of codes around `zero`.
#[inline(always)]
fn centred<S: Integers>(s: S, d: &[u8; 2], scales: S::Sixteen, zero: f32) -> [S::Sixteen; 2] {
    let scales = s.mul(s.half(d), scales);
    [scales, s.mul(scales, s.splat(zero))]
}

/// Scales and minima of Q4_K and Q5_K.
#[inline(always)]
fn sixes<S: Integers>(s: S, start: &[u8; 16]) -> [S::Sixteen; 2] {
    s.scaled_twice(k::q4_k_sixes(start), bytes(start, 0))
}

/// Two bits of each code of a quarter of Q2_K and Q3_K.
#[inline(always)]
fn pairs<S: Integers>(s: S, codes: &[u8; 64], quarter: usize) -> S::Codes {
    let shift = 4 * (quarter as i32 % 2);
    s.fields(s.twice(bytes(codes, quarter / 2 * 32)), [shift, shift + 2], 3)
}

format!(
    Q2K,
    84,
    2,
    16,
    |s, block| {
        let packed = bytes(*block, 0);
        let (d, min) = (s.half(bytes(*block, 80)), s.half(bytes(*block, 82)));
        let (scales, mins) = s.low_and_high(packed);
        [s.mul(d, scales), s.mul(min, mins)]
    },
    |quarter| pairs(s, bytes(*block, 16), quarter)
);

format!(
    Q3K,
    110,
    3,
    16,
    |s, block| {
        let sixes = s.signed(k::q3_k_sixes(bytes(*block, 96)));
        let scales = s.fma(sixes, s.splat(1.0), s.splat(-32.0));
        centred(s, bytes(*block, 108), scales, 4.0)
    },
    |quarter| {
        let shift = 2 * quarter as i32 - 2;
        let high = s.fields(s.twice(bytes(*block, 0)), [shift, shift + 1], 4);
        s.or(pairs(s, bytes(*block, 32), quarter), high)
    }
);

format!(Q4K, 144, 4, 32, |s, block| sixes(s, bytes(*block, 0)), |quarter| s.fields(
    s.twice(bytes(*block, 16 + 32 * quarter)),
    [0, 4],
    15
));

format!(Q5K, 176, 5, 32, |s, block| sixes(s, bytes(*block, 0)), |quarter| {
    let shift = 2 * quarter as i32 - 4;
    let high = s.fields(s.twice(bytes(*block, 16)), [shift, shift + 1], 16);
    s.or(s.fields(s.twice(bytes(*block, 48 + 32 * quarter)), [0, 4], 15), high)
});

format!(
    Q6K,
    210,
    6,
    16,
    |s, block| centred(s, bytes(*block, 208), s.signed(*bytes(*block, 192)), 32.0),
    |quarter| {
        let (half, odd) = (quarter / 2, quarter as i32 % 2);
        let low = s.codes(bytes(*block, 64 * half), bytes(*block, 64 * half + 32));
        let high = s.twice(bytes(*block, 128 + 32 * half));
        s.or(s.fields(low, [4 * odd; 2], 15), s.fields(high, [4 * odd - 4, 4 * odd - 2], 48))
    }
);
