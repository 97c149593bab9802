//! The numbers that codes stand for, before a scale multiplies them. Uses `lanes`.

use super::super::iq4;
use super::lanes::inverse;

/// The numbers of a format.
pub(super) trait Codebook {
    /// The number nearest to `y`, which is below 2^21 in magnitude.
    fn nearest(y: f32) -> f32;

    /// The code of that number: how many are less.
    fn code(y: f32) -> u8;
}

/// Codes of a run for a scale and an offset as they are stored.
#[inline(always)]
pub(super) fn codes<B: Codebook, const N: usize>(run: &[f32; N], scale: f32, offset: f32) -> [u8; N] {
    let (factor, mut out) = (inverse(scale), [0; N]);
    for i in 0..N {
        out[i] = B::code((run[i] - offset) * factor);
    }
    out
}

/// The integer nearest to `y`, ties to even, plus 2^23 + 2^22, whose lowest bits are those of the integer.
///
/// One addition, where `f32::round_ties_even` is a call on processors that have no instruction for it.
#[inline(always)]
fn shifted(y: f32) -> f32 {
    y + 12_582_912.0
}

/// The integer nearest to `y`, ties to even; `y` is below 2^21 in magnitude.
#[inline(always)]
pub(super) fn round(y: f32) -> f32 {
    shifted(y) - 12_582_912.0
}

/// `TOTAL` integers, `BELOW` of them negative.
pub(super) struct Integers<const BELOW: u8, const TOTAL: u8>;

impl<const BELOW: u8, const TOTAL: u8> Integers<BELOW, TOTAL> {
    #[inline(always)]
    fn within(y: f32) -> f32 {
        y.clamp(-f32::from(BELOW), f32::from(TOTAL - 1 - BELOW))
    }
}

impl<const BELOW: u8, const TOTAL: u8> Codebook for Integers<BELOW, TOTAL> {
    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        round(Self::within(y))
    }

    #[inline(always)]
    fn code(y: f32) -> u8 {
        (shifted(Self::within(y)).to_bits() as u8).wrapping_add(BELOW)
    }
}

/// The table of the IQ4 types.
pub(super) struct Table;

/// Where each number but the first begins to be the nearest.
const FROM: [f32; 15] = {
    let mut from = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        from[i] = (iq4::VALUES[i] + iq4::VALUES[i + 1]) / 2.0;
        i += 1;
    }
    from
};

impl Codebook for Table {
    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        let mut number = iq4::VALUES[0];
        for i in 0..15 {
            number += if y >= FROM[i] { iq4::VALUES[i + 1] - iq4::VALUES[i] } else { 0.0 };
        }
        number
    }

    #[inline(always)]
    fn code(y: f32) -> u8 {
        let mut code = 0_u32;
        for i in 0..15 {
            code += u32::from(y >= FROM[i]);
        }
        code as u8
    }
}
