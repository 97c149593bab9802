//! What random weights of each type look like. Uses `quant` and `source`.
//!
//! Every type is a pattern of bits that are random and bits that are not: exponents and scales are set so that weights have the
//! wanted size, signs and codes are free. Making such bytes is one mix of their number, one AND and one OR for eight of them.

use half::{bf16, f16};

use crate::quant;
use crate::source::Formula;
use crate::tensor::DType;

/// Bits of eight bytes that are random, and those that are set.
type Word = [u64; 2];

/// The bytes of the word at an index of a tensor.
#[inline(always)]
fn bytes([random, fixed]: Word, key: u64, index: u64) -> [u8; 8] {
    (Formula::mix(key, index) & random | fixed).to_le_bytes()
}

/// The bytes of a tensor but for their randomness; repeats.
pub(super) struct Pattern(Vec<Word>);

/// A pattern is at least as long as this many words, so that its loop is.
const WORDS: usize = 512;

/// Root mean square of uniform signed bytes.
const I8: f32 = 73.9;

impl Pattern {
    /// Weights of about this root mean square, around zero: within a few hundredths in blocks, within a fifth for numbers that stand
    /// by themselves, whose magnitudes all lie in a quarter of an octave. [`DType::I8`] leaves it to its [`scales`](Self::scales).
    pub(super) fn weights(dtype: DType, size: f32) -> Self {
        if dtype == DType::I8 {
            return Self::of(&[0xff], &[0]);
        }
        if dtype.block() == 1 {
            return Self::numbers(dtype, size, true);
        }
        // Under no seed: how large codes are is a property of the type.
        let sample = Self::blocks(dtype, 1.0);
        let mut bytes = vec![0; SAMPLE * dtype.block_bytes() as usize];
        sample.fill(0, 0, &mut bytes);
        let mut values = vec![0.0; SAMPLE * dtype.block() as usize];
        quant::unpack(dtype, &bytes, &mut values);
        let squares: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        Self::blocks(dtype, size / (squares / values.len() as f64).sqrt() as f32)
    }

    /// Positive numbers of about this size, within a fifth.
    pub(super) fn positive(dtype: DType, size: f32) -> Self {
        Self::numbers(dtype, size, false)
    }

    /// bf16 scales that give int8 weights about this root mean square.
    pub(super) fn scales(size: f32) -> Self {
        Self::positive(DType::BF16, size / I8)
    }

    /// Floating-point numbers: all of their mantissas but the first two bits is random, and the sign if they are `signed`.
    fn numbers(dtype: DType, size: f32, signed: bool) -> Self {
        let (bits, low) = match dtype {
            DType::F16 => (u32::from(f16::from_f32(size).to_bits()), 8),
            DType::BF16 => (u32::from(bf16::from_f32(size).to_bits()), 5),
            DType::F8E4M3 => (u32::from(f8_e4m3(size)), 1),
            _ => (size.to_bits(), 21),
        };
        let bytes = dtype.block_bytes() as usize;
        let sign = if signed { 1 << (8 * bytes - 1) } else { 0 };
        let random: u32 = sign | ((1 << low) - 1);
        Self::of(&random.to_le_bytes()[..bytes], &(bits & !random).to_le_bytes()[..bytes])
    }

    /// Blocks of random codes, and of random small scales, under one scale.
    ///
    /// It may be negative where nothing is added to codes: those of some types lean to one side, and from layer to layer that adds up.
    fn blocks(dtype: DType, scale: f32) -> Self {
        let bytes = dtype.block_bytes() as usize;
        let (mut random, mut fixed) = (vec![0xff; bytes], vec![0; bytes]);
        if dtype == DType::Iq1M {
            // A nibble in each of the four words at the end.
            let bits = f16::from_f32(scale).to_bits();
            for word in 0..4 {
                random[49 + 2 * word] = 0x0f;
                fixed[49 + 2 * word] = ((bits >> (4 * word) & 15) as u8) << 4;
            }
            random[55] |= SIGN;
        } else {
            let scales = scales(dtype);
            for &(place, factor) in scales {
                random[place..place + 2].copy_from_slice(&[0, if scales.len() == 1 { SIGN } else { 0 }]);
                fixed[place..place + 2].copy_from_slice(&f16::from_f32(scale * factor).to_le_bytes());
            }
        }
        Self::of(&random, &fixed)
    }

    /// Repeats a block until it is whole words, and enough of them.
    fn of(random: &[u8], fixed: &[u8]) -> Self {
        let times = (WORDS * 8).div_ceil(random.len()).next_multiple_of(8);
        let (random, fixed) = (random.repeat(times), fixed.repeat(times));
        let words = random.as_chunks().0.iter().zip(fixed.as_chunks().0);
        let word =
            |(random, fixed): (&[u8; 8], &[u8; 8])| [random, fixed].map(|half| u64::from_le_bytes(*half));
        Self(words.map(word).collect())
    }

    /// The bytes from `offset` on of the tensor with this key.
    pub(super) fn fill(&self, key: u64, offset: u64, out: &mut [u8]) {
        let mut index = offset / 8;
        let skipped = (offset % 8) as usize;
        let (first, rest) = out.split_at_mut(out.len().min((8 - skipped) % 8));
        if !first.is_empty() {
            first.copy_from_slice(&self.word(key, index)[skipped..][..first.len()]);
            index += 1;
        }
        let (mut words, last) = rest.as_chunks_mut::<8>();
        while !words.is_empty() {
            let pattern = &self.0[self.place(index)..];
            let run;
            (run, words) = words.split_at_mut(words.len().min(pattern.len()));
            let end = index + run.len() as u64;
            for ((index, out), word) in (index..).zip(run).zip(pattern) {
                *out = bytes(*word, key, index);
            }
            index = end;
        }
        if !last.is_empty() {
            last.copy_from_slice(&self.word(key, index)[..last.len()]);
        }
    }

    /// The same bytes, for others to make.
    pub(super) fn formula(&self, key: u64) -> Formula<'_> {
        Formula { key, masks: &self.0 }
    }

    fn word(&self, key: u64, index: u64) -> [u8; 8] {
        bytes(self.0[self.place(index)], key, index)
    }

    fn place(&self, index: u64) -> usize {
        (index % self.0.len() as u64) as usize
    }
}

/// The sign of an f16, in its upper byte.
const SIGN: u8 = 0x80;

/// Blocks that tell how large the codes of a type are.
const SAMPLE: usize = 256;

/// Where the f16 scales and minima of a block lie, and how large they are for weights around zero at a scale of one.
const fn scales(dtype: DType) -> &'static [(usize, f32)] {
    match dtype {
        DType::Q4_1 => &[(0, 1.0), (2, -7.5)],
        DType::Q5_1 => &[(0, 1.0), (2, -15.5)],
        DType::Q2K => &[(80, 1.0), (82, 1.5)],
        DType::Q3K => &[(108, 1.0)],
        DType::Q4K => &[(0, 1.0), (2, 7.5)],
        DType::Q5K => &[(0, 1.0), (2, 15.5)],
        DType::Q6K => &[(208, 1.0)],
        _ => &[(0, 1.0)],
    }
}

/// The largest number of the type that is not above `size`.
fn f8_e4m3(size: f32) -> u8 {
    let value = |code| {
        let mut value = [0.0];
        quant::unpack(DType::F8E4M3, &[code], &mut value);
        value[0]
    };
    (0..0x7f).rev().find(|&code| value(code) <= size).unwrap_or(0)
}
