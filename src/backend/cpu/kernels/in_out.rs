//! Products with matrices stored `[inputs, outputs]`: xAI's checkpoint, and the values of the KV cache.
//!
//! Each output is summed over the inputs of a row group in order, then scaled, then added: the same operations in the same order
//! for any number of rows, so a token's result does not depend on what it is batched with.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Element, Out, Rows};
use crate::backend::cpu::simd::{Job, Scalar, Simd};

/// Weights in bf16-scaled row groups, or plain ones.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<'a> {
    /// `out = sum over groups of scale * (sum over the group's inputs)`.
    Scaled { groups: usize, scales: &'a [u8] }, // bf16 [groups, outputs]
    /// `out += sum over inputs`.
    Added,
}

/// `out[r, columns] = x[r, ..inputs] · weights[..inputs, columns]`.
pub(crate) struct InOut<'a, E> {
    x: Rows<'a>,
    weights: &'a [u8], // [inputs, outputs] of E
    inputs: usize,
    outputs: usize,
    columns: Range<usize>,
    epilogue: Epilogue<'a>,
    out: Out<'a>,
    element: PhantomData<E>,
}

impl<'a, E: Element> InOut<'a, E> {
    /// # Safety
    /// Nobody else may use `columns` of the written rows of `out` while this runs.
    pub(crate) unsafe fn new(
        x: Rows<'a>,
        weights: &'a [u8],
        [inputs, outputs]: [usize; 2],
        columns: Range<usize>,
        epilogue: Epilogue<'a>,
        out: Out<'a>,
    ) -> Self {
        assert!(weights.len() >= inputs * outputs * E::SIZE && columns.end <= outputs);
        if let Epilogue::Scaled { groups, scales } = epilogue {
            assert!(inputs.is_multiple_of(groups) && scales.len() >= groups * outputs * 2);
        }
        Self { x, weights, inputs, outputs, columns, epilogue, out, element: PhantomData }
    }

    /// `V` vectors of columns from `column`, for all rows.
    #[inline(always)]
    fn columns<S: Simd, const V: usize>(&self, simd: S, column: usize) {
        let groups = match self.epilogue {
            Epilogue::Scaled { groups, .. } => groups,
            Epilogue::Added => 1,
        };
        for group in 0..groups {
            let mut row = 0;
            if S::WIDE {
                while self.x.len() - row >= 6 {
                    self.tile::<S, 6, V>(simd, column, group, row);
                    row += 6;
                }
            }
            while self.x.len() - row >= 4 {
                self.tile::<S, 4, V>(simd, column, group, row);
                row += 4;
            }
            while self.x.len() - row >= 2 {
                self.tile::<S, 2, V>(simd, column, group, row);
                row += 2;
            }
            if row < self.x.len() {
                self.tile::<S, 1, V>(simd, column, group, row);
            }
        }
    }

    /// `R` rows times `V` vectors of columns over one row group, in registers.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(&self, s: S, column: usize, group: usize, row: usize) {
        let groups = match self.epilogue {
            Epilogue::Scaled { groups, .. } => groups,
            Epilogue::Added => 1,
        };
        let inputs = self.inputs / groups;
        let first = group * inputs;
        let stride = self.outputs * E::SIZE;
        let x: [*const f32; R] = std::array::from_fn(|r| self.x.start(row + r, self.inputs));
        let out: [*mut f32; R] = std::array::from_fn(|r| self.out.start(row + r, column, V * S::LANES));
        // SAFETY: `new` checked that the weights hold [inputs, outputs] and that the columns exist, `Rows::start` and
        // `Out::start` that `inputs` values and V vectors exist in each row; the caller of `new` promised exclusive use.
        unsafe {
            let mut sums = [[s.splat(0.0); V]; R]; // [R, V]
            if let Epilogue::Added = self.epilogue {
                for r in 0..R {
                    for v in 0..V {
                        sums[r][v] = s.load_f32(out[r].add(v * S::LANES).cast());
                    }
                }
            }
            let mut weights = self.weights.as_ptr().add(first * stride + column * E::SIZE);
            for i in first..first + inputs {
                let mut w = [s.splat(0.0); V];
                for v in 0..V {
                    w[v] = E::load(s, weights.add(v * S::LANES * E::SIZE));
                }
                for r in 0..R {
                    let x = s.splat(*x[r].add(i));
                    for v in 0..V {
                        sums[r][v] = s.fma(x, w[v], sums[r][v]);
                    }
                }
                weights = weights.wrapping_add(stride);
            }
            if let Epilogue::Scaled { scales, .. } = self.epilogue {
                let scales = scales.as_ptr().add((group * self.outputs + column) * 2);
                for v in 0..V {
                    let scale = s.load_bf16(scales.add(v * S::LANES * 2));
                    for r in 0..R {
                        let before = match group {
                            0 => s.splat(0.0),
                            _ => s.load_f32(out[r].add(v * S::LANES).cast()),
                        };
                        sums[r][v] = s.fma(scale, sums[r][v], before);
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    s.store_f32(out[r].add(v * S::LANES).cast(), sums[r][v]);
                }
            }
        }
    }

    /// As many whole steps of `V` vectors as fit, from `column`; returns where they end.
    #[inline(always)]
    fn steps<S: Simd, const V: usize>(&self, simd: S, mut column: usize) -> usize {
        while column + V * S::LANES <= self.columns.end {
            self.columns::<S, V>(simd, column);
            column += V * S::LANES;
        }
        column
    }
}

impl<E: Element> Job for InOut<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut column = self.columns.start;
        if self.x.len() == 1 {
            column =
                if S::WIDE { self.steps::<S, 16>(simd, column) } else { self.steps::<S, 8>(simd, column) };
        }
        column = if S::WIDE { self.steps::<S, 4>(simd, column) } else { self.steps::<S, 2>(simd, column) };
        column = self.steps::<S, 1>(simd, column);
        self.steps::<Scalar, 1>(Scalar, column);
    }
}
