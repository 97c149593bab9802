//! The loops that time is spent in. Each is written once over [`Simd`](super::simd::Simd).

#![allow(clippy::needless_range_loop, reason = "index loops over registers read as the arithmetic they are")]

pub(crate) mod blocks;
pub(crate) mod elementwise;
pub(crate) mod in_out;
pub(crate) mod integers;
pub(crate) mod out_in;
pub(crate) mod pages;
pub(crate) mod panels;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles;
pub(crate) mod unpack;

use std::ops::Range;

use super::shared::Shared;
use super::simd::Simd;

/// Repeats a body for the offsets of whole vectors, then for those of single values.
macro_rules! each {
    ($simd:ident, $len:expr, |$s:ident, $i:ident| $body:expr) => {{
        let len: usize = $len;
        let mut $i = 0;
        while $i + S::LANES <= len {
            let $s = $simd;
            $body;
            $i += S::LANES;
        }
        while $i < len {
            let $s = $crate::backend::cpu::simd::Scalar;
            $body;
            $i += 1;
        }
    }};
}
pub(crate) use each;

/// An element type of stored matrices: how a vector of them becomes f32.
pub(crate) trait Element: Sync {
    const SIZE: usize;

    /// # Safety
    /// `S::LANES` elements must be readable at `p`, at any alignment.
    unsafe fn load<S: Simd>(simd: S, p: *const u8) -> S::F32;
}

pub(crate) struct F32;
pub(crate) struct F16;
pub(crate) struct BF16;
pub(crate) struct I8;

impl Element for F32 {
    const SIZE: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, p: *const u8) -> S::F32 {
        // SAFETY: the caller's.
        unsafe { simd.load_f32(p) }
    }
}

impl Element for F16 {
    const SIZE: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, p: *const u8) -> S::F32 {
        // SAFETY: the caller's.
        unsafe { simd.load_f16(p) }
    }
}

impl Element for BF16 {
    const SIZE: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, p: *const u8) -> S::F32 {
        // SAFETY: the caller's.
        unsafe { simd.load_bf16(p) }
    }
}

impl Element for I8 {
    const SIZE: usize = 1;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, p: *const u8) -> S::F32 {
        // SAFETY: the caller's.
        unsafe { simd.load_i8(p) }
    }
}

/// Whether `bytes` are at least the product of `sizes`.
pub(crate) fn holds(bytes: &[u8], sizes: &[usize]) -> bool {
    let product = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    product.is_some_and(|product| product <= bytes.len())
}

/// The rows of a matrix that a product reads, in any order.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32], // [any, stride]
    pub(crate) stride: usize,
    pub(crate) index: &'a [u32], // [rows]
}

impl Rows<'_> {
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Pointer to the first of `len` readable values of row `i`.
    #[inline(always)]
    pub(crate) fn start(&self, i: usize, len: usize) -> *const f32 {
        self.data[self.index[i] as usize * self.stride..][..len].as_ptr()
    }
}

/// Where a product goes: row `i` of it to row `first + i` of the buffer, column `origin` of it to column 0.
#[derive(Clone, Copy)]
pub(crate) struct Out<'a> {
    pub(crate) buffer: &'a Shared<'a, f32>, // [any, stride]
    pub(crate) first: usize,
    pub(crate) stride: usize,
    pub(crate) origin: usize,
}

impl<'a> Out<'a> {
    /// All columns, from row `first` on.
    pub(crate) fn rows(buffer: &'a Shared<'a, f32>, first: usize, stride: usize) -> Self {
        Self { buffer, first, stride, origin: 0 }
    }

    /// Whether each row has places for these columns that no other row has.
    pub(crate) fn has(&self, columns: &Range<usize>) -> bool {
        self.origin <= columns.start && columns.end - self.origin <= self.stride
    }

    /// Number in the buffer of `column` of row `i`.
    #[inline(always)]
    pub(crate) fn place(&self, i: usize, column: usize) -> usize {
        (self.first + i) * self.stride + column - self.origin
    }

    /// Pointer to the first of `len` writable values at `column` of row `i`.
    #[inline(always)]
    pub(crate) fn start(&self, i: usize, column: usize, len: usize) -> *mut f32 {
        let start = self.place(i, column);
        self.buffer.pointer(start..start + len)
    }
}
