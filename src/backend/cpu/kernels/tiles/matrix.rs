//! Matrices of weights, a piece at a time.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{PAIR, PIECE, STEP, Side, in_out, out_in};
use crate::backend::cpu::kernels::{BF16, Element, I8, holds};
use crate::backend::cpu::simd::amx::Tiles;
use crate::quant::Factors;
use crate::tensor::DType;

/// Tiles of a piece of weights: `[steps, 2 tiles]`.
pub(super) type Weights = [u8; PIECE * PAIR];

/// Units that a piece is unpacked in: small, so that products go on between them.
pub(super) const UNITS: usize = 32;

/// Which weights a piece has.
pub(super) struct Place<'a> {
    pub(super) matrix: &'a Matrix<'a>,
    /// From the first of the panel's outputs on, how many there are.
    pub(super) column: usize,
    pub(super) columns: usize,
    /// The panel's number among those that take turns.
    pub(super) turn: usize,
    /// The first input.
    pub(super) input: usize,
    /// The stored weights from the first output's first input on.
    pub(super) bytes: &'a [u8],
}

/// A function that unpacks a unit of a piece. What is beyond the inputs becomes zeros; what is beyond the outputs, anything.
///
/// # Safety
/// The processor must have all that `Amx` proves.
pub(super) type Unpack = unsafe fn(&Place<'_>, usize, &Tiles, &mut Staged, &mut Weights);

/// Weights of a piece for panels that take turns, as they are stored: what the first panel reads for all of them.
pub(super) type Staged = Vec<u8>;

/// Scales of the sums of groups of inputs.
#[derive(Clone, Copy)]
pub(super) struct Scales<'a> {
    /// Inputs of a group.
    pub(super) group: usize,
    pub(super) bytes: &'a [u8], // bf16 [groups, outputs]
}

/// A matrix, and how it becomes tiles of bf16.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(super) data: &'a [u8],
    pub(super) dtype: DType,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Bytes of a row of `data`.
    pub(super) row: usize,
    /// What elements are multiplied by.
    pub(super) factors: Option<&'a Factors>,
    /// What sums are multiplied by.
    pub(super) scales: Option<Scales<'a>>,
    /// Panels whose weights lie side by side in memory, and take turns.
    pub(super) together: usize,
    pub(super) unpack: Unpack,
    pub(super) side: Side,
}

impl<'a> Matrix<'a> {
    /// Of any type.
    pub(crate) fn out_in(
        data: &'a [u8], // [outputs, inputs] of `dtype`
        dtype: DType,
        inputs: usize,
        factors: Option<&'a Factors>,
    ) -> Self {
        assert!(inputs > 0 && inputs.is_multiple_of(dtype.block() as usize));
        let row = inputs / dtype.block() as usize * dtype.block_bytes() as usize;
        let outputs = data.len() / row;
        let (scales, together, unpack) = (None, 1, out_in::unpack(dtype, factors));
        Self { data, dtype, inputs, outputs, row, factors, scales, together, unpack, side: Side::Right }
    }

    /// Whether sums of such groups of inputs are scaled: there must be one, or they are whole pieces.
    pub(crate) fn can(inputs: usize, group: usize) -> bool {
        group >= inputs || group.is_multiple_of(PIECE * STEP)
    }

    /// Whether there is one sum for all inputs.
    pub(crate) fn sums_are_whole(&self) -> bool {
        self.scales.is_none_or(|scales| scales.group >= self.inputs)
    }

    /// Of 8-bit integers with scales for groups of `group` inputs.
    pub(crate) fn integers(
        data: &'a [u8], // [inputs, outputs]
        [inputs, outputs]: [usize; 2],
        group: usize,
        scales: &'a [u8], // bf16 [groups, outputs]
    ) -> Self {
        assert!(Self::can(inputs, group) && holds(scales, &[inputs.div_ceil(group), outputs, 2]));
        Self::in_out::<I8>(DType::I8, data, [inputs, outputs], Some(Scales { group, bytes: scales }))
    }

    /// Of bf16.
    pub(crate) fn numbers(
        data: &'a [u8], // [inputs, outputs]
        shape: [usize; 2],
    ) -> Self {
        Self::in_out::<BF16>(DType::BF16, data, shape, None)
    }

    /// Where an output's weights from an input on are; the input is a piece's first.
    fn start(&self, output: usize, input: usize) -> usize {
        let (block, size) = (self.dtype.block() as usize, self.dtype.block_bytes() as usize);
        match self.side {
            Side::Right => output * self.row + input / block * size,
            Side::Left => input * self.row + output * size,
        }
    }

    /// Makes room for what is staged.
    pub(super) fn reserve(&self, staged: &mut Staged) {
        if self.side == Side::Left {
            let size = in_out::STAGED * self.dtype.block_bytes() as usize;
            staged.resize(staged.len().max(size), 0);
        }
    }

    /// What the sums of a group are multiplied by, for the outputs from `column` on that `mask` has.
    ///
    /// # Safety
    /// The processor must have AVX-512 BW and VL; callers are compiled with them. The outputs must exist.
    #[inline(always)]
    pub(super) unsafe fn scale(&self, group: usize, column: usize, mask: u16) -> __m512 {
        // SAFETY: `Matrix` checked that there are scales for all outputs; the rest is the caller's.
        unsafe {
            match self.scales {
                None => _mm512_set1_ps(1.0),
                Some(scales) => {
                    let bytes = &scales.bytes[(group * self.outputs + column) * 2..];
                    let bits = _mm256_maskz_loadu_epi16(mask, bytes.as_ptr().cast());
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
                }
            }
        }
    }

    fn in_out<E: Element>(
        dtype: DType,
        data: &'a [u8],
        [inputs, outputs]: [usize; 2],
        scales: Option<Scales<'a>>,
    ) -> Self {
        assert!(holds(data, &[inputs, outputs, E::SIZE]));
        let (row, together, unpack) = (outputs * E::SIZE, in_out::TOGETHER, in_out::unpack::<E>);
        let factors = None;
        Self { data, dtype, inputs, outputs, row, factors, scales, together, unpack, side: Side::Left }
    }
}

/// The units of a piece that are still to be unpacked.
pub(super) struct Units<'a> {
    place: Place<'a>,
    units: Range<usize>,
}

impl<'a> Units<'a> {
    /// All of the piece.
    pub(super) fn new(matrix: &'a Matrix<'a>, columns: Range<usize>, turn: usize, input: usize) -> Self {
        let bytes = matrix.data.get(matrix.start(columns.start, input)..).unwrap_or_default();
        let place = Place { matrix, column: columns.start, columns: columns.len(), turn, input, bytes };
        Self { place, units: 0..UNITS }
    }

    /// The next one.
    #[inline(always)]
    pub(super) fn one(&mut self, tiles: &Tiles, staged: &mut Staged, out: &mut Weights) {
        if let Some(unit) = self.units.next() {
            // SAFETY: `tiles` is there, so the processor has all that `Amx` proves.
            unsafe { (self.place.matrix.unpack)(&self.place, unit, tiles, staged, out) };
        }
    }
}
