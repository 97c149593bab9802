//! The product of packed activations with a matrix.

use std::arch::x86_64::*;
use std::ops::Range;

use super::matrix::{Matrix, Staged, UNITS, Units, Weights};
use super::{PAIR, PIECE, SIDE, STEP, Side, TILE_ROWS, TiledRows, transpose};
use crate::backend::cpu::kernels::Out;
use crate::backend::cpu::simd::amx::{Begin, Block, Pair, Step, Streamed, Sums, TileJob, Tiles};

/// Bytes of activations that pieces are kept to for a while: some of a second-level cache, which holds sums and weights as well.
const RESIDENT: usize = 384 << 10;

/// `out[r, j] = x[r, ..inputs] · weights[.., j]` for the `j` in `columns`, with weights rounded to bf16.
pub(crate) struct Product<'a> {
    x: TiledRows<'a>,
    matrix: Matrix<'a>,
    columns: Range<usize>,
    out: Out<'a>,
}

/// A thread's buffers, grown once.
#[derive(Default)]
struct Local {
    /// A piece of weights, and the next one.
    weights: Vec<Piece>, // [2]
    staged: Staged,
    sums: Vec<Block>, // [panels, blocks]
}

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Piece(Weights);

thread_local! {
    static LOCAL: std::cell::Cell<Local> = std::cell::Cell::default();
}

const ZERO: Block = Block([Sums([[0.0; 16]; TILE_ROWS]); 4]);

/// A panel of [`SIDE`] outputs, and the steps of a piece.
struct Place {
    panel: usize,
    steps: Range<usize>,
}

/// The pieces of a matrix in the order they are worked on: panel by panel, or some panels at a time, those whose activations stay in
/// the cache, then the next.
struct Course {
    panels: usize,
    /// Steps of the matrix.
    all: usize,
    /// Steps whose activations stay, whole pieces.
    span: usize,
    /// Panels that take turns, piece by piece.
    together: usize,
    panel: usize,
    start: usize,
}

impl Iterator for Course {
    type Item = Place;

    #[inline(always)]
    fn next(&mut self) -> Option<Place> {
        if self.start >= self.all || self.panels == 0 {
            return None;
        }
        let place = Place { panel: self.panel, steps: self.start..self.all.min(self.start + PIECE) };
        let panel = self.panel / self.together * self.together;
        let last = self.panels.min(panel + self.together);
        let first = self.start / self.span * self.span;
        let end = self.all.min(first + self.span);
        (self.panel, self.start) = if self.panel + 1 < last {
            (self.panel + 1, self.start)
        } else if place.steps.end < end {
            (panel, place.steps.end)
        } else if last < self.panels {
            (last, first)
        } else {
            (0, end)
        };
        Some(place)
    }
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
        Self { x, matrix, columns, out }
    }

    /// The units of a piece.
    #[inline(always)]
    fn units(&self, place: &Place) -> Units<'_> {
        let first = self.columns.start + place.panel * SIDE;
        let columns = first..self.columns.end.min(first + SIDE);
        Units::new(&self.matrix, columns, place.panel % self.matrix.together, place.steps.start * STEP)
    }

    #[inline(always)]
    fn step<'b>(&self, weights: &'b Pair, x: &'b Pair) -> Step<'b> {
        match self.matrix.side {
            Side::Left => Step { streamed: Streamed::Left, left: x, right: weights },
            Side::Right => Step { streamed: Streamed::Right, left: weights, right: x },
        }
    }

    /// Writes the sums of a panel over a group of inputs, or adds them to those of the groups before.
    #[inline(always)]
    fn end(&self, panel: usize, group: usize, sums: &[Block]) {
        let (rows, columns) = (self.x.rows(), self.columns.end);
        let first = self.columns.start + panel * SIDE;
        for (block, sums) in sums.iter().enumerate() {
            for (tile, sums) in sums.0.iter().enumerate() {
                let (of_row, of_column) = match self.matrix.side {
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
                    if self.matrix.side == Side::Right {
                        lines = transpose(lines);
                    }
                    let scale = self.scale(group, column, mask);
                    for i in 0..TILE_ROWS.min(rows - row) {
                        let out = self.out.start(row + i, column, count);
                        let before =
                            if group == 0 { _mm512_setzero_ps() } else { _mm512_maskz_loadu_ps(mask, out) };
                        let line = _mm512_fmadd_ps(_mm512_castsi512_ps(lines[i]), scale, before);
                        _mm512_mask_storeu_ps(out, mask, line);
                    }
                }
            }
        }
    }

    /// What the sums of a group are multiplied by, for the outputs from `column` on that `mask` has.
    ///
    /// # Safety
    /// The processor must have AVX-512 BW and VL; callers are compiled with them. The outputs must exist.
    #[inline(always)]
    unsafe fn scale(&self, group: usize, column: usize, mask: u16) -> __m512 {
        // SAFETY: `Matrix` checked that there are scales for all outputs; the rest is the caller's.
        unsafe {
            match self.matrix.scales {
                None => _mm512_set1_ps(1.0),
                Some(scales) => {
                    let bytes = &scales.bytes[(group * self.matrix.outputs + column) * 2..];
                    let bits = _mm256_maskz_loadu_epi16(mask, bytes.as_ptr().cast());
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
                }
            }
        }
    }
}

