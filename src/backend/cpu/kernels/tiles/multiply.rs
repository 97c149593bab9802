//! Sums of packed activations by weights, a piece of weights at a time.

use std::ops::Range;

use super::block::{Next, Steps, due};
use super::matrix::{Matrix, Region, Staged, UNITS, Units, Weights};
use super::{PAIR, PIECE, SIDE, STEP, TILE_ROWS, TiledRows};
use crate::backend::cpu::simd::amx::{Begin, Block, Sums, Tiles};
use std::arch::x86_64::*;

/// Bytes of activations that pieces are kept to for a while: some of a second-level cache, which holds sums and weights as well.
const RESIDENT: usize = 384 << 10;

/// A thread's buffers, grown once.
#[derive(Default)]
pub(super) struct Local {
    pub(super) work: Work,
    /// Of up to two products.
    pub(super) sums: [Vec<Block>; 2], // [panels, blocks], and perhaps one more
}

/// What nobody needs after a product.
#[derive(Default)]
pub(super) struct Work {
    /// A piece of unpacked weights, and the next one.
    weights: Vec<Piece>, // [2]
    staged: Staged,
    /// Sums that are still to be scaled.
    groups: Vec<Block>, // [panels, blocks], and one more
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
    round: Round,
    /// Its number among those of the round.
    turn: usize,
    /// The round after this one.
    after: Option<Round>,
}

/// A piece of each of some panels that take turns.
#[derive(Clone, Copy)]
struct Round {
    /// The first one.
    panel: usize,
    panels: usize,
    /// The first step.
    start: usize,
    odd: bool,
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
    round: Option<Round>,
    turn: usize,
}

impl Course {
    fn new([panels, all]: [usize; 2], span: usize, together: usize) -> Self {
        let mut course = Self { panels, all, span, together, round: None, turn: 0 };
        if panels > 0 && all > 0 {
            course.round = Some(course.round(0, 0, false));
        }
        course
    }

    #[inline(always)]
    fn round(&self, panel: usize, start: usize, odd: bool) -> Round {
        Round { panel, panels: self.together.min(self.panels - panel), start, odd }
    }

    #[inline(always)]
    fn after(&self, Round { panel, panels, start, odd }: Round) -> Option<Round> {
        let first = start / self.span * self.span;
        let end = self.all.min(first + self.span);
        let (panel, start) = if start + PIECE < end {
            (panel, start + PIECE)
        } else if panel + panels < self.panels {
            (panel + panels, first)
        } else if end < self.all {
            (0, end)
        } else {
            return None;
        };
        Some(self.round(panel, start, !odd))
    }
}

impl Iterator for Course {
    type Item = Place;

    #[inline(always)]
    fn next(&mut self) -> Option<Place> {
        let (round, turn) = (self.round?, self.turn);
        let after = self.after(round);
        if turn + 1 < round.panels {
            self.turn += 1;
        } else {
            (self.turn, self.round) = (0, after);
        }
        let steps = round.start..self.all.min(round.start + PIECE);
        Some(Place { panel: round.panel + turn, steps, round, turn, after })
    }
}

/// What becomes of sums.
pub(super) trait Ending {
    /// The sums of a panel are there. Must be `inline(always)`.
    fn end(&self, panel: usize, sums: &[Block]);
}

/// The sums stay where they are.
impl Ending for () {
    #[inline(always)]
    fn end(&self, _: usize, _: &[Block]) {}
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

    /// The weights of a round.
    #[inline(always)]
    fn region(&self, round: Round) -> Region {
        let column = self.column(round.panel);
        let columns = (round.panels * SIDE).min(self.columns.end - column);
        Region { column, columns, input: round.start * STEP, odd: round.odd }
    }

