//! Products of many rows in vectors of f32, for processors without matrix tiles and for weights that tiles would round.
//!
//! Activations are packed once, so that vectors hold an input of as many rows. Weights become f32 a piece at a time, in the
//! first-level cache, where all rows meet them; pieces are taken in an order that keeps the activations they meet in the
//! second-level cache. Each product of a row and an output is summed input by input, whatever the row is batched with.

mod pack;
mod piece;

use std::ops::Range;

pub(crate) use self::pack::{Pack, PackedRows};
use self::piece::{INPUTS, LINE};
pub(crate) use self::piece::{InOut, PANEL, Weights};
use super::Out;
use super::pages::{Page, floats_mut, pages_of};
use crate::backend::cpu::simd::{Isa, Job, MAX_LANES, Simd};

/// Inputs that sums stay in registers for: as many as leave three vectors of activations and a panel of weights in the first-level
/// cache.
const DEPTH: usize = 128;
const _: () = assert!(INPUTS.is_multiple_of(DEPTH));

/// Bytes of activations that pieces are kept to for a while: a part of a second-level cache, which holds sums as well.
const RESIDENT: usize = 512 << 10;

/// `out[r, j] = x[r, ..inputs] · weights[.., j]` for the `j` in `columns`.
pub(crate) struct Product<'a> {
    isa: Isa,
    x: PackedRows<'a>,
    weights: Weights<'a>,
    columns: Range<usize>,
    out: Out<'a>,
}

impl<'a> Product<'a> {
    /// # Safety
    /// Nobody else may use `columns` of the written rows of `out` while this runs.
    pub(crate) unsafe fn new(
        isa: Isa,
        x: PackedRows<'a>,
        weights: Weights<'a>,
        columns: Range<usize>,
        out: Out<'a>,
    ) -> Self {
        assert!(columns.end <= weights.outputs() && x.inputs() == weights.inputs() && out.has(&columns));
        Self { isa, x, weights, columns, out }
    }

    /// Adds the products of some inputs of all rows with a panel's outputs to their sums. `OUTPUT` and `INPUT` say how far the
    /// weights of two outputs and those of two inputs lie apart.
    #[inline(always)]
    fn multiply<S: Simd, const OUTPUT: usize, const INPUT: usize>(
        &self,
        s: S,
        inputs: &Range<usize>,
        outputs: usize,
        weights: &[f32],
        sums: &mut [f32], // [vectors, PANEL, LANES]
    ) {
        let x = self.x.vectors::<S>(inputs.start);
        let step = Step { inputs: inputs.len(), distance: x.distance, outputs };
        let vectors = self.x.rows().div_ceil(S::LANES);
        let mut vector = 0;
        while vector < vectors {
            let sums = &mut sums[vector * PANEL * S::LANES..];
            let x = &x.data[vector * x.distance..];
            // As many sums as registers hold beside what they are made of.
            vector += match (vectors - vector, S::WIDE) {
                (1, true) => step.run::<S, 1, 24, OUTPUT, INPUT>(s, x, weights, sums),
                (2 | 4, true) => step.run::<S, 2, 12, OUTPUT, INPUT>(s, x, weights, sums),
                (_, true) => step.run::<S, 3, 8, OUTPUT, INPUT>(s, x, weights, sums),
                (1, false) => step.run::<S, 1, 12, OUTPUT, INPUT>(s, x, weights, sums),
                (_, false) => step.run::<S, 2, 6, OUTPUT, INPUT>(s, x, weights, sums),
            };
        }
    }

    /// Writes the sums of a panel whose first output is `first`.
    #[inline(always)]
    fn end<S: Simd>(&self, s: S, first: usize, sums: &[f32]) {
        let (rows, mut square) = (self.x.rows(), [0.0; MAX_LANES * MAX_LANES]);
        for (vector, sums) in sums.chunks_exact(PANEL * S::LANES).enumerate() {
            let row = vector * S::LANES;
            for (index, sums) in sums.chunks_exact(S::LANES * S::LANES).enumerate() {
                let column = first + index * S::LANES;
                if column >= self.columns.end {
                    break;
                }
                let count = (self.columns.end - column).min(S::LANES);
                // SAFETY: both squares have as many lines and columns as there are lanes.
                unsafe { s.transpose(sums.as_ptr().cast(), 4 * S::LANES, square.as_mut_ptr().cast()) };
                for (i, line) in square.chunks_exact(S::LANES).enumerate().take(S::LANES.min(rows - row)) {
                    let out = self.out.start(row + i, column, count);
                    // SAFETY: `start` checked the places, the line has a vector; the caller of `new` promised exclusive use.
                    unsafe { out.copy_from_nonoverlapping(line.as_ptr(), count) };
                }
            }
        }
    }
}

