//! IQ1, IQ2 and IQ3: 256 weights in points of a lattice, with signs and small scales. Points are looked up 64 coordinates at a time;
//! what names them, and signs, are small fields of bits, taken apart several at a time in a general register.

use super::{Format, bytes};
use crate::backend::cpu::simd::Integers;
use crate::quant::grids;

/// A format: its name, bytes of a block, then its scales and offsets, then a quarter's codes.
macro_rules! format {
    ($name:ident, $size:literal, |$s:ident, $block:ident| $scales:expr, |$quarter:ident| $codes:expr) => {
        pub(crate) struct $name;

        impl Format for $name {
            const BLOCK: usize = 256;
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

/// Two bytes as a number.
#[inline(always)]
fn word(block: &[u8], at: usize) -> u64 {
    u64::from(u16::from_le_bytes(*bytes(block, at)))
}

/// Four bytes as a number.
#[inline(always)]
fn double_word(block: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(*bytes(block, at)))
}

/// Eight bytes as a number.
#[inline(always)]
fn quad_word(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes(block, at))
}

/// The lowest `4 * width` bits as four words of `width` bits each.
#[inline(always)]
fn four_words(fields: u64, width: u32) -> u64 {
    let pairs = 0x0000_0001_0000_0001 * ((1 << (2 * width)) - 1);
    let singles = 0x0001_0001_0001_0001 * ((1 << width) - 1);
    let halves = (fields | fields << (32 - 2 * width)) & pairs;
    (halves | halves << (16 - width)) & singles
}

/// The lower bytes of eight words.
#[inline(always)]
fn eight_bytes(words: [u64; 2]) -> u64 {
    let [a, b] = words.map(|words| {
        let words = words & 0x00ff_00ff_00ff_00ff;
        let halves = (words | words >> 8) & 0x0000_ffff_0000_ffff;
        (halves | halves >> 16) & 0xffff_ffff
    });
    a | b << 32
}

/// The nibbles of eight bytes, a byte each, low ones first.
#[inline(always)]
fn nibbles(packed: u64) -> [u8; 16] {
    const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    let (low, high) = (packed & LOW, packed >> 4 & LOW);
    // Byte `i` of one goes before byte `i` of the other.
    let first = four_words(low & 0xffff_ffff, 8) | four_words(high & 0xffff_ffff, 8) << 8;
    let last = four_words(low >> 32, 8) | four_words(high >> 32, 8) << 8;
    (u128::from(first) | u128::from(last) << 64).to_le_bytes()
}

/// Signs of 64 weights, of which every eighth is not kept: it makes the number of negative ones in its eight even. Each byte has seven.
#[inline(always)]
fn even(sevens: u64) -> u64 {
    let parity = sevens ^ sevens << 4;
    let parity = parity ^ parity << 2;
    let parity = parity ^ parity << 1;
    sevens | parity & 0x8080_8080_8080_8080
}

/// Four times seven bits in the lowest 28 of each double word, a byte each.
#[inline(always)]
fn sevens(packed: u64) -> u64 {
    let fourteens = packed & 0x0000_3fff_0000_3fff | (packed & 0x0fff_c000_0fff_c000) << 2;
    fourteens & 0x007f_007f_007f_007f | (fourteens & 0x3f80_3f80_3f80_3f80) << 1
}

/// What lies above the signs in double words from `at` on, `step` bytes apart, a byte each.
#[inline(always)]
fn above_signs(block: &[u8], at: usize, step: usize) -> u64 {
    (0..8).fold(0, |all, i| all | u64::from(block[at + step * i + 3] >> 4) << (8 * i))
}

/// Scales of codes that are `BIAS` more than numbers.
#[inline(always)]
fn biased<S: Integers>(s: S, scales: S::Sixteen) -> [S::Sixteen; 2] {
    [scales, s.mul(scales, s.splat(S::BIAS))]
}

/// Scales `d * unit * (0.5 + numbers)`.
#[inline(always)]
fn half_more<S: Integers>(s: S, d: &[u8; 2], unit: f32, numbers: S::Sixteen) -> [S::Sixteen; 2] {
    let d = s.mul(s.half(d), s.splat(unit));
    biased(s, s.mul(d, s.fma(numbers, s.splat(1.0), s.splat(0.5))))
}

/// Scales `d * (1 + 2 * numbers)`.
#[inline(always)]
fn odd<S: Integers>(s: S, d: S::Sixteen, numbers: S::Sixteen) -> S::Sixteen {
    s.mul(d, s.fma(numbers, s.splat(2.0), s.splat(1.0)))
}

format!(
    Iq3Xxs,
    98,
    |s, block| half_more(s, bytes(*block, 0), 0.5, s.unsigned_twice(above_signs(*block, 66, 4))),
    |quarter| {
        let codes = s.fours(&grids::IQ3_XXS, bytes(*block, 2 + 16 * quarter), 0);
        s.signs(codes, even(sevens(quad_word(*block, 66 + 8 * quarter))))
    }
);

format!(
    Iq3S,
    110,
    |s, block| {
        // A byte for each nibble.
        let scales = double_word(*block, 106);
        let numbers = four_words(scales, 8);
        let numbers = (numbers | numbers << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        biased(s, odd(s, s.half(bytes(*block, 0)), s.unsigned_twice(numbers)))
    },
    |quarter| {
        let high = u16::from_le_bytes(*bytes(*block, 66 + 2 * quarter));
        let codes = s.fours(&grids::IQ3_S, bytes(*block, 2 + 16 * quarter), high);
        s.signs(codes, quad_word(*block, 74 + 8 * quarter))
    }
);

format!(
    Iq2Xxs,
    66,
    |s, block| half_more(s, bytes(*block, 0), 0.25, s.unsigned_twice(above_signs(*block, 6, 8))),
    |quarter| {
        // For each 32 weights four points of a byte each, then their signs.
        let [a, b] = [quad_word(*block, 2 + 16 * quarter), quad_word(*block, 10 + 16 * quarter)];
        let points = [four_words(a & 0xffff_ffff, 8), four_words(b & 0xffff_ffff, 8)];
        s.signs(s.eights(&grids::IQ2_XXS, points), even(sevens(a >> 32 | b >> 32 << 32)))
    }
);

format!(
    Iq2Xs,
    74,
    |s, block| half_more(s, bytes(*block, 0), 0.25, s.signed(nibbles(quad_word(*block, 66)))),
    |quarter| {
        let codes = [quad_word(*block, 2 + 16 * quarter), quad_word(*block, 10 + 16 * quarter)];
        let points = codes.map(|codes| codes & 0x01ff_01ff_01ff_01ff);
        let signs = eight_bytes(codes.map(|codes| codes >> 9 & 0x007f_007f_007f_007f));
        s.signs(s.eights(&grids::IQ2_XS, points), even(signs))
    }
);

/// Four points: the lower eight bits of their numbers are bytes, the upper `width` lie together.
#[inline(always)]
fn four_points(low: u64, high: u64, width: u32) -> u64 {
    four_words(low & 0xffff_ffff, 8) | four_words(high, width) << 8
}

format!(
    Iq2S,
    82,
    |s, block| half_more(s, bytes(*block, 0), 0.25, s.signed(nibbles(quad_word(*block, 74)))),
    |quarter| {
        let (low, high) = (quad_word(*block, 2 + 8 * quarter), word(*block, 66 + 2 * quarter));
        let points = [four_points(low, high & 0xff, 2), four_points(low >> 32, high >> 8, 2)];
        s.signs(s.eights(&grids::IQ2_S, points), quad_word(*block, 34 + 8 * quarter))
    }
);

/// What a weight of IQ1 is, an eighth of: eight times its point's coordinate, and one more or less. The grid has eight times one more than
/// coordinates, so one less is its value with nine subtracted.
const EIGHTH: f32 = 0.125;
const DOWN: f32 = 9.0;

format!(
    Iq1S,
    50,
    |s, block| {
        let high = [quad_word(*block, 34), quad_word(*block, 42)];
        // Of each word three bits are a scale, and the highest says whether the weights lie an eighth below points.
        let tops = eight_bytes(high.map(|words| words >> 12 & 0x000f_000f_000f_000f));
        let d = s.mul(s.half(bytes(*block, 0)), s.splat(EIGHTH));
        let scales = odd(s, d, s.unsigned_twice(tops & 0x0707_0707_0707_0707));
        let down = s.unsigned_twice(tops >> 3 & 0x0101_0101_0101_0101);
        [scales, s.mul(scales, s.fma(down, s.splat(2.0), s.splat(DOWN - 2.0)))]
    },
    |quarter| {
        let (low, high) = (quad_word(*block, 2 + 8 * quarter), double_word(*block, 34 + 4 * quarter));
        let points = [four_points(low, high & 0xfff, 3), four_points(low >> 32, high >> 16 & 0xfff, 3)];
        s.eights(&grids::IQ1, points)
    }
);

format!(
    Iq1M,
    56,
    |s, block| {
        let words = quad_word(*block, 48);
        // The f16 is spread over the upper nibbles of the words that hold the small scales.
        let d = words >> 12 & 0x000f_000f_000f_000f;
        let d = (d | d >> 12) & 0x0000_00ff_0000_00ff;
        let d = ((d | d >> 24) as u16).to_le_bytes();
        let mut numbers = [0; 16];
        for (i, numbers) in numbers.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let four = four_words(words >> (16 * i) & 0xfff, 3);
            *numbers = [0, 16, 32, 48].map(|shift| (four >> shift) as u8);
        }
        let d = s.mul(s.half(&d), s.splat(EIGHTH));
        let scales = odd(s, d, s.signed(numbers));
        [scales, s.mul(scales, s.splat(DOWN))]
    },
    |quarter| {
        let (low, high) = (quad_word(*block, 8 * quarter), double_word(*block, 32 + 4 * quarter));
        let nibbles = [four_words(high & 0xffff, 4), four_words(high >> 16, 4)];
        let low = [four_words(low & 0xffff_ffff, 8), four_words(low >> 32, 8)];
        let points = [0, 1].map(|i| low[i] | (nibbles[i] & 0x0007_0007_0007_0007) << 8);
        // All bits of a byte where the highest of its nibble is none: its eight weights lie an eighth above.
        let up = eight_bytes(nibbles.map(|nibbles| !nibbles >> 3 & 0x0001_0001_0001_0001));
        s.or(s.eights(&grids::IQ1, points), s.select(up * 0xff, 2))
    }
);
