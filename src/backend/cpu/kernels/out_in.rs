//! Products with matrices stored `[outputs, inputs]`: embedding tables and the router.
//!
//! Each output is one dot product in lanes, summed the same way for any number of rows.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Element, Out, Rows};
use crate::backend::cpu::simd::{Job, Scalar, Simd};

/// `out[r, j] = x[r, ..inputs] · weights[j, ..inputs]` for the `j` in `columns`.
pub(crate) struct OutIn<'a, E> {
    x: Rows<'a>,
    weights: &'a [u8], // [outputs, inputs] of E
    inputs: usize,
    columns: Range<usize>,
    out: Out<'a>,
    element: PhantomData<E>,
}

impl<'a, E: Element> OutIn<'a, E> {
    /// # Safety
    /// Nobody else may use `columns` of the written rows of `out` while this runs.
    pub(crate) unsafe fn new(
        x: Rows<'a>,
        weights: &'a [u8],
        inputs: usize,
        columns: Range<usize>,
        out: Out<'a>,
    ) -> Self {
        assert!(super::holds(weights, &[columns.end, inputs, E::SIZE]) && out.has(&columns));
        Self { x, weights, inputs, columns, out, element: PhantomData }
    }

    /// `R` rows times `C` outputs, in registers.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(&self, s: S, row: usize, column: usize) {
        let stride = self.inputs * E::SIZE;
        let x: [*const f32; R] = std::array::from_fn(|r| self.x.start(row + r, self.inputs));
        let out: [*mut f32; R] = std::array::from_fn(|r| self.out.start(row + r, column, C));
        // SAFETY: `new` checked that the weights hold C rows from `column`, `Rows::start` and `Out::start` that `inputs` and C
        // values exist in each row; the caller of `new` promised exclusive use.
        unsafe {
            let weights = self.weights.as_ptr().add(column * stride);
            let mut sums = [[s.splat(0.0); C]; R]; // [R, C]
            let mut i = 0;
            while i + S::LANES <= self.inputs {
                let mut v = [s.splat(0.0); R];
                for r in 0..R {
                    v[r] = s.load_f32(x[r].add(i).cast());
                }
                for c in 0..C {
                    let w = E::load(s, weights.add(c * stride + i * E::SIZE));
                    for r in 0..R {
                        sums[r][c] = s.fma(v[r], w, sums[r][c]);
                    }
                }
                i += S::LANES;
            }
            for c in 0..C {
                for r in 0..R {
                    let mut sum = s.sum(sums[r][c]);
                    for i in i..self.inputs {
                        sum += *x[r].add(i) * E::load(Scalar, weights.add(c * stride + i * E::SIZE));
                    }
                    *out[r].add(c) = sum;
                }
            }
        }
    }

    /// `C` outputs for all rows: their weights stay in the cache.
    #[inline(always)]
    fn columns<S: Simd, const C: usize>(&self, simd: S, column: usize) {
        let (rows, mut row) = (self.x.len(), 0);
        if S::WIDE {
            while rows - row >= 4 {
                self.tile::<S, 4, C>(simd, row, column);
                row += 4;
            }
        }
        while rows - row >= 2 {
            self.tile::<S, 2, C>(simd, row, column);
            row += 2;
        }
        if row < rows {
            self.tile::<S, 1, C>(simd, row, column);
        }
    }
}

impl<E: Element> Job for OutIn<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut column = self.columns.start;
        while self.x.len() == 1 && column + 8 <= self.columns.end {
            self.tile::<S, 1, 8>(simd, 0, column);
            column += 8;
        }
        while column + 4 <= self.columns.end {
            self.columns::<S, 4>(simd, column);
            column += 4;
        }
        while column < self.columns.end {
            self.columns::<S, 1>(simd, column);
            column += 1;
        }
    }
}
