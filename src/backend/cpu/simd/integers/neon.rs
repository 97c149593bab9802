//! 16 products at a time, with NEON's dot products of bytes.
//!
//! Codes are signed bytes, of which each vector has one scale. Activations are kept as two planes of signed bytes, 64 upper ones before
//! 64 lower ones.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::{Activations, INPUTS, IntegerJob, Integers};
use crate::backend::cpu::simd::neon::{widen, widen_upper};

/// Proof that the processor has NEON and its dot products.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dot(());

impl Dot {
    pub(crate) fn new() -> Option<Self> {
        (is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod")).then_some(Self(()))
    }

    /// Runs `job` compiled for these instructions.
    pub(crate) fn enter(self, job: impl IntegerJob) {
        #[target_feature(enable = "neon,dotprod")]
        fn inside(simd: Dot, job: impl IntegerJob) {
            job.run(simd);
        }
        // SAFETY: `self` proves the features.
        unsafe { inside(self, job) }
    }
}

/// `sum` and in each lane four products. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction changes nothing else.
    unsafe {
        asm!(
            "sdot {:v}.4s, {:v}.16b, {:v}.16b",
            inlateout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Entries of a table for 16 codes that each bit of 64 decides over: the byte that it lies in.
static BYTES: [[u8; 16]; 4] = {
    let mut bytes = [[0; 16]; 4];
    let mut i = 0;
    while i < 64 {
        bytes[i / 16][i % 16] = (i / 8) as u8;
        i += 1;
    }
    bytes
};

/// The bit of each byte that is its number.
static BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];

impl Dot {
    /// The points that the lower bits of numbers name.
    #[inline(always)]
    fn points<const N: usize>(self, grid: &[[u8; 8]; N], numbers: [usize; 8]) -> [uint8x16_t; 4] {
        // SAFETY: `self` proves the instructions; a point is half a vector.
        unsafe {
            let mut codes = [vdupq_n_u8(0); 4];
            for i in 0..4 {
                let first = vld1_u8(grid[numbers[2 * i] % N].as_ptr());
                codes[i] = vcombine_u8(first, vld1_u8(grid[numbers[2 * i + 1] % N].as_ptr()));
            }
            codes
        }
    }

    /// Bytes as numbers.
    #[inline(always)]
    fn numbers(self, x: uint8x16_t) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let [low, high] = [vmovl_u8(vget_low_u8(x)), vmovl_high_u8(x)];
            [
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
                vcvtq_f32_u32(vmovl_high_u16(low)),
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
                vcvtq_f32_u32(vmovl_high_u16(high)),
            ]
        }
    }
}

// SAFETY: `new` is the only maker of values and has looked. The SAFETY notes below rest on that: every intrinsic used needs
// nothing but the features that are proved.
unsafe impl Integers for Dot {
    const BIAS: f32 = 0.0;
    const FASTER: bool = true;
    type Codes = [uint8x16_t; 4];
    type Sixteen = [float32x4_t; 4];
    type Sum = float32x4_t;

    #[inline(always)]
    fn codes(self, a: &[u8; 32], b: &[u8; 32]) -> [uint8x16_t; 4] {
        let (a, b) = (a.as_ptr(), b.as_ptr());
        // SAFETY: `self` proves the instructions; the arrays are two vectors each.
        unsafe { [vld1q_u8(a), vld1q_u8(a.add(16)), vld1q_u8(b), vld1q_u8(b.add(16))] }
    }

    #[inline(always)]
    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> [uint8x16_t; 4] {
        // SAFETY: `self` proves the instructions; the arrays are vectors.
        unsafe {
            let (a, b, low) = (vld1q_u8(a.as_ptr()), vld1q_u8(b.as_ptr()), vdupq_n_u8(15));
            [vandq_u8(a, low), vshrq_n_u8::<4>(a), vandq_u8(b, low), vshrq_n_u8::<4>(b)]
        }
    }

    #[inline(always)]
    fn twice(self, codes: &[u8; 32]) -> [uint8x16_t; 4] {
        self.codes(codes, codes)
    }

