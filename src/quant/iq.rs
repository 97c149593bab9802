//! IQ1, IQ2 and IQ3: super-blocks of 256 elements in points of a lattice, with signs and small scales. Uses `grids`.

use super::{grids, part, plain, scale};

/// Nibble `i` of some bytes, low ones first.
#[inline(always)]
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (i % 2 * 4) & 15
}

/// Word `i` of some bytes.
#[inline(always)]
fn word(bytes: &[u8], i: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])
}

/// Double word `i` of some bytes.
#[inline(always)]
fn double_word(bytes: &[u8], i: usize) -> u32 {
    u32::from(word(bytes, 2 * i)) | u32::from(word(bytes, 2 * i + 1)) << 16
}

/// Eight signs of which seven bits are kept: the last makes the number of negative ones even.
#[inline(always)]
fn even_signs(seven: u32) -> u8 {
    let seven = seven & 127;
    (seven | (seven.count_ones() & 1) << 7) as u8
}

/// Scaled coordinates, negative where `signs` has a bit.
#[inline(always)]
fn signed(d: f32, point: [u8; 8], signs: u8, out: &mut [f32; 8]) {
    for i in 0..8 {
        let sign = u32::from(signs) >> i << 31;
        out[i] = f32::from_bits((d * f32::from(point[i])).to_bits() ^ sign);
    }
}

/// Two points of four coordinates.
#[inline(always)]
fn pair([a, b, c, d]: [u8; 4], [e, f, g, h]: [u8; 4]) -> [u8; 8] {
    [a, b, c, d, e, f, g, h]
}

#[inline(always)]
pub(super) fn iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let d = scale::<0, _>(block);
    let points: [u8; 64] = part::<2, _, _>(block);
    let scales: [u8; 32] = part::<66, _, _>(block);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let scale = double_word(&scales, i / 4);
        let d = d * (0.5 + (scale >> 28) as f32) * 0.5;
        let point = [points[2 * i], points[2 * i + 1]].map(|point| grids::IQ3_XXS[usize::from(point)]);
        signed(d, pair(point[0], point[1]), even_signs(scale >> (i % 4 * 7)), out);
    }
}

#[inline(always)]
pub(super) fn iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = scale::<0, _>(block);
    let points: [u8; 64] = part::<2, _, _>(block);
    let high: [u8; 8] = part::<66, _, _>(block);
    let signs: [u8; 32] = part::<74, _, _>(block);
    let scales: [u8; 4] = part::<106, _, _>(block);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let d = d * f32::from(1 + 2 * nibble(&scales, i / 4));
        let point = [2 * i, 2 * i + 1].map(|i| {
            let bit = usize::from(high[i / 8] >> (i % 8) & 1);
            grids::IQ3_S[usize::from(points[i]) | bit << 8]
        });
        signed(d, pair(point[0], point[1]), signs[i], out);
    }
}

#[inline(always)]
pub(super) fn iq2_xxs(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = scale::<0, _>(block);
    let codes: [u8; 64] = part::<2, _, _>(block);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let (run, point) = (i / 4, i % 4);
        let scale = double_word(&codes, 2 * run + 1);
        let d = d * (0.5 + (scale >> 28) as f32) * 0.25;
        let point_of = grids::IQ2_XXS[usize::from(codes[8 * run + point])];
        signed(d, point_of, even_signs(scale >> (point * 7)), out);
    }
}

#[inline(always)]
pub(super) fn iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let d = scale::<0, _>(block);
    let codes: [u8; 64] = part::<2, _, _>(block);
    let scales: [u8; 8] = part::<66, _, _>(block);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let code = word(&codes, i);
        let d = d * (0.5 + f32::from(nibble(&scales, i / 2))) * 0.25;
        signed(d, grids::IQ2_XS[usize::from(code & 511)], even_signs(u32::from(code >> 9)), out);
    }
}

#[inline(always)]
pub(super) fn iq2_s(block: &[u8; 82], out: &mut [f32; 256]) {
    let d = scale::<0, _>(block);
    let points: [u8; 32] = part::<2, _, _>(block);
    let signs: [u8; 32] = part::<34, _, _>(block);
    let high: [u8; 8] = part::<66, _, _>(block);
    let scales: [u8; 8] = part::<74, _, _>(block);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let d = d * (0.5 + f32::from(nibble(&scales, i / 2))) * 0.25;
        let bits = usize::from(high[i / 4] >> (i % 4 * 2) & 3);
        signed(d, grids::IQ2_S[usize::from(points[i]) | bits << 8], signs[i], out);
    }
}

/// A point of IQ1's lattice, all its coordinates shifted by an eighth up or down.
#[inline(always)]
fn shifted(d: f32, point: usize, down: bool, out: &mut [f32; 8]) {
    // Coordinates are stored plus one.
    let shift = if down { -1.125 } else { -0.875 };
    let point = grids::IQ1[point & 2047];
    for i in 0..8 {
        out[i] = d * (f32::from(point[i]) + shift);
    }
}

#[inline(always)]
pub(super) fn iq1_s(block: &[u8; 50], out: &mut [f32; 256]) {
    let d = scale::<0, _>(block);
    let points: [u8; 32] = part::<2, _, _>(block);
    let high: [u8; 16] = part::<34, _, _>(block);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let high = word(&high, i / 4);
        let d = d * f32::from(2 * (high >> 12 & 7) + 1);
        let bits = usize::from(high >> (i % 4 * 3) & 7);
        shifted(d, usize::from(points[i]) | bits << 8, high & 0x8000 != 0, out);
    }
}

#[inline(always)]
pub(super) fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let points: [u8; 32] = part::<0, _, _>(block);
    let high: [u8; 16] = part::<32, _, _>(block);
    let scales: [u8; 8] = part::<48, _, _>(block);
    // The f16 is spread over the upper nibbles of the words that hold the small scales.
    let d = (0..4).fold(0, |d, i| d | word(&scales, i) >> 12 << (4 * i));
    let d = plain::half_to_f32(d);
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let d = d * f32::from(2 * (word(&scales, i / 8) >> (i / 2 % 4 * 3) & 7) + 1);
        let high = nibble(&high, i);
        shifted(d, usize::from(points[i]) | usize::from(high & 7) << 8, high & 8 != 0, out);
    }
}
