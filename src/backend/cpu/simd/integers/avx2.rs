//! 32 products at a time, with AVX2.
//!
//! Activations are kept as 16-bit numbers in the order in which unpacking bytes leaves codes: of each 32 first 0..8 and 16..24, then
//! 8..16 and 24..32.

use std::arch::x86_64::*;

use super::{Activations, INPUTS, Integers};
use crate::backend::cpu::simd::Simd;
use crate::backend::cpu::simd::avx2::Avx2;
use crate::quant::part;

/// Which of eight scales the lanes of 32 codes have: four lanes for each 16.
static SPREAD: [[u32; 8]; 4] = {
    let mut lanes = [[0; 8]; 4];
    let mut i = 0;
    while i < 32 {
        lanes[i / 8][i % 8] = (i / 4) as u32;
        i += 1;
    }
    lanes
};

/// Where the eight inputs that begin with `8 * eight` are kept, of 32.
const PLACES: [usize; 4] = [0, 2, 1, 3];

#[inline(always)]
fn load(_: Avx2, codes: &[u8; 32]) -> __m256i {
    // SAFETY: the value proves the instructions; the array is a vector.
    unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) }
}

/// The low nibbles and the high ones.
#[inline(always)]
fn nibbles(_: Avx2, codes: &[u8; 16]) -> __m256i {
    // SAFETY: the value proves the instructions; the array is a vector.
    unsafe {
        let x = _mm_loadu_si128(codes.as_ptr().cast());
        _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(x), x), _mm256_set1_epi8(15))
    }
}

/// The bits that `mask` has of codes shifted right, or left by the negative.
#[inline(always)]
fn field(_: Avx2, codes: __m256i, shift: i32, mask: u8) -> __m256i {
    // SAFETY: the value proves the instructions.
    unsafe {
        let count = _mm_cvtsi32_si128(shift.abs());
        let codes = if shift < 0 { _mm256_sll_epi16(codes, count) } else { _mm256_srl_epi16(codes, count) };
        _mm256_and_si256(codes, _mm256_set1_epi8(mask.cast_signed()))
    }
}

/// `value` where `bits` has a bit.
#[inline(always)]
fn select(_: Avx2, bits: u32, value: u8) -> __m256i {
    // SAFETY: the value proves the instructions.
    unsafe {
        // Each byte of the word eight times, then a bit of it each.
        let word = _mm256_set1_epi32(bits.cast_signed());
        let [second, third, fourth] = [0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303];
        let bytes = _mm256_set_epi64x(fourth, third, second, 0);
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let found = _mm256_and_si256(_mm256_shuffle_epi8(word, bytes), bit);
        _mm256_and_si256(_mm256_cmpeq_epi8(found, bit), _mm256_set1_epi8(value.cast_signed()))
    }
}

/// Eight points of four coordinates.
#[inline(always)]
fn fours<const N: usize>(_: Avx2, grid: &[[u8; 4]; N], low: [u8; 8], high: u8) -> __m256i {
    const { assert!(N.is_power_of_two() && N >= 256) };
    // SAFETY: the value proves the instructions; the mask keeps numbers within the grid.
    unsafe {
        let low = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(low)));
        let shifts = _mm256_set_epi32(1, 2, 3, 4, 5, 6, 7, 8);
        let high = _mm256_sllv_epi32(_mm256_set1_epi32(i32::from(high)), shifts);
        let high = _mm256_and_si256(high, _mm256_set1_epi32(256 & (N as i32 - 1)));
        _mm256_i32gather_epi32::<4>(grid.as_ptr().cast(), _mm256_or_si256(low, high))
    }
}

/// Points of eight coordinates that eight numbers name.
#[inline(always)]
fn eights<const N: usize>(_: Avx2, grid: &[[u8; 8]; N], numbers: __m256i) -> [__m256i; 2] {
    const { assert!(N.is_power_of_two()) };
    // SAFETY: the value proves the instructions; the mask keeps numbers within the grid.
    unsafe {
        let numbers = _mm256_and_si256(numbers, _mm256_set1_epi32(N as i32 - 1));
        let (first, last) = (_mm256_castsi256_si128(numbers), _mm256_extracti128_si256::<1>(numbers));
        let grid = grid.as_ptr().cast();
        [_mm256_i32gather_epi64::<8>(grid, first), _mm256_i32gather_epi64::<8>(grid, last)]
    }
}

