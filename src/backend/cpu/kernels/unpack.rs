//! Blocks to f32 in vectors.
//!
//! The same operations in the same order as in `quant`, so the same bits.

use std::ops::Range;

use super::{BF16, Element, F16, F32};
use crate::backend::cpu::simd::{Isa, Job, Simd};
use crate::quant::iq::{self, Codes};
use crate::quant::{self, Factors, iq4, k, legacy, part, scale};
use crate::tensor::DType;

/// A matrix stored `[outputs, inputs]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    weights: &'a [u8], // [outputs, inputs] of `dtype`
    dtype: DType,
    inputs: usize,
    factors: Option<&'a Factors>,
}

impl<'a> Matrix<'a> {
    pub(crate) fn new(weights: &'a [u8], dtype: DType, inputs: usize, factors: Option<&'a Factors>) -> Self {
        assert!(inputs > 0 && inputs.is_multiple_of(dtype.block() as usize));
        Self { weights, dtype, inputs, factors }
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn outputs(&self) -> usize {
        self.weights.len() / self.size(self.inputs)
    }

    /// Bytes of so many weights.
    fn size(&self, weights: usize) -> usize {
        weights / self.dtype.block() as usize * self.dtype.block_bytes() as usize
    }

    /// Some inputs of some outputs, those of each from the next multiple of `line` on.
    pub(super) fn unpack(
        &self,
        isa: Isa,
        outputs: Range<usize>,
        inputs: Range<usize>,
        line: usize,
        out: &mut [f32],
    ) {
        isa.run(Unpack { matrix: self, outputs, inputs, line, out });
    }
}

/// A job of its own, so that it is compiled once for each instruction set.
struct Unpack<'a> {
    matrix: &'a Matrix<'a>,
    outputs: Range<usize>,
    inputs: Range<usize>,
    line: usize,
    out: &'a mut [f32],
}

impl Job for Unpack<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { matrix, outputs, inputs, line, out } = self;
        let (row, start, len) =
            (matrix.size(matrix.inputs), matrix.size(inputs.start), matrix.size(inputs.len()));
        let count = outputs.len();
        for (output, out) in outputs.zip(out.chunks_mut(line)) {
            let bytes = &matrix.weights[output * row + start..][..len];
            // The same of the outputs behind these, which comes next or some pieces later.
            let ahead = bytes.as_ptr().wrapping_add(count * row);
            for line in (0..len + 63).step_by(64) {
                s.prefetch(ahead.wrapping_add(line));
            }
            let out = &mut out[..inputs.len()];
            unpack(s, matrix.dtype, bytes, out);
            if let Some(factors) = matrix.factors {
                factors.apply(output, inputs.start, out);
            }
        }
    }
}

/// Calls the function of a format block by block. Not a function itself: called through one, that of the format would not be
/// compiled with the instructions.
macro_rules! each {
    ($simd:ident, $bytes:ident, $out:ident, $unpack:ident) => {
        for (block, out) in $bytes.as_chunks().0.iter().zip($out.as_chunks_mut().0) {
            $unpack($simd, block, out);
        }
    };
}

/// The same, for formats that are looked up first.
macro_rules! points {
    ($simd:ident, $bytes:ident, $out:ident, $look_up:path) => {
        for (block, out) in $bytes.as_chunks().0.iter().zip($out.as_chunks_mut().0) {
            write($simd, &$look_up(block), out);
        }
    };
}

