//! Eight values at a time in two registers, with NEON.
//!
//! Two, because bytes are then loaded eight at once, and sums that wait for themselves are twice as many.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::integers::neon::Dot;
use super::{Job, Simd};

/// Proof that the processor has NEON, and what else it may have for products of integers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon {
    dot: Option<Dot>,
}

impl Neon {
    pub(crate) fn new() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then(|| Self { dot: Dot::new() })
    }

    pub(crate) fn dot(self) -> Option<Dot> {
        self.dot
    }

    /// Runs `job` compiled for these instructions.
    pub(crate) fn enter(self, job: impl Job) {
        #[target_feature(enable = "neon")]
        fn inside(simd: Neon, job: impl Job) {
            job.run(simd);
        }
        // SAFETY: `self` proves the feature.
        unsafe { inside(self, job) }
    }
}

/// Four f16 as f32: the intrinsics are younger than our oldest compiler.
///
/// # Safety
/// The processor must have NEON.
#[inline(always)]
pub(super) unsafe fn widen(halves: uint16x4_t) -> float32x4_t {
    let wide;
    // SAFETY: the caller's.
    unsafe {
        asm!("fcvtl {:v}.4s, {:v}.4h", lateout(vreg) wide, in(vreg) halves, options(pure, nomem, nostack))
    };
    wide
}

/// The upper four of eight f16 as f32.
///
/// # Safety
/// The processor must have NEON.
#[inline(always)]
pub(super) unsafe fn widen_upper(halves: uint16x8_t) -> float32x4_t {
    let wide;
    // SAFETY: the caller's.
    unsafe {
        asm!("fcvtl2 {:v}.4s, {:v}.8h", lateout(vreg) wide, in(vreg) halves, options(pure, nomem, nostack));
    }
    wide
}

/// The sum of four.
///
/// # Safety
/// The processor must have NEON.
#[inline(always)]
pub(super) unsafe fn total(x: float32x4_t) -> f32 {
    // SAFETY: the caller's.
    unsafe { vpadds_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x))) }
}

