//! Weights stored `[inputs, outputs]`, to tiles whose columns are outputs. A unit is some inputs of the panel.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::block::Unit;
use super::matrix::{Matrix, Region, Staged, Stored, UNITS, Weights};
use super::{PAIR, PIECE, SIDE, STEP, Side, TILE, TILE_ROWS, ask};
use crate::backend::cpu::kernels::Element;
use crate::backend::cpu::simd::amx::Tiles;

/// Inputs of a unit, which lie side by side in pairs.
const INPUTS: usize = PIECE * STEP / UNITS;

/// Panels that take turns, so that what is read of an input is some lines side by side.
pub(super) const TOGETHER: usize = 8;
/// Inputs between the panels' staged weights: those of a piece, and some, so that panels do not fight for places in the cache.
const STRIDE: usize = PIECE * STEP + 4;
/// Staged weights of a region.
const STAGED: usize = TOGETHER * STRIDE * SIDE;
/// How many inputs ahead memory is asked for. Inputs are often a power of two of bytes apart, where a second-level cache only has
/// room for 64 of them.
const AHEAD: usize = 32;

/// Weights of a type of elements.
pub(super) struct InOut<E>(PhantomData<E>);

impl<E: Element> Unit for InOut<E> {
    const SIDE: Side = Side::Left;

    #[inline(always)]
    unsafe fn unpack(
        stored: &Stored<'_>,
        unit: usize,
        tiles: &Tiles,
        staged: &mut Staged, // [2, TOGETHER, STRIDE, SIDE] of E
        out: &mut Weights,
    ) {
        let Stored { matrix, region, turn, .. } = *stored;
        if let Some((after, inputs)) = &stored.after {
            let (first, count) = (inputs.start, inputs.len());
            for input in first + unit * count / UNITS..first + (unit + 1) * count / UNITS {
                stage(matrix, after, input, E::SIZE, staged);
            }
        }
        let first = unit * INPUTS;
        let inputs = matrix.inputs.saturating_sub(stored.input + first).min(INPUTS);
        let staged = &staged[place(region.odd, turn, first, E::SIZE)..][..INPUTS * SIDE * E::SIZE];
        let line = first / 2;
        let out = &mut out[line / TILE_ROWS * PAIR + line % TILE_ROWS * 64..][..TILE + INPUTS / 2 * 64];
        // The same, but for the compiler, which knows the number in one of them.
        if inputs == INPUTS {
            lines::<E>(tiles, INPUTS, staged, out);
        } else {
            lines::<E>(tiles, inputs, staged, out);
        }
    }
}

/// Puts down the lines of a unit of which so many inputs exist.
#[inline(always)]
fn lines<E: Element>(tiles: &Tiles, inputs: usize, staged: &[u8], out: &mut [u8]) {
    for line in 0..INPUTS / 2 {
        // SAFETY: callers have the features; the slices are two vectors of elements and one of pairs.
        unsafe {
            let mut numbers = [[_mm512_setzero_si512(); 2]; 2]; // [tile, input]
            for i in 0..2 {
                let input = 2 * line + i;
                if input >= inputs {
                    continue;
                }
                let staged = &staged[input * SIDE * E::SIZE..][..SIDE * E::SIZE];
                for tile in 0..2 {
                    let values = E::load(tiles.floats, staged.as_ptr().add(tile * TILE_ROWS * E::SIZE));
                    numbers[tile][i] = _mm512_castps_si512(values);
                }
            }
            for tile in 0..2 {
                let out = &mut out[tile * TILE + line * 64..][..64];
                // The values are bf16 already: the lower halves are zeros, so no rounding is needed.
                let [low, high] = numbers[tile];
                let pairs = _mm512_or_si512(_mm512_srli_epi32::<16>(low), high);
                _mm512_storeu_si512(out.as_mut_ptr().cast(), pairs);
            }
        }
    }
}

/// Where the staged weights of an input for a panel are.
#[inline(always)]
fn place(odd: bool, turn: usize, input: usize, size: usize) -> usize {
    (usize::from(odd) * STAGED + (turn * STRIDE + input) * SIDE) * size
}

