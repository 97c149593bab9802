//! IQ4_XS: 256 weights in eight runs with a six-bit scale each, that number the values of a table.

use super::{Format, bytes};
use crate::backend::cpu::simd::Integers;
use crate::quant::{iq4, part};

/// The values as integers.
pub(super) static TABLE: [i8; 16] = {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = iq4::VALUES[i] as i8;
        i += 1;
    }
    table
};

pub(crate) struct Iq4Xs;

impl Format for Iq4Xs {
    const BLOCK: usize = 256;
    type Bytes = [u8; 136];
    const ZERO: Self::Bytes = [0; 136];
    type Block<'a> = &'a Self::Bytes;

    #[inline(always)]
    fn open(bytes: &Self::Bytes) -> &Self::Bytes {
        bytes
    }

    #[inline(always)]
    fn scales<S: Integers>(s: S, block: &&Self::Bytes) -> [S::Sixteen; 2] {
        // Four low bits of each lie together, and two high ones.
        let low = u64::from(u32::from_le_bytes(part::<4, _, _>(block)));
        let high = u64::from(u16::from_le_bytes(part::<2, _, _>(block)));
        // A byte for every field of four bits, and for every one of two.
        let low = (low | low << 16) & 0x0000_ffff_0000_ffff;
        let low = (low | low << 8) & 0x00ff_00ff_00ff_00ff;
        let low = (low | low << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        let high = (high | high << 24) & 0x0000_00ff_0000_00ff;
        let high = (high | high << 12) & 0x000f_000f_000f_000f;
        let high = (high | high << 6) & 0x0303_0303_0303_0303;
        let scales = s.fma(s.unsigned_twice(low | high << 4), s.splat(1.0), s.splat(-32.0));
        let scales = s.mul(scales, s.half(bytes(*block, 0)));
        [scales, s.mul(scales, s.splat(S::BIAS))]
    }

    #[inline(always)]
    fn codes<S: Integers>(s: S, block: &&Self::Bytes, quarter: usize) -> S::Codes {
        let at = 8 + 32 * quarter;
        s.lookup(&TABLE, s.nibbles(bytes(*block, at), bytes(*block, at + 16)))
    }
}
