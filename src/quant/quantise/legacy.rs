//! Q4_0 to Q8_0: 32 elements with an f16 scale and, in the `_1` types, an f16 minimum. Uses `fit`.

use super::codebook::{Codebook, Integers, codes};
use super::fit::{self, OffsetStarts, ScaleStarts};
use super::lanes::{LANES, side_by_side};
use super::plain::{half, half_to_f32, half_up, stored};
use super::{nibbles, put};

const Q4_0: ScaleStarts = [-8.9, -8.6, -8.4, -8.2, -8.0, -7.8, -7.3, -7.1];
const Q5_0: ScaleStarts = [-16.8, -16.5, -16.0, -15.8, -15.1, -14.8, -14.1, -13.1];
/// For codes of four bits, here and in `k`.
pub(super) const FOUR_BITS: OffsetStarts = [
    (-0.6, 15.2),
    (-0.4, 14.8),
    (-0.2, 15.0),
    (-0.2, 15.2),
    (-0.2, 15.6),
    (0.0, 15.2),
    (0.2, 15.4),
    (0.8, 15.2),
];
/// For codes of five bits, here and in `k`.
pub(super) const FIVE_BITS: OffsetStarts = [
    (-0.25, 30.25),
    (-0.25, 30.75),
    (-0.25, 31.25),
    (0.0, 29.0),
    (0.0, 29.75),
    (0.0, 31.0),
    (0.25, 31.25),
    (1.25, 31.0),
];

/// Bits of the scale, and codes, of blocks without minimum.
#[inline(always)]
pub(super) fn scaled<B: Codebook>(values: &[[f32; 32]], starts: &ScaleStarts) -> [(u16, [u8; 32]); LANES] {
    let scales = fit::scales::<B, 32>(&side_by_side(values), starts);
    let mut out = [(0, [0; 32]); LANES];
    for ((values, scale), out) in values.iter().zip(scales).zip(&mut out) {
        let scale = half(scale);
        *out = (scale, codes::<B, 32>(values, half_to_f32(scale), 0.0));
    }
    out
}

/// Bits of the scale and of the minimum, and codes, of blocks that have both.
#[inline(always)]
fn offset<const TOTAL: u8>(values: &[[f32; 32]], starts: &OffsetStarts) -> [(u16, u16, [u8; 32]); LANES] {
    let x = side_by_side(values);
    let (mut scales, offsets) = fit::scales_and_offsets::<TOTAL, false, 32>(&x, starts);
    for scale in &mut scales {
        *scale = stored(*scale);
    }
    // A scale that is zero as f16 leaves all to the offset.
    let offsets = fit::offsets::<TOTAL, 32>(&x, &scales, &offsets);
    let mut out = [(0, 0, [0; 32]); LANES];
    for (r, (values, out)) in values.iter().zip(&mut out).enumerate() {
        let offset = half(offsets[r]);
        let codes = codes::<Integers<0, TOTAL>, 32>(values, scales[r], half_to_f32(offset));
        *out = (half(scales[r]), offset, codes);
    }
    out
}

/// The fifth bits of codes, element 0's the lowest.
#[inline(always)]
fn fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    let mut word = 0;
    for i in 0..32 {
        word |= u32::from(codes[i] >> 4) << i;
    }
    word.to_le_bytes()
}

#[inline(always)]
pub(super) fn q4_0(values: &[[f32; 32]], out: &mut [[u8; 18]]) {
    for (out, (scale, codes)) in out.iter_mut().zip(scaled::<Integers<8, 16>>(values, &Q4_0)) {
        put::<0, _, _>(out, scale.to_le_bytes());
        put::<2, _, _>(out, nibbles(&codes));
    }
}

#[inline(always)]
pub(super) fn q4_1(values: &[[f32; 32]], out: &mut [[u8; 20]]) {
    for (out, (scale, min, codes)) in out.iter_mut().zip(offset::<16>(values, &FOUR_BITS)) {
        put::<0, _, _>(out, scale.to_le_bytes());
        put::<2, _, _>(out, min.to_le_bytes());
        put::<4, _, _>(out, nibbles(&codes));
    }
}

#[inline(always)]
pub(super) fn q5_0(values: &[[f32; 32]], out: &mut [[u8; 22]]) {
    for (out, (scale, codes)) in out.iter_mut().zip(scaled::<Integers<16, 32>>(values, &Q5_0)) {
        put::<0, _, _>(out, scale.to_le_bytes());
        put::<2, _, _>(out, fifth_bits(&codes));
        put::<6, _, _>(out, nibbles(&codes));
    }
}

#[inline(always)]
pub(super) fn q5_1(values: &[[f32; 32]], out: &mut [[u8; 24]]) {
    for (out, (scale, min, codes)) in out.iter_mut().zip(offset::<32>(values, &FIVE_BITS)) {
        put::<0, _, _>(out, scale.to_le_bytes());
        put::<2, _, _>(out, min.to_le_bytes());
        put::<4, _, _>(out, fifth_bits(&codes));
        put::<8, _, _>(out, nibbles(&codes));
    }
}

/// Codes of eight bits are so fine that a search would gain nothing.
#[inline(always)]
pub(super) fn q8_0(values: &[f32; 32], out: &mut [u8; 34]) {
    let mut largest = 0;
    for x in values {
        largest = largest.max(x.abs().to_bits());
    }
    let scale = half_up(f32::from_bits(largest) / 127.0);
    let mut codes = codes::<Integers<127, 255>, 32>(values, half_to_f32(scale), 0.0);
    for code in &mut codes {
        // Stored as the number itself, not as its place from -127 on.
        *code = code.wrapping_sub(127);
    }
    put::<0, _, _>(out, scale.to_le_bytes());
    put::<2, _, _>(out, codes);
}
