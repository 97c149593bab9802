//! Products with matrices stored `[inputs, outputs]`: xAI's checkpoint.
//!
//! Each output is summed over the inputs of a row group one by one, then scaled, then added: the same operations in the same order
//! for any number of rows, so a token's result does not depend on what it is batched with.
//!
//! A few rows stream through the weights, which are read in long runs of memory order. Many rows share blocks of weights that are
//! converted once into a buffer of their own: in place, a column block lies in lines a power of two apart, which caches cannot hold.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Element, Out, Rows};
use crate::backend::cpu::simd::{Job, Simd};

/// Columns that a part of a region may have.
pub(crate) const MAX_COLUMNS: usize = 1024;

/// Columns and inputs of a block of converted weights: 32 KiB.
const BLOCK_COLUMNS: usize = 64;
const BLOCK_INPUTS: usize = 128;

/// Rows from which on converting pays, if there is more than a block.
const MANY: usize = 4;

/// What becomes of the sums.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<'a> {
    /// `out = sum over groups of scale * (sum over the group's inputs)`.
    Scaled { inputs: usize, scales: &'a [u8] }, // bf16 [groups of as many inputs, outputs]
    /// `out = sum over inputs`.
    Stored,
}

/// `x[r, ..inputs] · weights[..inputs, columns]`, to `out[r, columns]`.
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
        assert!(super::holds(weights, &[inputs, outputs, E::SIZE]));
        assert!(columns.end <= outputs && columns.len() <= MAX_COLUMNS && out.has(&columns));
        if let Epilogue::Scaled { inputs: group, scales } = epilogue {
            assert!(super::holds(scales, &[inputs.div_ceil(group), outputs, 2]));
        }
        Self { x, weights, inputs, outputs, columns, epilogue, out, element: PhantomData }
    }

    fn groups(&self) -> usize {
        match self.epilogue {
            Epilogue::Scaled { inputs, .. } => self.inputs.div_ceil(inputs),
            Epilogue::Stored => 1,
        }
    }

    /// Inputs of a row group.
    fn group(&self, group: usize) -> Range<usize> {
        match self.epilogue {
            Epilogue::Scaled { inputs, .. } => group * inputs..self.inputs.min((group + 1) * inputs),
            Epilogue::Stored => 0..self.inputs,
        }
    }

    /// A vector of weights: `count` columns of one input, zeros behind them.
    ///
    /// # Safety
    /// `input` and the columns must exist.
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, s: S, input: usize, column: usize, count: usize) -> S::F32 {
        // SAFETY: `new` checked that the weights hold [inputs, outputs]; the rest is the caller's.
        unsafe {
            let start = self.weights.as_ptr().add((input * self.outputs + column) * E::SIZE);
            if count >= S::LANES {
                return E::load(s, start);
            }
            let mut padded = [0_u8; 64];
            start.copy_to_nonoverlapping(padded.as_mut_ptr(), count * E::SIZE);
            E::load(s, padded.as_ptr())
        }
    }

    /// What becomes of the sums of a group.
    #[inline(always)]
    fn end<S: Simd>(&self, s: S, group: usize, row: usize, columns: &Range<usize>, sums: &[f32]) {
        let out = self.out.start(row, columns.start, columns.len());
        let sums = &sums[..columns.len()];
        // SAFETY: `start` and the slice above check that both have all the columns, `new` that the scales do; the caller of `new`
        // promised exclusive use.
        unsafe {
            match self.epilogue {
                Epilogue::Stored => out.copy_from_nonoverlapping(sums.as_ptr(), sums.len()),
                Epilogue::Scaled { scales, .. } => {
                    let scales = scales.as_ptr().add((group * self.outputs + columns.start) * 2);
                    super::each!(s, sums.len(), |s, i| {
                        let before = if group == 0 { s.splat(0.0) } else { s.load_f32(out.add(i).cast()) };
                        let product =
                            s.mul(s.load_bf16(scales.add(2 * i)), s.load_f32(sums.as_ptr().add(i).cast()));
                        s.store_f32(out.add(i).cast(), s.add(product, before));
                    });
                }
            }
        }
    }

    /// `R` rows through all columns, `K` inputs at a time.
    #[inline(always)]
    fn stream<S: Simd, const R: usize, const K: usize>(&self, s: S, row: usize) {
        let mut sums = [[0.0_f32; MAX_COLUMNS]; R]; // [R, columns]
        let width = self.columns.len();
        let x: [*const f32; R] = std::array::from_fn(|r| self.x.start(row + r, self.inputs));
        for group in 0..self.groups() {
            for sums in &mut sums {
                // Whole vectors, so that the last one may be loaded.
                sums[..width.next_multiple_of(S::LANES)].fill(0.0);
            }
            let inputs = self.group(group);
            let mut first = inputs.start;
            while first + K <= inputs.end {
                self.advance::<S, R, K>(s, &x, first, &mut sums);
                first += K;
            }
            while first < inputs.end {
                self.advance::<S, R, 1>(s, &x, first, &mut sums);
                first += 1;
            }
            for (r, sums) in sums.iter().enumerate() {
                self.end(s, group, row + r, &self.columns, sums);
            }
        }
    }

    /// Adds `K` inputs from `first` to the sums of all columns.
    #[inline(always)]
    fn advance<S: Simd, const R: usize, const K: usize>(
        &self,
        s: S,
        x: &[*const f32; R],
        first: usize,
        sums: &mut [[f32; MAX_COLUMNS]; R],
    ) {
        let width = self.columns.len();
        // SAFETY: `Rows::start` checked that each row has all inputs, and `first + K` are among them; columns are below `width`,
        // and the sums hold whole vectors of them.
        unsafe {
            let mut values = [[s.splat(0.0); K]; R];
            for r in 0..R {
                for k in 0..K {
                    values[r][k] = s.splat(*x[r].add(first + k));
                }
            }
            let mut column = 0;
            while column + S::LANES <= width {
                self.advance_vector(s, &values, first, column, S::LANES, sums);
                column += S::LANES;
            }
            if column < width {
                self.advance_vector(s, &values, first, column, width - column, sums);
            }
        }
    }

    /// One vector of columns of [`advance`](Self::advance), of which `count` exist.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn advance_vector<S: Simd, const R: usize, const K: usize>(
        &self,
        s: S,
        values: &[[S::F32; K]; R],
        first: usize,
        column: usize,
        count: usize,
        sums: &mut [[f32; MAX_COLUMNS]; R],
    ) {
        // SAFETY: the caller's.
        unsafe {
            let mut sum = [s.splat(0.0); R];
            for r in 0..R {
                sum[r] = s.load_f32(sums[r].as_ptr().add(column).cast());
            }
            for k in 0..K {
                let w = self.load(s, first + k, self.columns.start + column, count);
                for r in 0..R {
                    sum[r] = s.fma(values[r][k], w, sum[r]);
                }
            }
            for r in 0..R {
                s.store_f32(sums[r].as_mut_ptr().add(column).cast(), sum[r]);
            }
        }
    }

    /// All rows through one block of columns after the other.
    #[inline(always)]
    fn blocks<S: Simd>(&self, s: S, local: &mut Local) {
        let rows = self.x.len();
        local.sums.resize(rows * BLOCK_COLUMNS, 0.0);
        local.weights.resize(BLOCK_INPUTS * BLOCK_COLUMNS, 0.0);
        for start in self.columns.clone().step_by(BLOCK_COLUMNS) {
            let columns = start..self.columns.end.min(start + BLOCK_COLUMNS);
            for group in 0..self.groups() {
                local.sums.fill(0.0);
                let inputs = self.group(group);
                for first in inputs.clone().step_by(BLOCK_INPUTS) {
                    let inputs = first..inputs.end.min(first + BLOCK_INPUTS);
                    self.convert(s, &inputs, &columns, &mut local.weights);
                    self.block(s, &inputs, local);
                }
                for (row, sums) in local.sums.chunks_exact(BLOCK_COLUMNS).enumerate() {
                    self.end(s, group, row, &columns, sums);
                }
            }
        }
    }

    /// Weights of a block as f32, `[inputs, BLOCK_COLUMNS]`, zeros behind the last column.
    #[inline(always)]
    fn convert<S: Simd>(&self, s: S, inputs: &Range<usize>, columns: &Range<usize>, block: &mut [f32]) {
        for (input, row) in inputs.clone().zip(block.chunks_exact_mut(BLOCK_COLUMNS)) {
            for offset in (0..BLOCK_COLUMNS).step_by(S::LANES) {
                let count = columns.len().saturating_sub(offset);
                // SAFETY: the input exists, `count` columns from there do, and the row of the block has a vector left.
                unsafe {
                    let w = match count {
                        0 => s.splat(0.0),
                        _ => self.load(s, input, columns.start + offset, count),
                    };
                    s.store_f32(row.as_mut_ptr().add(offset).cast(), w);
                }
            }
        }
    }

    /// Adds a block of inputs to the sums of all rows.
    #[inline(always)]
    fn block<S: Simd>(&self, s: S, inputs: &Range<usize>, local: &mut Local) {
        let (rows, mut row) = (self.x.len(), 0);
        if S::WIDE {
            while rows - row >= 6 {
                self.tile::<S, 6, 4>(s, row, inputs, local);
                row += 6;
            }
        }
        while rows - row >= 4 {
            self.tile::<S, 4, 2>(s, row, inputs, local);
            row += 4;
        }
        while row < rows {
            self.tile::<S, 1, 4>(s, row, inputs, local);
            row += 1;
        }
    }

    /// `R` rows times `V` vectors of columns at a time, in registers.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(
        &self,
        s: S,
        row: usize,
        inputs: &Range<usize>,
        local: &mut Local,
    ) {
        let x: [*const f32; R] = std::array::from_fn(|r| self.x.start(row + r, self.inputs));
        let sums = local.sums[row * BLOCK_COLUMNS..][..R * BLOCK_COLUMNS].as_mut_ptr();
        let weights = local.weights[..inputs.len() * BLOCK_COLUMNS].as_ptr();
        for column in (0..BLOCK_COLUMNS).step_by(V * S::LANES) {
            // SAFETY: the two slices above hold what is read and written; `Rows::start` checked the inputs. BLOCK_COLUMNS is a
            // multiple of V vectors.
            unsafe {
                let mut sum = [[s.splat(0.0); V]; R]; // [R, V]
                for r in 0..R {
                    for v in 0..V {
                        sum[r][v] = s.load_f32(sums.add(r * BLOCK_COLUMNS + column + v * S::LANES).cast());
                    }
                }
                for i in 0..inputs.len() {
                    let mut w = [s.splat(0.0); V];
                    for v in 0..V {
                        w[v] = s.load_f32(weights.add(i * BLOCK_COLUMNS + column + v * S::LANES).cast());
                    }
                    for r in 0..R {
                        let x = s.splat(*x[r].add(inputs.start + i));
                        for v in 0..V {
                            sum[r][v] = s.fma(x, w[v], sum[r][v]);
                        }
                    }
                }
                for r in 0..R {
                    for v in 0..V {
                        s.store_f32(sums.add(r * BLOCK_COLUMNS + column + v * S::LANES).cast(), sum[r][v]);
                    }
                }
            }
        }
    }
}

impl<E: Element> Job for InOut<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.x.len() >= MANY && self.inputs > BLOCK_INPUTS {
            // Taken out and put back: a closure would not be compiled with the instructions.
            let mut local = LOCAL.take();
            self.blocks(s, &mut local);
            LOCAL.set(local);
            return;
        }
        let mut row = 0;
        while self.x.len() - row >= 2 {
            if S::WIDE {
                self.stream::<S, 2, 8>(s, row)
            } else {
                self.stream::<S, 2, 4>(s, row)
            }
            row += 2;
        }
        if row < self.x.len() {
            if S::WIDE { self.stream::<S, 1, 8>(s, row) } else { self.stream::<S, 1, 4>(s, row) }
        }
    }
}

/// A thread's buffers, grown once.
#[derive(Default)]
struct Local {
    sums: Vec<f32>,    // [rows, BLOCK_COLUMNS]
    weights: Vec<f32>, // [BLOCK_INPUTS, BLOCK_COLUMNS]
}

thread_local! {
    static LOCAL: std::cell::RefCell<Local> = std::cell::RefCell::default();
}
