//! Products with matrices stored `[outputs, inputs]`, of any type: weights are the left operand, activations the right one.

use std::arch::x86_64::*;
use std::ops::Range;

use super::unpack::Matrix;
use super::{LOCAL, PAIR, PIECE, RESIDENT, SIDE, TILE, TILE_ROWS, TiledRows, ZERO, bytes, bytes_mut};
use super::{pieces, transpose};
use crate::backend::cpu::kernels::Out;
use crate::backend::cpu::kernels::pages::Page;
use crate::backend::cpu::simd::amx::{Begin, Block, Operand, Shape, TileJob, Tiles};
use crate::quant::Factors;
use crate::tensor::DType;

/// `out[r, j] = x[r, ..inputs] · weights[j, ..inputs]` for the `j` in `columns`, with weights rounded to bf16.
pub(crate) struct OutIn<'a> {
    x: TiledRows<'a>,
    matrix: Matrix<'a>,
    columns: Range<usize>,
    out: Out<'a>,
}

impl<'a> OutIn<'a> {
    /// # Safety
    /// Nobody else may use `columns` of the written rows of `out` while this runs.
    pub(crate) unsafe fn new(
        x: TiledRows<'a>,
        weights: &'a [u8], // [outputs, inputs] of `dtype`
        dtype: DType,
        inputs: usize,
        factors: Option<&'a Factors>,
        columns: Range<usize>,
        out: Out<'a>,
    ) -> Self {
        let matrix = Matrix::new(weights, dtype, inputs, factors);
        assert!(columns.end <= matrix.outputs() && out.has(&columns));
        Self { x, matrix, columns, out }
    }

    /// Writes the sums of a panel of [`SIDE`] outputs from `first` on.
    #[inline(always)]
    fn end(&self, first: usize, sums: &[Block<f32>]) {
        let (rows, columns) = (self.x.rows(), self.columns.end);
        for (block, sums) in sums.iter().enumerate() {
            for (tile, sums) in sums.0.iter().enumerate() {
                let column = first + tile / 2 * TILE_ROWS;
                let row = block * SIDE + tile % 2 * TILE_ROWS;
                if column >= columns || row >= rows {
                    continue;
                }
                let count = (columns - column).min(TILE_ROWS);
                // SAFETY: a tile is 16 lines; `start` checks that `count` places exist, which the mask leaves, and the caller of
                // `new` promised their exclusive use. The job runs with AMX, whose proof includes these instructions.
                unsafe {
                    let mut lines = [_mm512_setzero_si512(); TILE_ROWS];
                    for i in 0..TILE_ROWS {
                        lines[i] = _mm512_load_si512(sums.0[i].as_ptr().cast());
                    }
                    let lines = transpose(lines);
                    for i in 0..TILE_ROWS.min(rows - row) {
                        let line = lines[i];
                        let out = self.out.start(row + i, column, count);
                        _mm512_mask_storeu_ps(out, u16::MAX >> (16 - count), _mm512_castsi512_ps(line));
                    }
                }
            }
        }
    }
}

impl TileJob for OutIn<'_> {
    #[inline(always)]
    fn run(self, tiles: &Tiles) {
        // Taken out and put back: a closure would not be compiled with the instructions.
        let mut local = LOCAL.take();
        let blocks = self.x.blocks();
        let panels = self.columns.len().div_ceil(SIDE);
        local.sums.resize(panels * blocks, ZERO);
        local.piece.resize(PIECE / 2, Page::default());
        let all = self.matrix.steps();
        // Whole pieces whose activations stay in the cache while all outputs go by.
        let span = (RESIDENT / (blocks * PIECE * PAIR)).max(1) * PIECE;
        for start in (0..all).step_by(span) {
            let end = all.min(start + span);
            for (panel, sums) in local.sums.chunks_exact_mut(blocks).enumerate() {
                let first = self.columns.start + panel * SIDE;
                for steps in pieces(start..end) {
                    let outputs = first..self.columns.end.min(first + SIDE);
                    self.matrix.unpack(tiles, outputs, steps.clone(), bytes_mut(&mut local.piece));
                    let begin = if steps.start == 0 { Begin::Zero } else { Begin::Load };
                    let piece = bytes(&local.piece);
                    let left = Operand { bytes: piece, row: 64, tile: TILE, step: PAIR };
                    for (block, sums) in sums.iter_mut().enumerate() {
                        let right = self.x.operand(block, &steps);
                        tiles.bf16(Shape::TwoByTwo, left, right, steps.len(), begin, sums);
                    }
                }
                if end == all {
                    self.end(first, sums);
                }
            }
        }
        LOCAL.set(local);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Side;
    use super::super::tests::{Sizes, check, random_bytes, values};
    use super::*;
    use crate::backend::cpu::shared::Shared;
    use crate::quant;

    fn case(dtype: DType, sizes: Sizes) {
        let Sizes { inputs, outputs, .. } = sizes;
        let size = inputs / dtype.block() as usize * dtype.block_bytes() as usize * outputs;
        let (weights, known) = if matches!(dtype, DType::F32 | DType::BF16) {
            let known = values(inputs * outputs);
            let bytes = match dtype {
                DType::F32 => known.iter().flat_map(|x| x.to_le_bytes()).collect(),
                _ => known.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
            };
            (bytes, known)
        } else {
            let bytes = random_bytes(dtype, size);
            let mut known = vec![0.0; inputs * outputs];
            quant::dequantise(dtype, &bytes, &mut known).unwrap();
            (bytes, known)
        };
        let weight = |i: usize, j: usize| half::bf16::from_f32(known[j * inputs + i]).to_f32();
        check(&dtype.to_string(), sizes, Side::Right, weight, |amx, x, out| {
            let buffer = Shared::new(out);
            // Not from the first output on, nor to the last.
            let columns = [0..outputs.min(35), outputs.min(35)..outputs];
            for columns in columns {
                let out = Out::rows(&buffer, 0, outputs);
                // SAFETY: nobody else uses the buffer.
                amx.enter_tiles(unsafe { OutIn::new(x, &weights, dtype, inputs, None, columns, out) });
            }
        });
    }

    #[test]
    fn every_type_gives_the_sums_of_its_bf16_values() {
        for dtype in DType::ALL.into_iter().filter(|&dtype| dtype != DType::I8) {
            case(dtype, Sizes { rows: 33, inputs: 1024 + dtype.block() as usize, outputs: 100 });
        }
    }

    #[test]
    fn odd_sizes_give_them_too() {
        for rows in [1, 2, 16, 17, 31, 65] {
            for outputs in [1, 15, 32, 49] {
                case(DType::BF16, Sizes { rows, inputs: 7, outputs });
                case(DType::F32, Sizes { rows, inputs: 333, outputs });
                case(DType::Q8_0, Sizes { rows, inputs: 96, outputs });
            }
        }
    }
}
