//! Sixteen values at a time, with AVX-512.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::integers::avx512::Vnni;
use super::{IntegerJob, Job, Simd};

/// Proof that the processor has AVX-512 F, and what else it may have for products of integers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512 {
    avx2: Avx2,
    vnni: Option<Vnni>,
}

impl Avx512 {
    pub(crate) fn new() -> Option<Self> {
        let avx2 = is_x86_feature_detected!("avx512f").then(Avx2::new).flatten()?;
        Some(Self { avx2, vnni: Vnni::new() })
    }

    /// Runs a product of integers with the best instructions there are for it.
    pub(crate) fn enter_integers(self, job: impl IntegerJob) {
        match self.vnni {
            Some(vnni) => vnni.enter(job),
            None => self.avx2.enter_integers(job),
        }
    }

    /// Runs `job` compiled for these instructions.
    pub(crate) fn enter(self, job: impl Job) {
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn inside(simd: Avx512, job: impl Job) {
            job.run(simd);
        }
        // SAFETY: `self` proves the features.
        unsafe { inside(self, job) }
    }
}

// SAFETY: `new` is the only maker of values and has looked. The SAFETY notes below rest on that: every intrinsic used needs
// nothing but AVX-512 F.
unsafe impl Simd for Avx512 {
    const LANES: usize = 16;
    const WIDE: bool = true;
    type F32 = __m512;
    type I32 = __m512i;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load_f32(self, p: *const u8) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_loadu_ps(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m512i {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn store_f32(self, p: *mut u8, x: __m512) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_storeu_ps(p.cast(), x) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u8, x: __m512) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let upper = _mm512_srli_epi32::<16>(_mm512_castps_si512(x));
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(upper));
        }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn exp2(self, x: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn round_bf16(self, x: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let bits = _mm512_castps_si512(x);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let rounded = _mm512_and_si512(rounded, _mm512_set1_epi32(-0x1_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            _mm512_castsi512_ps(_mm512_mask_set1_epi32(rounded, nan, 0x7fc0_0000))
        }
    }

    #[inline(always)]
    fn and(self, x: __m512i, mask: u32) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_and_si512(x, _mm512_set1_epi32(mask.cast_signed())) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn left<const N: u32>(self, x: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_slli_epi32::<N>(x) }
    }

    #[inline(always)]
    fn right<const N: u32>(self, x: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_srli_epi32::<N>(x) }
    }

    #[inline(always)]
    fn convert(self, x: __m512i) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn lookup(self, table: &[f32; 16], index: __m512i) -> __m512 {
        // SAFETY: `self` proves the instructions; the table is a vector.
        unsafe { _mm512_permutexvar_ps(index, _mm512_loadu_ps(table.as_ptr())) }
    }

    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_reduce_add_ps(x) }
    }

    #[inline(always)]
    fn largest(self, x: __m512) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_reduce_max_ps(x) }
    }

    #[inline(always)]
    fn scale_exp2(self, x: __m512, n: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_scalef_ps(x, n) }
    }

    #[inline(always)]
    fn any_above(self, x: __m512, limit: f32) -> bool {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_set1_ps(limit)) != 0 }
    }

    #[inline(always)]
    unsafe fn load_pairs(self, p: *const u8) -> [__m512; 2] {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let pairs = _mm512_loadu_si512(p.cast());
            let second = _mm512_and_si512(pairs, _mm512_set1_epi32(-0x1_0000));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(second)]
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const u8, stride: usize, to: *mut u8) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            for column in 0..4 {
                // Quarter `q` of vector `i`: four numbers of row `4 * q + i`. Four squares side by side are left to transpose.
                let mut rows = [_mm512_setzero_si512(); 4];
                for (i, row) in rows.iter_mut().enumerate() {
                    let quarter =
                        |q: usize| _mm_loadu_si128(from.add((4 * q + i) * stride + 16 * column).cast());
                    let two = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(quarter(0)), quarter(1));
                    *row = _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(two, quarter(2)), quarter(3));
                }
                let [a, b, c, d] = rows;
                let (low, high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
                let (low_2, high_2) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
                let columns = [
                    _mm512_unpacklo_epi64(low, low_2),
                    _mm512_unpackhi_epi64(low, low_2),
                    _mm512_unpacklo_epi64(high, high_2),
                    _mm512_unpackhi_epi64(high, high_2),
                ];
                for (i, numbers) in columns.into_iter().enumerate() {
                    _mm512_storeu_si512(to.add((4 * column + i) * 64).cast(), numbers);
                }
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: harmless at any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
