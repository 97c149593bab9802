//! Products of many rows in vectors of f32, for processors without matrix tiles and for weights that tiles would round.
//!
//! Activations are packed once, so that vectors hold an input of as many rows. Weights become f32 a piece at a time, in the
//! first-level cache, where all rows meet them; pieces are taken in an order that keeps the activations they meet in the
//! second-level cache. Each product of a row and an output is summed input by input, whatever the row is batched with.

mod pack;
mod piece;

use std::ops::Range;

pub(crate) use self::pack::{Pack, PackedRows};
pub(crate) use self::piece::{InOut, Weights};
use self::piece::{INPUTS, LINE, PANEL};
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
        weights: &[f32],
        sums: &mut [f32], // [vectors, PANEL, LANES]
    ) {
        let x = self.x.vectors::<S>(inputs.start);
        let step = Step { inputs: inputs.len(), distance: x.distance, outputs: PANEL };
        let vectors = self.x.rows().div_ceil(S::LANES);
        let mut vector = 0;
        while vector < vectors {
            let sums = &mut sums[vector * PANEL * S::LANES..];
            let x = &x.data[vector * x.distance..];
            match (vectors - vector, S::WIDE) {
                (1, true) => step.run::<S, 1, 16, OUTPUT, INPUT>(s, x, weights, sums),
                (1, false) => step.run::<S, 1, 8, OUTPUT, INPUT>(s, x, weights, sums),
                (2 | 4, true) => step.run::<S, 2, 8, OUTPUT, INPUT>(s, x, weights, sums),
                (2 | 4, false) => step.run::<S, 2, 4, OUTPUT, INPUT>(s, x, weights, sums),
                (_, true) => step.run::<S, 3, 8, OUTPUT, INPUT>(s, x, weights, sums),
                (_, false) => step.run::<S, 3, 4, OUTPUT, INPUT>(s, x, weights, sums),
            }
            vector += match vectors - vector {
                left @ 1..=2 => left,
                4 => 2,
                _ => 3,
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
    /// `V` vectors of rows times `C` outputs at a time.
    #[inline(always)]
    fn run<S: Simd, const V: usize, const C: usize, const OUTPUT: usize, const INPUT: usize>(
        &self,
        s: S,
        x: &[f32],
        weights: &[f32],
        sums: &mut [f32], // [V, outputs, LANES]
    ) {
        let x = x[..(V - 1) * self.distance + self.inputs * S::LANES].as_ptr();
        let sums = sums[..V * self.outputs * S::LANES].as_mut_ptr();
        for output in (0..self.outputs).step_by(C) {
            let last = (C - 1) * OUTPUT + (self.inputs - 1) * INPUT;
            let weights = weights[output * OUTPUT..][..=last].as_ptr();
            let place = |v: usize, c: usize| (v * self.outputs + output + c) * S::LANES;
            // SAFETY: the three slices hold what is read and written; C divides the outputs.
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
        let span = (RESIDENT / (4 * vectors * S::LANES * INPUTS)).max(1) * INPUTS;
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
                        match self.weights {
                            Weights::OutIn(_) => {
                                self.multiply::<S, LINE, 1>(s, &some, &piece[first - start..], sums);
                            }
                            Weights::InOut(_) => {
                                self.multiply::<S, 1, PANEL>(s, &some, &piece[(first - start) * PANEL..], sums);
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
