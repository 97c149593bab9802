//! 64 products at a time, with AVX-512 and its dot products of bytes.
//!
//! Activations are kept as two planes of bytes, 64 upper ones before 64 lower ones: `vpdpbusd` multiplies 64 unsigned bytes with 64
//! signed ones and adds each four of the products to a lane.

use std::arch::x86_64::*;

use super::{Activations, INPUTS, IntegerJob, Integers, avx2};

/// Proof that the processor has AVX-512 F, BW, VL and VNNI, and AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vnni(());

impl Vnni {
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }

    /// Runs `job` compiled for these instructions.
    pub(crate) fn enter(self, job: impl IntegerJob) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn inside(simd: Vnni, job: impl IntegerJob) {
            job.run(simd);
        }
        // SAFETY: `self` proves the features.
        unsafe { inside(self, job) }
    }
}

/// Which of 16 scales the lanes of a quarter have: four codes each.
static SPREAD: [[u32; 16]; 4] = {
    let mut lanes = [[0; 16]; 4];
    let mut i = 0;
    while i < 64 {
        lanes[i / 16][i % 16] = (i / 4) as u32;
        i += 1;
    }
    lanes
};

// SAFETY: `new` is the only maker of values and has looked. The SAFETY notes below rest on that: every intrinsic used needs
// nothing but the features that are proved.
unsafe impl Integers for Vnni {
    const BIAS: f32 = 128.0;
    const FASTER: bool = true;
    type Codes = __m512i;
    type Sixteen = __m512;
    type Sum = __m512;

    #[inline(always)]
    fn codes(self, a: &[u8; 32], b: &[u8; 32]) -> __m512i {
        // SAFETY: `self` proves the instructions; the arrays are vectors.
        unsafe {
            let a = _mm512_castsi256_si512(_mm256_loadu_si256(a.as_ptr().cast()));
            _mm512_inserti64x4::<1>(a, _mm256_loadu_si256(b.as_ptr().cast()))
        }
    }

    #[inline(always)]
    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> __m512i {
        // SAFETY: `self` proves the instructions; the arrays are vectors.
        unsafe {
            let a = _mm512_broadcast_i32x4(_mm_loadu_si128(a.as_ptr().cast()));
            let both = _mm512_mask_broadcast_i32x4(a, 0xff00, _mm_loadu_si128(b.as_ptr().cast()));
            let shifts = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
            _mm512_and_si512(_mm512_srlv_epi64(both, shifts), _mm512_set1_epi8(15))
        }
    }