/// 128 and codes, or less codes where a bit says so.
#[inline(always)]
fn signs(simd: Avx2, codes: __m256i, negative: u32) -> __m256i {
    let negative = select(simd, negative, 255);
    // SAFETY: the value proves the instructions.
    unsafe {
        let signed = _mm256_sub_epi8(_mm256_xor_si256(codes, negative), negative);
        _mm256_xor_si256(signed, _mm256_set1_epi8(-128))
    }
}

/// Signs from the upper seven bits of eight words; the eighth of each makes the number of bits even.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn even_of_words(words: &[u8; 16]) -> u64 {
    // SAFETY: the caller's promise; the array is a vector.
    unsafe {
        let sevens = _mm_srli_epi16::<9>(_mm_loadu_si128(words.as_ptr().cast()));
        let halves = _mm_xor_si128(sevens, _mm_srli_epi16::<4>(sevens));
        // The highest bit where a number of four bits has an odd number of them.
        let odd = _mm_set_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0);
        let parity = _mm_shuffle_epi8(odd, _mm_and_si128(halves, _mm_set1_epi16(15)));
        let signs = _mm_or_si128(sevens, parity);
        _mm_cvtsi128_si64(_mm_packus_epi16(signs, signs)).cast_unsigned()
    }
}

// SAFETY: see the other `impl`: values prove AVX2, FMA and F16C, and nothing else is needed.
unsafe impl Integers for Avx2 {
    const BIAS: f32 = 128.0;
    const FASTER: bool = false;
    type Codes = [__m256i; 2];
    type Sixteen = [__m256; 2];
    type Sum = __m256;

    #[inline(always)]
    fn codes(self, a: &[u8; 32], b: &[u8; 32]) -> [__m256i; 2] {
        [load(self, a), load(self, b)]
    }

    #[inline(always)]
    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> [__m256i; 2] {
        [nibbles(self, a), nibbles(self, b)]
    }

    #[inline(always)]
    fn twice(self, codes: &[u8; 32]) -> [__m256i; 2] {
        [load(self, codes); 2]
    }

    #[inline(always)]
    fn fields(self, [a, b]: [__m256i; 2], shifts: [i32; 2], mask: u8) -> [__m256i; 2] {
        [field(self, a, shifts[0], mask), field(self, b, shifts[1], mask)]
    }

    #[inline(always)]
    fn select(self, bits: u64, value: u8) -> [__m256i; 2] {
        [select(self, bits as u32, value), select(self, (bits >> 32) as u32, value)]
    }

    #[inline(always)]
    fn or(self, [a, b]: [__m256i; 2], [c, d]: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe { [_mm256_or_si256(a, c), _mm256_or_si256(b, d)] }
    }

