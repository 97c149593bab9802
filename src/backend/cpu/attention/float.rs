//! Attention in f32, for any vectors and any cache: each score is one chain of sums over the elements of a key, each value of a
//! span one over its positions, for one query as for many. Uses `simd` and `kernels`.

#![allow(clippy::needless_range_loop, reason = "index loops over registers read as the arithmetic they are")]

use std::marker::PhantomData;

use super::weigh::{Total, Weighing};
use super::{Kv, Span};
use crate::backend::PAGE;
use crate::backend::cpu::kernels::{Element, each};
use crate::backend::cpu::simd::{Job, MAX_LANES, Simd};

/// Columns that products come in: whatever has fewer is padded.
pub(super) const COLUMNS: usize = PAGE;

/// A thread's buffers, grown once.
#[derive(Default)]
pub(super) struct Buffers {
    /// A page's keys, then its values in their place: both would not fit the first-level cache.
    page: Vec<f32>, // [head_dim, PAGE] or [PAGE, columns]
    scores: Vec<f32>,   // [vectors, PAGE]
    totals: Vec<Total>, // [vectors]
}

/// One span for all vectors of a block.
pub(super) struct Floats<'a, E> {
    pub(super) span: &'a Span<'a>,
    pub(super) query: &'a [f32], // [vectors, head_dim]
    pub(super) dim: usize,
    pub(super) weighing: Weighing,
    pub(super) buffers: &'a mut Buffers,
    /// Sums of weighted values, of which `head_dim` columns count.
    pub(super) out: &'a mut [f32], // [vectors, columns]
    pub(super) weights: &'a mut [[f32; 2]], // [vectors]: their reference, their sum
    pub(super) element: PhantomData<E>,
}

impl<E: Element> Job for Floats<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (vectors, dim) = (self.weights.len(), self.dim);
        let columns = dim.next_multiple_of(COLUMNS);
        let Buffers { page: converted, scores, totals } = self.buffers;
        converted.resize(PAGE * columns, 0.0);
        scores.resize(vectors * PAGE, 0.0);
        totals.clear();
        totals.extend((0..vectors).map(|_| self.weighing.total()));
        self.out.fill(0.0);
        assert!(self.query.len() >= vectors * dim && self.out.len() >= vectors * columns);

        for (index, page) in self.span.pages.iter().enumerate() {
            let Kv { count, .. } = *page;
            // What will be read next is fetched while the processor multiplies.
            let next = self.span.pages.get(index + 1).copied().unwrap_or_default();
            transpose::<S, E>(s, page.keys, dim, count, converted);
            let query = Left { data: self.query, stride: dim, rows: vectors };
            product(s, query, dim, converted, PAGE, scores, false, next.keys);
            for (vector, total) in totals.iter_mut().enumerate() {
                let scores = scores[vector * PAGE..][..PAGE].as_mut_ptr();
                // SAFETY: a page of scores, one vector of them after the other.
                let factor = unsafe {
                    let seen = self.span.seen(vector, index);
                    let factor = self.weighing.page(s, scores, seen, total);
                    total.add(s, scores);
                    factor
                };
                if factor != 1.0 {
                    self.out[vector * columns..][..columns].iter_mut().for_each(|x| *x *= factor);
                }
            }
            convert::<S, E>(s, page.values, dim, count, converted);
            let weights = Left { data: scores, stride: PAGE, rows: vectors };
            product(s, weights, count, converted, columns, self.out, true, next.values);
        }
        for (to, total) in self.weights.iter_mut().zip(totals) {
            *to = [total.reference, total.sum(s)];
        }
    }
}

/// Keys of a page as `[head_dim, PAGE]`. Columns behind `count` are anything.
#[inline(always)]
fn transpose<S: Simd, E: Element>(s: S, keys: &[u8], dim: usize, count: usize, out: &mut [f32]) {
    // Squares of 32-bit words.
    let mut square = [0_u32; MAX_LANES * MAX_LANES];
    let mut padded = square;
    let (row, per_word) = (dim * E::SIZE, 4 / E::SIZE);
    let words = row / 4;
    assert!(row.is_multiple_of(4) && keys.len() >= PAGE * row && out.len() >= dim * PAGE);
    for position in (0..count).step_by(S::LANES) {
        for first in (0..words).step_by(S::LANES) {
            let own = S::LANES.min(words - first);
            // SAFETY: rows up to a multiple of LANES are within the page, words up to `own` within their row; the square holds
            // LANES rows of LANES; each word is one or two of the `dim` rows of `out`, which have LANES places from `position` on.
            unsafe {
                let mut from = keys.as_ptr().add(position * row + first * 4);
                let mut stride = row;
                if own < S::LANES {
                    for i in 0..S::LANES {
                        let to = padded.as_mut_ptr().add(i * S::LANES);
                        from.add(i * row).copy_to_nonoverlapping(to.cast(), own * 4);
                    }
                    (from, stride) = (padded.as_ptr().cast(), S::LANES * 4);
                }
                s.transpose(from, stride, square.as_mut_ptr().cast());
                for word in 0..own {
                    let from = square.as_ptr().add(word * S::LANES).cast();
                    let to = out.as_mut_ptr().add((first + word) * per_word * PAGE + position);
                    if per_word == 2 {
                        let [even, odd] = s.load_pairs(from);
                        s.store_f32(to.cast(), even);
                        s.store_f32(to.add(PAGE).cast(), odd);
                    } else {
                        s.store_f32(to.cast(), s.load_f32(from));
                    }
                }
            }
        }
    }
}