/// Puts down what the first pieces are unpacked from.
pub(super) fn begin(matrix: &Matrix<'_>, region: &Region, staged: &mut Staged) {
    let size = matrix.dtype.block_bytes() as usize;
    staged.resize(staged.len().max(2 * STAGED * size), 0);
    for input in 0..PIECE * STEP {
        stage(matrix, region, input, size, staged);
    }
}

/// Puts down the weights of a region's input, if there is one; `size` is an element's.
#[inline(always)]
fn stage(matrix: &Matrix<'_>, region: &Region, input: usize, size: usize, staged: &mut Staged) {
    if region.input + input >= matrix.inputs {
        return;
    }
    let (panel, next, all) = (SIDE * size, STRIDE * SIDE * size, region.columns * size);
    let from = &matrix.data[(region.input + input) * matrix.row + region.column * size..][..all];
    let ahead = from.as_ptr().wrapping_add(AHEAD * matrix.row);
    let to = &mut staged[place(region.odd, 0, input, size)..];
    // The same, but for the compiler, which knows the sizes in one of them.
    if all == TOGETHER * panel {
        for line in 0..TOGETHER * panel / 64 {
            ask(ahead.wrapping_add(line * 64));
        }
        let to = &mut to[..(TOGETHER - 1) * next + panel];
        for turn in 0..TOGETHER {
            to[turn * next..][..panel].copy_from_slice(&from[turn * panel..][..panel]);
        }
    } else {
        for line in (0..all).step_by(64) {
            ask(ahead.wrapping_add(line));
        }
        for (turn, from) in from.chunks(panel).enumerate() {
            to[turn * next..][..from.len()].copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::tests::{Sizes, check, values};
    use super::super::{Matrix, Product, Side};
    use crate::backend::cpu::kernels::Out;
    use crate::backend::cpu::shared::Shared;

    /// Both parts of a product.
    fn case(sizes: Sizes, matrix: Matrix<'_>, weight: impl Fn(usize, usize) -> f32) {
        let outputs = sizes.outputs;
        check("[inputs, outputs]", sizes, Side::Left, weight, |amx, x, out| {
            let buffer = Shared::new(out);
            for columns in [0..outputs.min(35), outputs.min(35)..outputs] {
                let out = Out::rows(&buffer, 0, outputs);
                // SAFETY: nobody else uses the buffer.
                amx.enter_tiles(unsafe { Product::new(x, matrix, columns, out) });
            }
        });
    }

    const SIZES: [Sizes; 6] = [
        Sizes { rows: 1, inputs: 7, outputs: 5 },
        Sizes { rows: 17, inputs: 100, outputs: 64 },
        Sizes { rows: 33, inputs: 600, outputs: 131 },
        Sizes { rows: 64, inputs: 96, outputs: 49 },
        Sizes { rows: 70, inputs: 1100, outputs: 100 },
        // Two regions side by side, and more inputs than activations stay in the cache for.
        Sizes { rows: 193, inputs: 800, outputs: 330 },
    ];

    #[test]
    fn int8_gives_the_scaled_sums_of_its_groups() {
        for sizes in SIZES {
            let Sizes { inputs, outputs, .. } = sizes;
            for group in [inputs, 256, 512] {
                let codes: Vec<u8> = (0..inputs * outputs).map(|i| (i * 89 % 255) as u8).collect();
                let scale =
                    |group: usize, j: usize| bf16::from_f32(((group * 5 + j) % 7) as f32 * 0.1 + 0.05);
                let scales: Vec<u8> = (0..inputs.div_ceil(group))
                    .flat_map(|group| (0..outputs).flat_map(move |j| scale(group, j).to_le_bytes()))
                    .collect();
                case(sizes, Matrix::integers(&codes, [inputs, outputs], group, &scales), |i, j| {
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
            let bytes: Vec<u8> = values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
            case(sizes, Matrix::numbers(&bytes, [sizes.inputs, sizes.outputs]), weight);
        }
    }
}
