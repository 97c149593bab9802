//! Sums of packed activations by weights, a piece of weights at a time.

use std::ops::Range;

use super::matrix::{Matrix, Staged, UNITS, Units, Weights};
use super::{PAIR, PIECE, SIDE, STEP, Side, TILE_ROWS, TiledRows};
use crate::backend::cpu::simd::amx::{Begin, Block, Pair, Step, Streamed, Sums, Tiles};

/// Bytes of activations that pieces are kept to for a while: some of a second-level cache, which holds sums and weights as well.
const RESIDENT: usize = 384 << 10;

/// A thread's buffers, grown once.
#[derive(Default)]
pub(super) struct Local {
    pub(super) pieces: Pieces,
    /// Of up to two products.
    pub(super) sums: [Vec<Block>; 2], // [panels, blocks], and one more
}

/// What weights are unpacked to.
#[derive(Default)]
pub(super) struct Pieces {
    /// A piece, and the next one.
    weights: Vec<Piece>, // [2]
    staged: Staged,
}

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Piece(Weights);

thread_local! {
    pub(super) static LOCAL: std::cell::Cell<Local> = std::cell::Cell::default();
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

/// What becomes of sums.
pub(super) trait Ending {
    /// The sums of a panel over a group of inputs are there. Must be `inline(always)`.
    fn end(&self, panel: usize, group: usize, sums: &[Block]);
}

/// The sums stay where they are.
impl Ending for () {
    #[inline(always)]
    fn end(&self, _: usize, _: usize, _: &[Block]) {}
}

/// A product of packed activations with some columns of a matrix, with weights rounded to bf16.
pub(super) struct Multiply<'a> {
    pub(super) x: TiledRows<'a>,
    pub(super) matrix: Matrix<'a>,
    pub(super) columns: Range<usize>,
}

impl Multiply<'_> {
    /// Where the outputs of a panel begin.
    #[inline(always)]
    pub(super) fn column(&self, panel: usize) -> usize {
        self.columns.start + panel * SIDE
    }

    /// The units of a piece.
    #[inline(always)]
    fn units(&self, place: &Place) -> Units<'_> {
        let first = self.column(place.panel);
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

    /// While a piece of weights is multiplied the next one is unpacked, evenly spread over the steps.
    #[inline(always)]
    pub(super) fn run(
        &self,
        tiles: &Tiles,
        pieces: &mut Pieces,
        sums: &mut Vec<Block>, // [panels, blocks], and one more
        ending: &impl Ending,
    ) {
        let blocks = self.x.blocks();
        let panels = self.columns.len().div_ceil(SIDE);
        let all = self.matrix.inputs.div_ceil(STEP);
        // Whole pieces, unless there is one.
        let group = self.matrix.scales.map_or(all, |scales| scales.group.div_ceil(STEP)).min(all).max(1);
        let span = (RESIDENT / (blocks * PIECE * PAIR).max(1)).max(1) * PIECE;
        // Where that goes which is in the tiles before the first sums are, and after the last.
        let none = panels * blocks;
        sums.resize(none + 1, ZERO);
        pieces.weights.resize(2, Piece([0; _]));
        let staged = &mut pieces.staged;
        self.matrix.reserve(staged);
        let [now, then] = &mut pieces.weights[..] else { return };
        let (mut now, mut then) = (&mut now.0, &mut then.0);
        let mut course = Course { panels, all, span, together: self.matrix.together, panel: 0, start: 0 };
        let mut next = course.next();
        if let Some(place) = &next {
            let mut units = self.units(place);
            for _ in 0..UNITS {
                units.one(tiles, staged, now);
            }
        }
        // The block whose sums are in the tiles.
        let mut inside = none;
        while let Some(place) = next {
            next = course.next();
            let mut units = next.as_ref().map(|next| self.units(next));
            let begin = if place.steps.start % group == 0 { Begin::Zero } else { Begin::Load };
            let panel = place.panel * blocks..(place.panel + 1) * blocks;
            let steps = blocks * place.steps.len();
            let mut due = 0;
            for (block, index) in panel.clone().enumerate() {
                // Rows that there are not are zeros: to leave them out saves time and nothing else.
                let half = self.x.rows() - block * SIDE <= TILE_ROWS;
                // None where the same block goes on.
                let mut turn = sums.get_disjoint_mut([inside, index]).ok();
                inside = index;
                for (weights, x) in now.as_chunks().0.iter().zip(self.x.steps(block, &place.steps)) {
                    let step = self.step(weights, x);
                    if let Some([ended, sums]) = turn.take() {
                        tiles.turn(ended, begin, sums, step);
                    } else if half {
                        tiles.half(step);
                    } else {
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
            }
            if place.steps.end == all || place.steps.end % group == 0 {
                tiles.end(&mut sums[inside]);
                inside = none;
                ending.end(place.panel, place.steps.start / group, &sums[panel]);
            }
            std::mem::swap(&mut now, &mut then);
        }
    }
}