    #[inline(always)]
    fn fields(self, x: [uint8x16_t; 4], shifts: [i32; 2], mask: u8) -> [uint8x16_t; 4] {
        // SAFETY: `self` proves the instructions. Shifts by negative counts go right.
        unsafe {
            let [a, b] = [vdupq_n_s8(-shifts[0] as i8), vdupq_n_s8(-shifts[1] as i8)];
            let mask = vdupq_n_u8(mask);
            [
                vandq_u8(vshlq_u8(x[0], a), mask),
                vandq_u8(vshlq_u8(x[1], a), mask),
                vandq_u8(vshlq_u8(x[2], b), mask),
                vandq_u8(vshlq_u8(x[3], b), mask),
            ]
        }
    }

    #[inline(always)]
    fn select(self, bits: u64, value: u8) -> [uint8x16_t; 4] {
        // SAFETY: `self` proves the instructions; the arrays are vectors.
        unsafe {
            let bits = vreinterpretq_u8_u64(vdupq_n_u64(bits));
            let mut codes = [vdupq_n_u8(value); 4];
            for i in 0..4 {
                let bytes = vqtbl1q_u8(bits, vld1q_u8(BYTES[i].as_ptr()));
                codes[i] = vandq_u8(vtstq_u8(bytes, vld1q_u8(BITS.as_ptr())), codes[i]);
            }
            codes
        }
    }

    #[inline(always)]
    fn or(self, a: [uint8x16_t; 4], b: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        // SAFETY: `self` proves the instructions.
        unsafe { [vorrq_u8(a[0], b[0]), vorrq_u8(a[1], b[1]), vorrq_u8(a[2], b[2]), vorrq_u8(a[3], b[3])] }
    }

    #[inline(always)]
    fn flip(self, codes: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        codes
    }

    #[inline(always)]
    fn lookup(self, table: &[i8; 16], codes: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        // SAFETY: `self` proves the instructions; the table is a vector.
        unsafe {
            let table = vld1q_u8(table.as_ptr().cast());
            let [a, b, c, d] = codes;
            [vqtbl1q_u8(table, a), vqtbl1q_u8(table, b), vqtbl1q_u8(table, c), vqtbl1q_u8(table, d)]
        }
    }

    #[inline(always)]
    fn fours<const N: usize>(self, grid: &[[u8; 4]; N], low: &[u8; 16], high: u16) -> [uint8x16_t; 4] {
        let mut points = [0_u32; 16];
        for i in 0..16 {
            let number = usize::from(low[i]) | usize::from(high >> i & 1) << 8;
            points[i] = u32::from_le_bytes(grid[number % N]);
        }
        let points = points.as_ptr().cast();
        // SAFETY: `self` proves the instructions; the array is four vectors.
        unsafe {
            [vld1q_u8(points), vld1q_u8(points.add(16)), vld1q_u8(points.add(32)), vld1q_u8(points.add(48))]
        }
    }

    #[inline(always)]
    fn eights<const N: usize>(
        self,
        grid: &[[u8; 8]; N],
        low: [u8; 8],
        high: u32,
        shifts: &[u32; 8],
    ) -> [uint8x16_t; 4] {
        let mut numbers = [0; 8];
        for i in 0..8 {
            numbers[i] = usize::from(low[i]) | ((high >> shifts[i]) as usize) << 8;
        }
        self.points(grid, numbers)
    }

    #[inline(always)]
    fn eights_of_words<const N: usize>(self, grid: &[[u8; 8]; N], words: &[u8; 16]) -> [uint8x16_t; 4] {
        let mut numbers = [0; 8];
        for i in 0..8 {
            numbers[i] = usize::from(u16::from_le_bytes([words[2 * i], words[2 * i + 1]]));
        }
        self.points(grid, numbers)
    }

    #[inline(always)]
    fn even_of_words(self, words: &[u8; 16]) -> u64 {
        // SAFETY: `self` proves the instructions; the array is a vector.
        unsafe {
            let sevens = vshr_n_u8::<1>(vshrn_n_u16::<8>(vld1q_u16(words.as_ptr().cast())));
            let signs = vorr_u8(sevens, vshl_n_u8::<7>(vcnt_u8(sevens)));
            vget_lane_u64::<0>(vreinterpret_u64_u8(signs))
        }
    }

