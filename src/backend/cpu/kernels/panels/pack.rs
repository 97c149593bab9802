//! Activations to vectors of an input of several rows.

use std::ops::Range;

use super::DEPTH;
use crate::backend::cpu::kernels::Rows;
use crate::backend::cpu::kernels::pages::{BLOCK, Page, block_pages, floats};
use crate::backend::cpu::shared::Shared;
use crate::backend::cpu::simd::{Job, MAX_LANES, Simd};

/// Inputs are filled up to a multiple of this with zeros.
const WHOLE: usize = 32;
const _: () = assert!(BLOCK.is_multiple_of(MAX_LANES) && WHOLE.is_multiple_of(MAX_LANES));

/// Rows of activations as vectors.
#[derive(Clone, Copy)]
pub(crate) struct PackedRows<'a> {
    pages: &'a [Page], // [inputs / DEPTH, vectors, DEPTH, lanes]
    rows: usize,
    inputs: usize,
}

/// Vectors of some inputs.
#[derive(Clone, Copy)]
pub(super) struct Vectors<'a> {
    pub(super) data: &'a [f32], // [vectors, inputs, lanes]
    /// From those of some rows to those of the next.
    pub(super) distance: usize,
}

impl<'a> PackedRows<'a> {
    /// `rows` rows whose vectors are the first in `pages`.
    pub(crate) fn new(pages: &'a [Page], rows: usize, inputs: usize) -> Self {
        assert!(pages.len() >= rows.div_ceil(BLOCK) * block_pages(inputs));
        Self { pages, rows, inputs }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Those of the inputs from `first` on, which is a multiple of DEPTH.
    pub(super) fn vectors<S: Simd>(&self, first: usize) -> Vectors<'a> {
        let place = Place::new::<S>(self.rows, self.inputs, first);
        Vectors { data: &floats(self.pages)[place.start..], distance: place.distance }
    }
}

/// Where the vectors of some inputs are.
struct Place {
    start: usize,
    distance: usize,
}

impl Place {
    fn new<S: Simd>(rows: usize, inputs: usize, first: usize) -> Self {
        let inputs = inputs.next_multiple_of(WHOLE);
        let start = first * rows.next_multiple_of(BLOCK);
        Self { start, distance: DEPTH.min(inputs - first) * S::LANES }
    }
}

/// Some inputs of a block of rows, to vectors. Rows that there are not are zeros.
pub(crate) struct Pack<'a> {
    x: Rows<'a>,
    inputs: usize,
    block: usize,
    part: Range<usize>,
    out: &'a Shared<'a, Page>,
    first: usize,
}

impl<'a> Pack<'a> {
    /// Inputs that a part packs.
    const INPUTS: usize = 8 * DEPTH;

    /// How many parts pack these rows.
    pub(crate) fn parts(rows: usize, inputs: usize) -> usize {
        rows.div_ceil(BLOCK) * inputs.div_ceil(Self::INPUTS)
    }

    /// One of these parts. The vectors of these rows begin with page `first` of `out`.
    ///
    /// # Safety
    /// Nobody else may use the vectors of this part while this runs.
    pub(crate) unsafe fn new(
        x: Rows<'a>,
        inputs: usize,
        part: usize,
        out: &'a Shared<'a, Page>,
        first: usize,
    ) -> Self {
        let count = inputs.div_ceil(Self::INPUTS);
        let input = part % count * Self::INPUTS;
        let inner = input..inputs.min(input + Self::INPUTS);
        Self { x, inputs, block: part / count, part: inner, out, first }
    }
}

impl Job for Pack<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.x.len();
        let end = rows.min((self.block + 1) * BLOCK);
        let pages = self.first..self.first + rows.div_ceil(BLOCK) * block_pages(self.inputs);
        let out = self.out.pointer(pages).cast::<f32>();
        let mut square = [0.0; MAX_LANES * MAX_LANES];
        for row in (self.block * BLOCK..end).step_by(S::LANES) {
            let mut x = [None; MAX_LANES];
            for (i, x) in x.iter_mut().enumerate().take(S::LANES.min(end - row)) {
                *x = Some(self.x.start(row + i, self.inputs));
            }
            for first in self.part.clone().step_by(DEPTH) {
                let place = Place::new::<S>(rows, self.inputs, first);
                let start = place.start + row / S::LANES * place.distance;
                for input in (first..self.part.end.min(first + DEPTH)).step_by(S::LANES) {
                    let count = (self.part.end - input).min(S::LANES);
                    for (line, x) in square.chunks_exact_mut(S::LANES).zip(x) {
                        // SAFETY: `Rows::start` checked the inputs of each row, of which there are `count` more; a line is a vector.
                        unsafe {
                            match x {
                                Some(x) if count == S::LANES => {
                                    let x = s.load_f32(x.add(input).cast());
                                    s.store_f32(line.as_mut_ptr().cast(), x);
                                }
                                Some(x) => {
                                    line.fill(0.0);
                                    x.add(input).copy_to_nonoverlapping(line.as_mut_ptr(), count);
                                }
                                None => line.fill(0.0),
                            }
                        }
                    }
                    // SAFETY: the square has a line per lane. Blocks of pages hold their rows' inputs, filled up to whole vectors,
                    // and these are ours by the promise of the caller of `new`.
                    unsafe {
                        let out = out.add(start + (input - first) * S::LANES);
                        s.transpose(square.as_ptr().cast(), 4 * S::LANES, out.cast());
                    }
                }
            }
        }
    }
}
