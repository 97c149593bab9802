//! Q4_0 to Q8_0: 32 elements with an f16 scale and, in the `_1` types, an f16 minimum. Uses the parent.
//!
//! Element `i` of the first half is the low nibble of byte `i`, element `16 + i` the high one; fifth bits lie together in a word.

use super::{part, scale, spread};

#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = scale::<0, _>(block);
    let codes: [u8; 16] = part::<2, _, _>(block);
    for i in 0..16 {
        out[i] = d * f32::from((codes[i] & 15).cast_signed() - 8);
    }
    for i in 0..16 {
        out[16 + i] = d * f32::from((codes[i] >> 4).cast_signed() - 8);
    }
}

#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, min) = (scale::<0, _>(block), scale::<2, _>(block));
    let codes: [u8; 16] = part::<4, _, _>(block);
    for i in 0..16 {
        out[i] = d * f32::from(codes[i] & 15) + min;
    }
    for i in 0..16 {
        out[16 + i] = d * f32::from(codes[i] >> 4) + min;
    }
}

/// The fifth bit of each code, in its place.
#[inline(always)]
pub(crate) fn fifth_bits(word: [u8; 4]) -> [u8; 32] {
    let mut bits = [0; 32];
    for (byte, out) in word.iter().zip(bits.as_chunks_mut().0) {
        *out = (spread(*byte) >> 3 & 0x1010_1010_1010_1010).to_le_bytes();
    }
    bits
}

#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = scale::<0, _>(block);
    let high = fifth_bits(part::<2, _, _>(block));
    let low: [u8; 16] = part::<6, _, _>(block);
    for i in 0..16 {
        out[i] = d * f32::from((low[i] & 15 | high[i]).cast_signed() - 16);
    }
    for i in 0..16 {
        out[16 + i] = d * f32::from((low[i] >> 4 | high[16 + i]).cast_signed() - 16);
    }
}

#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, min) = (scale::<0, _>(block), scale::<2, _>(block));
    let high = fifth_bits(part::<4, _, _>(block));
    let low: [u8; 16] = part::<8, _, _>(block);
    for i in 0..16 {
        out[i] = d * f32::from(low[i] & 15 | high[i]) + min;
    }
    for i in 0..16 {
        out[16 + i] = d * f32::from(low[i] >> 4 | high[16 + i]) + min;
    }
}

#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = scale::<0, _>(block);
    let codes: [u8; 32] = part::<2, _, _>(block);
    for i in 0..32 {
        out[i] = d * f32::from(codes[i].cast_signed());
    }
}