// SAFETY: `new` is the only maker of values and has looked. The SAFETY notes below rest on that: every intrinsic used needs
// nothing but NEON, and those that load or store go by bytes, which lie at any address.
unsafe impl Simd for Neon {
    const LANES: usize = 8;
    /// There are 32, which is 16 pairs.
    const WIDE: bool = false;
    type F32 = float32x4x2_t;
    type I32 = uint32x4x2_t;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions.
        let x = unsafe { vdupq_n_f32(x) };
        float32x4x2_t(x, x)
    }

    #[inline(always)]
    unsafe fn load_f32(self, p: *const u8) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { float32x4x2_t(vreinterpretq_f32_u8(vld1q_u8(p)), vreinterpretq_f32_u8(vld1q_u8(p.add(16)))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let upper = vreinterpretq_u16_u8(vld1q_u8(p));
            let low = vshll_n_u16::<16>(vget_low_u16(upper));
            let high = vshll_high_n_u16::<16>(upper);
            float32x4x2_t(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let halves = vreinterpretq_u16_u8(vld1q_u8(p));
            float32x4x2_t(widen(vget_low_u16(halves)), widen_upper(halves))
        }
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> uint32x4x2_t {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let wide = vmovl_u8(vld1_u8(p));
            uint32x4x2_t(vmovl_u16(vget_low_u16(wide)), vmovl_high_u16(wide))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let wide = vmovl_s8(vld1_s8(p.cast()));
            let (low, high) = (vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide));
            float32x4x2_t(vcvtq_f32_s32(low), vcvtq_f32_s32(high))
        }
    }

    #[inline(always)]
    unsafe fn store_f32(self, p: *mut u8, x: float32x4x2_t) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            vst1q_u8(p, vreinterpretq_u8_f32(x.0));
            vst1q_u8(p.add(16), vreinterpretq_u8_f32(x.1));
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u8, x: float32x4x2_t) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let low = vshrn_n_u32::<16>(vreinterpretq_u32_f32(x.0));
            let both = vshrn_high_n_u32::<16>(low, vreinterpretq_u32_f32(x.1));
            vst1q_u8(p, vreinterpretq_u8_u16(both));
        }
    }

    #[inline(always)]
    fn add(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions.
        unsafe { float32x4x2_t(vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions.
        unsafe { float32x4x2_t(vsubq_f32(a.0, b.0), vsubq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions.
        unsafe { float32x4x2_t(vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn div(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions.
        unsafe { float32x4x2_t(vdivq_f32(a.0, b.0), vdivq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn fma(self, a: float32x4x2_t, b: float32x4x2_t, c: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions.
        unsafe { float32x4x2_t(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }

    // The maximum of NEON itself is NaN where either is.
    #[inline(always)]
    fn max(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions.
        unsafe {
            float32x4x2_t(vbslq_f32(vcgtq_f32(a.0, b.0), a.0, b.0), vbslq_f32(vcgtq_f32(a.1, b.1), a.1, b.1))
        }
    }

    #[inline(always)]
    fn min(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions.
        unsafe {
            float32x4x2_t(vbslq_f32(vcltq_f32(a.0, b.0), a.0, b.0), vbslq_f32(vcltq_f32(a.1, b.1), a.1, b.1))
        }
    }

    #[inline(always)]
    fn round(self, x: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions.
        unsafe { float32x4x2_t(vrndnq_f32(x.0), vrndnq_f32(x.1)) }
    }

    #[inline(always)]
    fn exp2(self, x: float32x4x2_t) -> float32x4x2_t {
        #[inline(always)]
        fn four(x: float32x4_t) -> float32x4_t {
            // SAFETY: who calls has a `Neon`.
            unsafe {
                let biased = vaddq_s32(vcvtq_s32_f32(x), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
            }
        }
        float32x4x2_t(four(x.0), four(x.1))
    }

    #[inline(always)]
    fn round_bf16(self, x: float32x4x2_t) -> float32x4x2_t {
        #[inline(always)]
        fn four(x: float32x4_t) -> float32x4_t {
            // SAFETY: who calls has a `Neon`.
            unsafe {
                let bits = vreinterpretq_u32_f32(x);
                let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
                let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
                let rounded = vandq_u32(rounded, vdupq_n_u32(0xffff_0000));
                vreinterpretq_f32_u32(vbslq_u32(vceqq_f32(x, x), rounded, vdupq_n_u32(0x7fc0_0000)))
            }
        }
        float32x4x2_t(four(x.0), four(x.1))
    }

    #[inline(always)]
    fn and(self, x: uint32x4x2_t, mask: u32) -> uint32x4x2_t {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let mask = vdupq_n_u32(mask);
            uint32x4x2_t(vandq_u32(x.0, mask), vandq_u32(x.1, mask))
        }
    }

    #[inline(always)]
    fn or(self, a: uint32x4x2_t, b: uint32x4x2_t) -> uint32x4x2_t {
        // SAFETY: `self` proves the instructions.
        unsafe { uint32x4x2_t(vorrq_u32(a.0, b.0), vorrq_u32(a.1, b.1)) }
    }

    #[inline(always)]
    fn left<const N: u32>(self, x: uint32x4x2_t) -> uint32x4x2_t {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let count = vdupq_n_s32(N.cast_signed());
            uint32x4x2_t(vshlq_u32(x.0, count), vshlq_u32(x.1, count))
        }
    }

    #[inline(always)]
    fn right<const N: u32>(self, x: uint32x4x2_t) -> uint32x4x2_t {
        // SAFETY: `self` proves the instructions. Shifts by negative counts go right.
        unsafe {
            let count = vdupq_n_s32(-N.cast_signed());
            uint32x4x2_t(vshlq_u32(x.0, count), vshlq_u32(x.1, count))
        }
    }

    #[inline(always)]
    fn convert(self, x: uint32x4x2_t) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions.
        unsafe {
            float32x4x2_t(
                vcvtq_f32_s32(vreinterpretq_s32_u32(x.0)),
                vcvtq_f32_s32(vreinterpretq_s32_u32(x.1)),
            )
        }
    }

    #[inline(always)]
    fn lookup(self, table: &[f32; 16], index: uint32x4x2_t) -> float32x4x2_t {
        // SAFETY: `self` proves the instructions; the table has 64 bytes.
        unsafe {
            let bytes = table.as_ptr().cast::<u8>();
            let table = uint8x16x4_t(
                vld1q_u8(bytes),
                vld1q_u8(bytes.add(16)),
                vld1q_u8(bytes.add(32)),
                vld1q_u8(bytes.add(48)),
            );
            // Byte `b` of an entry is byte `4 * index + b` of the table.
            let (first, step) = (vdupq_n_u32(0x0302_0100), vdupq_n_u32(0x0404_0404));
            let low = vqtbl4q_u8(table, vreinterpretq_u8_u32(vmlaq_u32(first, index.0, step)));
            let high = vqtbl4q_u8(table, vreinterpretq_u8_u32(vmlaq_u32(first, index.1, step)));
            float32x4x2_t(vreinterpretq_f32_u8(low), vreinterpretq_f32_u8(high))
        }
    }

    #[inline(always)]
    fn sum(self, x: float32x4x2_t) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe { total(vaddq_f32(x.0, x.1)) }
    }

    #[inline(always)]
    fn largest(self, x: float32x4x2_t) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe { vmaxvq_f32(vmaxq_f32(x.0, x.1)) }
    }
}
