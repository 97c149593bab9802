//! Products with matrices of int8 stored `[inputs, outputs]`, with a scale for each output and row group: xAI's checkpoint.
//!
//! Runs of columns are read for 32 or 16 inputs at a time, which share a scale of the activations: their sums are exact, and stay in
//! the first-level cache until they are scaled.

use std::ops::Range;

use super::{IntegerRows, pack};
use crate::backend::cpu::kernels::Out;
use crate::backend::cpu::simd::{Activations, INPUTS, IntegerJob, Integers};

/// Columns that a part of a region should have at most: more take no less time.
pub(crate) const MAX_COLUMNS: usize = 8192;

/// Columns that a part should have at least: where a run of memory ends, the processor has read some ahead that nobody needs.
pub(crate) const MIN_COLUMNS: usize = 1024;

/// Inputs taken at a time: more would lie in lines that caches cannot hold at once, a power of two apart.
const STEP: usize = 8;
/// Columns taken at a time.
const COLUMNS: usize = 64;
/// Columns that a run of inputs is taken for, before the next columns.
const CHUNK: usize = 2048;
/// How many columns ahead of their use memory is asked for.
const AHEAD: usize = 2048;

/// Sums of columns, in whole lines of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Aligned<T>([T; COLUMNS]);

/// `out[r, columns] = sum over row groups of scale · (x[r, group] · weights[group, columns])`.
pub(crate) struct InOut<'a> {
    x: IntegerRows<'a>,
    weights: &'a [u8], // int8 [inputs, outputs]
    inputs: usize,
    outputs: usize,
    /// Inputs of a row group.
    group: usize,
    scales: &'a [u8], // bf16 [groups, outputs]
    columns: Range<usize>,
    out: Out<'a>,
    fast: bool,
}

impl<'a> InOut<'a> {
    /// Whether row groups of so many inputs begin where the activations' scales change.
    pub(crate) fn can(inputs: usize, group: usize) -> bool {
        group >= inputs || group.is_multiple_of(pack::run(false))
    }

