//! 64 products at a time, with AVX-512 and its dot products of bytes.
//!
//! `vpdpbusd` multiplies 64 unsigned bytes with 64 signed ones and adds each four of the products to a lane. What meets in a lane has
//! the same scale, so that lanes are scaled once for 256 inputs: each has four of the same 16 inputs at a time. Activations are
//! kept in that order, four times 64 upper bytes before the 64 lower ones.

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

/// 256 bytes, four of each 16 in a vector instead of 16 of four times 16.
#[inline(always)]
fn exchanged(_: Vnni, [a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the value proves the instructions.
    unsafe {
        let [ab, cd] = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
        let [ef, gh] = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
        [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ef, gh),
            _mm512_unpackhi_epi64(ef, gh),
        ]
    }
}

/// Where four activations from `first` on are kept: their upper bytes, and 64 further their lower ones.
#[inline(always)]
fn place(first: usize) -> usize {
    first % 16 / 4 * 128 + 4 * Vnni::ORDER[first / 16]
}

// SAFETY: `new` is the only maker of values and has looked. The SAFETY notes below rest on that: every intrinsic used needs
// nothing but the features that are proved.
unsafe impl Integers for Vnni {
    const BIAS: f32 = 128.0;
    const FASTER: bool = true;
    // That of columns and rows of four by four exchanged.
    const ORDER: [usize; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];
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
    fn scaled_twice(self, [a, b]: [u64; 2], factors: &[u8; 4]) -> [__m512; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            // Both by turns, until they are products.
            let bytes =
                _mm_unpacklo_epi8(_mm_cvtsi64_si128(a.cast_signed()), _mm_cvtsi64_si128(b.cast_signed()));
            let factors = _mm512_cvtph_ps(_mm256_set1_epi32(i32::from_le_bytes(*factors)));
            let both = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), factors);
            let first = _mm512_set_epi32(14, 14, 12, 12, 10, 10, 8, 8, 6, 6, 4, 4, 2, 2, 0, 0);
            let second = _mm512_set_epi32(15, 15, 13, 13, 11, 11, 9, 9, 7, 7, 5, 5, 3, 3, 1, 1);
            [_mm512_permutexvar_ps(first, both), _mm512_permutexvar_ps(second, both)]
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
    fn lined_up(self, quarters: [__m512i; 4], scales: __m512) -> ([__m512i; 4], __m512) {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
            (exchanged(self, quarters), _mm512_permutexvar_ps(order, scales))
        }
    }

    #[inline(always)]
    fn add<const FAST: bool>(
        self,
        sum: __m512,
        (codes, scales): ([__m512i; 4], __m512),
        offsets: __m512,
        x: &Activations,
    ) -> __m512 {
        let planes = x.integers.as_ptr();
        // SAFETY: `self` proves the instructions; the array is eight vectors.
        unsafe {
            // Two chains of half the length.
            let [mut upper, mut lower] = [_mm512_setzero_si512(); 2];
            for i in 0..4 {
                let planes = planes.add(128 * i);
                if !FAST {
                    upper = _mm512_dpbusd_epi32(upper, codes[i], _mm512_loadu_si512(planes.cast()));
                }
                lower = _mm512_dpbusd_epi32(lower, codes[i], _mm512_loadu_si512(planes.add(64).cast()));
            }
            let products = _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), lower);
            let sum = _mm512_fnmadd_ps(offsets, self.load(&x.sums), sum);
            let scales = _mm512_mul_ps(scales, self.load(&x.scales));
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scales, sum)
        }
    }

    #[inline(always)]
    fn totals(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        // SAFETY: `self` proves the instructions; the array is a vector.
        unsafe {
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let [ab, cd] = [_mm512_castps_pd(ab), _mm512_castps_pd(cd)];
            let [low, high] = [_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd)];
            let four = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
            let upper = _mm512_castps512_ps256(_mm512_shuffle_f32x4::<0b1110>(four, four));
            let two = _mm256_add_ps(_mm512_castps512_ps256(four), upper);
            let one = _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps::<1>(two));
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
        let x = x.map(|x| &x.integers);
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
                let place = place(first + four);
                for r in 0..R {
                    let x = x[r][place..][..68].as_ptr().cast::<i32>();
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
        // SAFETY: `self` proves the instructions; eight vectors of integers become four of each half of theirs, in an array of eight.
        unsafe {
            let [mut upper, mut lower] = [[_mm512_setzero_si512(); 4]; 2];
            for quarter in 0..4 {
                let [mut high, mut low] = [[_mm256_setzero_si256(); 2]; 2];
                for half in 0..2 {
                    let x = _mm512_loadu_si512(integers.as_ptr().add(64 * quarter + 32 * half).cast());
                    low[half] = _mm512_cvtepi16_epi8(x);
                    let rest = _mm512_sub_epi16(x, _mm512_cvtepi8_epi16(low[half]));
                    high[half] = _mm512_cvtepi16_epi8(_mm512_srai_epi16::<8>(rest));
                }
                upper[quarter] = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(high[0]), high[1]);
                lower[quarter] = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low[0]), low[1]);
            }
            let [upper, lower] = [exchanged(self, upper), exchanged(self, lower)];
            for i in 0..4 {
                _mm512_storeu_si512(out.as_mut_ptr().add(128 * i).cast(), upper[i]);
                _mm512_storeu_si512(out.as_mut_ptr().add(128 * i + 64).cast(), lower[i]);
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
