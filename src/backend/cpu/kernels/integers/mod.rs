//! Products of few rows with weights as they are packed: integers, scaled block by block. Written over
//! [`Integers`](super::super::simd::Integers).
//!
//! Each pair of row and output is summed in the same order whatever it is batched with.

mod legacy;
pub(super) mod out_in;
mod pack;

pub(crate) use legacy::Q8_0;
pub(crate) use out_in::OutIn;
pub(crate) use pack::Pack;

use crate::backend::cpu::simd::{Activations, Integers};
use crate::tensor::DType;

/// A format of blocks as scales and codes: of 256 weights, number `i` is `scales[i / 16] * codes[i] - offsets[i / 16]`.
///
/// Functions must be `inline(always)`.
pub(crate) trait Format {
    /// Weights of a block.
    const BLOCK: usize;
    /// 256 weights: `[u8; N]`.
    type Bytes: AsRef<[u8]> + AsMut<[u8]>;
    const ZERO: Self::Bytes;
    /// 256 weights ready for the other two.
    type Block<'a>: Copy;

    fn open(bytes: &Self::Bytes) -> Self::Block<'_>;
    /// Scales and offsets.
    fn scales<S: Integers>(s: S, block: &Self::Block<'_>) -> [S::Sixteen; 2];
    /// Codes `64 * quarter` to `64 * quarter + 63`.
    fn codes<S: Integers>(s: S, block: &Self::Block<'_>, quarter: usize) -> S::Codes;
}

/// `N` bytes from `at` on.
#[inline(always)]
fn bytes<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    let bytes = &block[at..][..N];
    // SAFETY: the slice is as long.
    unsafe { &*bytes.as_ptr().cast() }
}

/// Rows of activations as integers.
#[derive(Clone, Copy)]
pub(crate) struct IntegerRows<'a> {
    pub(crate) data: &'a [Activations], // [any, stride]
    pub(crate) stride: usize,
    pub(crate) index: &'a [u32], // [rows]
}

impl<'a> IntegerRows<'a> {
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Row `i`, which has as many blocks.
    #[inline(always)]
    fn row(&self, i: usize, blocks: usize) -> &'a [Activations] {
        &self.data[self.index[i] as usize * self.stride..][..blocks]
    }
}

/// Whether there are kernels for a format of `[outputs, inputs]`.
pub(crate) fn has(dtype: DType) -> bool {
    matches!(dtype, DType::Q8_0)
}