    /// # Safety
    /// Nobody else may use `columns` of the written rows of `out` while this runs.
    pub(crate) unsafe fn new(
        x: IntegerRows<'a>,
        weights: &'a [u8],
        [inputs, outputs]: [usize; 2],
        (group, scales): (usize, &'a [u8]),
        columns: Range<usize>,
        out: Out<'a>,
        fast: bool,
    ) -> Self {
        assert!(Self::can(inputs, group) && super::super::holds(weights, &[inputs, outputs]));
        assert!(super::super::holds(scales, &[inputs.div_ceil(group), outputs, 2]));
        assert!(columns.end <= outputs && out.has(&columns));
        Self { x, weights, inputs, outputs, group, scales, columns, out, fast }
    }

    /// Adds the products of a run of inputs to up to [`CHUNK`] columns of `R` rows. Leaves zeros in `integers`.
    #[inline(always)]
    fn rows<S: Integers, const FAST: bool, const R: usize>(
        &self,
        s: S,
        row: usize,
        run: usize,
        columns: &Range<usize>,
        integers: &mut [[Aligned<i32>; CHUNK / COLUMNS]; R],
    ) {
        let blocks = self.inputs.div_ceil(INPUTS);
        let x: [_; R] = std::array::from_fn(|r| &self.x.row(row + r, blocks)[run / INPUTS]);
        for first in (run..self.inputs.min(run + pack::run(FAST))).step_by(STEP) {
            self.advance::<S, FAST, R>(s, x, first, columns, integers);
        }
        let (start, count) = (columns.start, columns.len());
        let scales =
            self.scales[(run / self.group * self.outputs + start) * 2..][..2 * count].as_chunks::<2>().0;
        for r in 0..R {
            let sixteens = run % INPUTS / 16..(run % INPUTS + pack::run(FAST)) / 16;
            let scale = x[r].scales[S::ORDER[sixteens.start]];
            let offset = -S::BIAS * x[r].sums[sixteens].iter().sum::<f32>();
            let (scales, last_scales) = scales.as_chunks::<COLUMNS>();
            // SAFETY: ends with this turn.
            let (out, last_out) = unsafe { self.out(row + r, columns) }.as_chunks_mut::<COLUMNS>();
            for ((integers, scales), out) in integers[r].iter_mut().zip(scales).zip(&mut *out) {
                add(s, &mut integers.0, [scale, offset], scales, out);
            }
            if !last_out.is_empty() {
                let (mut padded_scales, mut padded_out) = ([[0; 2]; COLUMNS], [0.0; COLUMNS]);
                padded_scales[..last_scales.len()].copy_from_slice(last_scales);
                padded_out[..last_out.len()].copy_from_slice(last_out);
                add(s, &mut integers[r][out.len()].0, [scale, offset], &padded_scales, &mut padded_out);
                last_out.copy_from_slice(&padded_out[..last_out.len()]);
            }
        }
    }

    /// Where a row's products go.
    ///
    /// # Safety
    /// Only one of these slices may live at a time.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "`Out` is shared by threads, each with places of its own")]
    unsafe fn out(&self, row: usize, columns: &Range<usize>) -> &mut [f32] {
        let out = self.out.start(row, columns.start, columns.len());
        // SAFETY: `start` checked the places; the callers of `new` and of this promised exclusive use.
        unsafe { std::slice::from_raw_parts_mut(out, columns.len()) }
    }

    /// Adds the products of eight inputs from `first` on to the sums of columns.
    #[inline(always)]
    fn advance<S: Integers, const FAST: bool, const R: usize>(
        &self,
        s: S,
        x: [&Activations; R],
        first: usize,
        columns: &Range<usize>,
        sums: &mut [[Aligned<i32>; CHUNK / COLUMNS]; R],
    ) {
        let start = first * self.outputs + columns.start;
        let reach = AHEAD.min(columns.len());
        let mut column = 0;
        if first + STEP <= self.inputs {
            while column + COLUMNS <= columns.len() {
                // SAFETY: `new` checked that the weights hold [inputs, outputs], of which here are eight inputs and 64 columns.
                unsafe {
                    let weights = self.weights.as_ptr().add(start + column);
                    // The last columns are followed by the first ones of the next inputs.
                    let ends = column + reach >= columns.len();
                    let ahead = reach + if ends { STEP * self.outputs - columns.len() } else { 0 };
                    for input in 0..STEP {
                        s.prefetch(weights.wrapping_add(ahead + input * self.outputs));
                    }
                    let sums = sums.each_mut().map(|sums| &mut sums[column / COLUMNS].0);
                    s.eight::<FAST, R>(weights.cast(), self.outputs, x, first % INPUTS, sums);
                }
                column += COLUMNS;
            }
        }
        while column < columns.len() {
            // Zeros where there are no more inputs or columns.
            let mut rest = [[0_u8; COLUMNS]; STEP];
            let count = COLUMNS.min(columns.len() - column);
            for (input, rest) in rest.iter_mut().enumerate().take(self.inputs - first) {
                let weights = &self.weights[start + column + input * self.outputs..][..count];
                rest[..count].copy_from_slice(weights);
            }
            let sums = sums.each_mut().map(|sums| &mut sums[column / COLUMNS].0);
            // SAFETY: these are eight inputs and 64 columns.
            unsafe { s.eight::<FAST, R>(rest.as_ptr().cast(), COLUMNS, x, first % INPUTS, sums) };
            column += COLUMNS;
        }
    }

    #[inline(always)]
    fn all<S: Integers, const FAST: bool>(&self, s: S) {
        for row in 0..self.x.len() {
            // SAFETY: ends at once.
            unsafe { self.out(row, &self.columns) }.fill(0.0);
        }
        let mut integers = [[Aligned([0_i32; COLUMNS]); CHUNK / COLUMNS]; 2]; // [rows, columns]
        for run in (0..self.inputs).step_by(pack::run(FAST)) {
            for start in self.columns.clone().step_by(CHUNK) {
                let columns = start..self.columns.end.min(start + CHUNK);
                // All rows, while its weights are in the cache.
                let mut row = 0;
                while row + 2 <= self.x.len() {
                    self.rows::<S, FAST, 2>(s, row, run, &columns, &mut integers);
                    row += 2;
                }
                if row < self.x.len() {
                    let [integers, _] = &mut integers;
                    self.rows::<S, FAST, 1>(s, row, run, &columns, std::array::from_mut(integers));
                }
            }
        }
    }
}

/// Adds sums of 64 columns, as `scale · integer + offset`, by the columns' scales. Leaves zeros in `integers`.
#[inline(always)]
fn add<S: Integers>(
    s: S,
    integers: &mut [i32; COLUMNS],
    [scale, offset]: [f32; 2],
    scales: &[[u8; 2]; COLUMNS], // bf16
    out: &mut [f32; COLUMNS],
) {
    let ordered = s.in_order(integers);
    for i in 0..COLUMNS {
        let [low, high] = scales[i];
        out[i] += f32::from_le_bytes([0, 0, low, high]) * (ordered[i] as f32 * scale + offset);
    }
    integers.fill(0);
}

impl IntegerJob for InOut<'_> {
    #[inline(always)]
    fn run<S: Integers>(self, s: S) {
        if S::FASTER && self.fast { self.all::<S, true>(s) } else { self.all::<S, false>(s) }
    }
}
