//! Products with matrices stored `[inputs, outputs]`: activations are the left operand, weights the right one.
//!
//! Codes of 8 bits are bf16 as they are, so xAI's checkpoint loses nothing here.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::{
    LOCAL, PAIR, PIECE, RESIDENT, SIDE, STEP, TILE, TILE_ROWS, TiledRows, ZERO, bytes, bytes_mut, pieces,
};
use crate::backend::cpu::kernels::in_out::Epilogue;
use crate::backend::cpu::kernels::pages::Page;
use crate::backend::cpu::kernels::{Element, Out, holds};
use crate::backend::cpu::simd::Simd;
use crate::backend::cpu::simd::amx::{Begin, Block, Operand, Shape, TileJob, Tiles};
use crate::backend::cpu::simd::avx512::Avx512;

/// Outputs unpacked together: of the smallest elements a line of the cache.
const PANEL: usize = 2 * SIDE;

/// Pieces worked on together. Each of their inputs lies in a page of its own, and there is room for 2048 in the processor's table.
const SPAN: usize = 4;

/// `x[r, ..inputs] · weights[..inputs, columns]`, to `out[r, columns]`, with weights rounded to bf16.
pub(crate) struct InOut<'a, E> {
    x: TiledRows<'a>,
    weights: &'a [u8], // [inputs, outputs] of E
    inputs: usize,
    outputs: usize,
    columns: Range<usize>,
    /// Inputs that share scales.
    group: usize,
    scales: Option<&'a [u8]>, // bf16 [groups, outputs]
    out: Out<'a>,
    element: PhantomData<E>,
}

impl<'a, E: Element> InOut<'a, E> {
    /// `epilogue` replaces what is in `out`.
    ///
    /// # Safety
    /// Nobody else may use `columns` of the written rows of `out` while this runs.
    pub(crate) unsafe fn new(
        x: TiledRows<'a>,
        weights: &'a [u8],
        [inputs, outputs]: [usize; 2],
        columns: Range<usize>,
        epilogue: Epilogue<'a>,
        out: Out<'a>,
    ) -> Self {
        let (group, scales) = match epilogue {
            Epilogue::Scaled { inputs, scales } => (inputs, Some(scales)),
            Epilogue::Stored => (inputs.max(1), None),
        };
        assert!(holds(weights, &[inputs, outputs, E::SIZE]));
        assert!(scales.is_none_or(|scales| holds(scales, &[inputs.div_ceil(group), outputs, 2])));
        assert!(columns.end <= outputs && out.has(&columns));
        Self { x, weights, inputs, outputs, columns, group, scales, out, element: PhantomData }
    }

    /// A vector of weights, zeros where there are none.
    #[inline(always)]
    fn load(&self, s: Avx512, input: usize, column: usize) -> __m512 {
        let start = (input * self.outputs + column) * E::SIZE;
        // SAFETY: a vector of elements is in the slice, or in the copy of what is there of it.
        unsafe {
            if column + TILE_ROWS <= self.outputs {
                return E::load(s, self.weights[start..][..TILE_ROWS * E::SIZE].as_ptr());
            }
            let mut padded = [0_u8; 64];
            let count = self.outputs.saturating_sub(column) * E::SIZE;
            if count > 0 {
                padded[..count].copy_from_slice(&self.weights[start..][..count]);
            }
            E::load(s, padded.as_ptr())
        }
    }

