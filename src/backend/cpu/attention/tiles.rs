//! Attention by AMX, for a cache of bf16: queries and weights are rounded to bf16, sums are f32. Uses `simd`.
//!
//! Vectors are rows of the left operands, 16 to a tile. Keys and values become right operands once per page and are used by all
//! vectors of a block: keys transposed, values interleaved, two elements or positions beside one another.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::weigh::{Total, Weighing};
use super::{Kv, SPAN, Span};
use crate::backend::PAGE;
use crate::backend::cpu::kernels::each;
use crate::backend::cpu::simd::amx::{Block, Operand, Sums, TILE, TILE_ROWS, TileJob, Tiles};
use crate::backend::cpu::simd::avx512::Avx512;
use crate::backend::cpu::simd::{Job, Simd};

/// Positions or elements of a key that a tile of a left operand holds.
const STEP: usize = 32;

/// Steps along the positions of a span.
const SPAN_STEPS: usize = SPAN / STEP;

/// Columns of a block of results.
const COLUMNS: usize = 4 * 16;

/// A page of scores is a block.
const _: () = assert!(PAGE == COLUMNS);

/// A thread's buffers, grown once.
#[derive(Default)]
pub(super) struct Buffers {
    query: Vec<Tile>,   // [vectors / 16, head_dim / STEP]
    keys: Vec<Tile>,    // [PAGE / 16, head_dim / STEP]
    weights: Vec<Tile>, // [vectors / 16, SPAN_STEPS]
    values: Vec<Tile>,  // [head_dim / 16, SPAN_STEPS]
    totals: Vec<Total>, // [vectors]
    zeros: Vec<u8>,     // [head_dim] of bf16
    blocks: Vec<Block>, // [2]
}

/// Aligned so that it does not straddle pages: such tiles load slowly.
#[derive(Clone, Copy)]
#[repr(C, align(1024))]
struct Tile([u8; TILE]);

/// The same tiles as bytes.
fn bytes(tiles: &[Tile]) -> &[u8] {
    // SAFETY: tiles are bytes, without padding.
    unsafe { std::slice::from_raw_parts(tiles.as_ptr().cast(), size_of_val(tiles)) }
}

/// Rounds queries and makes them left operands, for [`Tiled`].
pub(super) struct Queries<'a> {
    pub(super) query: &'a [f32], // [vectors, head_dim]
    pub(super) dim: usize,
    pub(super) buffers: &'a mut Buffers,
}

impl Job for Queries<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let steps = self.dim.div_ceil(STEP);
        let tiles = &mut self.buffers.query;
        // Elements that there are not must be zero on one side, and no NaN on the other.
        tiles.clear();
        tiles.resize((self.query.len() / self.dim).div_ceil(TILE_ROWS) * steps, Tile([0; TILE]));
        for (vector, query) in self.query.chunks_exact(self.dim).enumerate() {
            for (step, x) in query.chunks(STEP).enumerate() {
                let tile = &mut tiles[vector / TILE_ROWS * steps + step].0;
                let to = tile[vector % TILE_ROWS * 64..][..2 * x.len()].as_mut_ptr();
                // SAFETY: the slice has a place for each element; `each` stays below their number.
                unsafe {
                    each!(s, x.len(), |s, i| s
                        .store_bf16(to.add(2 * i), s.round_bf16(s.load_f32(x.as_ptr().add(i).cast()))));
                }
            }
        }
    }
}

/// One span for all vectors of a block, whose [`Queries`] are in the buffers. Scores must have a bound.
pub(super) struct Tiled<'a> {
    pub(super) span: &'a Span<'a>,
    pub(super) dim: usize,
    pub(super) weighing: Weighing,
    /// Its bound.
    pub(super) cap: f32,
    pub(super) buffers: &'a mut Buffers,
    /// Sums of weighted values, of which `head_dim` columns count.
    pub(super) out: &'a mut [f32], // [vectors, columns]
    pub(super) weights: &'a mut [[f32; 2]], // [vectors]: their reference, their sum
}

