//! Activations to tiles.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{PAIR, PIECE, SIDE, STEP, TILE, TILE_ROWS, bytes, narrow, transpose};
use crate::backend::cpu::kernels::Rows;
use crate::backend::cpu::kernels::pages::{Page, half_block_pages};
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
        assert!(pages.len() >= rows.div_ceil(SIDE) * half_block_pages(inputs));
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

/// The same, to be written.
#[derive(Clone, Copy)]
pub(crate) struct TiledPages<'a> {
    pages: &'a Shared<'a, Page>,
    /// The first of them.
    first: usize,
    rows: usize,
    inputs: usize,
}

impl<'a> TiledPages<'a> {
    /// `rows` rows whose tiles begin with page `first`.
    pub(crate) fn new(pages: &'a Shared<'a, Page>, first: usize, rows: usize, inputs: usize) -> Self {
        Self { pages, first, rows, inputs }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// The two tiles of a block of rows for a step.
    #[inline(always)]
    pub(super) fn step(&self, block: usize, step: usize) -> *mut u8 {
        let start = place(self.rows.div_ceil(SIDE), self.inputs.div_ceil(STEP), block, step);
        // Steps do not straddle pages: each holds two.
        let page = self.first + start / size_of::<Page>();
        let page = self.pages.pointer(page..page + 1);
        page.cast::<u8>().wrapping_add(start % size_of::<Page>())
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
    out: TiledPages<'a>,
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
        pages: &'a Shared<'a, Page>,
        first: usize,
    ) -> Self {
        let out = TiledPages::new(pages, first, x.len(), inputs);
        let count = inputs.div_ceil(Self::INPUTS);
        let input = part % count * Self::INPUTS;
        let steps = input / STEP..inputs.min(input + Self::INPUTS).div_ceil(STEP);
        Self { x, inputs, side, block: part / count, steps, out }
    }
}

impl TileJob for Pack<'_> {
    #[inline(always)]
    fn run(self, _: &Tiles) {
        let rows = self.x.len();
        let first = self.block * SIDE;
        let x: [Option<*const f32>; SIDE] =
            std::array::from_fn(|r| (first + r < rows).then(|| self.x.start(first + r, self.inputs)));
        for step in self.steps.clone() {
            let out = self.out.step(self.block, step);
            let input = step * STEP;
            let count = (self.inputs - input).min(STEP) as u32;
            // Lanes that exist, of 32.
            let mask = u32::MAX >> (32 - count);
            for tile in 0..2 {
                // SAFETY: `Rows::start` checked the inputs of each row, of which the masks leave those that exist; the tiles are ours by
                // the promise of the caller of `new`. The job runs with AMX, whose proof includes these instructions.
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
                    for (r, line) in lines.iter().enumerate() {
                        _mm512_storeu_si512(out.add(tile * TILE + 64 * r).cast(), *line);
                    }
                }
            }
        }
    }
}
