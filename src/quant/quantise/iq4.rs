//! IQ4_NL and IQ4_XS. Uses `legacy` and `super_block`.

use super::codebook::{Table, codes};
use super::fit::ScaleStarts;
use super::lanes::side_by_side;
use super::legacy::scaled;
use super::super_block;
use super::{nibbles, put};

const STARTS: ScaleStarts = [-138.0, -130.0, -127.0, -122.0, -110.0, 110.0, 116.0, 122.0];

#[inline(always)]
pub(super) fn iq4_nl(values: &[[f32; 32]], out: &mut [[u8; 18]]) {
    for (out, (scale, codes)) in out.iter_mut().zip(scaled::<Table>(values, &STARTS)) {
        put::<0, _, _>(out, scale.to_le_bytes());
        put::<2, _, _>(out, nibbles(&codes));
    }
}

#[inline(always)]
pub(super) fn iq4_xs(values: &[[f32; 256]], out: &mut [[u8; 136]]) {
    let x = side_by_side(values.as_flattened().as_chunks().0);
    let fitted = super_block::scales::<Table, -32, 8, 32>(&x, &STARTS);
    for (block, (values, out)) in values.iter().zip(out).enumerate() {
        let (d, integers, scales) = fitted.of_block::<8>(block);
        let (mut low, mut high, mut packed) = ([0; 4], 0_u16, [0; 128]);
        for run in 0..8 {
            let integer = integers[run].wrapping_add(32);
            low[run / 2] |= (integer & 15) << (run % 2 * 4);
            high |= u16::from(integer >> 4) << (2 * run);
        }
        let runs = values.as_chunks().0.iter().zip(packed.as_chunks_mut().0);
        for ((values, packed), scale) in runs.zip(scales) {
            *packed = nibbles(&codes::<Table, 32>(values, scale, 0.0));
        }
        put::<0, _, _>(out, d.to_le_bytes());
        put::<2, _, _>(out, high.to_le_bytes());
        put::<4, _, _>(out, low);
        put::<8, _, _>(out, packed);
    }
}
