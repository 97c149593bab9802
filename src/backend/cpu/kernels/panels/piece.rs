//! Weights of a few outputs to f32.

use std::ops::Range;

use crate::backend::cpu::kernels::in_out::Epilogue;
use crate::backend::cpu::kernels::unpack::Matrix;
use crate::backend::cpu::kernels::{BF16, Element, F32, I8, holds};
use crate::backend::cpu::simd::{Isa, Job, MAX_LANES, Simd};
use crate::tensor::DType;

/// Outputs unpacked together.
pub(crate) const PANEL: usize = 48;
/// Inputs unpacked together: whole blocks of every type.
pub(super) const INPUTS: usize = 256;
/// From the weights of an output to those of the next: not a power of two, which caches could not hold.
pub(super) const LINE: usize = INPUTS + 16;

const _: () = assert!(PANEL.is_multiple_of(MAX_LANES));

/// A matrix as it is stored.
#[derive(Clone, Copy)]
pub(crate) enum Weights<'a> {
    OutIn(Matrix<'a>),
    InOut(InOut<'a>),
}

impl Weights<'_> {
    pub(super) fn inputs(&self) -> usize {
        match self {
            Self::OutIn(matrix) => matrix.inputs(),
            Self::InOut(matrix) => matrix.inputs,
        }
    }

    pub(super) fn outputs(&self) -> usize {
        match self {
            Self::OutIn(matrix) => matrix.outputs(),
            Self::InOut(matrix) => matrix.outputs,
        }
    }

    /// Pieces to be unpacked for one panel after the other. Inputs of a matrix stored `[inputs, outputs]` lie in pages of their own,
    /// and there is room for 2048 in a processor's table.
    pub(super) fn pieces(&self) -> usize {
        match self {
            Self::OutIn(_) => usize::MAX,
            Self::InOut(_) => 4,
        }
    }

    /// The weights of up to [`PANEL`] outputs and [`INPUTS`] inputs: `[outputs, LINE]` or `[inputs, PANEL]`, as they are stored.
    /// Those of outputs beyond are anything.
    pub(super) fn unpack(&self, isa: Isa, outputs: Range<usize>, inputs: Range<usize>, out: &mut [f32]) {
        match self {
            Self::OutIn(matrix) => matrix.unpack(isa, outputs, inputs, LINE, out),
            Self::InOut(matrix) => isa.run(Unpack { matrix, outputs, inputs, out }),
        }
    }
}

/// A matrix stored `[inputs, outputs]`. A code of 8 bits times its scale, a bf16, is an f32 to the bit.
#[derive(Clone, Copy)]
pub(crate) struct InOut<'a> {
    weights: &'a [u8], // [inputs, outputs] of `dtype`
    dtype: DType,
    inputs: usize,
    outputs: usize,
    /// Inputs that share scales.
    group: usize,
    scales: Option<&'a [u8]>, // bf16 [groups, outputs]
}

impl<'a> InOut<'a> {
    pub(crate) fn new(
        weights: &'a [u8],
        dtype: DType,
        [inputs, outputs]: [usize; 2],
        epilogue: Epilogue<'a>,
    ) -> Self {
        let (group, scales) = match epilogue {
            Epilogue::Scaled { inputs, scales } => (inputs, Some(scales)),
            Epilogue::Stored => (inputs.max(1), None),
        };
        assert!(holds(weights, &[inputs, outputs, dtype.block_bytes() as usize]));
        assert!(scales.is_none_or(|scales| holds(scales, &[inputs.div_ceil(group), outputs, 2])));
        Self { weights, dtype, inputs, outputs, group, scales }
    }

    /// A vector of elements from `start` on, of which `count` exist; zeros behind them.
    #[inline(always)]
    fn load<S: Simd, E: Element>(s: S, elements: &[u8], start: usize, count: usize) -> S::F32 {
        let bytes = &elements[start * E::SIZE..][..count.min(S::LANES) * E::SIZE];
        // SAFETY: the slice or its copy is a vector.
        unsafe {
            if count >= S::LANES {
                return E::load(s, bytes.as_ptr());
            }
            let mut padded = [0_u8; 4 * MAX_LANES];
            padded[..bytes.len()].copy_from_slice(bytes);
            E::load(s, padded.as_ptr())
        }
    }

    #[inline(always)]
    fn unpack<S: Simd, E: Element>(
        &self,
        s: S,
        outputs: Range<usize>,
        inputs: Range<usize>,
        out: &mut [f32], // [inputs, PANEL]
    ) {
        let mut scales = [1.0_f32; PANEL];
        let mut last = None;
        for (input, line) in inputs.zip(out.chunks_exact_mut(PANEL)) {
            let group = input / self.group;
            if let Some(stored) = self.scales
                && last != Some(group)
            {
                for offset in (0..outputs.len()).step_by(S::LANES) {
                    let start = group * self.outputs + outputs.start + offset;
                    let scale = Self::load::<S, BF16>(s, stored, start, outputs.len() - offset);
                    // SAFETY: the slice is a vector.
                    unsafe { s.store_f32(scales[offset..][..S::LANES].as_mut_ptr().cast(), scale) };
                }
                last = Some(group);
            }
            let start = input * self.outputs + outputs.start;
            // What the next outputs need of this input, beyond the line that these end in.
            let end = (start + 2 * PANEL) * E::SIZE - 1;
            for before in (0..PANEL * E::SIZE).step_by(64) {
                s.prefetch(self.weights.as_ptr().wrapping_add(end - before));
            }
            for offset in (0..outputs.len()).step_by(S::LANES) {
                let x = Self::load::<S, E>(s, self.weights, start + offset, outputs.len() - offset);
                // SAFETY: both slices are vectors.
                unsafe {
                    let scale = s.load_f32(scales[offset..][..S::LANES].as_ptr().cast());
                    s.store_f32(line[offset..][..S::LANES].as_mut_ptr().cast(), s.mul(x, scale));
                }
            }
        }
    }
}

/// A job of its own, so that it is compiled once for each instruction set.
struct Unpack<'a> {
    matrix: &'a InOut<'a>,
    outputs: Range<usize>,
    inputs: Range<usize>,
    out: &'a mut [f32],
}

impl Job for Unpack<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { matrix, outputs, inputs, out } = self;
        match matrix.dtype {
            DType::I8 => matrix.unpack::<S, I8>(s, outputs, inputs, out),
            DType::BF16 => matrix.unpack::<S, BF16>(s, outputs, inputs, out),
            _ => matrix.unpack::<S, F32>(s, outputs, inputs, out),
        }
    }
}