    #[inline(always)]
    fn flip(self, [a, b]: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let highest = _mm256_set1_epi8(-128);
            [_mm256_xor_si256(a, highest), _mm256_xor_si256(b, highest)]
        }
    }

    #[inline(always)]
    fn lookup(self, table: &[i8; 16], [a, b]: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions; the table is a vector.
        unsafe {
            let table = _mm_xor_si128(_mm_loadu_si128(table.as_ptr().cast()), _mm_set1_epi8(-128));
            let table = _mm256_broadcastsi128_si256(table);
            [_mm256_shuffle_epi8(table, a), _mm256_shuffle_epi8(table, b)]
        }
    }

    #[inline(always)]
    fn fours<const N: usize>(self, grid: &[[u8; 4]; N], low: &[u8; 16], high: u16) -> [__m256i; 2] {
        let (first, last) = (part::<0, 8, _>(low), part::<8, 8, _>(low));
        [fours(self, grid, first, high as u8), fours(self, grid, last, (high >> 8) as u8)]
    }

    #[inline(always)]
    fn eights<const N: usize>(
        self,
        grid: &[[u8; 8]; N],
        low: [u8; 8],
        high: u32,
        shifts: &[u32; 8],
    ) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions; the array is a vector.
        let numbers = unsafe {
            let low = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(low)));
            let high = _mm256_set1_epi32(high.cast_signed());
            let high = _mm256_srlv_epi32(high, _mm256_loadu_si256(shifts.as_ptr().cast()));
            _mm256_or_si256(low, _mm256_slli_epi32::<8>(high))
        };
        eights(self, grid, numbers)
    }

    #[inline(always)]
    fn eights_of_words<const N: usize>(self, grid: &[[u8; 8]; N], words: &[u8; 16]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions; the array is a vector.
        let numbers = unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(words.as_ptr().cast())) };
        eights(self, grid, numbers)
    }

    #[inline(always)]
    fn even_of_words(self, words: &[u8; 16]) -> u64 {
        // SAFETY: `self` proves the instructions.
        unsafe { even_of_words(words) }
    }

    #[inline(always)]
    fn signs(self, [a, b]: [__m256i; 2], negative: u64) -> [__m256i; 2] {
        [signs(self, a, negative as u32), signs(self, b, (negative >> 32) as u32)]
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        [Simd::splat(self, x); 2]
    }

    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions; the array is two vectors.
        unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn mul(self, [a, b]: [__m256; 2], [c, d]: [__m256; 2]) -> [__m256; 2] {
        [Simd::mul(self, a, c), Simd::mul(self, b, d)]
    }

    #[inline(always)]
    fn fma(self, [a, b]: [__m256; 2], [c, d]: [__m256; 2], [e, f]: [__m256; 2]) -> [__m256; 2] {
        [Simd::fma(self, a, c, e), Simd::fma(self, b, d, f)]
    }

    #[inline(always)]
    fn signed(self, x: [u8; 16]) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions; the array is a vector.
        unsafe {
            let x = _mm_loadu_si128(x.as_ptr().cast());
            let (a, b) = (_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(x)));
            [_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)]
        }
    }

    #[inline(always)]
    fn unsigned_twice(self, x: u64) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let x = _mm_cvtsi64_si128(x.cast_signed());
            let x = _mm_unpacklo_epi8(x, x);
            let (a, b) = (_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(x)));
            [_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)]
        }
    }

    #[inline(always)]
    fn low_and_high(self, x: &[u8; 16]) -> ([__m256; 2], [__m256; 2]) {
        // SAFETY: `self` proves the instructions; the array is a vector.
        unsafe {
            let x = _mm_loadu_si128(x.as_ptr().cast());
            let (a, b) = (_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(x)));
            let low = _mm256_set1_epi32(15);
            let lows = [_mm256_and_si256(a, low), _mm256_and_si256(b, low)];
            let highs = [_mm256_srli_epi32::<4>(a), _mm256_srli_epi32::<4>(b)];
            (
                [_mm256_cvtepi32_ps(lows[0]), _mm256_cvtepi32_ps(lows[1])],
                [_mm256_cvtepi32_ps(highs[0]), _mm256_cvtepi32_ps(highs[1])],
            )
        }
    }

    #[inline(always)]
    fn half(self, x: &[u8; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions.
        [unsafe { _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(*x))) }; 2]
    }

    #[inline(always)]
    fn halves(self, blocks: &[u8], at: usize, size: usize) -> [__m256; 2] {
        assert!(7 * size + at + 4 <= blocks.len());
        // SAFETY: `self` proves the instructions; the last of the eight, of which four bytes are read, is in the slice.
        unsafe {
            let lanes = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
            let places = _mm256_mullo_epi32(lanes, _mm256_set1_epi32(size as i32));
            let words = _mm256_i32gather_epi32::<1>(blocks.as_ptr().add(at).cast(), places);
            let words = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
            let halves = _mm256_packus_epi32(words, words);
            let halves =
                _mm_unpacklo_epi64(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            let numbers = _mm256_cvtph_ps(halves);
            let twice = [_mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0), _mm256_set_epi32(7, 7, 6, 6, 5, 5, 4, 4)];
            [_mm256_permutevar8x32_ps(numbers, twice[0]), _mm256_permutevar8x32_ps(numbers, twice[1])]
        }
    }

    #[inline(always)]
    fn zero(self) -> __m256 {
        Simd::splat(self, 0.0)
    }

    #[inline(always)]
    fn add<const FAST: bool>(
        self,
        mut sum: __m256,
        (codes, scales): ([[__m256i; 2]; 4], [__m256; 2]),
        offsets: [__m256; 2],
        x: &Activations,
    ) -> __m256 {
        let (x_scales, sums) = (Integers::load(self, &x.scales), Integers::load(self, &x.sums));
        for half in 0..2 {
            let scales = Simd::mul(self, scales[half], x_scales[half]);
            for i in 0..4 {
                let codes = codes[2 * half + i / 2][i % 2];
                let x = x.integers[256 * half + 64 * i..][..64].as_ptr();
                // SAFETY: `self` proves the instructions; the slice is two vectors.
                unsafe {
                    let zero = _mm256_setzero_si256();
                    let [lower, upper] =
                        [_mm256_unpacklo_epi8(codes, zero), _mm256_unpackhi_epi8(codes, zero)];
                    let lower = _mm256_madd_epi16(lower, _mm256_loadu_si256(x.cast()));
                    let upper = _mm256_madd_epi16(upper, _mm256_loadu_si256(x.add(32).cast()));
                    let products = _mm256_cvtepi32_ps(_mm256_add_epi32(lower, upper));
                    let lanes = _mm256_loadu_si256(SPREAD[i].as_ptr().cast());
                    sum = _mm256_fmadd_ps(products, _mm256_permutevar8x32_ps(scales, lanes), sum);
                }
            }
            // SAFETY: `self` proves the instructions.
            sum = unsafe { _mm256_fnmadd_ps(offsets[half], sums[half], sum) };
        }
        sum
    }

    #[inline(always)]
    fn totals(self, [a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        // SAFETY: `self` proves the instructions; the array is a vector.
        unsafe {
            let four = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let one = _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps::<1>(four));
            _mm_storeu_ps(out.as_mut_ptr(), one);
        }
        out
    }

    #[inline(always)]
    unsafe fn eight<const FAST: bool, const R: usize>(
        self,
        weights: *const i8,
        stride: usize,
        x: [&Activations; R],
        first: usize,
        sums: [&mut [i32; 64]; R],
    ) {
        for input in (0..8).step_by(4) {
            let place = (first + input) / 32 * 32 + 8 * PLACES[(first + input) / 8 % 4] + input % 8;
            for half in 0..2 {
                // SAFETY: `self` proves the instructions, the caller the weights; slices and arrays hold what is read and written.
                unsafe {
                    let mut rows = [_mm256_setzero_si256(); 4];
                    for i in 0..4 {
                        let row = weights.add((input + i) * stride + 32 * half);
                        rows[i] = _mm256_xor_si256(_mm256_loadu_si256(row.cast()), _mm256_set1_epi8(-128));
                    }
                    let [a, b] =
                        [_mm256_unpacklo_epi8(rows[0], rows[1]), _mm256_unpackhi_epi8(rows[0], rows[1])];
                    let [c, d] =
                        [_mm256_unpacklo_epi8(rows[2], rows[3]), _mm256_unpackhi_epi8(rows[2], rows[3])];
                    // Of each 16 columns 0..4, 4..8, 8..12 and 12..16.
                    let codes = [
                        _mm256_unpacklo_epi16(a, c),
                        _mm256_unpackhi_epi16(a, c),
                        _mm256_unpacklo_epi16(b, d),
                        _mm256_unpackhi_epi16(b, d),
                    ];
                    let zero = _mm256_setzero_si256();
                    for r in 0..R {
                        let four = x[r].integers[2 * place..][..8].as_ptr().cast::<i64>();
                        let four = _mm256_set1_epi64x(four.read_unaligned());
                        let sums = sums[r][32 * half..][..32].as_mut_ptr().cast::<__m256i>();
                        for v in 0..4 {
                            let first = _mm256_madd_epi16(_mm256_unpacklo_epi8(codes[v], zero), four);
                            let last = _mm256_madd_epi16(_mm256_unpackhi_epi8(codes[v], zero), four);
                            let sum = _mm256_loadu_si256(sums.add(v));
                            let sum = _mm256_add_epi32(sum, _mm256_hadd_epi32(first, last));
                            _mm256_storeu_si256(sums.add(v), sum);
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn in_order(self, sums: &[i32; 64]) -> [i32; 64] {
        // In each 32 lie of both 16 the first four, then of both the next four, and so on.
        std::array::from_fn(|i| sums[i / 32 * 32 + i % 16 / 4 * 8 + i / 16 % 2 * 4 + i % 4])
    }

    #[inline(always)]
    fn arrange(self, integers: &[i16; INPUTS]) -> [u8; 2 * INPUTS] {
        let mut out = [0; 2 * INPUTS];
        for (i, &integer) in integers.iter().enumerate() {
            let place = i / 32 * 32 + PLACES[i / 8 % 4] * 8 + i % 8;
            out[2 * place..][..2].copy_from_slice(&integer.to_le_bytes());
        }
        out
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: asks for nothing that would not be there.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
