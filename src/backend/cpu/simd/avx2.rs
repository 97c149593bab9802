//! Eight values at a time, with AVX2, FMA and F16C.

use std::arch::x86_64::*;

use super::{IntegerJob, Job, Simd};

/// Proof that the processor has AVX2, FMA and F16C, which came with them or before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }

    /// Runs `job` compiled for these instructions.
    pub(crate) fn enter(self, job: impl Job) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inside(simd: Avx2, job: impl Job) {
            job.run(simd);
        }
        // SAFETY: `self` proves the features.
        unsafe { inside(self, job) }
    }

    /// The same for products of integers.
    pub(crate) fn enter_integers(self, job: impl IntegerJob) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inside(simd: Avx2, job: impl IntegerJob) {
            job.run(simd);
        }
        // SAFETY: `self` proves the features.
        unsafe { inside(self, job) }
    }
}

// SAFETY: `new` is the only maker of values and has looked. The SAFETY notes below rest on that: every intrinsic used needs
// nothing but AVX2, FMA and F16C.
unsafe impl Simd for Avx2 {
    const LANES: usize = 8;
    const WIDE: bool = false;
    type F32 = __m256;
    type I32 = __m256i;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load_f32(self, p: *const u8) -> __m256 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_loadu_ps(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> __m256 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()))))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m256 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m256i {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> __m256 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn store_f32(self, p: *mut u8, x: __m256) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_storeu_ps(p.cast(), x) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u8, x: __m256) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let upper = _mm256_srli_epi32::<16>(_mm256_castps_si256(x));
            let packed =
                _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256::<1>(upper));
            _mm_storeu_si128(p.cast(), packed);
        }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn round(self, x: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn exp2(self, x: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn round_bf16(self, x: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let bits = _mm256_castps_si256(x);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let rounded = _mm256_and_si256(rounded, _mm256_set1_epi32(-0x1_0000));
            let quiet = _mm256_set1_epi32(0x7fc0_0000);
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
            _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan)
        }
    }

    #[inline(always)]
    fn and(self, x: __m256i, mask: u32) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_and_si256(x, _mm256_set1_epi32(mask.cast_signed())) }
    }

    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    fn left<const N: u32>(self, x: __m256i) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_sll_epi32(x, _mm_cvtsi32_si128(N.cast_signed())) }
    }

    #[inline(always)]
    fn right<const N: u32>(self, x: __m256i) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_srl_epi32(x, _mm_cvtsi32_si128(N.cast_signed())) }
    }

    #[inline(always)]
    fn convert(self, x: __m256i) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn lookup(self, table: &[f32; 16], index: __m256i) -> __m256 {
        // SAFETY: `self` proves the instructions; the table has two vectors.
        unsafe {
            let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr()), index);
            let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr().add(8)), index);
            // The fourth bit becomes the sign, which chooses.
            _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index)))
        }
    }

    #[inline(always)]
    fn sum(self, x: __m256) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn largest(self, x: __m256) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}