/// A product in registers.
struct Step {
    inputs: usize,
    /// From a vector of activations to the next of the same input.
    distance: usize,
    outputs: usize,
}

impl Step {
    /// `V` vectors of rows, times `C` outputs at a time. Returns V.
    #[inline(always)]
    fn run<S: Simd, const V: usize, const C: usize, const OUTPUT: usize, const INPUT: usize>(
        &self,
        s: S,
        x: &[f32],
        weights: &[f32],
        sums: &mut [f32], // [V, PANEL, LANES]
    ) -> usize {
        const { assert!(PANEL.is_multiple_of(C)) };
        let x = x[..(V - 1) * self.distance + self.inputs * S::LANES].as_ptr();
        let sums = sums[..V * PANEL * S::LANES].as_mut_ptr();
        for output in (0..self.outputs).step_by(C) {
            let last = (C - 1) * OUTPUT + (self.inputs - 1) * INPUT;
            let weights = weights[output * OUTPUT..][..=last].as_ptr();
            let place = |v: usize, c: usize| (v * PANEL + output + c) * S::LANES;
            // SAFETY: the three slices hold what is read and written; C divides a panel.
            unsafe {
                let mut sum = [[s.splat(0.0); V]; C];
                for c in 0..C {
                    for v in 0..V {
                        sum[c][v] = s.load_f32(sums.add(place(v, c)).cast());
                    }
                }
                for i in 0..self.inputs {
                    let mut values = [s.splat(0.0); V];
                    for v in 0..V {
                        values[v] = s.load_f32(x.add(v * self.distance + i * S::LANES).cast());
                    }
                    for c in 0..C {
                        let weight = s.splat(*weights.add(c * OUTPUT + i * INPUT));
                        for v in 0..V {
                            sum[c][v] = s.fma(values[v], weight, sum[c][v]);
                        }
                    }
                }
                for c in 0..C {
                    for v in 0..V {
                        s.store_f32(sums.add(place(v, c)).cast(), sum[c][v]);
                    }
                }
            }
        }
        V
    }
}

impl Job for Product<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Taken out and put back: a closure would not be compiled with the instructions.
        let mut local = LOCAL.take();
        let vectors = self.x.rows().div_ceil(S::LANES);
        let own = vectors * PANEL * S::LANES;
        let all = self.columns.len().div_ceil(PANEL) * own;
        local.piece.resize(local.piece.len().max(pages_of(INPUTS.max(LINE) * PANEL)), Page::default());
        local.sums.resize(local.sums.len().max(pages_of(all)), Page::default());
        let (piece, sums) = (floats_mut(&mut local.piece), &mut floats_mut(&mut local.sums)[..all]);
        sums.fill(0.0);
        let inputs = self.x.inputs();
        // Whole pieces whose activations stay in the cache while all outputs go by.
        let span = (RESIDENT / (4 * vectors * S::LANES * INPUTS)).clamp(1, self.weights.pieces()) * INPUTS;
        for start in (0..inputs).step_by(span) {
            let end = inputs.min(start + span);
            for (panel, sums) in sums.chunks_exact_mut(own).enumerate() {
                let first = self.columns.start + panel * PANEL;
                let outputs = first..self.columns.end.min(first + PANEL);
                for start in (start..end).step_by(INPUTS) {
                    let inputs = start..end.min(start + INPUTS);
                    self.weights.unpack(self.isa, outputs.clone(), inputs.clone(), piece);
                    for first in inputs.clone().step_by(DEPTH) {
                        let some = first..inputs.end.min(first + DEPTH);
                        let count = outputs.len();
                        match self.weights {
                            Weights::OutIn(_) => {
                                let piece = &piece[first - start..];
                                self.multiply::<S, LINE, 1>(s, &some, count, piece, sums);
                            }
                            Weights::InOut(_) => {
                                let piece = &piece[(first - start) * PANEL..];
                                self.multiply::<S, 1, PANEL>(s, &some, count, piece, sums);
                            }
                        }
                    }
                }
                if end == inputs {
                    self.end(s, first, sums);
                }
            }
        }
        LOCAL.set(local);
    }
}

