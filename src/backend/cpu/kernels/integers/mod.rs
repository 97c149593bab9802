//! Products of few rows with weights as they are packed: integers, scaled block by block. Written over
//! [`Integers`](super::super::simd::Integers).
//!
//! Each pair of row and output is summed in the same order whatever it is batched with.

mod in_out;
mod iq;
mod iq4;
mod k;
mod legacy;
mod out_in;
mod pack;

pub(crate) use in_out::{InOut, MAX_COLUMNS, MIN_COLUMNS};
pub(super) use iq::{Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs};
pub(super) use iq4::Iq4Xs;
pub(super) use k::{Q2K, Q3K, Q4K, Q5K, Q6K};
pub(super) use legacy::{Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
use out_in::OutIn;
pub(crate) use pack::Pack;

use std::ops::Range;

use super::Out;
use crate::backend::cpu::simd::{Activations, Integers, Isa};
use crate::tensor::DType;

/// A format of blocks as scales and codes: of 256 weights, number `i` is `scales[i / 16] * codes[i] - offsets[i / 16]`.
///
/// Functions must be `inline(always)`.
pub(crate) trait Format {
    /// Weights of a block.
    const BLOCK: usize;
    /// Bits of the largest code.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for tiles"))]
    const BITS: u32 = 8;
    /// Weights that have the same scale and offset.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for tiles"))]
    const RUN: usize = 16;
    /// 256 weights: `[u8; N]`.
    type Bytes: AsRef<[u8]> + AsMut<[u8]>;
    const ZERO: Self::Bytes;
    /// 256 weights ready for the other two.
    type Block<'a>;

    fn open(bytes: &Self::Bytes) -> Self::Block<'_>;
    /// Scales and offsets.
    fn scales<S: Integers>(s: S, block: &Self::Block<'_>) -> [S::Sixteen; 2];
    /// Codes `64 * quarter` to `64 * quarter + 63`.
    fn codes<S: Integers>(s: S, block: &Self::Block<'_>, quarter: usize) -> S::Codes;
}

/// `N` bytes from `at` on.
#[inline(always)]
fn bytes<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    let bytes = &block[at..][..N];
    // SAFETY: the slice is as long.
    unsafe { &*bytes.as_ptr().cast() }
}

/// Rows of activations as integers.
#[derive(Clone, Copy)]
pub(crate) struct IntegerRows<'a> {
    pub(crate) data: &'a [Activations], // [any, stride]
    pub(crate) stride: usize,
    pub(crate) index: &'a [u32], // [rows]
}

impl<'a> IntegerRows<'a> {
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Row `i`, which has as many blocks.
    #[inline(always)]
    fn row(&self, i: usize, blocks: usize) -> &'a [Activations] {
        &self.data[self.index[i] as usize * self.stride..][..blocks]
    }
}

