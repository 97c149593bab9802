//! One product at a time: the definition, and processors without vectors we know.

use super::{Activations, INPUTS, Integers};
use crate::backend::cpu::simd::Scalar;
use crate::quant::half_to_f32;

impl Activations {
    /// The integer of `input`.
    fn at(&self, input: usize) -> i32 {
        i32::from(i16::from_le_bytes([self.integers[2 * input], self.integers[2 * input + 1]]))
    }
}

// SAFETY: needs no special instructions.
unsafe impl Integers for Scalar {
    const BIAS: f32 = 128.0;
    const FASTER: bool = false;
    type Codes = [u8; 64];
    type Sixteen = [f32; 16];
    type Sum = f32;

    fn codes(self, a: &[u8; 32], b: &[u8; 32]) -> [u8; 64] {
        std::array::from_fn(|i| if i < 32 { a[i] } else { b[i - 32] })
    }

    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> [u8; 64] {
        std::array::from_fn(|i| [a, b][i / 32][i % 16] >> (i / 16 % 2 * 4) & 15)
    }

    fn twice(self, codes: &[u8; 32]) -> [u8; 64] {
        std::array::from_fn(|i| codes[i % 32])
    }

    fn fields(self, codes: [u8; 64], shifts: [i32; 2], mask: u8) -> [u8; 64] {
        std::array::from_fn(|i| {
            let shift = shifts[i / 32];
            mask & if shift < 0 { codes[i] << -shift } else { codes[i] >> shift }
        })
    }

    fn select(self, bits: u64, value: u8) -> [u8; 64] {
        std::array::from_fn(|i| if bits >> i & 1 == 1 { value } else { 0 })
    }

    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] | b[i])
    }

    fn flip(self, codes: [u8; 64]) -> [u8; 64] {
        codes.map(|code| code ^ 0x80)
    }

    fn lookup(self, table: &[i8; 16], codes: [u8; 64]) -> [u8; 64] {
        self.flip(codes.map(|code| table[usize::from(code & 15)].cast_unsigned()))
    }

    fn fours<const N: usize>(self, grid: &[[u8; 4]; N], low: &[u8; 16], high: u16) -> [u8; 64] {
        std::array::from_fn(|i| {
            let point = usize::from(low[i / 4]) | usize::from(high >> (i / 4) & 1) << 8;
            grid[point % N][i % 4]
        })
    }

    fn eights<const N: usize>(
        self,
        grid: &[[u8; 8]; N],
        low: [u8; 8],
        high: u32,
        shifts: &[u32; 8],
    ) -> [u8; 64] {
        std::array::from_fn(|i| {
            let point = usize::from(low[i / 8]) | ((high >> shifts[i / 8]) as usize) << 8;
            grid[point % N][i % 8]
        })
    }

    fn eights_of_words<const N: usize>(self, grid: &[[u8; 8]; N], words: &[u8; 16]) -> [u8; 64] {
        std::array::from_fn(|i| {
            let point = u16::from_le_bytes([words[i / 8 * 2], words[i / 8 * 2 + 1]]);
            grid[usize::from(point) % N][i % 8]
        })
    }

    fn even_of_words(self, words: &[u8; 16]) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|i| {
            let seven = words[2 * i + 1] >> 1;
            seven | (seven.count_ones() as u8 & 1) << 7
        }))
    }

    fn signs(self, codes: [u8; 64], negative: u64) -> [u8; 64] {
        std::array::from_fn(|i| if negative >> i & 1 == 1 { 128 - codes[i] } else { 128 + codes[i] })
    }

    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }

    fn load(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }

    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    fn signed(self, x: [u8; 16]) -> [f32; 16] {
        x.map(|x| f32::from(x.cast_signed()))
    }

    fn unsigned_twice(self, x: u64) -> [f32; 16] {
        std::array::from_fn(|i| f32::from((x >> (i / 2 * 8)) as u8))
    }

    fn low_and_high(self, x: &[u8; 16]) -> ([f32; 16], [f32; 16]) {
        (x.map(|x| f32::from(x & 15)), x.map(|x| f32::from(x >> 4)))
    }

    fn half(self, x: &[u8; 2]) -> [f32; 16] {
        [half_to_f32(u16::from_le_bytes(*x)); 16]
    }

    fn halves(self, blocks: &[u8], at: usize, size: usize) -> [f32; 16] {
        std::array::from_fn(|i| {
            let block = &blocks[i / 2 * size + at..];
            half_to_f32(u16::from_le_bytes([block[0], block[1]]))
        })
    }

    fn zero(self) -> f32 {
        0.0
    }

    fn add<const FAST: bool>(
        self,
        mut sum: f32,
        (codes, scales): ([[u8; 64]; 4], [f32; 16]),
        offsets: [f32; 16],
        x: &Activations,
    ) -> f32 {
        for (sixteen, codes) in codes.as_flattened().as_chunks::<16>().0.iter().enumerate() {
            let products = (0..16).map(|i| i32::from(codes[i]) * x.at(16 * sixteen + i));
            let products = products.sum::<i32>() as f32;
            sum += scales[sixteen] * x.scales[sixteen] * products - offsets[sixteen] * x.sums[sixteen];
        }
        sum
    }

    fn totals(self, sums: [f32; 4]) -> [f32; 4] {
        sums
    }

    unsafe fn eight<const FAST: bool, const R: usize>(
        self,
        weights: *const i8,
        stride: usize,
        x: [&Activations; R],
        first: usize,
        sums: [&mut [i32; 64]; R],
    ) {
        for (x, sums) in x.into_iter().zip(sums) {
            for input in 0..8 {
                let x = x.at(first + input);
                for (column, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the caller's.
                    let weight = unsafe { *weights.add(input * stride + column) };
                    *sum += (i32::from(weight) + 128) * x;
                }
            }
        }
    }

    fn in_order(self, sums: &[i32; 64]) -> [i32; 64] {
        *sums
    }

    fn arrange(self, integers: &[i16; INPUTS]) -> [u8; 2 * INPUTS] {
        let mut out = [0; 2 * INPUTS];
        for (integer, out) in integers.iter().zip(out.as_chunks_mut().0) {
            *out = integer.to_le_bytes();
        }
        out
    }

    fn prefetch(self, _: *const u8) {}
}