    /// Tiles of a piece of up to [`PANEL`] outputs from `column` on, each two after the other: `[2, steps, 2 tiles]`. Inputs not
    /// in `inputs` are zeros.
    #[inline(always)]
    fn unpack(&self, s: Avx512, column: usize, steps: &Range<usize>, inputs: &Range<usize>, out: &mut [u8]) {
        let line = 64 / E::SIZE;
        for (index, pair) in (steps.start * STEP / 2..steps.end * STEP / 2).enumerate() {
            let known = [2 * pair, 2 * pair + 1].map(|input| inputs.contains(&input));
            for input in [2 * pair, 2 * pair + 1] {
                // What the next outputs need of these inputs; this may point anywhere.
                let ahead = (input * self.outputs + column + PANEL) * E::SIZE;
                for ahead in (0..PANEL).step_by(line).map(|i| ahead + i * E::SIZE) {
                    // SAFETY: a hint.
                    unsafe { _mm_prefetch::<_MM_HINT_T1>(self.weights.as_ptr().wrapping_add(ahead).cast()) };
                }
            }
            for tile in 0..PANEL / TILE_ROWS {
                let column = column + tile * TILE_ROWS;
                let place = tile / 2 * steps.len() * PAIR
                    + index / TILE_ROWS * PAIR
                    + tile % 2 * TILE
                    + index % TILE_ROWS * 64;
                let out = &mut out[place..][..64];
                let [low, high] = [0, 1].map(|i| known[i].then(|| 2 * pair + i));
                // SAFETY: the slice is a vector. The job runs with AMX, whose proof includes these instructions.
                unsafe {
                    let mut bits = _mm512_setzero_si512();
                    if let Some(input) = low {
                        bits = _mm512_srli_epi32::<16>(self.bits(s, input, column));
                    }
                    if let Some(input) = high {
                        // `bits | self.bits & 0xffff_0000`.
                        let upper = _mm512_set1_epi32(-0x1_0000);
                        bits = _mm512_ternarylogic_epi32::<0xf8>(bits, self.bits(s, input, column), upper);
                    }
                    _mm512_store_si512(out.as_mut_ptr().cast(), bits);
                }
            }
        }
    }

    /// Weights whose upper 16 bits are the bf16.
    #[inline(always)]
    fn bits(&self, s: Avx512, input: usize, column: usize) -> __m512i {
        let x = self.load(s, input, column);
        // Smaller elements are bf16 as they are.
        let x = if E::SIZE == 4 { s.round_bf16(x) } else { x };
        // SAFETY: as above.
        unsafe { _mm512_castps_si512(x) }
    }

    /// Adds the scaled sums of a group to the totals, or writes them if it is the last.
    #[inline(always)]
    fn end(&self, group: usize, first: usize, block: usize, sums: &Block<f32>, totals: &mut Block<f32>) {
        let last = (group + 1) * self.group >= self.inputs;
        for (tile, (sums, totals)) in sums.0.iter().zip(&mut totals.0).enumerate() {
            let column = first + tile % 2 * TILE_ROWS;
            let row = block * SIDE + tile / 2 * TILE_ROWS;
            if column >= self.columns.end || row >= self.x.rows() {
                continue;
            }
            let count = (self.columns.end - column).min(TILE_ROWS);
            let mask = u16::MAX >> (16 - count);
            // SAFETY: a tile is 16 lines; the slice has the scales, and `start` checks that `count` places exist, which the mask
            // leaves; the caller of `new` promised their exclusive use. The job runs with AMX, whose proof includes these
            // instructions.
            unsafe {
                let scale = match self.scales {
                    None => _mm512_set1_ps(1.0),
                    Some(scales) => {
                        let scales = &scales[(group * self.outputs + column) * 2..][..2 * count];
                        let scales = _mm256_maskz_loadu_epi16(mask, scales.as_ptr().cast());
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(scales)))
                    }
                };
                for i in 0..TILE_ROWS.min(self.x.rows() - row) {
                    let total = totals.0[i].as_mut_ptr();
                    let before = if group == 0 { _mm512_setzero_ps() } else { _mm512_load_ps(total) };
                    let now = _mm512_fmadd_ps(_mm512_load_ps(sums.0[i].as_ptr()), scale, before);
                    if last {
                        _mm512_mask_storeu_ps(self.out.start(row + i, column, count), mask, now);
                    } else {
                        _mm512_store_ps(total, now);
                    }
                }
            }
        }
    }
}

