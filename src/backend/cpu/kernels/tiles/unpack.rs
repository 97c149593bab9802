//! Weights of `[outputs, inputs]` to tiles of bf16.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{PAIR, PIECE, SIDE, STEP, narrow};
use crate::backend::cpu::kernels::integers::{self, *};
use crate::backend::cpu::kernels::unpack;
use crate::backend::cpu::simd::INPUTS;
use crate::backend::cpu::simd::amx::Tiles;
use crate::quant::Factors;
use crate::tensor::DType;

/// A piece is what the formats of blocks are read by.
const _: () = assert!(PIECE * STEP == INPUTS);

/// A matrix stored `[outputs, inputs]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    weights: &'a [u8], // [outputs, inputs] of `dtype`
    dtype: DType,
    inputs: usize,
    factors: Option<&'a Factors>,
}

impl<'a> Matrix<'a> {
    pub(super) fn new(weights: &'a [u8], dtype: DType, inputs: usize, factors: Option<&'a Factors>) -> Self {
        assert!(inputs > 0 && inputs.is_multiple_of(dtype.block() as usize));
        Self { weights, dtype, inputs, factors }
    }

    pub(super) fn outputs(&self) -> usize {
        self.weights.len() / self.row()
    }

    pub(super) fn steps(&self) -> usize {
        self.inputs.div_ceil(STEP)
    }

    /// Bytes of an output's weights.
    #[inline(always)]
    fn row(&self) -> usize {
        self.size(self.inputs)
    }

    /// Bytes of so many weights.
    #[inline(always)]
    fn size(&self, weights: usize) -> usize {
        weights / self.dtype.block() as usize * self.dtype.block_bytes() as usize
    }

    /// Tiles of a piece for up to [`SIDE`] outputs, which are the rows of two tiles. Rows beyond are anything.
    #[inline(always)]
    pub(super) fn unpack(&self, tiles: &Tiles, outputs: Range<usize>, steps: Range<usize>, out: &mut [u8]) {
        let out = &mut out[..steps.len() * PAIR];
        let inputs = steps.start * STEP..self.inputs.min(steps.end * STEP);
        let (start, len) = (self.size(inputs.start), self.size(inputs.len()));
        for (line, output) in outputs.enumerate().take(SIDE) {
            let bytes = &self.weights[output * self.row() + start..][..len];
            self.ask(bytes);
            let out = &mut out[64 * line..];
            macro_rules! run {
                ($format:ident) => {
                    blocks::<$format>(tiles, bytes, steps.len(), out)
                };
            }
            match (self.dtype, self.factors) {
                (DType::BF16, _) => copy(bytes, out),
                (dtype, None) => {
                    integers::with_format!(
                        dtype,
                        run,
                        self.floats(tiles, output, inputs.clone(), bytes, out)
                    );
                }
                _ => self.floats(tiles, output, inputs.clone(), bytes, out),
            }
        }
    }

    /// Asks for the same piece of the outputs behind these, which comes some pieces later.
    #[inline(always)]
    fn ask(&self, bytes: &[u8]) {
        let ahead = bytes.as_ptr().wrapping_add(SIDE * self.row());
        for line in (0..bytes.len() + 63).step_by(64) {
            // SAFETY: a hint, which may point anywhere.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(line).cast()) };
        }
    }

    /// An output's weights by way of f32, to the line of each step that `out` begins with.
    #[inline(always)]
    fn floats(&self, tiles: &Tiles, output: usize, inputs: Range<usize>, bytes: &[u8], out: &mut [u8]) {
        let mut values = [0.0; PIECE * STEP];
        let known = &mut values[..inputs.len()];
        unpack::unpack(tiles.floats, self.dtype, bytes, known);
        if let Some(factors) = self.factors {
            factors.apply(output, inputs.start, known);
        }
        let steps = inputs.len().div_ceil(STEP);
        for (values, out) in values.as_chunks::<STEP>().0.iter().zip(out.chunks_mut(PAIR)).take(steps) {
            let out = out[..64].as_mut_ptr();
            // SAFETY: a step is two vectors, a line one of bf16. The job runs with AMX, whose proof includes these instructions.
            unsafe {
                let low = _mm512_loadu_ps(values.as_ptr());
                let high = _mm512_loadu_ps(values.as_ptr().add(16));
                _mm512_storeu_si512(out.cast(), narrow(low, high));
            }
        }
    }
}

/// An output's weights that are bf16 already.
#[inline(always)]
fn copy(bytes: &[u8], out: &mut [u8]) {
    for (bytes, out) in bytes.chunks(2 * STEP).zip(out.chunks_mut(PAIR)) {
        if let Ok(line) = <&[u8; 64]>::try_from(bytes) {
            out[..64].copy_from_slice(line);
        } else {
            out[..64].fill(0);
            out[..bytes.len()].copy_from_slice(bytes);
        }
    }
}

/// Which of 64 codes go to the 16 numbers of a run, each to the lowest byte of four; the others are zeros.
static RUNS: [[u8; 64]; 4] = {
    let mut runs = [[0; 64]; 4];
    let mut i = 0;
    while i < 64 {
        runs[i / 16][i % 16 * 4] = i as u8;
        i += 1;
    }
    runs
};

/// An output's weights of a format of blocks.
#[inline(always)]
fn blocks<F: Format>(tiles: &Tiles, bytes: &[u8], steps: usize, out: &mut [u8]) {
    let mut padded = F::ZERO;
    let bytes = if bytes.len() == size_of::<F::Bytes>() {
        // SAFETY: `Bytes` is an array of bytes, and there are as many.
        unsafe { &*bytes.as_ptr().cast::<F::Bytes>() }
    } else {
        padded.as_mut()[..bytes.len()].copy_from_slice(bytes);
        &padded
    };
    let s = tiles.integers;
    let block = F::open(bytes);
    let mut heads = [[0.0; 16]; 2];
    let [scales, offsets] = F::scales(s, &block);
    // SAFETY: both are vectors. The job runs with AMX, whose proof includes the instructions.
    unsafe {
        _mm512_storeu_ps(heads[0].as_mut_ptr(), scales);
        _mm512_storeu_ps(heads[1].as_mut_ptr(), offsets);
    }
    // Read from memory each is spread by the load; from the register it takes two shuffles, which there are enough of.
    let [scales, offsets] = std::hint::black_box(&heads);
    for quarter in 0..steps.div_ceil(2) {
        let codes = F::codes(s, &block, quarter);
        for half in 0..2 {
            let step = 2 * quarter + half;
            if step >= steps {
                return;
            }
            let out = out[step * PAIR..][..64].as_mut_ptr();
            // SAFETY: a line is a vector. The job runs with AMX, whose proof includes these instructions.
            unsafe {
                let mut runs = [_mm512_setzero_ps(); 2];
                // No closures where vectors are: they would not be compiled with the instructions.
                for i in 0..2 {
                    let places = _mm512_loadu_si512(RUNS[2 * half + i].as_ptr().cast());
                    let codes = _mm512_maskz_permutexvar_epi8(0x1111_1111_1111_1111, places, codes);
                    let scale = _mm512_set1_ps(scales[2 * step + i]);
                    let offset = _mm512_set1_ps(offsets[2 * step + i]);
                    runs[i] = _mm512_fmsub_ps(_mm512_cvtepi32_ps(codes), scale, offset);
                }
                let [low, high] = runs;
                _mm512_storeu_si512(out.cast(), narrow(low, high));
            }
        }
    }
}
