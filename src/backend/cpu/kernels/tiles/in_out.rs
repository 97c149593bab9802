//! Weights stored `[inputs, outputs]`, to tiles whose columns are outputs. A unit is some inputs of the panel.

use std::arch::x86_64::*;

use super::matrix::{Place, Staged, UNITS, Weights};
use super::{PAIR, PIECE, SIDE, STEP, TILE, TILE_ROWS, ask};
use crate::backend::cpu::kernels::Element;
use crate::backend::cpu::simd::amx::Tiles;

/// Inputs of a unit, which lie side by side in pairs.
const INPUTS: usize = PIECE * STEP / UNITS;

/// Panels that take turns, so that what is read of an input is some lines side by side.
pub(super) const TOGETHER: usize = 8;
/// Inputs between the panels' staged weights: those of a piece, and some, so that panels do not fight for places in the cache.
const STRIDE: usize = PIECE * STEP + 4;
/// Staged weights.
pub(super) const STAGED: usize = TOGETHER * STRIDE * SIDE;
/// How many inputs ahead memory is asked for. Inputs are often a power of two of bytes apart, where a second-level cache has only
/// room for 64 of them.
const AHEAD: usize = 16;

/// Weights of a type of elements.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx512bf16,avx2,fma,f16c")]
pub(super) fn unpack<E: Element>(
    place: &Place<'_>,
    unit: usize,
    tiles: &Tiles,
    staged: &mut Staged, // [TOGETHER, STRIDE, SIDE] of E
    out: &mut Weights,
) {
    let first = unit * INPUTS;
    let inputs = place.matrix.inputs.saturating_sub(place.input + first).min(INPUTS);
    if place.turn == 0 {
        for input in first..first + inputs {
            stage::<E>(place, input, staged);
        }
    }
    for pair in 0..INPUTS / 2 {
        let mut numbers = [[_mm512_setzero_si512(); 2]; 2]; // [tile, input]
        for i in 0..2 {
            let input = 2 * pair + i;
            if input >= inputs {
                continue;
            }
            let start = (place.turn * STRIDE + first + input) * SIDE * E::SIZE;
            let staged = &staged[start..][..SIDE * E::SIZE];
            for tile in 0..2 {
                // SAFETY: the slice is two vectors of elements.
                let values =
                    unsafe { E::load(tiles.floats, staged.as_ptr().add(tile * TILE_ROWS * E::SIZE)) };
                numbers[tile][i] = _mm512_castps_si512(values);
            }
        }
        let line = first / 2 + pair;
        for tile in 0..2 {
            let out = &mut out[line / TILE_ROWS * PAIR + tile * TILE + line % TILE_ROWS * 64..][..64];
            // The values are bf16 already: the lower halves are zeros, so no rounding is needed.
            let [low, high] = numbers[tile];
            let pairs = _mm512_or_si512(_mm512_srli_epi32::<16>(low), high);
            // SAFETY: the slice is a vector.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), pairs) };
        }
    }
}

/// Puts the weights of an input down for the panels that take turns.
#[inline(always)]
fn stage<E: Element>(place: &Place<'_>, input: usize, staged: &mut Staged) {
    let all = TOGETHER * SIDE * E::SIZE;
    let matrix = place.matrix;
    let start = input * matrix.row;
    let ahead = place.bytes.as_ptr().wrapping_add(start + AHEAD * matrix.row);
    for line in (0..all).step_by(64) {
        ask(ahead.wrapping_add(line));
    }
    let known = &place.bytes[start..][..all.min((matrix.outputs - place.column) * E::SIZE)];
    for turn in 0..TOGETHER {
        let place = (turn * STRIDE + input) * SIDE * E::SIZE;
        let to = &mut staged[place..][..SIDE * E::SIZE];
        let from = known.get(turn * SIDE * E::SIZE..).unwrap_or_default();
        if let Some(from) = from.get(..SIDE * E::SIZE) {
            to.copy_from_slice(from);
        } else {
            to.fill(0);
            to[..from.len()].copy_from_slice(from);
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
