//! Products with matrices stored `[outputs, inputs]` in formats of blocks.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Format, IntegerRows};
use crate::backend::cpu::kernels::Out;
use crate::backend::cpu::simd::{Activations, INPUTS, IntegerJob, Integers};

/// Outputs worked on together, each a stream of its own through memory.
const STREAMS: usize = 4;

/// Rows that meet a block of weights at a time, at most.
const ROWS: usize = 4;

/// How far ahead of its use memory is asked for.
const AHEAD: usize = 2048;

/// `out[r, j] = x[r, ..inputs] · weights[j, ..inputs]` for the `j` in `columns`.
pub(crate) struct OutIn<'a, F> {
    x: IntegerRows<'a>,
    weights: &'a [u8], // [outputs, inputs] of F
    inputs: usize,
    columns: Range<usize>,
    out: Out<'a>,
    fast: bool,
    format: PhantomData<F>,
}

impl<'a, F: Format> OutIn<'a, F> {
    /// # Safety
    /// Nobody else may use `columns` of the written rows of `out` while this runs.
    pub(crate) unsafe fn new(
        x: IntegerRows<'a>,
        weights: &'a [u8],
        inputs: usize,
        columns: Range<usize>,
        out: Out<'a>,
        fast: bool,
    ) -> Self {
        assert!(inputs.is_multiple_of(F::BLOCK) && out.has(&columns));
        assert!(super::super::holds(weights, &[columns.end, inputs / F::BLOCK, Self::BLOCK_BYTES]));
        Self { x, weights, inputs, columns, out, fast, format: PhantomData }
    }

    const BYTES: usize = size_of::<F::Bytes>();
    const BLOCK_BYTES: usize = Self::BYTES * F::BLOCK / INPUTS;

    /// `R` rows times outputs `columns`, in registers.
    #[inline(always)]
    fn tile<S: Integers, const FAST: bool, const R: usize>(
        &self,
        s: S,
        row: usize,
        columns: [usize; STREAMS],
        padded: &mut [F::Bytes; STREAMS],
    ) {
        let blocks = self.inputs.div_ceil(INPUTS);
        let x: [_; R] = std::array::from_fn(|r| self.x.row(row + r, blocks));
        let stride = self.inputs / F::BLOCK * Self::BLOCK_BYTES;
        // SAFETY: `new` checked that the weights hold all columns.
        let weights = columns.map(|column| unsafe { self.weights.as_ptr().add(column * stride) });
        let whole = self.inputs / INPUTS;
        if whole < blocks {
            // What is missing has scales of zero.
            for (padded, column) in padded.iter_mut().zip(columns) {
                let rest = &self.weights[column * stride + whole * Self::BYTES..(column + 1) * stride];
                padded.as_mut()[..rest.len()].copy_from_slice(rest);
            }
        }
        let mut sums = [[s.zero(); STREAMS]; R];
        for block in 0..blocks {
            let x = x.map(|x| &x[block]);
            for c in 0..STREAMS {
                let mut bytes = &padded[c];
                if block < whole {
                    let start = weights[c].wrapping_add(block * Self::BYTES);
                    // SAFETY: an output has as many whole blocks.
                    bytes = unsafe { &*start.cast() };
                    for line in (0..Self::BYTES).step_by(64) {
                        s.prefetch(start.wrapping_add(AHEAD + line));
                    }
                }
                Self::advance::<S, FAST, R>(s, x, c, bytes, &mut sums);
            }
        }
        for r in 0..R {
            let out = self.out.start(row + r, self.columns.start, self.columns.len());
            for (column, total) in columns.into_iter().zip(s.totals(sums[r])) {
                // SAFETY: `start` checked the places; the caller of `new` promised exclusive use.
                unsafe { *out.add(column - self.columns.start) = total };
            }
        }
    }

    /// Adds the products of 256 inputs of a stream: codes and scales stay in registers, rows take turns.
    #[inline(always)]
    fn advance<S: Integers, const FAST: bool, const R: usize>(
        s: S,
        x: [&Activations; R],
        stream: usize,
        bytes: &F::Bytes,
        sums: &mut [[S::Sum; STREAMS]; R],
    ) {
        let opened = F::open(bytes);
        let [scales, offsets] = F::scales(s, &opened);
        // One by one, so that shifts and places are constants.
        let quarters = [
            F::codes(s, &opened, 0),
            F::codes(s, &opened, 1),
            F::codes(s, &opened, 2),
            F::codes(s, &opened, 3),
        ];
        let weights = s.lined_up(quarters, scales);
        for r in 0..R {
            sums[r][stream] = s.add::<FAST>(sums[r][stream], weights, offsets, x[r]);
        }
    }

    #[inline(always)]
    fn all<S: Integers, const FAST: bool>(&self, s: S) {
        // Each stream goes through rows that lie one after the other. The last ones may end on a row that another ends on, too.
        let run = self.columns.len().div_ceil(STREAMS);
        let mut padded = [F::ZERO; STREAMS];
        for first in 0..run {
            let mut columns = [0; STREAMS];
            for (c, column) in columns.iter_mut().enumerate() {
                *column = (self.columns.start + first + c * run).min(self.columns.end - 1);
            }
            // Their weights stay in the cache.
            let mut row = 0;
            while row < self.x.len() {
                match self.x.len() - row {
                    1 => self.tile::<S, FAST, 1>(s, row, columns, &mut padded),
                    2 => self.tile::<S, FAST, 2>(s, row, columns, &mut padded),
                    3 => self.tile::<S, FAST, 3>(s, row, columns, &mut padded),
                    _ => self.tile::<S, FAST, ROWS>(s, row, columns, &mut padded),
                }
                row += ROWS;
            }
        }
    }
}

impl<F: Format> IntegerJob for OutIn<'_, F> {
    #[inline(always)]
    fn run<S: Integers>(self, s: S) {
        if S::FASTER && self.fast { self.all::<S, true>(s) } else { self.all::<S, false>(s) }
    }
}