impl<E: Element> TileJob for InOut<'_, E> {
    #[inline(always)]
    fn run(self, tiles: &Tiles) {
        // Taken out and put back: a closure would not be compiled with the instructions.
        let mut local = LOCAL.take();
        let blocks = self.x.blocks();
        let width = self.columns.len().div_ceil(SIDE);
        local.sums.resize(width * blocks, ZERO);
        local.totals.resize(width * blocks, ZERO);
        local.piece.resize(PIECE, Page::default());
        // Whole pieces whose activations stay in the cache while all outputs go by.
        let span = (RESIDENT / (blocks * PIECE * PAIR)).clamp(1, SPAN) * PIECE;
        for group in 0..self.inputs.div_ceil(self.group) {
            let inputs = group * self.group..self.inputs.min((group + 1) * self.group);
            let (first, all) = (inputs.start / STEP, inputs.end.div_ceil(STEP));
            let mut start = first;
            while start < all {
                let end = all.min((start / PIECE * PIECE).saturating_add(span));
                for half in (0..width).step_by(2) {
                    let halves = half..width.min(half + 2);
                    let column = self.columns.start + half * SIDE;
                    for steps in pieces(start..end) {
                        self.unpack(tiles.floats, column, &steps, &inputs, bytes_mut(&mut local.piece));
                        let begin = if steps.start == first { Begin::Zero } else { Begin::Load };
                        for (half, right) in
                            halves.clone().zip(bytes(&local.piece).chunks_exact(steps.len() * PAIR))
                        {
                            let right = Operand { bytes: right, row: 64, tile: TILE, step: PAIR };
                            for block in 0..blocks {
                                let left = self.x.operand(block, &steps);
                                let sums = &mut local.sums[half * blocks + block];
                                tiles.bf16(Shape::TwoByTwo, left, right, steps.len(), begin, sums);
                            }
                        }
                    }
                    if end == all {
                        for (half, block) in
                            halves.flat_map(|half| (0..blocks).map(move |block| (half, block)))
                        {
                            let place = half * blocks + block;
                            let (sums, totals) = (&local.sums[place], &mut local.totals[place]);
                            self.end(group, self.columns.start + half * SIDE, block, sums, totals);
                        }
                    }
                }
                start = end;
            }
        }
        LOCAL.set(local);
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::Side;
    use super::super::tests::{Sizes, check, values};
    use super::*;
    use crate::backend::cpu::kernels::{BF16, F32, I8};
    use crate::backend::cpu::shared::Shared;

    /// Both parts of a product with the weights that `bytes` are.
    fn case<E: Element>(
        sizes: Sizes,
        bytes: &[u8],
        epilogue: Epilogue<'_>,
        weight: impl Fn(usize, usize) -> f32,
    ) {
        let Sizes { inputs, outputs, .. } = sizes;
        check("[inputs, outputs]", sizes, Side::Left, weight, |amx, x, out| {
            let buffer = Shared::new(out);
            for columns in [0..outputs.min(35), outputs.min(35)..outputs] {
                let (shape, out) = ([inputs, outputs], Out::rows(&buffer, 0, outputs));
                // SAFETY: nobody else uses the buffer.
                amx.enter_tiles(unsafe { InOut::<E>::new(x, bytes, shape, columns, epilogue, out) });
            }
        });
    }

    const SIZES: [Sizes; 5] = [
        Sizes { rows: 1, inputs: 7, outputs: 5 },
        Sizes { rows: 17, inputs: 100, outputs: 64 },
        Sizes { rows: 33, inputs: 600, outputs: 131 },
        Sizes { rows: 64, inputs: 96, outputs: 49 },
        Sizes { rows: 70, inputs: 1100, outputs: 100 },
    ];

    #[test]
    fn int8_gives_the_scaled_sums_of_its_groups() {
        for sizes in SIZES {
            let Sizes { inputs, outputs, .. } = sizes;
            for group in [inputs, inputs.div_ceil(2), inputs.div_ceil(8), 32.min(inputs)] {
                let codes: Vec<u8> = (0..inputs * outputs).map(|i| (i * 89 % 255) as u8).collect();
                let scale =
                    |group: usize, j: usize| bf16::from_f32(((group * 5 + j) % 7) as f32 * 0.1 + 0.05);
                let scales: Vec<u8> = (0..inputs.div_ceil(group))
                    .flat_map(|group| (0..outputs).flat_map(move |j| scale(group, j).to_le_bytes()))
                    .collect();
                let epilogue = Epilogue::Scaled { inputs: group, scales: &scales };
                case::<I8>(sizes, &codes, epilogue, |i, j| {
                    f32::from(codes[i * outputs + j] as i8) * scale(i / group, j).to_f32()
                });
            }
        }
    }

    #[test]
    fn numbers_give_the_sums_of_their_bf16_values() {
        for sizes in SIZES {
            let values = values(sizes.inputs * sizes.outputs);
            let weight = |i: usize, j: usize| values[i * sizes.outputs + j];
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            case::<F32>(sizes, &bytes, Epilogue::Stored, weight);
            let bytes: Vec<u8> = values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
            case::<BF16>(sizes, &bytes, Epilogue::Stored, weight);
        }
    }
}
