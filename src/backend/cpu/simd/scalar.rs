//! One value at a time: the tails of vector kernels, and processors without vectors we know.

use super::Simd;
use crate::quant;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

// SAFETY: needs no special instructions.
unsafe impl Simd for Scalar {
    const LANES: usize = 1;
    const WIDE: bool = false;
    type F32 = f32;
    type I32 = u32;

    #[inline(always)]
    fn splat(self, x: f32) -> f32 {
        x
    }

    #[inline(always)]
    unsafe fn load_f32(self, p: *const u8) -> f32 {
        // SAFETY: the caller's.
        unsafe { p.cast::<f32>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> f32 {
        // SAFETY: the caller's.
        f32::from_bits(u32::from(unsafe { p.cast::<u16>().read_unaligned() }) << 16)
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> f32 {
        // SAFETY: the caller's.
        quant::half_to_f32(unsafe { p.cast::<u16>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> u32 {
        // SAFETY: the caller's.
        u32::from(unsafe { p.read() })
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> f32 {
        // SAFETY: the caller's.
        f32::from(unsafe { p.cast::<i8>().read() })
    }

    #[inline(always)]
    unsafe fn store_f32(self, p: *mut u8, x: f32) {
        // SAFETY: the caller's.
        unsafe { p.cast::<f32>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u8, x: f32) {
        // SAFETY: the caller's.
        unsafe { p.cast::<u16>().write_unaligned((x.to_bits() >> 16) as u16) }
    }

    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }

    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }

    #[inline(always)]
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }

    #[inline(always)]
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }

    #[inline(always)]
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        // Not `mul_add`: without the instruction that is a slow call.
        a * b + c
    }

    #[inline(always)]
    fn max(self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }

    #[inline(always)]
    fn min(self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }

    #[inline(always)]
    fn round(self, x: f32) -> f32 {
        x.round_ties_even()
    }

    #[inline(always)]
    fn exp2(self, x: f32) -> f32 {
        f32::from_bits((x as i32).wrapping_add(127).wrapping_shl(23) as u32)
    }

    #[inline(always)]
    fn round_bf16(self, x: f32) -> f32 {
        half::bf16::from_f32(x).to_f32()
    }

    #[inline(always)]
    fn and(self, x: u32, mask: u32) -> u32 {
        x & mask
    }

    #[inline(always)]
    fn or(self, a: u32, b: u32) -> u32 {
        a | b
    }

    #[inline(always)]
    fn left<const N: u32>(self, x: u32) -> u32 {
        x << N
    }

    #[inline(always)]
    fn right<const N: u32>(self, x: u32) -> u32 {
        x >> N
    }

    #[inline(always)]
    fn convert(self, x: u32) -> f32 {
        x.cast_signed() as f32
    }

    #[inline(always)]
    fn lookup(self, table: &[f32; 16], index: u32) -> f32 {
        table[index as usize & 15]
    }

    #[inline(always)]
    fn sum(self, x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn largest(self, x: f32) -> f32 {
        x
    }
}
