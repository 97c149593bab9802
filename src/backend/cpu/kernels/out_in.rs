//! Products with matrices stored `[outputs, inputs]`: embedding tables and the router.
//!
//! Each output is one dot product in lanes, summed the same way for any number of rows.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Element, Out, Rows};
use crate::backend::cpu::simd::{Job, Scalar, Simd};

/// Outputs worked on together for a single row, each a stream of its own through memory.
const STREAMS: usize = 8;

/// How far ahead of its use memory is asked for.
const AHEAD: usize = 2048;

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

    /// `R` rows times outputs `columns`, in registers.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(&self, s: S, row: usize, columns: [usize; C]) {
        let stride = self.inputs * E::SIZE;
        let x: [*const f32; R] = std::array::from_fn(|r| self.x.start(row + r, self.inputs));
        // SAFETY: `new` checked that the weights hold all columns, `Rows::start` that `inputs` values exist in each row, `Out::start`
        // the place; the caller of `new` promised exclusive use.
        unsafe {
            let weights = columns.map(|column| self.weights.as_ptr().add(column * stride));
            let mut sums = [[s.splat(0.0); C]; R]; // [R, C]
            let mut i = 0;
            while i + S::LANES <= self.inputs {
                let mut v = [s.splat(0.0); R];
                for r in 0..R {
                    v[r] = s.load_f32(x[r].add(i).cast());
                }
                for c in 0..C {
                    let start = weights[c].add(i * E::SIZE);
                    if R == 1 && (i * E::SIZE).is_multiple_of(64) {
                        s.prefetch(start.wrapping_add(AHEAD));
                    }
                    let w = E::load(s, start);
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
                        sum += *x[r].add(i) * E::load(Scalar, weights[c].add(i * E::SIZE));
                    }
                    *self.out.start(row + r, columns[c], 1) = sum;
                }
            }
        }
    }

    /// `C` outputs for all rows: their weights stay in the cache.
    #[inline(always)]
    fn columns<S: Simd, const C: usize>(&self, simd: S, first: usize) {
        let columns = std::array::from_fn(|c| first + c);
        let (rows, mut row) = (self.x.len(), 0);
        if S::WIDE {
            while rows - row >= 4 {
                self.tile::<S, 4, C>(simd, row, columns);
                row += 4;
            }
        }
        while rows - row >= 2 {
            self.tile::<S, 2, C>(simd, row, columns);
            row += 2;
        }
        if row < rows {
            self.tile::<S, 1, C>(simd, row, columns);
        }
    }
}

impl<E: Element> Job for OutIn<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut column = self.columns.start;
        if self.x.len() == 1 {
            // Each stream goes through rows that lie one after the other.
            let run = self.columns.len() / STREAMS;
            for _ in 0..run {
                self.tile::<S, 1, STREAMS>(simd, 0, std::array::from_fn(|c| column + c * run));
                column += 1;
            }
            column = self.columns.start + run * STREAMS;
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
