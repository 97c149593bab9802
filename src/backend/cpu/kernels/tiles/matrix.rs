//! Matrices of weights, a piece at a time.

use std::arch::x86_64::*;
use std::ops::Range;

use super::block::{self, Unit};
use super::{PAIR, PIECE, SIDE, STEP, Side, in_out, out_in};
use crate::backend::cpu::kernels::{BF16, Element, I8, holds};
use crate::backend::cpu::simd::amx::Tiles;
use crate::quant::Factors;
use crate::tensor::DType;

/// Tiles of a piece of weights: `[steps, 2 tiles]`.
pub(super) type Weights = [u8; PIECE * PAIR];

/// Units that a piece is unpacked in: small, so that products go on between them.
pub(super) const UNITS: usize = 32;

/// Some outputs of the inputs of a piece: panels that take turns, a piece each.
#[derive(Clone, Copy)]
pub(super) struct Region {
    /// The first output.
    pub(super) column: usize,
    pub(super) columns: usize,
    /// The first input.
    pub(super) input: usize,
    /// Whether it is one of every other.
    pub(super) odd: bool,
}

/// The stored weights of a piece.
pub(super) struct Stored<'a> {
    pub(super) matrix: &'a Matrix<'a>,
    /// From the first of the panel's outputs on, how many there are.
    pub(super) column: usize,
    pub(super) columns: usize,
    /// The first input.
    pub(super) input: usize,
    /// From the first output's first input on.
    pub(super) bytes: &'a [u8],
    /// Where the region after this one begins among the matrix's bytes, if there is one.
    pub(super) next: usize,
    /// The region that the piece is of, and the panel's number in it.
    pub(super) region: Region,
    pub(super) turn: usize,
    /// The region after it, and those of its inputs that are staged while this piece is unpacked.
    pub(super) after: Option<(Region, Range<usize>)>,
}

/// Weights of regions as they are stored: of the one that is worked on, and of the next, which comes bit by bit.
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
    pub(super) run: block::Run,
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
        let (scales, together, run) = (None, 1, out_in::run(dtype, factors));
        Self { data, dtype, inputs, outputs, row, factors, scales, together, run, side: Side::Right }
    }

    /// Whether sums of such groups of inputs are scaled: there must be one, or they are whole pieces.
    pub(crate) fn can(inputs: usize, group: usize) -> bool {
        group >= inputs || group.is_multiple_of(PIECE * STEP)
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

    /// Stages the first region, where regions are.
    pub(super) fn begin(&self, region: &Region, staged: &mut Staged) {
        if self.side == Side::Left {
            in_out::begin(self, region, staged);
        }
    }

    /// What the sums of a group are multiplied by, for `count` outputs from `column` on, 16 at most.
    ///
    /// # Safety
    /// The processor must have AVX-512 BW and VL; callers are compiled with them. The outputs must exist.
    #[inline(always)]
    pub(super) unsafe fn scale(&self, group: usize, column: usize, count: usize) -> __m512 {
        // SAFETY: `Matrix` checked that there are scales for all outputs; the rest is the caller's.
        unsafe {
            match self.scales {
                None => _mm512_set1_ps(1.0),
                Some(scales) => {
                    let mask = ((1_u32 << count) - 1) as u16;
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
        let (row, together, run) = (outputs * E::SIZE, in_out::TOGETHER, block::run::<in_out::InOut<E>>);
        let factors = None;
        Self { data, dtype, inputs, outputs, row, factors, scales, together, run, side: Side::Left }
    }
}

/// The units of a piece that are still to be unpacked.
pub(super) struct Units<'a> {
    stored: Stored<'a>,
    units: Range<usize>,
}

impl<'a> Units<'a> {
    /// All of the piece of one of a region's panels.
    pub(super) fn new(matrix: &'a Matrix<'a>, region: Region, turn: usize, after: Option<Region>) -> Self {
        let (skipped, input) = (turn * SIDE, region.input);
        let (column, columns) = (region.column + skipped, (region.columns - skipped).min(SIDE));
        let bytes = matrix.data.get(matrix.start(column, input)..).unwrap_or_default();
        let next = after.map_or(0, |region| matrix.start(region.column, region.input));
        let turns = region.columns.div_ceil(SIDE);
        let all = PIECE * STEP;
        let after = after.map(|region| (region, all * turn / turns..all * (turn + 1) / turns));
        let stored = Stored { matrix, column, columns, input, bytes, next, region, turn, after };
        Self { stored, units: 0..UNITS }
    }

    /// The next one.
    ///
    /// # Safety
    /// The processor must have all that `Amx` proves; callers are compiled with it.
    #[inline(always)]
    pub(super) unsafe fn one<U: Unit>(&mut self, tiles: &Tiles, staged: &mut Staged, out: &mut Weights) {
        if let Some(unit) = self.units.next() {
            // SAFETY: the caller's.
            unsafe { U::unpack(&self.stored, unit, tiles, staged, out) };
        }
    }
}
