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
    fn tile<S: Integers, const FAST: bool, const R: usize, const C: usize>(
        &self,
        s: S,
        row: usize,
        columns: [usize; C],
    ) {
        let blocks = self.inputs.div_ceil(INPUTS);
        let x: [_; R] = std::array::from_fn(|r| self.x.row(row + r, blocks));
        let stride = self.inputs / F::BLOCK * Self::BLOCK_BYTES;
        // SAFETY: `new` checked that the weights hold all columns.
        let weights = columns.map(|column| unsafe { self.weights.as_ptr().add(column * stride) });
        let mut sums = [[s.zero(); C]; R]; // [R, C]
        for block in 0..self.inputs / INPUTS {
            // SAFETY: an output has as many whole blocks.
            let bytes = weights.map(|weights| unsafe { &*weights.add(block * Self::BYTES).cast() });
            for start in bytes {
                let start = std::ptr::from_ref::<F::Bytes>(start).cast::<u8>();
                for line in (0..Self::BYTES).step_by(64) {
                    s.prefetch(start.wrapping_add(AHEAD + line));
                }
            }
            Self::advance::<S, FAST, R, C>(s, x.map(|x| &x[block]), bytes, &mut sums);
        }
        let whole = self.inputs / INPUTS * Self::BYTES;
        if whole < stride {
            // What is missing has scales of zero.
            let mut padded = [F::ZERO; C];
            for (padded, column) in padded.iter_mut().zip(columns) {
                let rest = &self.weights[column * stride + whole..(column + 1) * stride];
                padded.as_mut()[..rest.len()].copy_from_slice(rest);
            }
            Self::advance::<S, FAST, R, C>(s, x.map(|x| &x[blocks - 1]), padded.each_ref(), &mut sums);
        }
        for r in 0..R {
            for c in 0..C {
                let out = self.out.start(row + r, columns[c], 1);
                // SAFETY: `start` checked the place; the caller of `new` promised exclusive use.
                unsafe { *out = s.total(sums[r][c]) };
            }
        }
    }

    /// Adds the products of 256 inputs.
    #[inline(always)]
    fn advance<S: Integers, const FAST: bool, const R: usize, const C: usize>(
        s: S,
        x: [&Activations; R],
        bytes: [&F::Bytes; C],
        sums: &mut [[S::Sum; C]; R],
    ) {
        let blocks = bytes.map(F::open);
        let mut scales = [[s.splat(0.0); C]; R];
        for c in 0..C {
            let [own, offsets] = F::scales(s, &blocks[c]);
            for r in 0..R {
                scales[r][c] = s.mul(own, s.load(&x[r].scales));
                sums[r][c] = s.subtract(sums[r][c], offsets, x[r]);
            }
        }
        // One by one, so that shifts and places are constants.
        Self::quarter::<S, FAST, R, C, 0>(s, &blocks, x, &scales, sums);
        Self::quarter::<S, FAST, R, C, 1>(s, &blocks, x, &scales, sums);
        Self::quarter::<S, FAST, R, C, 2>(s, &blocks, x, &scales, sums);
        Self::quarter::<S, FAST, R, C, 3>(s, &blocks, x, &scales, sums);
    }

    /// Adds the products of 64 inputs.
    #[inline(always)]
    fn quarter<S: Integers, const FAST: bool, const R: usize, const C: usize, const QUARTER: usize>(
        s: S,
        blocks: &[F::Block<'_>; C],
        x: [&Activations; R],
        scales: &[[S::Sixteen; C]; R],
        sums: &mut [[S::Sum; C]; R],
    ) {
        for c in 0..C {
            let codes = F::codes(s, &blocks[c], QUARTER);
            for r in 0..R {
                sums[r][c] = s.add::<FAST>(sums[r][c], codes, x[r], QUARTER, scales[r][c]);
            }
        }
    }

    /// All rows times outputs `columns`: their weights stay in the cache.
    #[inline(always)]
    fn rows<S: Integers, const FAST: bool, const C: usize>(&self, s: S, columns: [usize; C]) {
        let mut row = 0;
        while row + 2 <= self.x.len() {
            self.tile::<S, FAST, 2, C>(s, row, columns);
            row += 2;
        }
        if row < self.x.len() {
            self.tile::<S, FAST, 1, C>(s, row, columns);
        }
    }

    #[inline(always)]
    fn all<S: Integers, const FAST: bool>(&self, s: S) {
        // Each stream goes through rows that lie one after the other.
        let run = self.columns.len() / STREAMS;
        for first in self.columns.start..self.columns.start + run {
            self.rows::<S, FAST, STREAMS>(s, std::array::from_fn(|c| first + c * run));
        }
        for column in self.columns.start + STREAMS * run..self.columns.end {
            self.rows::<S, FAST, 1>(s, [column]);
        }
    }
}

impl<F: Format> IntegerJob for OutIn<'_, F> {
    #[inline(always)]
    fn run<S: Integers>(self, s: S) {
        if self.fast { self.all::<S, true>(s) } else { self.all::<S, false>(s) }
    }
}
