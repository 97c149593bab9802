//! Q4_0 to Q8_0: 32 elements with an f16 scale and, in the `_1` types, an f16 minimum. Uses the parent.
//!
//! Element `i` of the first half is the low nibble of byte `i`, element `16 + i` the high one; fifth bits lie together in a word.

use super::{part, scale};

#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = scale::<0, _>(block);
    let codes: [u8; 16] = part::<2, _, _>(block);
    for i in 0..16 {
        out[i] = d * f32::from((codes[i] & 15).cast_signed() - 8);
        out[16 + i] = d * f32::from((codes[i] >> 4).cast_signed() - 8);
    }
}

#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, min) = (scale::<0, _>(block), scale::<2, _>(block));
    let codes: [u8; 16] = part::<4, _, _>(block);
    for i in 0..16 {
        out[i] = d * f32::from(codes[i] & 15) + min;
        out[16 + i] = d * f32::from(codes[i] >> 4) + min;
    }
}

/// Codes of five bits.
#[inline(always)]
fn five_bits(high: [u8; 4], low: [u8; 16]) -> [u8; 32] {
    let high = u32::from_le_bytes(high);
    std::array::from_fn(|i| {
        let nibble = if i < 16 { low[i] & 15 } else { low[i - 16] >> 4 };
        nibble | ((high >> i & 1) as u8) << 4
    })
}

#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = scale::<0, _>(block);
    let codes = five_bits(part::<2, _, _>(block), part::<6, _, _>(block));
    for i in 0..32 {
        out[i] = d * f32::from(codes[i].cast_signed() - 16);
    }
}

#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, min) = (scale::<0, _>(block), scale::<2, _>(block));
    let codes = five_bits(part::<4, _, _>(block), part::<8, _, _>(block));
    for i in 0..32 {
        out[i] = d * f32::from(codes[i]) + min;
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
