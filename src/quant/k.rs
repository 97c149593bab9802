//! Q2_K to Q6_K: super-blocks of 256 elements, in 8 or 16 runs with a small integer scale each, and f16 scales of those. Uses the
//! parent.

use super::{part, scale};

/// The eight scales and eight minima of six bits that Q4_K and Q5_K share: the upper two bits of the last four of each lie above
/// the first four's.
#[inline(always)]
fn six_bits(packed: [u8; 12]) -> [(f32, f32); 8] {
    std::array::from_fn(|run| {
        let (scale, min) = if run < 4 {
            (packed[run] & 63, packed[run + 4] & 63)
        } else {
            let low = packed[run + 4];
            (low & 15 | packed[run - 4] >> 6 << 4, low >> 4 | packed[run] >> 6 << 4)
        };
        (f32::from(scale), f32::from(min))
    })
}

/// Both halves of the block, four runs of 32 codes each: bit pairs 0 to 3 of the same 32 bytes.
#[inline(always)]
fn bit_pairs(packed: [u8; 64]) -> [[u8; 32]; 8] {
    std::array::from_fn(|run| std::array::from_fn(|i| packed[run / 4 * 32 + i] >> (run % 4 * 2) & 3))
}

#[inline(always)]
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let scales: [u8; 16] = part::<0, _, _>(block);
    let codes = bit_pairs(part::<16, _, _>(block));
    let (d, min) = (scale::<80, _>(block), scale::<82, _>(block));
    let (runs, _) = out.as_chunks_mut::<16>();
    for (run, out) in runs.iter_mut().enumerate() {
        let (d, min) = (d * f32::from(scales[run] & 15), min * f32::from(scales[run] >> 4));
        for i in 0..16 {
            out[i] = d * f32::from(codes[run / 2][run % 2 * 16 + i]) - min;
        }
    }
}

#[inline(always)]
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let high: [u8; 32] = part::<0, _, _>(block);
    let codes = bit_pairs(part::<32, _, _>(block));
    let scales: [u8; 12] = part::<96, _, _>(block);
    let d = scale::<108, _>(block);
    let (runs, _) = out.as_chunks_mut::<16>();
    for (run, out) in runs.iter_mut().enumerate() {
        let low = scales[run % 8] >> (run / 8 * 4) & 15;
        let upper = scales[8 + run % 4] >> (run / 4 * 2) & 3;
        let d = d * f32::from((low | upper << 4).cast_signed() - 32);
        for i in 0..16 {
            let place = run % 2 * 16 + i;
            // A clear bit subtracts four.
            let bit = high[place] >> (run / 2) & 1;
            out[i] = d * f32::from((codes[run / 2][place] | bit << 2).cast_signed() - 4);
        }
    }
}

#[inline(always)]
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, min) = (scale::<0, _>(block), scale::<2, _>(block));
    let scales = six_bits(part::<4, _, _>(block));
    let codes: [u8; 128] = part::<16, _, _>(block);
    let (runs, _) = out.as_chunks_mut::<32>();
    for (run, out) in runs.iter_mut().enumerate() {
        let (d, min) = (d * scales[run].0, min * scales[run].1);
        for i in 0..32 {
            out[i] = d * f32::from(codes[run / 2 * 32 + i] >> (run % 2 * 4) & 15) - min;
        }
    }
}

#[inline(always)]
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, min) = (scale::<0, _>(block), scale::<2, _>(block));
    let scales = six_bits(part::<4, _, _>(block));
    let high: [u8; 32] = part::<16, _, _>(block);
    let low: [u8; 128] = part::<48, _, _>(block);
    let (runs, _) = out.as_chunks_mut::<32>();
    for (run, out) in runs.iter_mut().enumerate() {
        let (d, min) = (d * scales[run].0, min * scales[run].1);
        for i in 0..32 {
            let nibble = low[run / 2 * 32 + i] >> (run % 2 * 4) & 15;
            out[i] = d * f32::from(nibble | (high[i] >> run & 1) << 4) - min;
        }
    }
}

#[inline(always)]
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let low: [u8; 128] = part::<0, _, _>(block);
    let high = bit_pairs(part::<128, _, _>(block));
    let scales: [u8; 16] = part::<192, _, _>(block);
    let d = scale::<208, _>(block);
    let (runs, _) = out.as_chunks_mut::<16>();
    for (run, out) in runs.iter_mut().enumerate() {
        let d = d * f32::from(scales[run].cast_signed());
        // In each half of the block, 64 bytes: the low nibbles are its first two runs of 32, the high ones the others.
        let (half, quarter, place) = (run / 8, run / 2 % 4, run % 2 * 16);
        for i in 0..16 {
            let nibble = low[half * 64 + quarter % 2 * 32 + place + i] >> (quarter / 2 * 4) & 15;
            out[i] = d * f32::from((nibble | high[run / 2][place + i] << 4).cast_signed() - 32);
        }
    }
}
