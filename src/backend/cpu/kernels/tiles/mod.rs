//! Products of many rows by matrix tiles, with bf16 activations and weights. Uses `simd::amx`.
//!
//! Activations are packed to tiles once. Weights become tiles a piece at a time, in the first-level cache, where all rows meet
//! them, while the processor multiplies the piece before; pieces are taken in an order that keeps the activations they meet in the
//! second-level cache. Each product of a row and an output is summed input by input, two by two, whatever the row is batched with.

mod block;
mod gate_up;
mod in_out;
mod matrix;
mod multiply;
mod out_in;
mod pack;
mod product;
mod q8_0;

pub(crate) use self::gate_up::GateUp;
pub(crate) use self::matrix::Matrix;
pub(crate) use self::pack::{Pack, Side, TiledPages, TiledRows};
pub(crate) use self::product::Product;
use crate::backend::cpu::kernels::pages::{BLOCK, Page};
use crate::backend::cpu::simd::amx::{Pair, TILE, TILE_ROWS};

/// Rows or outputs of two tiles side by side, which are what a product takes of each operand.
const SIDE: usize = 2 * TILE_ROWS;
const _: () = assert!(SIDE == BLOCK);
/// Inputs of a tile.
const STEP: usize = 32;
/// Steps of a piece of weights: two of them are two thirds of a first-level cache.
const PIECE: usize = 8;
/// Bytes of two tiles.
const PAIR: usize = size_of::<Pair>();
fn bytes(pages: &[Page]) -> &[u8] {
    // SAFETY: pages are bytes without padding.
    unsafe { std::slice::from_raw_parts(pages.as_ptr().cast(), size_of_val(pages)) }
}

/// Asks for memory in the second-level cache, at any address.
#[inline(always)]
fn ask(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a hint.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
}

/// Rows and columns of a matrix of 16 by 16 in each other's place.
///
/// # Safety
/// The processor must have AVX-512 F; callers are compiled with it.
#[inline(always)]
unsafe fn transpose(mut rows: [std::arch::x86_64::__m512i; 16]) -> [std::arch::x86_64::__m512i; 16] {
    use std::arch::x86_64::*;
    // SAFETY: the caller's.
    unsafe {
        let mut other = rows;
        for i in 0..8 {
            other[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            other[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        for i in 0..4 {
            for j in 0..2 {
                let (a, b) = (other[4 * i + j], other[4 * i + 2 + j]);
                rows[4 * i + 2 * j] = _mm512_unpacklo_epi64(a, b);
                rows[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a, b);
            }
        }
        // Now `rows[4 * i + j]` has, in lane `l`, columns `4 * l + j` of rows `4 * i` to `4 * i + 3`.
        for j in 0..4 {
            let [a, b, c, d] = [rows[j], rows[4 + j], rows[8 + j], rows[12 + j]];
            let (ab, cd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
            other[j] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
            other[8 + j] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
            let (ab, cd) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
            other[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
            other[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
        }
        other
    }
}

/// 32 values as bf16.
///
/// # Safety
/// The processor must have AVX-512 BF16; callers are compiled with it.
#[inline(always)]
unsafe fn narrow(
    low: std::arch::x86_64::__m512,
    high: std::arch::x86_64::__m512,
) -> std::arch::x86_64::__m512i {
    use std::arch::x86_64::*;
    // SAFETY: the caller's; both types are 64 bytes of any bits.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// 32 numbers of 16 bits whose halves are put in turn: what was one behind the other comes to lie side by side.
///
/// # Safety
/// The processor must have AVX-512 BW; callers are compiled with it.
#[inline(always)]
unsafe fn in_turn(halves: std::arch::x86_64::__m512i) -> std::arch::x86_64::__m512i {
    use std::arch::x86_64::*;
    static PLACES: [u16; 32] = {
        let mut places = [0; 32];
        let mut i = 0;
        while i < 16 {
            places[2 * i] = i as u16;
            places[2 * i + 1] = 16 + i as u16;
            i += 1;
        }
        places
    };
    // SAFETY: the caller's; the places are a vector.
    unsafe { _mm512_permutexvar_epi16(_mm512_loadu_si512(PLACES.as_ptr().cast()), halves) }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::backend::cpu::kernels::{Rows, pages};
    use crate::backend::cpu::shared::Shared;
    use crate::backend::cpu::simd::amx::Amx;
    use crate::tensor::DType;

    #[derive(Clone, Copy, Debug)]
    pub(super) struct Sizes {
        pub(super) rows: usize,
        pub(super) inputs: usize,
        pub(super) outputs: usize,
    }

    /// Values around zero that are bf16.
    pub(super) fn values(count: usize) -> Vec<f32> {
        let value = |i: usize| bf16::from_f32((i * 7919 % 1009) as f32 / 504.0 - 1.0).to_f32();
        (0..count).map(value).collect()
    }

    /// Numbers as they are stored in bf16.
    pub(super) fn bf16_bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()
    }

    /// Blocks of a format with scales about one.
    pub(super) fn random_bytes(dtype: DType, count: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(count)
        .collect();
        // Every half that can be one of infinity or NaN is made smaller; wherever it is, what is left is a valid block.
        let exponent = if dtype == DType::F8E4M3 { 0x77 } else { 0xbb };
        bytes.iter_mut().for_each(|byte| *byte &= exponent);
        bytes
    }

    /// Compares a product with plain sums of `x * weight(input, output)`.
    pub(super) fn check(
        name: &str,
        Sizes { rows, inputs, outputs }: Sizes,
        side: Side,
        weight: impl Fn(usize, usize) -> f32,
        product: impl Fn(Amx, TiledRows<'_>, &mut [f32]),
    ) {
        let Some(amx) = Amx::new() else { return eprintln!("skipped: no AMX") };
        // Rows from last to first, with something behind each.
        let index: Vec<u32> = (0..rows as u32).rev().collect();
        let stride = inputs + 3;
        let data = values(rows * stride);
        let x = Rows { data: &data, stride, index: &index };
        let mut memory = vec![Page([0xff; _]); pages::pages(rows, 1, inputs)];
        let shared = Shared::new(&mut memory);
        for part in 0..Pack::parts(rows, inputs) {
            // SAFETY: nobody else uses the pages.
            amx.enter_tiles(unsafe { Pack::new(x, inputs, side, part, &shared, 0) });
        }
        let mut out = vec![f32::NAN; rows * outputs];
        product(amx, TiledRows::new(&memory, rows, inputs), &mut out);
        for (r, j) in (0..rows).flat_map(|r| (0..outputs).map(move |j| (r, j))) {
            let terms = (0..inputs)
                .map(|i| f64::from(data[index[r] as usize * stride + i]) * f64::from(weight(i, j)));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
            let found = f64::from(out[r * outputs + j]);
            let sizes = Sizes { rows, inputs, outputs };
            assert!((found - sum).abs() <= 1e-5 * size, "{name} {sizes:?} [{r}, {j}]: {found}, not {sum}");
        }
    }
}
