//! Products with matrices stored `[outputs, inputs]` in types that must be unpacked: fp8, with scales or without, and all formats of
//! blocks.
//!
//! A piece of a few outputs' weights at a time is unpacked to f32, stays in the first-level cache, and meets all rows there. Each
//! output is one dot product in lanes, summed the same way for any number of rows.

use std::cell::Cell;
use std::ops::Range;

use super::unpack::Matrix;
use super::{Out, Rows};
use crate::backend::cpu::simd::{Isa, Job, Simd};

/// Inputs of a piece: whole blocks of every type and whole vectors of every instruction set.
const PIECE: usize = 256;
/// Outputs of a piece, which is 8 KiB.
const COLUMNS: usize = 8;

/// `out[r, j] = x[r, ..inputs] · weights[j, ..inputs]` for the `j` in `columns`.
pub(crate) struct Blocks<'a> {
    isa: Isa,
    x: Rows<'a>,
    weights: Matrix<'a>,
    inputs: usize,
    columns: Range<usize>,
    out: Out<'a>,
}

impl<'a> Blocks<'a> {
    /// # Safety
    /// Nobody else may use `columns` of the written rows of `out` while this runs.
    pub(crate) unsafe fn new(
        isa: Isa,
        x: Rows<'a>,
        weights: Matrix<'a>,
        columns: Range<usize>,
        out: Out<'a>,
    ) -> Self {
        assert!(out.has(&columns));
        Self { isa, x, weights, inputs: weights.inputs(), columns, out }
    }

    /// Adds the products of a piece, all rows with all columns.
    #[inline(always)]
    fn add<S: Simd>(&self, s: S, inputs: &Range<usize>, piece: &Piece, sums: &mut [f32]) {
        let (rows, mut row) = (self.x.len(), 0);
        if S::WIDE {
            while rows - row >= 4 {
                self.tile::<S, 4, 4>(s, row, inputs, piece, sums);
                row += 4;
            }
        }
        while rows - row >= 2 {
            self.tile::<S, 2, 4>(s, row, inputs, piece, sums);
            row += 2;
        }
        if row < rows {
            self.tile::<S, 1, 8>(s, row, inputs, piece, sums);
        }
    }

    /// `R` rows of [`add`](Self::add), `C` columns at a time in registers.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(
        &self,
        s: S,
        row: usize,
        inputs: &Range<usize>,
        piece: &Piece,
        sums: &mut [f32],
    ) {
        let x: [*const f32; R] = std::array::from_fn(|r| self.x.start(row + r, self.inputs));
        let sums = sums[row * COLUMNS * S::LANES..][..R * COLUMNS * S::LANES].as_mut_ptr();
        for column in (0..COLUMNS).step_by(C) {
            let place = |r: usize, c: usize| (r * COLUMNS + column + c) * S::LANES;
            // SAFETY: the slice above holds the sums; `Rows::start` checked that `inputs` exist in each row; a piece has as many,
            // and C divides COLUMNS.
            unsafe {
                let mut sum = [[s.splat(0.0); C]; R]; // [R, C]
                for r in 0..R {
                    for c in 0..C {
                        sum[r][c] = s.load_f32(sums.add(place(r, c)).cast());
                    }
                }
                let mut i = 0;
                while i + S::LANES <= inputs.len() {
                    let mut v = [s.splat(0.0); R];
                    for r in 0..R {
                        v[r] = s.load_f32(x[r].add(inputs.start + i).cast());
                    }
                    for c in 0..C {
                        let w = s.load_f32(piece[column + c].as_ptr().add(i).cast());
                        for r in 0..R {
                            sum[r][c] = s.fma(v[r], w, sum[r][c]);
                        }
                    }
                    i += S::LANES;
                }
                for r in 0..R {
                    for c in 0..C {
                        s.store_f32(sums.add(place(r, c)).cast(), sum[r][c]);
                    }
                }
            }
        }
    }

    /// Writes the results of some columns; `piece` is the last one.
    #[inline(always)]
    fn end<S: Simd>(&self, s: S, columns: &Range<usize>, piece: &Piece, sums: &[f32]) {
        let whole = self.inputs / S::LANES * S::LANES;
        for (row, sums) in sums.chunks_exact(COLUMNS * S::LANES).enumerate() {
            let x = self.x.start(row, self.inputs);
            let out = self.out.start(row, columns.start, columns.len());
            for (c, lanes) in sums.chunks_exact(S::LANES).take(columns.len()).enumerate() {
                // SAFETY: `lanes` is a vector, `Rows::start` and `Out::start` checked what is read and written; the caller of
                // `new` promised exclusive use.
                unsafe {
                    let mut sum = s.sum(s.load_f32(lanes.as_ptr().cast()));
                    for i in whole..self.inputs {
                        sum += *x.add(i) * piece[c][i % PIECE];
                    }
                    *out.add(c) = sum;
                }
            }
        }
    }
}

impl Job for Blocks<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Taken out and put back: a closure would not be compiled with the instructions.
        let mut sums = SUMS.take();
        sums.resize(self.x.len() * COLUMNS * S::LANES, 0.0);
        let mut piece = [[0.0; PIECE]; COLUMNS];
        for first in self.columns.clone().step_by(COLUMNS) {
            let columns = first..self.columns.end.min(first + COLUMNS);
            sums.fill(0.0);
            for start in (0..self.inputs).step_by(PIECE) {
                let inputs = start..self.inputs.min(start + PIECE);
                self.weights.unpack(
                    self.isa,
                    columns.clone(),
                    inputs.clone(),
                    PIECE,
                    piece.as_flattened_mut(),
                );
                self.add(s, &inputs, &piece, &mut sums);
            }
            self.end(s, &columns, &piece, &sums);
        }
        SUMS.set(sums);
    }
}

type Piece = [[f32; PIECE]; COLUMNS];

thread_local! {
    /// A thread's sums, grown once.
    static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) }; // [rows, COLUMNS, lanes]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::shared::Shared;
    use crate::backend::cpu::simd::Isa;
    use crate::tensor::DType;

    #[test]
    fn a_row_is_the_same_bits_whatever_it_is_batched_with() {
        const INPUTS: usize = 2 * PIECE + 32;
        const OUTPUTS: usize = COLUMNS + 3;
        // Scales of 0.06 and codes of all kinds.
        let block = |i: usize| [0x00, 0x2c].into_iter().chain((0..16).map(move |j| (i * 31 + j * 7) as u8));
        let weights: Vec<u8> = (0..INPUTS / 32 * OUTPUTS).flat_map(block).collect();
        let x: Vec<f32> = (0..7 * INPUTS).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        for isa in Isa::available() {
            let product = |rows: &[u32]| {
                let mut out = vec![f32::NAN; rows.len() * OUTPUTS];
                let buffer = Shared::new(&mut out);
                let x = Rows { data: &x, stride: INPUTS, index: rows };
                let out_rows = Out::rows(&buffer, 0, OUTPUTS);
                let weights = Matrix::new(&weights, DType::Q4_0, INPUTS, None);
                // SAFETY: nobody else uses the buffer.
                isa.run(unsafe { Blocks::new(isa, x, weights, 0..OUTPUTS, out_rows) });
                out
            };
            let together = product(&[0, 1, 2, 3, 4, 5, 6]);
            for row in 0..7 {
                let alone = product(&[row]);
                assert!(alone.iter().all(|x| x.is_finite()));
                assert_eq!(alone, together[row as usize * OUTPUTS..][..OUTPUTS], "{}", isa.name());
            }
        }
    }
}