impl TileJob for Tiled<'_> {
    #[inline(always)]
    fn run(self, tiles: &Tiles) {
        let s = tiles.floats;
        let (dim, vectors) = (self.dim, self.weights.len());
        let (steps, rows, columns) = (dim.div_ceil(STEP), vectors.div_ceil(TILE_ROWS), dim.div_ceil(COLUMNS));
        let Buffers { query, keys, weights, values, totals, zeros, blocks } = self.buffers;
        keys.resize(PAGE / 16 * steps, Tile([0; TILE]));
        weights.resize(rows * SPAN_STEPS, Tile([0; TILE]));
        values.resize(columns * 4 * SPAN_STEPS, Tile([0; TILE]));
        totals.clear();
        totals.extend((0..vectors).map(|_| self.weighing.total()));
        zeros.resize(dim * 2, 0);
        blocks.resize(2, Block([Sums([[0.0; 16]; TILE_ROWS]); 4]));
        assert!(query.len() >= rows * steps && self.out.len() >= vectors * columns * COLUMNS);

        for (index, page) in self.span.pages.iter().enumerate() {
            let next = self.span.pages.get(index + 1).map_or(self.span.pages[0].values, |next| next.keys);
            pack_keys(s, page, dim, keys, next);
            let keys = Operand::packed(bytes(keys), steps);
            let product = |row: usize, block: &mut Block| {
                let query = Operand::packed(bytes(&query[row * steps..]), steps);
                tiles.one_by_four(query, keys, steps, block);
            };
            product(0, &mut blocks[0]);
            for row in 0..rows {
                // The next tiles multiply while the vectors work on these.
                if row + 1 < rows {
                    product(row + 1, &mut blocks[(row + 1) % 2]);
                }
                let weights = &mut weights[row * SPAN_STEPS + index * PAGE / STEP..][..PAGE / STEP];
                let first = row * TILE_ROWS;
                for (i, total) in totals[first..].iter_mut().take(TILE_ROWS).enumerate() {
                    let seen = self.span.seen(first + i, index);
                    let scores = (&raw const blocks[row % 2]).cast::<f32>().wrapping_add(i * 16);
                    let to = weights.as_mut_ptr().cast::<u8>().wrapping_add(i * 64);
                    // SAFETY: the block's row `i`; the two tiles have one, too.
                    unsafe { weigh(s, &self.weighing, self.cap, scores, seen, to, total) };
                }
            }
        }
        for (index, page) in self.span.pages.iter().enumerate() {
            let next = self.span.pages.get(index + 1).map_or(page.values, |next| next.values);
            pack_values(s, page, dim, zeros, &mut values[index * PAGE / STEP..], next);
        }
        let last = self.span.pages.len() - 1;
        let steps = last * PAGE / STEP + self.span.pages[last].count.div_ceil(STEP);
        for column in 0..columns {
            let values = &values[column * 4 * SPAN_STEPS..];
            let values = Operand { tile: SPAN_STEPS * TILE, ..Operand::packed(bytes(values), steps) };
            for row in 0..rows {
                let weights = Operand::packed(bytes(&weights[row * SPAN_STEPS..]), steps);
                let block = &mut blocks[0];
                tiles.one_by_four(weights, values, steps, block);
                for (number, sums) in block.0.iter().enumerate() {
                    let place = column * COLUMNS + number * 16;
                    for (vector, sums) in (row * TILE_ROWS..vectors).zip(&sums.0) {
                        self.out[vector * columns * COLUMNS + place..][..16].copy_from_slice(sums);
                    }
                }
            }
        }
        for (to, total) in self.weights.iter_mut().zip(totals) {
            *to = [total.reference, total.sum(s)];
        }
    }
}

/// Turns the scores of a row of a block into weights of bf16, zeros from position `seen` on, and adds them to the total.
///
/// # Safety
/// The processor must have AVX-512 with bf16. The row must be readable at `scores`, that of two tiles writable at `to`.
#[inline(always)]
unsafe fn weigh(
    s: Avx512,
    weighing: &Weighing,
    cap: f32,
    scores: *const f32,
    seen: usize,
    to: *mut u8,
    total: &mut Total,
) {
    // SAFETY: the caller's; a vector of sums fits.
    unsafe {
        let mut weights = [_mm512_setzero_ps(); PAGE / 16];
        let mut masks = [0xffff; PAGE / 16];
        if seen < PAGE {
            masks = std::array::from_fn(|i| (((1_u64 << seen) - 1) >> (16 * i)) as u16);
        }
        let mut farthest = _mm512_setzero_ps();
        for i in 0..PAGE / 16 {
            // What is not seen may be anything.
            weights[i] = _mm512_maskz_loadu_ps(masks[i], scores.add(i * 256));
            farthest = weighing.farther(s, weights[i], farthest);
        }
        let near = weighing.near(s, cap, farthest);
        for i in 0..PAGE / 16 {
            weights[i] = _mm512_maskz_mov_ps(masks[i], weighing.weight(s, cap, near, weights[i]));
        }
        let ones = transmute::<__m512i, __m512bh>(_mm512_set1_epi16(0x3f80));
        let mut sums = _mm512_loadu_ps(total.sums.as_ptr());
        for i in 0..PAGE / STEP {
            let weights = _mm512_cvtne2ps_pbh(weights[2 * i + 1], weights[2 * i]);
            sums = _mm512_dpbf16_ps(sums, weights, ones);
            to.add(i * TILE).cast::<__m512bh>().write_unaligned(weights);
        }
        _mm512_storeu_ps(total.sums.as_mut_ptr(), sums);
    }
}