/// The elements of whole blocks.
#[inline(always)]
pub(super) fn unpack<S: Simd>(s: S, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::Q4_0 => each!(s, bytes, out, q4_0),
        DType::Q4_1 => each!(s, bytes, out, q4_1),
        DType::Q5_0 => each!(s, bytes, out, q5_0),
        DType::Q5_1 => each!(s, bytes, out, q5_1),
        DType::Q8_0 => each!(s, bytes, out, q8_0),
        DType::Q2K => each!(s, bytes, out, q2_k),
        DType::Q3K => each!(s, bytes, out, q3_k),
        DType::Q4K => each!(s, bytes, out, q4_k),
        DType::Q5K => each!(s, bytes, out, q5_k),
        DType::Q6K => each!(s, bytes, out, q6_k),
        DType::Iq4Nl => each!(s, bytes, out, iq4_nl),
        DType::Iq4Xs => each!(s, bytes, out, iq4_xs),
        DType::Iq3Xxs => points!(s, bytes, out, iq::iq3_xxs),
        DType::Iq3S => points!(s, bytes, out, iq::iq3_s),
        DType::Iq2Xxs => points!(s, bytes, out, iq::iq2_xxs),
        DType::Iq2Xs => points!(s, bytes, out, iq::iq2_xs),
        DType::Iq2S => points!(s, bytes, out, iq::iq2_s),
        DType::Iq1S => points!(s, bytes, out, iq::iq1_s),
        DType::Iq1M => points!(s, bytes, out, iq::iq1_m),
        DType::F32 => elements::<S, F32>(s, bytes, out),
        DType::F16 => elements::<S, F16>(s, bytes, out),
        DType::BF16 => elements::<S, BF16>(s, bytes, out),
        // Loops over single elements become vectors by themselves.
        _ => quant::unpack(dtype, bytes, out),
    }
}

/// Elements that are numbers.
#[inline(always)]
fn elements<S: Simd, E: Element>(s: S, bytes: &[u8], out: &mut [f32]) {
    let bytes = &bytes[..out.len() * E::SIZE];
    super::each!(s, out.len(), |s, i| {
        // SAFETY: both hold as many elements, of which there is a vector left.
        unsafe { s.store_f32(out.as_mut_ptr().add(i).cast(), E::load(s, bytes.as_ptr().add(i * E::SIZE))) };
    });
}

/// A vector of bytes.
#[inline(always)]
fn bytes<S: Simd>(s: S, block: &[u8], at: usize) -> S::I32 {
    // SAFETY: the slice is a vector.
    unsafe { s.load_u8(block[at..][..S::LANES].as_ptr()) }
}

/// Stores `d * x`.
#[inline(always)]
fn put<S: Simd>(s: S, out: &mut [f32], at: usize, d: f32, x: S::F32) {
    // SAFETY: the slice is a vector.
    unsafe { s.store_f32(out[at..][..S::LANES].as_mut_ptr().cast(), s.mul(s.splat(d), x)) }
}

/// Stores `d * x - min`.
#[inline(always)]
fn put_above<S: Simd>(s: S, out: &mut [f32], at: usize, [d, min]: [f32; 2], x: S::F32) {
    let x = s.sub(s.mul(s.splat(d), x), s.splat(min));
    // SAFETY: the slice is a vector.
    unsafe { s.store_f32(out[at..][..S::LANES].as_mut_ptr().cast(), x) }
}

/// Codes less `zero`.
#[inline(always)]
fn centred<S: Simd>(s: S, codes: S::I32, zero: f32) -> S::F32 {
    s.sub(s.convert(codes), s.splat(zero))
}

#[inline(always)]
fn q4_0<S: Simd>(s: S, block: &[u8; 18], out: &mut [f32; 32]) {
    let d = scale::<0, _>(block);
    for i in (0..16).step_by(S::LANES) {
        let codes = bytes(s, block, 2 + i);
        put(s, out, i, d, centred(s, s.and(codes, 15), 8.0));
        put(s, out, 16 + i, d, centred(s, s.right::<4>(codes), 8.0));
    }
}

#[inline(always)]
fn q4_1<S: Simd>(s: S, block: &[u8; 20], out: &mut [f32; 32]) {
    // Adding a number is subtracting its negative, to the bit.
    let scales = [scale::<0, _>(block), -scale::<2, _>(block)];
    for i in (0..16).step_by(S::LANES) {
        let codes = bytes(s, block, 4 + i);
        put_above(s, out, i, scales, s.convert(s.and(codes, 15)));
        put_above(s, out, 16 + i, scales, s.convert(s.right::<4>(codes)));
    }
}

#[inline(always)]
fn q5_0<S: Simd>(s: S, block: &[u8; 22], out: &mut [f32; 32]) {
    let d = scale::<0, _>(block);
    let high = legacy::fifth_bits(part::<2, _, _>(block));
    for i in (0..16).step_by(S::LANES) {
        let low = bytes(s, block, 6 + i);
        put(s, out, i, d, centred(s, s.or(s.and(low, 15), bytes(s, &high, i)), 16.0));
        put(s, out, 16 + i, d, centred(s, s.or(s.right::<4>(low), bytes(s, &high, 16 + i)), 16.0));
    }
}

