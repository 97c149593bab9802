//! Q8_0: 32 weights with an f16 scale.

use super::{Format, bytes};
use crate::backend::cpu::simd::Integers;

pub(crate) struct Q8_0;

impl Format for Q8_0 {
    const BLOCK: usize = 32;
    type Bytes = [u8; 8 * 34];
    const ZERO: Self::Bytes = [0; 8 * 34];
    type Block<'a> = &'a Self::Bytes;

    #[inline(always)]
    fn open(bytes: &Self::Bytes) -> &Self::Bytes {
        bytes
    }

    #[inline(always)]
    fn scales<S: Integers>(s: S, block: &&Self::Bytes) -> [S::Sixteen; 2] {
        let scales = s.halves(*block, 0, 34);
        [scales, s.mul(scales, s.splat(128.0))]
    }

    #[inline(always)]
    fn codes<S: Integers>(s: S, block: &&Self::Bytes, quarter: usize) -> S::Codes {
        let at = 68 * quarter + 2;
        s.flip(s.codes(bytes(*block, at), bytes(*block, at + 34)))
    }
}