impl TileJob for Product<'_> {
    /// While a piece of weights is multiplied the next one is unpacked, evenly spread over the steps.
    #[inline(always)]
    fn run(self, tiles: &Tiles) {
        // Taken out and put back: a closure would not be compiled with the instructions.
        let mut local = LOCAL.take();
        let blocks = self.x.blocks();
        let panels = self.columns.len().div_ceil(SIDE);
        let all = self.matrix.inputs.div_ceil(STEP);
        // Whole pieces, unless there is one.
        let group = self.matrix.scales.map_or(all, |scales| scales.group.div_ceil(STEP)).min(all).max(1);
        let span = (RESIDENT / (blocks * PIECE * PAIR).max(1)).max(1) * PIECE;
        local.sums.resize(panels * blocks, ZERO);
        local.weights.resize(2, Piece([0; _]));
        let staged = &mut local.staged;
        self.matrix.reserve(staged);
        let [now, then] = &mut local.weights[..] else { return };
        let (mut now, mut then) = (&mut now.0, &mut then.0);
        let mut course = Course { panels, all, span, together: self.matrix.together, panel: 0, start: 0 };
        let mut next = course.next();
        if let Some(place) = &next {
            let mut units = self.units(place);
            for _ in 0..UNITS {
                units.one(tiles, staged, now);
            }
        }
        while let Some(place) = next {
            next = course.next();
            let mut units = next.as_ref().map(|next| self.units(next));
            let begin = if place.steps.start % group == 0 { Begin::Zero } else { Begin::Load };
            let panel = &mut local.sums[place.panel * blocks..][..blocks];
            let steps = blocks * place.steps.len();
            let mut due = 0;
            let mut ended: Option<&mut Block> = None;
            for (block, sums) in panel.iter_mut().enumerate() {
                // Rows that there are not are zeros: to leave them out saves time and nothing else.
                let half = self.x.rows() - block * SIDE <= TILE_ROWS;
                let pairs = now.as_chunks().0.iter().zip(self.x.steps(block, &place.steps));
                for (index, (weights, x)) in pairs.enumerate() {
                    let step = self.step(weights, x);
                    if index > 0 && half {
                        tiles.half(step);
                    } else if index > 0 {
                        tiles.step(step);
                    } else if let Some(ended) = ended.take() {
                        tiles.turn(ended, begin, sums, step);
                    } else {
                        tiles.begin(begin, sums);
                        tiles.step(step);
                    }
                    if let Some(units) = &mut units {
                        due += UNITS;
                        while due >= steps {
                            due -= steps;
                            units.one(tiles, staged, then);
                        }
                    }
                }
                ended = Some(sums);
            }
            if let Some(ended) = ended {
                tiles.end(ended);
            }
            if place.steps.end == all || place.steps.end % group == 0 {
                self.end(place.panel, place.steps.start / group, panel);
            }
            std::mem::swap(&mut now, &mut then);
        }
        LOCAL.set(local);
    }
}