#[inline(always)]
fn q5_1<S: Simd>(s: S, block: &[u8; 24], out: &mut [f32; 32]) {
    let scales = [scale::<0, _>(block), -scale::<2, _>(block)];
    let high = legacy::fifth_bits(part::<4, _, _>(block));
    for i in (0..16).step_by(S::LANES) {
        let low = bytes(s, block, 8 + i);
        put_above(s, out, i, scales, s.convert(s.or(s.and(low, 15), bytes(s, &high, i))));
        put_above(s, out, 16 + i, scales, s.convert(s.or(s.right::<4>(low), bytes(s, &high, 16 + i))));
    }
}

#[inline(always)]
fn q8_0<S: Simd>(s: S, block: &[u8; 34], out: &mut [f32; 32]) {
    let d = scale::<0, _>(block);
    for i in (0..32).step_by(S::LANES) {
        // SAFETY: the slice is a vector.
        let codes = unsafe { s.load_i8(block[2 + i..][..S::LANES].as_ptr()) };
        put(s, out, i, d, codes);
    }
}

#[inline(always)]
fn write<S: Simd>(s: S, points: &Codes, out: &mut [f32; 256]) {
    for i in (0..256).step_by(S::LANES) {
        // SAFETY: the slice is a vector.
        let codes = unsafe { s.load_i8(points.codes[i..][..S::LANES].as_ptr()) };
        put(s, out, i, points.scales[i / 16], codes);
    }
}

#[inline(always)]
fn q2_k<S: Simd>(s: S, block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, mins) = k::q2_k_scales(block);
    for half in 0..2 {
        for i in (0..32).step_by(S::LANES) {
            let mut codes = bytes(s, block, 16 + 32 * half + i);
            for pair in 0..4 {
                let run = 8 * half + 2 * pair + i / 16;
                let place = 128 * half + 32 * pair + i;
                put_above(s, out, place, [scales[run], mins[run]], s.convert(s.and(codes, 3)));
                codes = s.right::<2>(codes);
            }
        }
    }
}

#[inline(always)]
fn q3_k<S: Simd>(s: S, block: &[u8; 110], out: &mut [f32; 256]) {
    let scales = k::q3_k_scales(block);
    for i in (0..32).step_by(S::LANES) {
        let mut high = bytes(s, block, i);
        for half in 0..2 {
            let mut low = bytes(s, block, 32 + 32 * half + i);
            for pair in 0..4 {
                let codes = s.or(s.and(low, 3), s.left::<2>(s.and(high, 1)));
                let d = scales[8 * half + 2 * pair + i / 16];
                put(s, out, 128 * half + 32 * pair + i, d, centred(s, codes, 4.0));
                low = s.right::<2>(low);
                high = s.right::<1>(high);
            }
        }
    }
}

#[inline(always)]
fn q4_k<S: Simd>(s: S, block: &[u8; 144], out: &mut [f32; 256]) {
    let (scales, mins) = k::q4_k_scales(&part::<0, _, _>(block));
    for pair in 0..4 {
        let [low, high] = [2 * pair, 2 * pair + 1].map(|run| [scales[run], mins[run]]);
        for i in (0..32).step_by(S::LANES) {
            let codes = bytes(s, block, 16 + 32 * pair + i);
            put_above(s, out, 64 * pair + i, low, s.convert(s.and(codes, 15)));
            put_above(s, out, 64 * pair + 32 + i, high, s.convert(s.right::<4>(codes)));
        }
    }
}