    #[inline(always)]
    fn twice(self, codes: &[u8; 32]) -> __m512i {
        // SAFETY: `self` proves the instructions; the array is half a vector.
        unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(codes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn fields(self, codes: __m512i, [a, b]: [i32; 2], mask: u8) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe {
            // To the left is to the right around the whole.
            let shifts = _mm512_inserti64x4::<1>(_mm512_set1_epi32(a & 31), _mm256_set1_epi32(b & 31));
            let shifted = if (a, b) == (0, 0) {
                codes
            } else if a < 0 || b < 0 {
                _mm512_rorv_epi32(codes, shifts)
            } else {
                _mm512_srlv_epi32(codes, shifts)
            };
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask.cast_signed()))
        }
    }

    #[inline(always)]
    fn select(self, bits: u64, value: u8) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_maskz_set1_epi8(bits, value.cast_signed()) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn flip(self, codes: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_xor_si512(codes, _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    fn lookup(self, table: &[i8; 16], codes: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions; the table is a vector.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(self.flip(table), codes)
        }
    }

    #[inline(always)]
    fn fours<const N: usize>(self, grid: &[[u8; 4]; N], low: &[u8; 16], high: u16) -> __m512i {
        const { assert!(N.is_power_of_two() && N >= 256) };
        // SAFETY: `self` proves the instructions; the array is a vector, and the mask keeps numbers within the grid.
        unsafe {
            let low = _mm512_cvtepu8_epi32(_mm_loadu_si128(low.as_ptr().cast()));
            let high = _mm512_maskz_set1_epi32(high, 256 & (N as i32 - 1));
            _mm512_i32gather_epi32::<4>(_mm512_or_si512(low, high), grid.as_ptr().cast())
        }
    }

    #[inline(always)]
    fn eights<const N: usize>(
        self,
        grid: &[[u8; 8]; N],
        low: [u8; 8],
        high: u32,
        shifts: &[u32; 8],
    ) -> __m512i {
        const { assert!(N.is_power_of_two() && N >= 256) };
        // SAFETY: `self` proves the instructions; the array is a vector, and the mask keeps numbers within the grid.
        unsafe {
            let low = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(low)));
            let high = _mm256_set1_epi32(high.cast_signed());
            let high = _mm256_srlv_epi32(high, _mm256_loadu_si256(shifts.as_ptr().cast()));
            let high = _mm256_and_si256(_mm256_slli_epi32::<8>(high), _mm256_set1_epi32(N as i32 - 256));
            _mm512_i32gather_epi64::<8>(_mm256_or_si256(low, high), grid.as_ptr().cast())
        }
    }

    #[inline(always)]
    fn eights_of_words<const N: usize>(self, grid: &[[u8; 8]; N], words: &[u8; 16]) -> __m512i {
        const { assert!(N.is_power_of_two()) };
        // SAFETY: `self` proves the instructions; the array is a vector, and the mask keeps numbers within the grid.
        unsafe {
            let numbers = _mm256_cvtepu16_epi32(_mm_loadu_si128(words.as_ptr().cast()));
            let numbers = _mm256_and_si256(numbers, _mm256_set1_epi32(N as i32 - 1));
            _mm512_i32gather_epi64::<8>(numbers, grid.as_ptr().cast())
        }
    }

    #[inline(always)]
    fn even_of_words(self, words: &[u8; 16]) -> u64 {
        // SAFETY: `self` proves the instructions.
        unsafe { avx2::even_of_words(words) }
    }

    #[inline(always)]
    fn signs(self, codes: __m512i, negative: u64) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let bias = _mm512_set1_epi8(-128);
            _mm512_mask_sub_epi8(_mm512_or_si512(codes, bias), negative, bias, codes)
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> __m512 {
        // SAFETY: `self` proves the instructions; the array is a vector.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn signed(self, x: [u8; 16]) -> __m512 {
        // SAFETY: `self` proves the instructions; the array is a vector.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn unsigned_twice(self, x: u64) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let x = _mm_cvtsi64_si128(x.cast_signed());
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(x, x)))
        }
    }

    #[inline(always)]
    fn low_and_high(self, x: &[u8; 16]) -> (__m512, __m512) {
        // SAFETY: `self` proves the instructions; the array is a vector.
        unsafe {
            let x = _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let low = _mm512_and_si512(x, _mm512_set1_epi32(15));
            (_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(x)))
        }
    }

    #[inline(always)]
    fn half(self, x: &[u8; 2]) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes(*x))) }
    }

    #[inline(always)]
    fn halves(self, blocks: &[u8], at: usize, size: usize) -> __m512 {
        assert!(7 * size + at + 4 <= blocks.len());
        // SAFETY: `self` proves the instructions; the last of the eight, of which four bytes are read, is in the slice.
        unsafe {
            let lanes = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
            let places = _mm256_mullo_epi32(lanes, _mm256_set1_epi32(size as i32));
            let words = _mm256_i32gather_epi32::<1>(blocks.as_ptr().add(at).cast(), places);
            let numbers = _mm256_cvtph_ps(_mm256_cvtepi32_epi16(words));
            let twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
            _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(numbers))
        }
    }

    #[inline(always)]
    fn zero(self) -> __m512 {
        self.splat(0.0)
    }

    #[inline(always)]
    fn add<const FAST: bool>(
        self,
        sum: __m512,
        codes: __m512i,
        x: &Activations,
        quarter: usize,
        scales: __m512,
    ) -> __m512 {
        let planes = x.integers[128 * quarter..][..128].as_ptr();
        // SAFETY: `self` proves the instructions; the slice is two vectors.
        unsafe {
            let zero = _mm512_setzero_si512();
            let upper = if FAST {
                zero
            } else {
                _mm512_slli_epi32::<8>(_mm512_dpbusd_epi32(zero, codes, _mm512_loadu_si512(planes.cast())))
            };
            let products = _mm512_dpbusd_epi32(upper, codes, _mm512_loadu_si512(planes.add(64).cast()));
            let lanes = _mm512_loadu_si512(SPREAD[quarter].as_ptr().cast());
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), _mm512_permutexvar_ps(lanes, scales), sum)
        }
    }

    #[inline(always)]
    fn subtract(self, sum: __m512, offsets: __m512, x: &Activations) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_fnmadd_ps(offsets, self.load(&x.sums), sum) }
    }

    #[inline(always)]
    fn total(self, sum: __m512) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_reduce_add_ps(sum) }
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
        let planes = x.map(|x| x.integers[first / 64 * 128 + first % 64..][..72].as_ptr());
        // SAFETY: `self` proves the instructions, the caller the weights; slices and arrays hold what is read and written.
        unsafe {
            let mut upper = [[_mm512_setzero_si512(); 4]; R];
            let mut lower = upper;
            for r in 0..R {
                for v in 0..4 {
                    lower[r][v] = _mm512_loadu_si512(sums[r].as_ptr().add(16 * v).cast());
                }
            }
            for four in (0..8).step_by(4) {
                let mut rows = [_mm512_setzero_si512(); 4];
                for i in 0..4 {
                    rows[i] = self.flip(_mm512_loadu_si512(weights.add((four + i) * stride).cast()));
                }
                let [a, b] = [_mm512_unpacklo_epi8(rows[0], rows[1]), _mm512_unpackhi_epi8(rows[0], rows[1])];
                let [c, d] = [_mm512_unpacklo_epi8(rows[2], rows[3]), _mm512_unpackhi_epi8(rows[2], rows[3])];
                // Of each 16 columns 0..4, 4..8, 8..12 and 12..16.
                let codes = [
                    _mm512_unpacklo_epi16(a, c),
                    _mm512_unpackhi_epi16(a, c),
                    _mm512_unpacklo_epi16(b, d),
                    _mm512_unpackhi_epi16(b, d),
                ];
                for r in 0..R {
                    let x = planes[r].add(four).cast::<i32>();
                    let hi = _mm512_set1_epi32(x.read_unaligned());
                    let lo = _mm512_set1_epi32(x.add(16).read_unaligned());
                    for v in 0..4 {
                        if !FAST {
                            upper[r][v] = _mm512_dpbusd_epi32(upper[r][v], codes[v], hi);
                        }
                        lower[r][v] = _mm512_dpbusd_epi32(lower[r][v], codes[v], lo);
                    }
                }
            }
            for r in 0..R {
                for v in 0..4 {
                    let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(upper[r][v]), lower[r][v]);
                    _mm512_storeu_si512(sums[r].as_mut_ptr().add(16 * v).cast(), sum);
                }
            }
        }
    }

    #[inline(always)]
    fn in_order(self, sums: &[i32; 64]) -> [i32; 64] {
        let mut out = [0; 64];
        // SAFETY: `self` proves the instructions; both arrays are four vectors.
        unsafe {
            let sums = sums.as_ptr().cast::<__m512i>();
            let [a, b] = [_mm512_loadu_si512(sums), _mm512_loadu_si512(sums.add(1))];
            let [c, d] = [_mm512_loadu_si512(sums.add(2)), _mm512_loadu_si512(sums.add(3))];
            let [ab, cd] = [_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d)];
            let [ef, gh] = [_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d)];
            let out = out.as_mut_ptr().cast::<__m512i>();
            _mm512_storeu_si512(out, _mm512_shuffle_i32x4::<0x88>(ab, cd));
            _mm512_storeu_si512(out.add(1), _mm512_shuffle_i32x4::<0xdd>(ab, cd));
            _mm512_storeu_si512(out.add(2), _mm512_shuffle_i32x4::<0x88>(ef, gh));
            _mm512_storeu_si512(out.add(3), _mm512_shuffle_i32x4::<0xdd>(ef, gh));
        }
        out
    }

    #[inline(always)]
    fn arrange(self, integers: &[i16; INPUTS]) -> [u8; 2 * INPUTS] {
        let mut out = [0; 2 * INPUTS];
        for (integers, out) in integers.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<128>().0) {
            for (i, &integer) in integers.iter().enumerate() {
                let lower = integer as i8;
                out[i] = ((integer - i16::from(lower)) >> 8) as u8;
                out[64 + i] = lower.cast_unsigned();
            }
        }
        out
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: asks for nothing that would not be there.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