/// A thread's buffers, grown once.
#[derive(Default)]
struct Local {
    piece: Vec<Page>,
    sums: Vec<Page>, // [panels, vectors, PANEL, LANES]
}

thread_local! {
    static LOCAL: std::cell::Cell<Local> = std::cell::Cell::default();
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::backend::cpu::kernels::in_out::Epilogue;
    use crate::backend::cpu::kernels::unpack::Matrix;
    use crate::backend::cpu::kernels::{Rows, pages};
    use crate::backend::cpu::shared::Shared;
    use crate::quant;
    use crate::tensor::DType;

    #[derive(Clone, Copy, Debug)]
    struct Sizes {
        rows: usize,
        inputs: usize,
        outputs: usize,
    }

    const ODD: [Sizes; 7] = [
        Sizes { rows: 1, inputs: 7, outputs: 5 },
        Sizes { rows: 2, inputs: 256, outputs: 49 },
        Sizes { rows: 17, inputs: 100, outputs: 64 },
        Sizes { rows: 33, inputs: 600, outputs: 131 },
        Sizes { rows: 49, inputs: 33, outputs: 1 },
        Sizes { rows: 64, inputs: 96, outputs: 48 },
        Sizes { rows: 70, inputs: 1100, outputs: 100 },
    ];

    /// Numbers around zero that are bf16.
    fn values(count: usize) -> Vec<f32> {
        let value = |i: usize| bf16::from_f32((i * 7919 % 1009) as f32 / 504.0 - 1.0).to_f32();
        (0..count).map(value).collect()
    }

    /// Blocks of a format with scales about one.
    fn random_bytes(dtype: DType, count: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(count)
        .collect();
        // No half is one of infinity or NaN any more.
        let exponent = if dtype == DType::F8E4M3 { 0x77 } else { 0xbb };
        bytes.iter_mut().for_each(|byte| *byte &= exponent);
        bytes
    }

    /// The product with rows of `x` from last to first, a few outputs at a time.
    fn product(isa: Isa, x: &[f32], sizes: Sizes, stride: usize, weights: Weights<'_>) -> Vec<f32> {
        let Sizes { rows, inputs, outputs } = sizes;
        let index: Vec<u32> = (0..rows as u32).rev().collect();
        let x = Rows { data: x, stride, index: &index };
        let mut memory = vec![Page([0xff; _]); pages::pages(rows, 1, inputs)];
        let shared = Shared::new(&mut memory);
        for part in 0..Pack::parts(rows, inputs) {
            // SAFETY: nobody else uses the pages.
            isa.run(unsafe { Pack::new(x, inputs, part, &shared, 0) });
        }
        let x = PackedRows::new(&memory, rows, inputs);
        let mut out = vec![f32::NAN; rows * outputs];
        let buffer = Shared::new(&mut out);
        for columns in [0..outputs.min(35), outputs.min(35)..outputs] {
            let out = Out::rows(&buffer, 0, outputs);
            // SAFETY: nobody else uses the buffer.
            isa.run(unsafe { Product::new(isa, x, weights, columns, out) });
        }
        out
    }

    /// Compares a product with plain sums of `x * weight(input, output)`.
    fn check(name: &str, sizes: Sizes, weights: Weights<'_>, weight: impl Fn(usize, usize) -> f32) {
        let Sizes { rows, inputs, outputs } = sizes;
        let stride = inputs + 3;
        let x = values(rows * stride);
        let places = (0..rows).flat_map(|r| (0..outputs).map(move |j| (r, j)));
        let expected: Vec<(f64, f64)> = places
            .map(|(r, j)| {
                let x = &x[(rows - 1 - r) * stride..];
                let terms = (0..inputs).map(|i| f64::from(x[i]) * f64::from(weight(i, j)));
                terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
            })
            .collect();
        for isa in Isa::available() {
            let found = product(isa, &x, sizes, stride, weights);
            for (i, (found, (sum, size))) in found.into_iter().zip(&expected).enumerate() {
                let near = (f64::from(found) - sum).abs() <= 1e-5 * size;
                assert!(near, "{name}, {}, {sizes:?}, {i}: {found}, not {sum}", isa.name());
            }
        }
    }

    fn out_in(dtype: DType, sizes: Sizes) {
        let Sizes { inputs, outputs, .. } = sizes;
        let size = inputs / dtype.block() as usize * dtype.block_bytes() as usize * outputs;
        let bytes = match dtype {
            DType::F32 => values(inputs * outputs).iter().flat_map(|x| x.to_le_bytes()).collect(),
            _ => random_bytes(dtype, size),
        };
        let mut known = vec![0.0; inputs * outputs];
        quant::dequantise(dtype, &bytes, &mut known).unwrap();
        let weights = Weights::OutIn(Matrix::new(&bytes, dtype, inputs, None));
        check(&dtype.to_string(), sizes, weights, |i, j| known[j * inputs + i]);
    }

    #[test]
    fn every_type_gives_the_sums_of_its_values() {
        for dtype in DType::ALL.into_iter().filter(|&dtype| dtype != DType::I8) {
            out_in(dtype, Sizes { rows: 33, inputs: 512 + dtype.block() as usize, outputs: 50 });
        }
    }

    #[test]
    fn odd_sizes_give_them_too() {
        for sizes in ODD {
            out_in(DType::F32, sizes);
            out_in(DType::F16, sizes);
        }
    }

    #[test]
    fn scaled_codes_give_the_sums_of_their_products() {
        for sizes in ODD {
            let Sizes { inputs, outputs, .. } = sizes;
            for group in [inputs, inputs.div_ceil(2), inputs.div_ceil(8)] {
                let codes: Vec<u8> = (0..inputs * outputs).map(|i| (i * 89 % 255) as u8).collect();
                let scale =
                    |group: usize, j: usize| bf16::from_f32(((group * 5 + j) % 7) as f32 * 0.1 + 0.05);
                let scales: Vec<u8> = (0..inputs.div_ceil(group))
                    .flat_map(|group| (0..outputs).flat_map(move |j| scale(group, j).to_le_bytes()))
                    .collect();
                let epilogue = Epilogue::Scaled { inputs: group, scales: &scales };
                let weights = InOut::new(&codes, DType::I8, [inputs, outputs], epilogue);
                check("i8", sizes, Weights::InOut(weights), |i, j| {
                    f32::from(codes[i * outputs + j] as i8) * scale(i / group, j).to_f32()
                });
            }
        }
    }

    #[test]
    fn numbers_by_inputs_give_the_sums_of_their_values() {
        for sizes in ODD {
            let shape @ [inputs, outputs] = [sizes.inputs, sizes.outputs];
            let known = values(inputs * outputs);
            let f32s: Vec<u8> = known.iter().flat_map(|x| x.to_le_bytes()).collect();
            let bf16s: Vec<u8> = known.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
            for (dtype, bytes) in [(DType::F32, &f32s), (DType::BF16, &bf16s)] {
                let weights = Weights::InOut(InOut::new(bytes, dtype, shape, Epilogue::Stored));
                check(&dtype.to_string(), sizes, weights, |i, j| known[i * outputs + j]);
            }
        }
    }

    #[test]
    fn a_row_is_the_same_bits_whatever_it_is_batched_with() {
        let sizes = Sizes { rows: 70, inputs: 320, outputs: 50 };
        let x = values(sizes.rows * sizes.inputs);
        let bytes = random_bytes(DType::Q4_0, sizes.inputs / 32 * 18 * sizes.outputs);
        let weights = Weights::OutIn(Matrix::new(&bytes, DType::Q4_0, sizes.inputs, None));
        for isa in Isa::available() {
            let together = product(isa, &x, sizes, sizes.inputs, weights);
            for rows in [1, 16, 35, 69] {
                let alone = product(isa, &x, Sizes { rows, ..sizes }, sizes.inputs, weights);
                // The last row comes first.
                assert_eq!(alone, together[(sizes.rows - rows) * sizes.outputs..], "{}", isa.name());
            }
        }
    }
}
