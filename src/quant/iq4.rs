//! IQ4_NL and IQ4_XS: four bits that number the values of a table. Uses the parent.

use super::{part, scale};

/// Dense around zero, where weights are.
pub(crate) const VALUES: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// 32 elements: low nibbles, then high ones.
#[inline(always)]
fn run(d: f32, codes: &[u8; 16], out: &mut [f32; 32]) {
    for i in 0..16 {
        out[i] = d * VALUES[usize::from(codes[i] & 15)];
        out[16 + i] = d * VALUES[usize::from(codes[i] >> 4)];
    }
}

#[inline(always)]
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    run(scale::<0, _>(block), &part::<2, _, _>(block), out);
}

/// The scale of each run of 32.
#[inline(always)]
pub(crate) fn iq4_xs_scales(block: &[u8; 136]) -> [f32; 8] {
    let d = scale::<0, _>(block);
    let high = u16::from_le_bytes(part::<2, _, _>(block));
    let low: [u8; 4] = part::<4, _, _>(block);
    let mut scales = [0.0; 8];
    for run in 0..8 {
        let scale = low[run / 2] >> (run % 2 * 4) & 15 | ((high >> (2 * run) & 3) as u8) << 4;
        scales[run] = d * f32::from(scale.cast_signed() - 32);
    }
    scales
}

#[inline(always)]
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let scales = iq4_xs_scales(block);
    let codes: [u8; 128] = part::<8, _, _>(block);
    let runs = codes.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0);
    for ((codes, out), d) in runs.zip(scales) {
        run(d, codes, out);
    }
}
