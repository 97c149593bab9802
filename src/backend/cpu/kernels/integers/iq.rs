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

/// Four bytes as a number.
#[inline(always)]
fn double_word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes(block, at))
}

/// Eight bytes as a number.
#[inline(always)]
fn quad_word(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes(block, at))
}

/// The signs of 64 weights from the lowest 28 bits of two double words: seven for each eight, an even number of which is negative.
#[inline(always)]
fn even(packed: u64) -> u64 {
    let fourteens = packed & 0x0000_3fff_0000_3fff | (packed & 0x0fff_c000_0fff_c000) << 2;
    let sevens = fourteens & 0x007f_007f_007f_007f | (fourteens & 0x3f80_3f80_3f80_3f80) << 1;
    // The highest bit of each byte becomes the parity of the others.
    let parity = sevens ^ sevens << 4;
    let parity = parity ^ parity << 2;
    let parity = parity ^ parity << 1;
    sevens | parity & 0x8080_8080_8080_8080
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

/// The nibbles of eight bytes, low ones first.
#[inline(always)]
fn nibbles(packed: &[u8; 8]) -> [u8; 16] {
    let mut nibbles = [0; 16];
    for i in 0..8 {
        [nibbles[2 * i], nibbles[2 * i + 1]] = [packed[i] & 15, packed[i] >> 4];
    }
    nibbles
}

/// The nibbles of four bytes, a byte each, low ones first.
#[inline(always)]
fn eight_nibbles(packed: u32) -> u64 {
    let packed = u64::from(packed);
    let words = (packed | packed << 16) & 0x0000_ffff_0000_ffff;
    let bytes = (words | words << 8) & 0x00ff_00ff_00ff_00ff;
    (bytes | bytes << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

/// The upper four bits of eight double words, a byte each: what lies above the signs, from the last byte of the first on.
#[inline(always)]
fn above_signs(block: &[u8], last: usize, step: usize) -> u64 {
    let mut tops = [0; 8];
    for i in 0..8 {
        tops[i] = block[last + step * i] >> 4;
    }
    u64::from_le_bytes(tops)
}

format!(
    Iq3Xxs,
    98,
    |s, block| {
        let numbers = s.unsigned_twice(above_signs(*block, 69, 4));
        half_more(s, bytes(*block, 0), 0.5, numbers)
    },
    |quarter| {
        let codes = s.fours(&grids::IQ3_XXS, bytes(*block, 2 + 16 * quarter), 0);
        s.signs(codes, even(quad_word(*block, 66 + 8 * quarter)))
    }
);

format!(
    Iq3S,
    110,
    |s, block| {
        let numbers = s.unsigned_twice(eight_nibbles(double_word(*block, 106)));
        biased(s, odd(s, s.half(bytes(*block, 0)), numbers))
    },
    |quarter| {
        let high = u16::from_le_bytes(*bytes(*block, 66 + 2 * quarter));
        let codes = s.fours(&grids::IQ3_S, bytes(*block, 2 + 16 * quarter), high);
        s.signs(codes, quad_word(*block, 74 + 8 * quarter))
    }
);

/// No bits of points' numbers but the lower eight.
static NONE: [u32; 8] = [0; 8];

format!(
    Iq2Xxs,
    66,
    |s, block| {
        let numbers = s.unsigned_twice(above_signs(*block, 9, 8));
        half_more(s, bytes(*block, 0), 0.25, numbers)
    },
    |quarter| {
        // For each 32 weights four points of a byte each, then their signs.
        let [a, b] = [quad_word(*block, 2 + 16 * quarter), quad_word(*block, 10 + 16 * quarter)];
        let points = a & 0xffff_ffff | b << 32;
        let codes = s.eights(&grids::IQ2_XXS, points.to_le_bytes(), 0, &NONE);
        s.signs(codes, even(a >> 32 | b >> 32 << 32))
    }
);

format!(
    Iq2Xs,
    74,
    |s, block| half_more(s, bytes(*block, 0), 0.25, s.signed(nibbles(bytes(*block, 66)))),
    |quarter| {
        let words = bytes(*block, 2 + 16 * quarter);
        s.signs(s.eights_of_words(&grids::IQ2_XS, words), s.even_of_words(words))
    }
);

/// Where the upper bits of points' numbers lie, two each.
static PAIRS: [u32; 8] = [0, 2, 4, 6, 8, 10, 12, 14];

format!(
    Iq2S,
    82,
    |s, block| half_more(s, bytes(*block, 0), 0.25, s.signed(nibbles(bytes(*block, 74)))),
    |quarter| {
        let high = u16::from_le_bytes(*bytes(*block, 66 + 2 * quarter));
        let codes = s.eights(&grids::IQ2_S, *bytes(*block, 2 + 8 * quarter), high.into(), &PAIRS);
        s.signs(codes, quad_word(*block, 34 + 8 * quarter))
    }
);

/// What a weight of IQ1 is, an eighth of: eight times its point's coordinate, and one more or less. The grid has eight times one more than
/// coordinates, so one less is its value with nine subtracted.
const EIGHTH: f32 = 0.125;
const DOWN: f32 = 9.0;

/// Where the upper bits of points' numbers lie, three each: four in a word, or one in a nibble.
static TRIPLES: [u32; 8] = [0, 3, 6, 9, 16, 19, 22, 25];
static NIBBLES: [u32; 8] = [0, 4, 8, 12, 16, 20, 24, 28];

format!(
    Iq1S,
    50,
    |s, block| {
        // Of each word three bits are a scale, and the highest says whether the weights lie an eighth below points.
        let tops = above_signs(*block, 35, 2);
        let d = s.mul(s.half(bytes(*block, 0)), s.splat(EIGHTH));
        let scales = odd(s, d, s.unsigned_twice(tops & 0x0707_0707_0707_0707));
        let down = s.unsigned_twice(tops >> 3 & 0x0101_0101_0101_0101);
        [scales, s.mul(scales, s.fma(down, s.splat(2.0), s.splat(DOWN - 2.0)))]
    },
    |quarter| {
        let high = double_word(*block, 34 + 4 * quarter);
        s.eights(&grids::IQ1, *bytes(*block, 2 + 8 * quarter), high, &TRIPLES)
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
        for i in 0..16 {
            numbers[i] = (words >> (16 * (i / 4) + 3 * (i % 4))) as u8 & 7;
        }
        let d = s.mul(s.half(&d), s.splat(EIGHTH));
        let scales = odd(s, d, s.signed(numbers));
        [scales, s.mul(scales, s.splat(DOWN))]
    },
    |quarter| {
        let high = double_word(*block, 32 + 4 * quarter);
        let codes = s.eights(&grids::IQ1, *bytes(*block, 8 * quarter), high, &NIBBLES);
        // Where the highest bit of a nibble is none, eight weights lie an eighth above.
        let up = eight_nibbles(!high >> 3 & 0x1111_1111) * 0xff;
        s.or(codes, s.select(up, 2))
    }
);