    /// The units of a piece.
    #[inline(always)]
    fn units(&self, place: &Place) -> Units<'_> {
        let after = place.after.map(|round| self.region(round));
        Units::new(&self.matrix, self.region(place.round), place.turn, after)
    }

    /// While a piece of weights is multiplied the next one is unpacked, evenly spread over the steps.
    #[inline(always)]
    pub(super) fn run(
        &self,
        tiles: &Tiles,
        Work { weights, staged, groups }: &mut Work,
        out: &mut Vec<Block>, // [panels, blocks], and perhaps one more
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
        let (sums, mut scaled) = match self.matrix.scales {
            None => (out, None),
            Some(_) => {
                out.resize(none, ZERO);
                (groups, Some(out))
            }
        };
        sums.resize(none + 1, ZERO);
        weights.resize(2, Piece([0; _]));
        let [now, then] = &mut weights[..] else { return };
        let (mut now, mut then) = (&mut now.0, &mut then.0);
        let mut course = Course::new([panels, all], span, self.matrix.together);
        let mut next = course.next();
        let Some(first) = &next else { return };
        self.matrix.begin(&self.region(first.round), staged);
        let mut units = self.units(first);
        let nothing = Steps { weights: then, x: &[], half: false, turn: None, begin: Begin::Zero };
        // SAFETY: `tiles` is there, so the processor has all that `Amx` proves.
        unsafe { (self.matrix.run)(tiles, nothing, UNITS, Next { units: &mut units, staged, out: now }) };
        // The block whose sums are in the tiles.
        let mut inside = none;
        while let Some(place) = next {
            next = course.next();
            if let Some(next) = &next {
                units = self.units(next);
            }
            let begin = if place.steps.start % group == 0 { Begin::Zero } else { Begin::Load };
            let panel = place.panel * blocks..(place.panel + 1) * blocks;
            for (block, index) in panel.clone().enumerate() {
                let steps = Steps {
                    weights: now,
                    x: self.x.steps(block, &place.steps),
                    half: self.x.rows() - block * SIDE <= TILE_ROWS,
                    turn: sums.get_disjoint_mut([inside, index]).ok(),
                    begin,
                };
                inside = index;
                let due = if next.is_some() { due(block, blocks) } else { 0 };
                // SAFETY: as above.
                unsafe {
                    (self.matrix.run)(tiles, steps, due, Next { units: &mut units, staged, out: then })
                };
            }
            if place.steps.end == all || place.steps.end % group == 0 {
                tiles.end(&mut sums[inside]);
                inside = none;
                if let Some(scaled) = &mut scaled {
                    let group = place.steps.start / group;
                    self.scale(place.panel, group, &sums[panel.clone()], &mut scaled[panel.clone()]);
                }
            }
            if place.steps.end == all {
                let sums = scaled.as_deref().unwrap_or(sums);
                ending.end(place.panel, &sums[panel]);
            }
            std::mem::swap(&mut now, &mut then);
        }
    }

    /// Adds the sums of a group of inputs, each times the scale of its output, to those of the groups before.
    #[inline(always)]
    fn scale(&self, panel: usize, group: usize, sums: &[Block], out: &mut [Block]) {
        // SAFETY: the job runs with AMX, whose proof includes these instructions; a line is a vector.
        unsafe {
            let mut scales = [_mm512_setzero_ps(); 2]; // of the columns of each tile
            for tile in 0..2 {
                let column = (self.column(panel) + tile * TILE_ROWS).min(self.columns.end);
                scales[tile] = self.matrix.scale(group, column, (self.columns.end - column).min(TILE_ROWS));
            }
            for (sums, out) in sums.iter().zip(out) {
                for tile in 0..4 {
                    for line in 0..TILE_ROWS {
                        let (sums, out) = (&sums.0[tile].0[line], &mut out.0[tile].0[line]);
                        let before =
                            if group == 0 { _mm512_setzero_ps() } else { _mm512_load_ps(out.as_ptr()) };
                        let sums = _mm512_load_ps(sums.as_ptr());
                        _mm512_store_ps(out.as_mut_ptr(), _mm512_fmadd_ps(sums, scales[tile % 2], before));
                    }
                }
            }
        }
    }
}
