//! Products of packed activations with a matrix, as rows of numbers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::matrix::Matrix;
use super::multiply::{Ending, LOCAL, Multiply};
use super::{SIDE, Side, TILE_ROWS, TiledRows, transpose};
use crate::backend::cpu::kernels::Out;
use crate::backend::cpu::simd::amx::{Block, TileJob, Tiles};

/// `out[r, j] = x[r, ..inputs] · weights[.., j]` for the `j` in `columns`, with weights rounded to bf16.
pub(crate) struct Product<'a> {
    multiply: Multiply<'a>,
    out: Out<'a>,
}

impl<'a> Product<'a> {
    /// # Safety
    /// Nobody else may use `columns` of the written rows of `out` while this runs.
    pub(crate) unsafe fn new(
        x: TiledRows<'a>,
        matrix: Matrix<'a>,
        columns: Range<usize>,
        out: Out<'a>,
    ) -> Self {
        assert!(columns.end <= matrix.outputs && out.has(&columns));
        Self { multiply: Multiply { x, matrix, columns }, out }
    }
}

impl TileJob for Product<'_> {
    #[inline(always)]
    fn run(self, tiles: &Tiles) {
        // Taken out and put back: a closure would not be compiled with the instructions.
        let mut local = LOCAL.take();
        self.multiply.run(tiles, &mut local.work, &mut local.sums[0], &self);
        LOCAL.set(local);
    }
}

impl Ending for Product<'_> {
    #[inline(always)]
    fn end(&self, panel: usize, sums: &[Block]) {
        let Multiply { x, matrix, columns } = &self.multiply;
        let (rows, columns, first) = (x.rows(), columns.end, self.multiply.column(panel));
        for (block, sums) in sums.iter().enumerate() {
            for (tile, sums) in sums.0.iter().enumerate() {
                let (of_row, of_column) = match matrix.side {
                    Side::Left => (tile / 2, tile % 2),
                    Side::Right => (tile % 2, tile / 2),
                };
                let (row, column) = (block * SIDE + of_row * TILE_ROWS, first + of_column * TILE_ROWS);
                if column >= columns || row >= rows {
                    continue;
                }
                let count = (columns - column).min(TILE_ROWS);
                let mask = u16::MAX >> (16 - count);
                // SAFETY: a tile is 16 lines; `start` checks that `count` places exist, which the mask leaves, and the caller of
                // `new` promised their exclusive use. The job runs with AMX, whose proof includes these instructions.
                unsafe {
                    let mut lines = [_mm512_setzero_si512(); TILE_ROWS];
                    for i in 0..TILE_ROWS {
                        lines[i] = _mm512_load_si512(sums.0[i].as_ptr().cast());
                    }
                    if matrix.side == Side::Right {
                        lines = transpose(lines);
                    }
                    for i in 0..TILE_ROWS.min(rows - row) {
                        let out = self.out.start(row + i, column, count);
                        _mm512_mask_storeu_ps(out, mask, _mm512_castsi512_ps(lines[i]));
                    }
                }
            }
        }
    }
}
