//! Q2_K to Q6_K: super-blocks of 256 elements, in 8 or 16 runs with a small integer scale each, and f16 scales of those. Uses the
//! parent.

use super::{part, scale};

/// Scales and minima of Q2_K's runs of 16: `x = scale * code - min`.
#[inline(always)]
pub(crate) fn q2_k_scales(block: &[u8; 84]) -> ([f32; 16], [f32; 16]) {
    let packed: [u8; 16] = part::<0, _, _>(block);
    let (d, min) = (scale::<80, _>(block), scale::<82, _>(block));
    let (mut scales, mut mins) = ([0.0; 16], [0.0; 16]);
    for run in 0..16 {
        scales[run] = d * f32::from(packed[run] & 15);
        mins[run] = min * f32::from(packed[run] >> 4);
    }
    (scales, mins)
}

/// Scales of Q3_K's runs of 16 with 32 added: six bits, the upper two of each apart from the others.
#[inline(always)]
pub(crate) fn q3_k_sixes(packed: &[u8; 12]) -> [u8; 16] {
    let low = u64::from_le_bytes(part::<0, 8, 12>(packed));
    let high = u64::from(u32::from_le_bytes(part::<8, _, _>(packed)));
    // Eight numbers at a time, a byte each.
    const FOUR: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    const TWO: u64 = 0x0303_0303_0303_0303;
    let first = low & FOUR | ((high | high << 30) & TWO) << 4;
    let last = low >> 4 & FOUR | ((high >> 4 | high << 26) & TWO) << 4;
    (u128::from(first) | u128::from(last) << 64).to_le_bytes()
}

/// Scales of Q3_K's runs of 16.
#[inline(always)]
pub(crate) fn q3_k_scales(block: &[u8; 110]) -> [f32; 16] {
    let d = scale::<108, _>(block);
    q3_k_sixes(&part::<96, _, _>(block)).map(|scale| d * f32::from(scale.cast_signed() - 32))
}

/// Numbers of the scales and minima of the runs of 32 of Q4_K and Q5_K, which begin alike: a byte each.
///
/// Both are six bits; the upper two of the last four of each lie above those of the first four.
#[inline(always)]
pub(crate) fn q4_k_sixes(start: &[u8; 16]) -> [u64; 2] {
    let scales = u32::from_le_bytes(part::<4, _, _>(start));
    let mins = u32::from_le_bytes(part::<8, _, _>(start));
    let last = u32::from_le_bytes(part::<12, _, _>(start));
    // Four numbers at a time.
    const SIX: u32 = 0x3f3f_3f3f;
    const FOUR: u32 = 0x0f0f_0f0f;
    const UPPER: u32 = 0x3030_3030;
    let scales = [scales & SIX, last & FOUR | scales >> 2 & UPPER];
    let mins = [mins & SIX, last >> 4 & FOUR | mins >> 2 & UPPER];
    [scales, mins].map(|[first, last]| u64::from(first) | u64::from(last) << 32)
}

/// Scales and minima of the runs of 32 of Q4_K and Q5_K: `x = scale * code - min`.
#[inline(always)]
pub(crate) fn q4_k_scales(start: &[u8; 16]) -> ([f32; 8], [f32; 8]) {
    let (d, min) = (scale::<0, _>(start), scale::<2, _>(start));
    let [scales, mins] = q4_k_sixes(start);
    (scaled(d, scales), scaled(min, mins))
}

/// `d` times each byte.
#[inline(always)]
fn scaled(d: f32, bytes: u64) -> [f32; 8] {
    bytes.to_le_bytes().map(|byte| d * f32::from(byte))
}

/// Scales of Q6_K's runs of 16.
#[inline(always)]
pub(crate) fn q6_k_scales(block: &[u8; 210]) -> [f32; 16] {
    let packed: [u8; 16] = part::<192, _, _>(block);
    let d = scale::<208, _>(block);
    let mut scales = [0.0; 16];
    for run in 0..16 {
        scales[run] = d * f32::from(packed[run].cast_signed());
    }
    scales
}

#[inline(always)]
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, mins) = q2_k_scales(block);
    let codes: [u8; 64] = part::<16, _, _>(block);
    let (runs, _) = out.as_chunks_mut::<16>();
    for (run, out) in runs.iter_mut().enumerate() {
        let (half, pair, place) = (run / 8, run / 2 % 4, run % 2 * 16);
        for i in 0..16 {
            let code = codes[half * 32 + place + i] >> (pair * 2) & 3;
            out[i] = scales[run] * f32::from(code) - mins[run];
        }
    }
}

#[inline(always)]
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let high: [u8; 32] = part::<0, _, _>(block);
    let low: [u8; 64] = part::<32, _, _>(block);
    let scales = q3_k_scales(block);
    let (runs, _) = out.as_chunks_mut::<16>();
    for (run, out) in runs.iter_mut().enumerate() {
        let (half, pair, place) = (run / 8, run / 2 % 4, run % 2 * 16);
        for i in 0..16 {
            // A clear bit subtracts four.
            let bit = high[place + i] >> (run / 2) & 1;
            let code = low[half * 32 + place + i] >> (pair * 2) & 3 | bit << 2;
            out[i] = scales[run] * f32::from(code.cast_signed() - 4);
        }
    }
}

#[inline(always)]
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (scales, mins) = q4_k_scales(&part::<0, _, _>(block));
    let codes: [u8; 128] = part::<16, _, _>(block);
    let (runs, _) = out.as_chunks_mut::<32>();
    for (run, out) in runs.iter_mut().enumerate() {
        for i in 0..32 {
            let code = codes[run / 2 * 32 + i] >> (run % 2 * 4) & 15;
            out[i] = scales[run] * f32::from(code) - mins[run];
        }
    }
}

#[inline(always)]
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (scales, mins) = q4_k_scales(&part::<0, _, _>(block));
    let high: [u8; 32] = part::<16, _, _>(block);
    let low: [u8; 128] = part::<48, _, _>(block);
    let (runs, _) = out.as_chunks_mut::<32>();
    for (run, out) in runs.iter_mut().enumerate() {
        for i in 0..32 {
            let nibble = low[run / 2 * 32 + i] >> (run % 2 * 4) & 15;
            out[i] = scales[run] * f32::from(nibble | (high[i] >> run & 1) << 4) - mins[run];
        }
    }
}

#[inline(always)]
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let low: [u8; 128] = part::<0, _, _>(block);
    let high: [u8; 64] = part::<128, _, _>(block);
    let scales = q6_k_scales(block);
    let (runs, _) = out.as_chunks_mut::<16>();
    for (run, out) in runs.iter_mut().enumerate() {
        // In each half of the block, 64 bytes: the low nibbles are its first two runs of 32, the high ones the others.
        let (half, quarter, place) = (run / 8, run / 2 % 4, run % 2 * 16);
        for i in 0..16 {
            let nibble = low[half * 64 + quarter % 2 * 32 + place + i] >> (quarter / 2 * 4) & 15;
            let pair = high[half * 32 + place + i] >> (quarter * 2) & 3;
            out[i] = scales[run] * f32::from((nibble | pair << 4).cast_signed() - 32);
        }
    }
}