/// Values of a page as f32, `[count, columns]`. Columns behind `dim` are anything.
#[inline(always)]
fn convert<S: Simd, E: Element>(s: S, values: &[u8], dim: usize, count: usize, out: &mut [f32]) {
    let columns = dim.next_multiple_of(COLUMNS);
    assert!(values.len() >= count * dim * E::SIZE && out.len() >= count * columns);
    for position in 0..count {
        // SAFETY: the row exists on both sides; `each` stays below `dim`.
        unsafe {
            let from = values.as_ptr().add(position * dim * E::SIZE);
            let to = out.as_mut_ptr().add(position * columns);
            each!(s, dim, |s, i| s.store_f32(to.add(i).cast(), E::load(s, from.add(i * E::SIZE))));
        }
    }
}

/// The left side of a product.
#[derive(Clone, Copy)]
struct Left<'a> {
    data: &'a [f32], // [rows, stride]
    stride: usize,
    rows: usize,
}

/// `out = left[.., ..inner] · right`, or added to what is there. `ahead` is fetched on the way.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn product<S: Simd>(
    s: S,
    left: Left<'_>,
    inner: usize,
    right: &[f32], // [inner, columns]
    columns: usize,
    out: &mut [f32], // [rows, columns]
    add: bool,
    ahead: &[u8],
) {
    let Left { data, stride, rows } = left;
    assert!(columns.is_multiple_of(COLUMNS) && right.len() >= inner * columns);
    assert!(inner <= stride && data.len() >= rows * stride && out.len() >= rows * columns);
    let (left, right, out) = (data.as_ptr(), right.as_ptr(), out.as_mut_ptr());
    let strips = columns / COLUMNS;
    for strip in 0..strips {
        let mut row = 0;
        // The first rows fetch.
        let mut ahead = &ahead[ahead.len() * strip / strips..ahead.len() * (strip + 1) / strips];
        macro_rules! tiles {
            ($rows:literal, $vectors:literal) => {
                while rows - row >= $rows {
                    for column in (0..COLUMNS).step_by($vectors * S::LANES) {
                        let column = strip * COLUMNS + column;
                        // SAFETY: the rows and columns exist, as checked above.
                        unsafe {
                            let left = left.add(row * stride);
                            let out = out.add(row * columns + column);
                            let right = right.add(column);
                            tile::<S, $rows, $vectors>(
                                s,
                                [left, right],
                                stride,
                                inner,
                                columns,
                                out,
                                add,
                                ahead,
                            );
                        }
                        ahead = &[];
                    }
                    row += $rows;
                }
            };
        }
        if S::WIDE {
            tiles!(6, 4);
            tiles!(4, 4);
        } else {
            tiles!(6, 2);
            tiles!(4, 2);
        }
        tiles!(2, 4);
        tiles!(1, 4);
    }
}

/// `R` rows times `V` vectors of columns, in registers.
///
/// # Safety
/// They must exist, for `inner` columns on the left and rows on the right.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<S: Simd, const R: usize, const V: usize>(
    s: S,
    [left, right]: [*const f32; 2],
    stride: usize,
    inner: usize,
    columns: usize,
    out: *mut f32,
    add: bool,
    ahead: &[u8],
) {
    let fetched = ahead.len().div_ceil(inner.max(1));
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[s.splat(0.0); V]; R]; // [R, V]
        if add {
            for r in 0..R {
                for v in 0..V {
                    sums[r][v] = s.load_f32(out.add(r * columns + v * S::LANES).cast());
                }
            }
        }
        for i in 0..inner {
            for line in (0..fetched).step_by(64) {
                s.prefetch(ahead.as_ptr().wrapping_add(i * fetched + line));
            }
            let mut x = [s.splat(0.0); V];
            for v in 0..V {
                x[v] = s.load_f32(right.add(i * columns + v * S::LANES).cast());
            }
            for r in 0..R {
                let factor = s.splat(*left.add(r * stride + i));
                for v in 0..V {
                    sums[r][v] = s.fma(factor, x[v], sums[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                s.store_f32(out.add(r * columns + v * S::LANES).cast(), sums[r][v]);
            }
        }
    }
}
