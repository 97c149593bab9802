//! Weights of `[outputs, inputs]` to tiles of bf16.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{PAIR, PIECE, SIDE, STEP, store_bf16};
use crate::backend::cpu::kernels::{holds, unpack};
use crate::backend::cpu::simd::Simd;
use crate::backend::cpu::simd::avx512::Avx512;
use crate::quant::{self, Factors};
use crate::tensor::DType;

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
    pub(super) fn unpack(&self, s: Avx512, outputs: Range<usize>, steps: Range<usize>, out: &mut [u8]) {
        let out = &mut out[..steps.len() * PAIR];
        let inputs = steps.start * STEP..self.inputs.min(steps.end * STEP);
        let (start, len) = (self.size(inputs.start), self.size(inputs.len()));
        for (line, output) in outputs.enumerate().take(SIDE) {
            let bytes = &self.weights[output * self.row() + start..][..len];
            self.floats(s, output, inputs.clone(), bytes, line, out);
        }
    }

    /// An output's weights by way of f32.
    #[inline(always)]
    fn floats(
        &self,
        s: Avx512,
        output: usize,
        inputs: Range<usize>,
        bytes: &[u8],
        line: usize,
        out: &mut [u8],
    ) {
        let mut values = [0.0; PIECE * STEP];
        let known = &mut values[..inputs.len()];
        unpack::unpack(s, self.dtype, bytes, known);
        if let Some(factors) = self.factors {
            factors.apply(output, inputs.start, known);
        }
        for (values, out) in values.as_chunks::<STEP>().0.iter().zip(out.chunks_exact_mut(PAIR)) {
            // SAFETY: a step is two vectors; a line of a pair of tiles is 64 bytes. The job runs with AMX, whose proof includes
            // these instructions.
            unsafe {
                let [low, high] = [0, 16].map(|i| s.load_f32(values.as_ptr().add(i).cast()));
                store_bf16(s, out[64 * line..][..64].as_mut_ptr(), low, high);
            }
        }
    }
}