#[inline(always)]
fn q5_k<S: Simd>(s: S, block: &[u8; 176], out: &mut [f32; 256]) {
    let (scales, mins) = k::q4_k_scales(&part::<0, _, _>(block));
    for i in (0..32).step_by(S::LANES) {
        let mut fifth = bytes(s, block, 16 + i);
        for pair in 0..4 {
            let [low, high] = [2 * pair, 2 * pair + 1].map(|run| [scales[run], mins[run]]);
            let codes = bytes(s, block, 48 + 32 * pair + i);
            let lower = s.or(s.and(codes, 15), s.left::<4>(s.and(fifth, 1)));
            let upper = s.or(s.right::<4>(codes), s.left::<3>(s.and(fifth, 2)));
            put_above(s, out, 64 * pair + i, low, s.convert(lower));
            put_above(s, out, 64 * pair + 32 + i, high, s.convert(upper));
            fifth = s.right::<2>(fifth);
        }
    }
}

#[inline(always)]
fn q6_k<S: Simd>(s: S, block: &[u8; 210], out: &mut [f32; 256]) {
    let scales = k::q6_k_scales(block);
    for half in 0..2 {
        for i in (0..32).step_by(S::LANES) {
            let low = [0, 32].map(|run| 64 * half + run + i);
            let low = [bytes(s, block, low[0]), bytes(s, block, low[1])];
            let high = bytes(s, block, 128 + 32 * half + i);
            let codes = [
                s.or(s.and(low[0], 15), s.left::<4>(s.and(high, 3))),
                s.or(s.and(low[1], 15), s.left::<2>(s.and(high, 12))),
                s.or(s.right::<4>(low[0]), s.and(high, 48)),
                s.or(s.right::<4>(low[1]), s.right::<2>(s.and(high, 192))),
            ];
            for quarter in 0..4 {
                let d = scales[8 * half + 2 * quarter + i / 16];
                put(s, out, 128 * half + 32 * quarter + i, d, centred(s, codes[quarter], 32.0));
            }
        }
    }
}

#[inline(always)]
fn iq4_nl<S: Simd>(s: S, block: &[u8; 18], out: &mut [f32; 32]) {
    let d = scale::<0, _>(block);
    for i in (0..16).step_by(S::LANES) {
        let codes = bytes(s, block, 2 + i);
        put(s, out, i, d, s.lookup(&iq4::VALUES, s.and(codes, 15)));
        put(s, out, 16 + i, d, s.lookup(&iq4::VALUES, s.right::<4>(codes)));
    }
}

#[inline(always)]
fn iq4_xs<S: Simd>(s: S, block: &[u8; 136], out: &mut [f32; 256]) {
    let scales = iq4::iq4_xs_scales(block);
    for run in 0..8 {
        for i in (0..16).step_by(S::LANES) {
            let codes = bytes(s, block, 8 + 16 * run + i);
            let place = 32 * run + i;
            put(s, out, place, scales[run], s.lookup(&iq4::VALUES, s.and(codes, 15)));
            put(s, out, place + 16, scales[run], s.lookup(&iq4::VALUES, s.right::<4>(codes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::{Isa, Job};

    struct Unpack<'a>(DType, &'a [u8], &'a mut [f32]);

    impl Job for Unpack<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            unpack(s, self.0, self.1, self.2);
        }
    }

    #[test]
    fn vectors_give_the_same_bits_as_the_definitions() {
        let mut state = 1_u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(64 * 256)
        .collect();
        for dtype in [
            DType::Q4_0,
            DType::Q4_1,
            DType::Q5_0,
            DType::Q5_1,
            DType::Q8_0,
            DType::Q2K,
            DType::Q3K,
            DType::Q4K,
            DType::Q5K,
            DType::Q6K,
            DType::Iq4Nl,
            DType::Iq4Xs,
            DType::Iq3Xxs,
            DType::Iq3S,
            DType::Iq2Xxs,
            DType::Iq2Xs,
            DType::Iq2S,
            DType::Iq1S,
            DType::Iq1M,
            DType::F8E4M3,
        ] {
            let blocks = bytes.len() / dtype.block_bytes() as usize;
            let bytes = &bytes[..blocks * dtype.block_bytes() as usize];
            let mut expected = vec![0.0; blocks * dtype.block() as usize];
            quant::dequantise(dtype, bytes, &mut expected).unwrap();
            for isa in Isa::available() {
                let mut found = vec![0.0; expected.len()];
                isa.run(Unpack(dtype, bytes, &mut found));
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                assert!(found.iter().zip(&expected).all(same), "{dtype}, {}", isa.name());
            }
        }
    }
}