/// Makes keys a right operand, `[PAGE / 16, steps]` tiles: pairs of elements down the rows, positions across. Positions behind
/// `count` are anything.
#[inline(always)]
fn pack_keys(s: Avx512, page: &Kv<'_>, dim: usize, out: &mut [Tile], ahead: &[u8]) {
    let steps = dim.div_ceil(STEP);
    assert!(page.keys.len() >= PAGE * dim * 2 && out.len() >= PAGE / 16 * steps);
    for (tile, out) in out.iter_mut().enumerate().take(page.count.div_ceil(16) * steps) {
        let (position, first) = (tile / steps * 16, tile % steps * STEP);
        let own = STEP.min(dim - first);
        let to = out.0.as_mut_ptr();
        // SAFETY: 16 rows from `position` on are within the page, `own` elements within each.
        unsafe {
            let from = page.keys.as_ptr().add((position * dim + first) * 2);
            let ahead = ahead.as_ptr().wrapping_add(tile * TILE);
            for line in 0..16 {
                s.prefetch(ahead.wrapping_add(line * 64));
            }
            if own == STEP {
                s.transpose(from, dim * 2, to);
            } else {
                let mut padded = Tile([0; TILE]);
                for row in 0..16 {
                    let to = padded.0.as_mut_ptr().add(row * 64);
                    from.add(row * dim * 2).copy_to_nonoverlapping(to, own * 2);
                }
                s.transpose(padded.0.as_ptr(), 64, to);
            }
        }
    }
}

/// Makes values a right operand, `[head_dim / 16, SPAN_STEPS]` tiles of which `out` begins at the page's first: pairs of positions
/// down the rows, elements across. Elements behind the last are anything, positions behind `count` are zeros: their weights are, but
/// zero times what may lie there need not be.
#[inline(always)]
fn pack_values<S: Simd>(s: S, page: &Kv<'_>, dim: usize, zeros: &[u8], out: &mut [Tile], ahead: &[u8]) {
    let row = dim * 2;
    let (tiles, whole) = (dim.div_ceil(16), dim / 16);
    assert!(page.values.len() >= page.count * row && zeros.len() >= row);
    assert!(out.len() > (tiles - 1) * SPAN_STEPS + (PAGE - 1) / STEP);
    for position in (0..page.count.next_multiple_of(STEP)).step_by(2) {
        // SAFETY: rows below `count` exist, and the last tile's elements have been counted; the tiles have been checked.
        unsafe {
            let values = page.values.as_ptr().wrapping_add(position * row);
            let even = if position < page.count { values } else { zeros.as_ptr() };
            let odd = if position + 1 < page.count { values.wrapping_add(row) } else { zeros.as_ptr() };
            let ahead = ahead.as_ptr().wrapping_add(position * row);
            let to = out.as_mut_ptr().add(position / STEP).cast::<u8>().add(position % STEP / 2 * 64);
            for tile in 0..whole {
                s.prefetch(ahead.wrapping_add(tile * 64));
                interleave(even.add(tile * 32), odd.add(tile * 32), to.add(tile * SPAN_STEPS * TILE));
            }
            if whole < tiles {
                let mut padded = [[0_u8; 32]; 2];
                even.add(whole * 32).copy_to_nonoverlapping(padded[0].as_mut_ptr(), row - whole * 32);
                odd.add(whole * 32).copy_to_nonoverlapping(padded[1].as_mut_ptr(), row - whole * 32);
                interleave(padded[0].as_ptr(), padded[1].as_ptr(), to.add(whole * SPAN_STEPS * TILE));
            }
        }
    }
}

/// Sixteen pairs of 16-bit numbers: the first of `even` and the first of `odd`, and so on.
///
/// # Safety
/// The processor must have AVX-512. 32 bytes must be readable at each, 64 writable at `to`.
#[inline(always)]
unsafe fn interleave(even: *const u8, odd: *const u8, to: *mut u8) {
    // SAFETY: the caller's.
    unsafe {
        let even = _mm512_cvtepu16_epi32(_mm256_loadu_si256(even.cast()));
        let odd = _mm512_cvtepu16_epi32(_mm256_loadu_si256(odd.cast()));
        _mm512_storeu_si512(to.cast(), _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd)));
    }
}
