//! IQ1, IQ2 and IQ3: 256 weights whose points and signs are looked up before they are multiplied.

use super::{Format, bytes};
use crate::backend::cpu::simd::Integers;
use crate::quant::iq::{self, Codes};

macro_rules! format {
    ($name:ident, $size:literal, $look_up:path) => {
        pub(crate) struct $name;

        impl Format for $name {
            const BLOCK: usize = 256;
            type Bytes = [u8; $size];
            const ZERO: Self::Bytes = [0; $size];
            type Block<'a> = Codes;

            #[inline(always)]
            fn open(bytes: &Self::Bytes) -> Codes {
                $look_up(bytes)
            }

            #[inline(always)]
            fn scales<S: Integers>(s: S, block: &Codes) -> [S::Sixteen; 2] {
                let scales = s.load(&block.scales);
                [scales, s.mul(scales, s.splat(S::BIAS))]
            }

            #[inline(always)]
            fn codes<S: Integers>(s: S, block: &Codes, quarter: usize) -> S::Codes {
                let at = 64 * quarter;
                s.flip(s.codes(bytes(&block.codes, at), bytes(&block.codes, at + 32)))
            }
        }
    };
}

format!(Iq3Xxs, 98, iq::iq3_xxs);
format!(Iq3S, 110, iq::iq3_s);
format!(Iq2Xxs, 66, iq::iq2_xxs);
format!(Iq2Xs, 74, iq::iq2_xs);
format!(Iq2S, 82, iq::iq2_s);
format!(Iq1S, 50, iq::iq1_s);
format!(Iq1M, 56, iq::iq1_m);
