//! Products with matrices stored `[outputs, inputs]` in formats of blocks.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Format, IntegerRows};
use crate::backend::cpu::kernels::Out;
use crate::backend::cpu::simd::{Activations, INPUTS, IntegerJob, Integers};

/// Outputs worked on together, each a stream of its own through memory.
const STREAMS: usize = 4;

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
    ) {
        let blocks = self.inputs.div_ceil(INPUTS);
        let x: [_; R] = std::array::from_fn(|r| self.x.row(row + r, blocks));
        let stride = self.inputs / F::BLOCK * Self::BLOCK_BYTES;
        // SAFETY: `new` checked that the weights hold all columns.
        let weights = columns.map(|column| unsafe { self.weights.as_ptr().add(column * stride) });
        let whole = self.inputs / INPUTS;
        let mut padded = [F::ZERO; STREAMS];
        if whole < blocks {
            // What is missing has scales of zero.
            for (padded, column) in padded.iter_mut().zip(columns) {
                let rest = &self.weights[column * stride + whole * Self::BYTES..(column + 1) * stride];
                padded.as_mut()[..rest.len()].copy_from_slice(rest);
            }
        }
        let mut sums = [[s.zero(); STREAMS]; R]; // [R, STREAMS]
        for block in 0..blocks {
            let mut bytes = padded.each_ref();
            if block < whole {
                for (bytes, weights) in bytes.iter_mut().zip(weights) {
                    let start = weights.wrapping_add(block * Self::BYTES);
                    // SAFETY: an output has as many whole blocks.
                    *bytes = unsafe { &*start.cast() };
                    for line in (0..Self::BYTES).step_by(64) {
                        s.prefetch(start.wrapping_add(AHEAD + line));
                    }
                }
            }
            Self::advance::<S, FAST, R>(s, x, block, bytes, &mut sums);
        }
        for r in 0..R {
            for c in 0..STREAMS {
                let out = self.out.start(row + r, columns[c], 1);
                // SAFETY: `start` checked the place; the caller of `new` promised exclusive use.
                unsafe { *out = s.total(sums[r][c]) };
            }
        }
    }

    /// Adds the products of 256 inputs.
    #[inline(always)]
    fn advance<S: Integers, const FAST: bool, const R: usize>(
        s: S,
        x: [&[Activations]; R],
        block: usize,
        bytes: [&F::Bytes; STREAMS],
        sums: &mut [[S::Sum; STREAMS]; R],
    ) {
        // Not by `map`, which would not be compiled with the instructions.
        let [a, b, c, d] = bytes;
        let blocks = [F::open(a), F::open(b), F::open(c), F::open(d)];
        let mut scales = [[s.splat(0.0); STREAMS]; R];
        for c in 0..STREAMS {
            let [own, offsets] = F::scales(s, &blocks[c]);
            for r in 0..R {
                let x = &x[r][block];
                scales[r][c] = s.mul(own, s.load(&x.scales));
                sums[r][c] = s.subtract(sums[r][c], offsets, x);
            }
        }
        // One by one, so that shifts and places are constants.
        Self::quarter::<S, FAST, R, 0>(s, &blocks, x, block, &scales, sums);
        Self::quarter::<S, FAST, R, 1>(s, &blocks, x, block, &scales, sums);
        Self::quarter::<S, FAST, R, 2>(s, &blocks, x, block, &scales, sums);
        Self::quarter::<S, FAST, R, 3>(s, &blocks, x, block, &scales, sums);
    }

    /// Adds the products of 64 inputs.
    #[inline(always)]
    fn quarter<S: Integers, const FAST: bool, const R: usize, const QUARTER: usize>(
        s: S,
        blocks: &[F::Block<'_>; STREAMS],
        x: [&[Activations]; R],
        block: usize,
        scales: &[[S::Sixteen; STREAMS]; R],
        sums: &mut [[S::Sum; STREAMS]; R],
    ) {
        for c in 0..STREAMS {
            let codes = F::codes(s, &blocks[c], QUARTER);
            for r in 0..R {
                sums[r][c] = s.add::<FAST>(sums[r][c], codes, &x[r][block], QUARTER, scales[r][c]);
            }
        }
    }

    /// All rows times outputs `columns`: their weights stay in the cache.
    #[inline(always)]
    fn rows<S: Integers, const FAST: bool>(&self, s: S, columns: [usize; STREAMS]) {
        let mut row = 0;
        while row + 2 <= self.x.len() {
            self.tile::<S, FAST, 2>(s, row, columns);
            row += 2;
        }
        if row < self.x.len() {
            self.tile::<S, FAST, 1>(s, row, columns);
        }
    }

    #[inline(always)]
    fn all<S: Integers, const FAST: bool>(&self, s: S) {
        // Each stream goes through rows that lie one after the other. The last ones may end on a row that another ends on, too.
        let run = self.columns.len().div_ceil(STREAMS);
        for first in 0..run {
            let mut columns = [0; STREAMS];
            for (c, column) in columns.iter_mut().enumerate() {
                *column = (self.columns.start + first + c * run).min(self.columns.end - 1);
            }
            self.rows::<S, FAST>(s, columns);
        }
    }
}

impl<F: Format> IntegerJob for OutIn<'_, F> {
    #[inline(always)]
    fn run<S: Integers>(self, s: S) {
        if S::FASTER && self.fast { self.all::<S, true>(s) } else { self.all::<S, false>(s) }
    }
}
