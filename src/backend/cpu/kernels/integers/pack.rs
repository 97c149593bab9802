//! Activations to integers.

use crate::backend::cpu::simd::{Activations, INPUTS, IntegerJob, Integers};

/// Inputs that share a scale: fewer where 8 bits are all there is, which makes them an eighth more exact.
pub(super) const fn run(fast: bool) -> usize {
    if fast { 16 } else { 32 }
}

/// Up to 256 activations as integers.
pub(crate) struct Pack<'a> {
    pub(crate) x: &'a [f32],
    /// Signed bytes instead of 16 bits.
    pub(crate) fast: bool,
    pub(crate) out: &'a mut Activations,
}

/// What a run of activations is divided by, and its inverse: a power of two that leaves the largest below 127.5 * 256, so that bf16 within
/// 2^7 of the largest stay what they are, or where `fast`, what makes the largest 127.
///
/// Infinities and NaNs give NaN.
#[inline(always)]
fn scale(run: &[f32], fast: bool) -> [f32; 2] {
    // As integers magnitudes have the same order, and a NaN is the largest.
    let largest = run.iter().map(|x| x.to_bits() & 0x7fff_ffff).fold(0, u32::max);
    if largest >= f32::INFINITY.to_bits() {
        [f32::NAN, 0.0]
    } else if fast {
        let scale = f32::from_bits(largest) / 127.0;
        [scale, if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 }]
    } else {
        // What would round up to the next power of two counts as one.
        let exponent = ((largest + 0x1_0000) >> 23).max(32) - 14;
        [f32::from_bits(exponent << 23), f32::from_bits((254 - exponent) << 23)]
    }
}

impl IntegerJob for Pack<'_> {
    #[inline(always)]
    fn run<S: Integers>(self, s: S) {
        let mut x = [0.0; INPUTS];
        x[..self.x.len()].copy_from_slice(self.x);
        let mut integers = [0; INPUTS];
        let run = run(self.fast);
        for (first, (x, out)) in x.chunks_exact(run).zip(integers.chunks_exact_mut(run)).enumerate() {
            let [scale, inverse] = scale(x, self.fast);
            for (x, out) in x.iter().zip(out.iter_mut()) {
                // Adding this leaves the nearest integer, ties to even, in the lowest bits. A NaN leaves anything: its scale is one.
                const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
                *out = (x * inverse + ROUND).to_bits() as i16;
            }
            for (i, integers) in out.as_chunks::<16>().0.iter().enumerate() {
                let (sixteen, sum) =
                    (first * run / 16 + i, integers.iter().map(|&x| i32::from(x)).sum::<i32>());
                self.out.scales[S::ORDER[sixteen]] = scale;
                self.out.sums[sixteen] = scale * sum as f32;
            }
        }
        self.out.integers = s.arrange(&integers);
    }
}
