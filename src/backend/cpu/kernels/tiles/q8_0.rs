//! Q8_0 to tiles in two thirds of the instructions that other blocks take: codes are numbers as they are stored, and scales lie apart.

use std::arch::x86_64::*;

use super::out_in::{LINES, Lines};
use super::{PAIR, narrow};
use crate::backend::cpu::simd::amx::Tiles;

/// Bytes of a block of 32 weights: its scale, then its codes.
const SIZE: usize = 34;

pub(super) enum Q8_0 {}

impl Lines for Q8_0 {
    type Bytes = [u8; 8 * SIZE];
    const ZERO: Self::Bytes = [0; _];

    #[inline(always)]
    unsafe fn lines(_: &Tiles, blocks: &Self::Bytes, out: &mut [u8; LINES]) {
        // SAFETY: the caller's.
        let scales = unsafe { scales(blocks) };
        // Read from memory each is spread by the load.
        let scales = std::hint::black_box(&scales);
        for (step, scale) in scales.iter().enumerate() {
            let codes = blocks[step * SIZE + 2..][..32].as_ptr();
            let out = out[step * PAIR..][..64].as_mut_ptr();
            // SAFETY: the caller's; the slices are 32 bytes and a vector.
            unsafe {
                let scale = _mm512_set1_ps(*scale);
                let low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes.cast())));
                let high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes.add(16).cast())));
                let weights = narrow(_mm512_mul_ps(low, scale), _mm512_mul_ps(high, scale));
                _mm512_storeu_si512(out.cast(), weights);
            }
        }
    }
}

/// The scales of eight blocks. Put together in ordinary registers: a gather takes longer.
///
/// # Safety
/// The processor must have F16C; callers are compiled with it.
#[inline(always)]
unsafe fn scales(blocks: &[u8; 8 * SIZE]) -> [f32; 8] {
    let half = |block: usize| u64::from(u16::from_le_bytes([blocks[block * SIZE], blocks[block * SIZE + 1]]));
    let [mut low, mut high] = [0; 2];
    for i in 0..4 {
        low |= half(i) << (16 * i);
        high |= half(i + 4) << (16 * i);
    }
    let mut scales = [0.0; 8];
    // SAFETY: the caller's; the array is a vector.
    unsafe {
        let halves = _mm_set_epi64x(high.cast_signed(), low.cast_signed());
        _mm256_storeu_ps(scales.as_mut_ptr(), _mm256_cvtph_ps(halves));
    }
    scales
}