    #[inline(always)]
    fn signs(self, codes: [uint8x16_t; 4], negative: u64) -> [uint8x16_t; 4] {
        let negative = self.select(negative, 255);
        // SAFETY: `self` proves the instructions.
        unsafe {
            [
                vsubq_u8(veorq_u8(codes[0], negative[0]), negative[0]),
                vsubq_u8(veorq_u8(codes[1], negative[1]), negative[1]),
                vsubq_u8(veorq_u8(codes[2], negative[2]), negative[2]),
                vsubq_u8(veorq_u8(codes[3], negative[3]), negative[3]),
            ]
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instructions.
        [unsafe { vdupq_n_f32(x) }; 4]
    }

    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instructions; the array is four vectors.
        unsafe {
            let x = x.as_ptr();
            [vld1q_f32(x), vld1q_f32(x.add(4)), vld1q_f32(x.add(8)), vld1q_f32(x.add(12))]
        }
    }

    #[inline(always)]
    fn mul(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1]), vmulq_f32(a[2], b[2]), vmulq_f32(a[3], b[3])]
        }
    }

    #[inline(always)]
    fn fma(self, a: [float32x4_t; 4], b: [float32x4_t; 4], c: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            [
                vfmaq_f32(c[0], a[0], b[0]),
                vfmaq_f32(c[1], a[1], b[1]),
                vfmaq_f32(c[2], a[2], b[2]),
                vfmaq_f32(c[3], a[3], b[3]),
            ]
        }
    }

    #[inline(always)]
    fn signed(self, x: [u8; 16]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instructions; the array is a vector.
        unsafe {
            let x = vld1q_s8(x.as_ptr().cast());
            let [low, high] = [vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x)];
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        }
    }

    #[inline(always)]
    fn unsigned_twice(self, x: u64) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let x = vreinterpretq_u8_u64(vdupq_n_u64(x));
            self.numbers(vzip1q_u8(x, x))
        }
    }

    #[inline(always)]
    fn low_and_high(self, x: &[u8; 16]) -> ([float32x4_t; 4], [float32x4_t; 4]) {
        // SAFETY: `self` proves the instructions; the array is a vector.
        unsafe {
            let x = vld1q_u8(x.as_ptr());
            (self.numbers(vandq_u8(x, vdupq_n_u8(15))), self.numbers(vshrq_n_u8::<4>(x)))
        }
    }

    #[inline(always)]
    fn half(self, x: &[u8; 2]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves the instructions.
        [unsafe { widen(vdup_n_u16(u16::from_le_bytes(*x))) }; 4]
    }

    #[inline(always)]
    fn halves(self, blocks: &[u8], at: usize, size: usize) -> [float32x4_t; 4] {
        let halves: [u16; 8] = std::array::from_fn(|i| {
            let block = &blocks[i * size + at..];
            u16::from_le_bytes([block[0], block[1]])
        });
        // SAFETY: `self` proves the instructions; the array is a vector.
        unsafe {
            let halves = vld1q_u16(halves.as_ptr());
            let [low, high] = [widen(vget_low_u16(halves)), widen_upper(halves)];
            [vzip1q_f32(low, low), vzip2q_f32(low, low), vzip1q_f32(high, high), vzip2q_f32(high, high)]
        }
    }

    #[inline(always)]
    fn zero(self) -> float32x4_t {
        // SAFETY: `self` proves the instructions.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    fn add<const FAST: bool>(
        self,
        mut sum: float32x4_t,
        (codes, scales): ([[uint8x16_t; 4]; 4], [float32x4_t; 4]),
        offsets: [float32x4_t; 4],
        x: &Activations,
    ) -> float32x4_t {
        let (x_scales, sums) = (self.load(&x.scales), self.load(&x.sums));
        for quarter in 0..4 {
            let planes = x.integers[128 * quarter..][..128].as_ptr().cast::<i8>();
            // SAFETY: `self` proves the instructions; the slice is eight vectors.
            unsafe {
                let mut products = [vdupq_n_s32(0); 4];
                for i in 0..4 {
                    let codes = vreinterpretq_s8_u8(codes[quarter][i]);
                    if !FAST {
                        let upper = sdot(products[i], codes, vld1q_s8(planes.add(16 * i)));
                        products[i] = vshlq_n_s32::<8>(upper);
                    }
                    products[i] = sdot(products[i], codes, vld1q_s8(planes.add(64 + 16 * i)));
                }
                let scales = vmulq_f32(scales[quarter], x_scales[quarter]);
                sum = vfmaq_laneq_f32::<0>(sum, vcvtq_f32_s32(products[0]), scales);
                sum = vfmaq_laneq_f32::<1>(sum, vcvtq_f32_s32(products[1]), scales);
                sum = vfmaq_laneq_f32::<2>(sum, vcvtq_f32_s32(products[2]), scales);
                sum = vfmaq_laneq_f32::<3>(sum, vcvtq_f32_s32(products[3]), scales);
                sum = vfmsq_f32(sum, offsets[quarter], sums[quarter]);
            }
        }
        sum
    }

    #[inline(always)]
    fn totals(self, [a, b, c, d]: [float32x4_t; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        // SAFETY: `self` proves the instructions; the array is a vector.
        unsafe { vst1q_f32(out.as_mut_ptr(), vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))) };
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
        let place = first / 64 * 128 + first % 64;
        // SAFETY: `self` proves the instructions, the caller the weights; the slices hold eight bytes of both planes, and 16 columns
        // of the sums are four vectors.
        unsafe {
            for column in (0..64).step_by(16) {
                let mut upper = [[vdupq_n_s32(0); 4]; R];
                let mut lower = upper;
                for r in 0..R {
                    for v in 0..4 {
                        lower[r][v] = vld1q_s32(sums[r][column + 4 * v..][..4].as_ptr());
                    }
                }
                for four in [0, 4] {
                    let weights = weights.add(four * stride + column);
                    let [a, b] = [vld1q_s8(weights), vld1q_s8(weights.add(stride))];
                    let [c, d] = [vld1q_s8(weights.add(2 * stride)), vld1q_s8(weights.add(3 * stride))];
                    let ab = [vreinterpretq_s16_s8(vzip1q_s8(a, b)), vreinterpretq_s16_s8(vzip2q_s8(a, b))];
                    let cd = [vreinterpretq_s16_s8(vzip1q_s8(c, d)), vreinterpretq_s16_s8(vzip2q_s8(c, d))];
                    // Four weights of each column.
                    let codes = [
                        vreinterpretq_s8_s16(vzip1q_s16(ab[0], cd[0])),
                        vreinterpretq_s8_s16(vzip2q_s16(ab[0], cd[0])),
                        vreinterpretq_s8_s16(vzip1q_s16(ab[1], cd[1])),
                        vreinterpretq_s8_s16(vzip2q_s16(ab[1], cd[1])),
                    ];
                    for r in 0..R {
                        let planes = x[r].integers[place + four..][..68].as_ptr().cast::<i32>();
                        let hi = vreinterpretq_s8_s32(vdupq_n_s32(planes.read_unaligned()));
                        let lo = vreinterpretq_s8_s32(vdupq_n_s32(planes.add(16).read_unaligned()));
                        for v in 0..4 {
                            if !FAST {
                                upper[r][v] = sdot(upper[r][v], codes[v], hi);
                            }
                            lower[r][v] = sdot(lower[r][v], codes[v], lo);
                        }
                    }
                }
                for r in 0..R {
                    for v in 0..4 {
                        let sum = vaddq_s32(lower[r][v], vshlq_n_s32::<8>(upper[r][v]));
                        vst1q_s32(sums[r][column + 4 * v..][..4].as_mut_ptr(), sum);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn in_order(self, sums: &[i32; 64]) -> [i32; 64] {
        *sums
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
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) p, options(nostack, preserves_flags, readonly)) }
    }
}
