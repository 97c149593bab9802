//! Activations to tiles.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{PAIR, PIECE, SIDE, STEP, TILE, TILE_ROWS, bytes, narrow, pieces, transpose};
use crate::backend::cpu::kernels::Rows;
use crate::backend::cpu::kernels::pages::{Page, block_pages};
use crate::backend::cpu::shared::Shared;
use crate::backend::cpu::simd::amx::{Pair, TileJob, Tiles};

/// Which operand of the products activations are: weights are the other, as it suits their layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A row of a tile is a row of activations.
    Left,
    /// A column of a tile is.
    Right,
}

/// Rows of activations as tiles.
#[derive(Clone, Copy)]
pub(crate) struct TiledRows<'a> {
    pages: &'a [Page], // [pieces, blocks of SIDE rows, steps, 2 tiles]
    rows: usize,
    steps: usize,
}

impl<'a> TiledRows<'a> {
    /// `rows` rows whose tiles are the first in `pages`.
    pub(crate) fn new(pages: &'a [Page], rows: usize, inputs: usize) -> Self {
        assert!(pages.len() >= rows.div_ceil(SIDE) * block_pages(inputs));
        Self { pages, rows, steps: inputs.div_ceil(STEP) }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn blocks(&self) -> usize {
        self.rows.div_ceil(SIDE)
    }

    /// The tiles of a block of rows for `steps`, which lie in one piece.
    pub(super) fn steps(&self, block: usize, steps: &Range<usize>) -> &'a [Pair] {
        let start = place(self.blocks(), self.steps, block, steps.start);
        bytes(self.pages)[start..][..steps.len() * PAIR].as_chunks().0
    }
}

/// Where the tiles of a step begin.
fn place(blocks: usize, steps: usize, block: usize, step: usize) -> usize {
    let first = step / PIECE * PIECE;
    (first * blocks + block * PIECE.min(steps - first) + step - first) * PAIR
}

/// Some steps of a block of rows, to tiles. Rows that there are not are zeros.
pub(crate) struct Pack<'a> {
    x: Rows<'a>,
    inputs: usize,
    side: Side,
    block: usize,
    steps: Range<usize>,
    out: &'a Shared<'a, Page>,
    first: usize,
}

impl<'a> Pack<'a> {
    /// Inputs that a part packs.
    const INPUTS: usize = 4 * PIECE * STEP;

    /// How many parts pack these rows.
    pub(crate) fn parts(rows: usize, inputs: usize) -> usize {
        rows.div_ceil(SIDE) * inputs.div_ceil(Self::INPUTS)
    }

    /// One of these parts. The tiles of these rows begin with page `first` of `out`.
    ///
    /// # Safety
    /// Nobody else may use the tiles of this part while this runs.
    pub(crate) unsafe fn new(
        x: Rows<'a>,
        inputs: usize,
        side: Side,
        part: usize,
        out: &'a Shared<'a, Page>,
        first: usize,
    ) -> Self {
        let count = inputs.div_ceil(Self::INPUTS);
        let input = part % count * Self::INPUTS;
        let steps = input / STEP..inputs.min(input + Self::INPUTS).div_ceil(STEP);
        Self { x, inputs, side, block: part / count, steps, out, first }
    }
}

impl TileJob for Pack<'_> {
    #[inline(always)]
    fn run(self, _: &Tiles) {
        let rows = self.x.len();
        let blocks = rows.div_ceil(SIDE);
        let all = self.inputs.div_ceil(STEP);
        let first = self.block * SIDE;
        let x: [Option<*const f32>; SIDE] =
            std::array::from_fn(|r| (first + r < rows).then(|| self.x.start(first + r, self.inputs)));
        for steps in pieces(self.steps.clone()) {
            let start = self.first * size_of::<Page>() + place(blocks, all, self.block, steps.start);
            let end = start + steps.len() * PAIR;
            let out = self.out.pointer(start / size_of::<Page>()..end.div_ceil(size_of::<Page>()));
            // SAFETY: inside the pages just asked for.
            let out = unsafe { out.cast::<u8>().add(start % size_of::<Page>()) };
            for (index, step) in steps.enumerate() {
                let input = step * STEP;
                let count = (self.inputs - input).min(STEP) as u32;
                // Lanes that exist, of 32.
                let mask = u32::MAX >> (32 - count);
                for tile in 0..2 {
                    // SAFETY: `Rows::start` checked the inputs of each row, of which the masks leave those that exist; the tiles
                    // lie in the pages, which are ours by the promise of the caller of `new`. The job runs with AMX, whose proof
                    // includes these instructions.
                    unsafe {
                        let mut lines = [_mm512_setzero_si512(); TILE_ROWS];
                        for (line, x) in lines.iter_mut().zip(&x[tile * TILE_ROWS..]) {
                            if let Some(x) = x {
                                let x = x.add(input);
                                let low = _mm512_maskz_loadu_ps(mask as u16, x);
                                let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, x.wrapping_add(16));
                                *line = narrow(low, high);
                            }
                        }
                        if self.side == Side::Right {
                            lines = transpose(lines);
                        }
                        let out = out.add(index * PAIR + tile * TILE);
                        for (r, line) in lines.iter().enumerate() {
                            _mm512_storeu_si512(out.add(64 * r).cast(), *line);
                        }
                    }
                }
            }
        }
    }
}