/// Calls `$run!` with the format of a type of blocks, or does `$else`.
macro_rules! with_format {
    ($dtype:expr, $run:ident, $else:expr) => {
        match $dtype {
            DType::Q4_0 => $run!(Q4_0),
            DType::Q4_1 => $run!(Q4_1),
            DType::Q5_0 => $run!(Q5_0),
            DType::Q5_1 => $run!(Q5_1),
            DType::Q8_0 => $run!(Q8_0),
            DType::Q2K => $run!(Q2K),
            DType::Q3K => $run!(Q3K),
            DType::Q4K => $run!(Q4K),
            DType::Q5K => $run!(Q5K),
            DType::Q6K => $run!(Q6K),
            DType::Iq4Nl => $run!(Iq4Nl),
            DType::Iq4Xs => $run!(Iq4Xs),
            DType::Iq3Xxs => $run!(Iq3Xxs),
            DType::Iq3S => $run!(Iq3S),
            DType::Iq2Xxs => $run!(Iq2Xxs),
            DType::Iq2Xs => $run!(Iq2Xs),
            DType::Iq2S => $run!(Iq2S),
            DType::Iq1S => $run!(Iq1S),
            DType::Iq1M => $run!(Iq1M),
            _ => $else,
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use with_format;

/// Whether there is a kernel for a type of elements of `[outputs, inputs]`.
pub(crate) fn has(dtype: DType) -> bool {
    macro_rules! yes {
        ($format:ident) => {
            true
        };
    }
    with_format!(dtype, yes, false)
}

/// `out[r, j] = x[r, ..inputs] · weights[j, ..inputs]` for the `j` in `columns`, with weights in blocks of a type that there is a
/// kernel for.
///
/// # Safety
/// Nobody else may use `columns` of the written rows of `out` meanwhile.
pub(crate) unsafe fn out_in(
    isa: Isa,
    x: IntegerRows<'_>,
    (dtype, weights): (DType, &[u8]), // [outputs, inputs]
    inputs: usize,
    columns: Range<usize>,
    out: Out<'_>,
    fast: bool,
) {
    macro_rules! run {
        ($format:ident) => {
            // SAFETY: the caller's promise.
            isa.integers(unsafe { OutIn::<$format>::new(x, weights, inputs, columns, out, fast) })
        };
    }
    with_format!(dtype, run, ());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::shared::Shared;
    use crate::backend::cpu::simd::{INPUTS, IntegerJob};
    use crate::quant::unpack;

    const FORMATS: [DType; 19] = [
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::Iq4Nl,
        DType::Iq4Xs,
        DType::Iq3Xxs,
        DType::Iq3S,
        DType::Iq2Xxs,
        DType::Iq2Xs,
        DType::Iq2S,
        DType::Iq1S,
        DType::Iq1M,
    ];

    fn random() -> impl FnMut() -> u64 {
        let mut state = 1_u64;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 40
        }
    }

    /// Weights of any codes, with scales that are numbers.
    fn weights(dtype: DType, count: usize) -> Vec<u8> {
        let mut random = random();
        let size = dtype.block_bytes() as usize;
        let mut bytes = vec![0; count / dtype.block() as usize * size];
        for block in bytes.chunks_exact_mut(size) {
            block.fill_with(|| random() as u8);
            let ends: &[usize] = match dtype {
                DType::Q2K => &[81, 83],
                DType::Q3K => &[109],
                DType::Q6K => &[209],
                DType::Iq1M => &[49, 51, 53, 55],
                DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[1, 3],
                _ => &[1],
            };
            // No f16 of these is infinite or tiny.
            ends.iter().for_each(|&end| block[end] = block[end] & 0x8f | 0x20);
        }
        bytes
    }

    fn activations(count: usize) -> Vec<f32> {
        let mut random = random();
        let values = std::iter::repeat_with(|| (random() % 2001) as f32 / 1000.0 - 1.0);
        values.take(count).map(|x| half::bf16::from_f32(x).to_f32()).collect()
    }

    fn pack(isa: Isa, x: &[f32], inputs: usize, fast: bool) -> Vec<Activations> {
        let mut packed = Vec::new();
        for x in x.chunks_exact(inputs).flat_map(|row| row.chunks(INPUTS)) {
            let mut out = Activations::default();
            isa.integers(Pack { x, fast, out: &mut out });
            packed.push(out);
        }
        packed
    }

    /// Where of sixteen scales each is.
    fn order(isa: Isa) -> [usize; 16] {
        struct Order<'a>(&'a mut [usize; 16]);
        impl IntegerJob for Order<'_> {
            fn run<S: Integers>(self, _: S) {
                *self.0 = S::ORDER;
            }
        }
        let mut order = [0; 16];
        isa.integers(Order(&mut order));
        order
    }

    #[test]
    fn bf16_near_the_largest_are_exact_integers() {
        let x: Vec<f32> = (0..256)
            .map(|i| {
                half::bf16::from_bits(0x3f80 + (i * 3) as u16).to_f32() * if i % 3 == 0 { -1.0 } else { 1.0 }
            })
            .collect();
        for isa in Isa::available() {
            let packed = pack(isa, &x, 256, false);
            for (group, x) in x.chunks_exact(16).enumerate() {
                assert_eq!(packed[0].sums[group], x.iter().sum::<f32>(), "{}", isa.name());
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_none() {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = activations(256);
            x[40] = special;
            for isa in Isa::available() {
                for fast in [false, true] {
                    let packed = pack(isa, &x, 256, fast);
                    let scales = order(isa).map(|place| packed[0].scales[place]);
                    assert!(scales[2].is_nan() && packed[0].sums[2].is_nan());
                    assert!(scales[1].is_finite() && scales[4].is_finite());
                }
            }
        }
    }

    #[test]
    fn products_with_scaled_columns_are_those_of_the_weights() {
        const ROWS: usize = 3;
        // Groups of whole runs, and one that ends within a run and within a step; columns that end within a vector, and more than are
        // taken at a time.
        for (inputs, group, outputs) in
            [(320_usize, 160, 200), (300, 300, 64), (261, 261, 77), (64, 32, 4200)]
        {
            let mut random = random();
            let bytes: Vec<u8> = (0..inputs * outputs).map(|_| random() as u8).collect();
            let factors: Vec<half::bf16> = (0..inputs.div_ceil(group) * outputs)
                .map(|_| half::bf16::from_f32(0.5 + (random() % 100) as f32 / 100.0))
                .collect();
            let scales: Vec<u8> = factors.iter().flat_map(|x| x.to_le_bytes()).collect();
            let x = activations(ROWS * inputs);
            for isa in Isa::available() {
                let packed = pack(isa, &x, inputs, false);
                let product = |index: &[u32]| {
                    let mut out = vec![f32::NAN; index.len() * outputs];
                    let x = IntegerRows { data: &packed, stride: inputs.div_ceil(INPUTS), index };
                    let buffer = Shared::new(&mut out);
                    let to = Out::rows(&buffer, 0, outputs);
                    for columns in [0..outputs / 3, outputs / 3..outputs] {
                        let scales = (group, &scales[..]);
                        // SAFETY: nobody else uses the buffer.
                        isa.integers(unsafe {
                            InOut::new(x, &bytes, [inputs, outputs], scales, columns, to, false)
                        });
                    }
                    out
                };
                let together = product(&[0, 1, 2]);
                for row in 0..ROWS {
                    let alone = product(&[row as u32]);
                    assert_eq!(alone, together[row * outputs..][..outputs], "{}", isa.name());
                    for (column, found) in alone.iter().enumerate() {
                        let products = (0..inputs).map(|input| {
                            let weight = f64::from(bytes[input * outputs + column].cast_signed());
                            let scale = f64::from(factors[input / group * outputs + column].to_f32());
                            scale * weight * f64::from(x[row * inputs + input])
                        });
                        let [expected, size] = products
                            .fold([0.0, 0.0], |[sum, size], product| [sum + product, size + product.abs()]);
                        let distance = (f64::from(*found) - expected).abs() / size;
                        assert!(distance < 3e-5, "{inputs} x {outputs}, {}: {distance:.1e}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn products_are_those_of_the_weights_with_what_activations_were_rounded_to() {
        const OUTPUTS: usize = 11;
        const ROWS: usize = 7;
        for dtype in FORMATS {
            let inputs = if dtype.block() == 32 { 2 * INPUTS + 96 } else { 3 * INPUTS };
            let bytes = weights(dtype, inputs * OUTPUTS);
            let mut values = vec![0.0; inputs * OUTPUTS];
            unpack(dtype, &bytes, &mut values);
            for fast in [false, true] {
                let mut x = activations(ROWS * inputs);
                if fast {
                    for run in x.chunks_exact_mut(16) {
                        let scale = run.iter().fold(0.0, |a: f32, x| a.max(x.abs())) / 127.0;
                        run.iter_mut().for_each(|x| *x = (*x / scale).round_ties_even() * scale);
                    }
                }
                for isa in Isa::available() {
                    let packed = pack(isa, &x, inputs, fast);
                    let product = |index: &[u32]| {
                        let mut out = vec![f32::NAN; index.len() * OUTPUTS];
                        let x = IntegerRows { data: &packed, stride: inputs.div_ceil(INPUTS), index };
                        let buffer = Shared::new(&mut out);
                        let to = Out::rows(&buffer, 0, OUTPUTS);
                        // SAFETY: nobody else uses the buffer.
                        unsafe { out_in(isa, x, (dtype, &bytes), inputs, 0..OUTPUTS, to, fast) };
                        out
                    };
                    let together = product(&[0, 1, 2, 3, 4, 5, 6]);
                    for row in 0..ROWS {
                        let alone = product(&[row as u32]);
                        assert_eq!(alone, together[row * OUTPUTS..][..OUTPUTS], "{dtype}, {}", isa.name());
                        for (weights, found) in values.chunks_exact(inputs).zip(alone) {
                            let products = weights.iter().zip(&x[row * inputs..]);
                            let products = products.map(|(&w, &x)| f64::from(w) * f64::from(x));
                            let [expected, size] = products.fold([0.0, 0.0], |[sum, size], product| {
                                [sum + product, size + product.abs()]
                            });
                            let distance = (f64::from(found) - expected).abs() / size;
                            assert!(distance < 3e-5, "{dtype}, {}, {fast}: {distance:.1e}", isa.name());
                        }
                    }
                }
            }
        }
    }
}
