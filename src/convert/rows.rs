//! Rows of a stored matrix as they are to be written, whichever way round it is stored. Uses `quant`.

use std::ops::Range;

use half::f16;

use super::ConvertError;
use crate::quant::{self, Factors};
use crate::tensor::{DType, Layout, Matrix};

/// Outputs that are turned round at once, with some inputs: the bytes of int8 in a line of the cache.
const TILE: usize = 64;

/// Some outputs of a matrix, in memory.
pub(super) struct Loaded<'a> {
    pub(super) matrix: &'a Matrix,
    /// Which outputs.
    pub(super) outputs: Range<usize>,
    /// Their elements as stored.
    pub(super) data: &'a [u8], // [inputs, outputs] or [outputs, inputs]
    pub(super) factors: Option<&'a Factors>,
}

/// How far int8 weights are from what the checkpoint has, where its scale was not a possible scale of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Int8Fidelity {
    /// Blocks of 32 weights that were made of int8.
    pub blocks: u64,
    /// Those among them whose weights are not exactly the checkpoint's.
    pub inexact: u64,
    /// The largest difference of a weight, in units of its scale in the checkpoint.
    pub worst: f32,
}

impl Int8Fidelity {
    pub(super) fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.inexact += other.inexact;
        self.worst = self.worst.max(other.worst);
    }
}

/// How far written weights are from those they were made of.
#[derive(Clone, Copy, Default)]
pub(super) struct Deviation {
    /// Sum of the squares of the differences, and of the weights.
    squares: [f64; 2],
}

impl Deviation {
    pub(super) fn add(&mut self, other: Self) {
        self.squares = [0, 1].map(|i| self.squares[i] + other.squares[i]);
    }

    /// Root mean square of the differences in units of that of the weights.
    pub(super) fn relative(self) -> f64 {
        let [differences, weights] = self.squares;
        if weights == 0.0 { differences.sqrt() } else { (differences / weights).sqrt() }
    }
}

/// Buffers of a thread.
#[derive(Default)]
pub(super) struct Scratch {
    values: Vec<f32>,  // [outputs, inputs]
    written: Vec<f32>, // [outputs, inputs]
    pub(super) bytes: Vec<u8>,
}

impl Loaded<'_> {
    /// Leaves rows `outputs`, which are among the loaded ones, in `scratch.bytes` as `dtype`.
    pub(super) fn write(
        &self,
        outputs: Range<usize>,
        dtype: DType,
        scratch: &mut Scratch,
    ) -> Result<Int8Fidelity, ConvertError> {
        let inputs = self.matrix.inputs;
        let row_bytes = dtype.bytes_of(inputs as u64).unwrap_or(0) as usize;
        scratch.bytes.clear();
        scratch.bytes.resize(row_bytes * outputs.len(), 0);
        if let Some(factors) = self.keeps_int8(dtype) {
            return self.keep_int8(outputs, factors, &mut scratch.bytes);
        }
        self.decode(outputs.clone(), scratch)?;
        if dtype == self.matrix.dtype && self.matrix.layout == Layout::OutIn && self.factors.is_none() {
            scratch.bytes.copy_from_slice(self.rows_as_stored(outputs));
            return Ok(Int8Fidelity::default());
        }
        quant::quantise(dtype, &scratch.values, &mut scratch.bytes)
            .map_err(|source| ConvertError::of_weights(&self.matrix.name, outputs.start, inputs, source))?;
        match self.factors {
            Some(factors) if dtype == DType::Q8_0 && self.matrix.dtype == DType::I8 => {
                self.compare_int8(outputs, factors, scratch)
            }
            _ => Ok(Int8Fidelity::default()),
        }
    }

    /// How far blocks that lie across two scales, and so have neither, are from the int8 weights in `scratch.values`.
    fn compare_int8(
        &self,
        outputs: Range<usize>,
        factors: &Factors,
        scratch: &mut Scratch,
    ) -> Result<Int8Fidelity, ConvertError> {
        let Scratch { values, written, bytes } = scratch;
        written.resize(values.len(), 0.0);
        self.dequantise(DType::Q8_0, bytes, written)?;
        let inputs = self.matrix.inputs;
        let mut fidelity = Int8Fidelity::default();
        for (number, (found, expected)) in written.chunks(BLOCK).zip(values.chunks(BLOCK)).enumerate() {
            let place = number * BLOCK;
            let (output, first) = (outputs.start + place / inputs, place % inputs);
            let mut block = Int8Fidelity { blocks: 1, ..Int8Fidelity::default() };
            for (input, (found, expected)) in (first..).zip(found.iter().zip(expected)) {
                if found != expected {
                    let steps = (found - expected).abs() / factors.at(input, output).abs();
                    (block.inexact, block.worst) = (1, block.worst.max(steps));
                }
            }
            fidelity.add(block);
        }
        Ok(fidelity)
    }

    /// How far the rows in `scratch.bytes`, which are `outputs` as `dtype`, are from what is stored.
    pub(super) fn deviation(
        &self,
        outputs: Range<usize>,
        dtype: DType,
        scratch: &mut Scratch,
    ) -> Result<Deviation, ConvertError> {
        self.decode(outputs, scratch)?;
        scratch.written.resize(scratch.values.len(), 0.0);
        self.dequantise(dtype, &scratch.bytes, &mut scratch.written)?;
        let square = |x: f32| f64::from(x) * f64::from(x);
        let mut deviation = Deviation::default();
        for (found, expected) in scratch.written.iter().zip(&scratch.values) {
            deviation.add(Deviation { squares: [square(found - expected), square(*expected)] });
        }
        Ok(deviation)
    }

    /// Leaves rows `outputs` in `scratch.values`; all finite.
    fn decode(&self, outputs: Range<usize>, scratch: &mut Scratch) -> Result<(), ConvertError> {
        let Matrix { inputs, dtype, layout, .. } = *self.matrix;
        let values = &mut scratch.values;
        values.resize(inputs * outputs.len(), 0.0);
        match layout {
            Layout::OutIn => {
                self.dequantise(dtype, self.rows_as_stored(outputs.clone()), values)?;
                for (output, row) in outputs.clone().zip(values.chunks_exact_mut(inputs)) {
                    self.scale(output, 0, row);
                }
            }
            Layout::InOut => match dtype.block_bytes() {
                1 => self.turn::<1>(outputs.clone(), values)?,
                2 => self.turn::<2>(outputs.clone(), values)?,
                _ => self.turn::<4>(outputs.clone(), values)?,
            },
        }
        match outputs.zip(values.chunks_exact(inputs)).find(|(_, row)| !are_finite(row)) {
            None => Ok(()),
            Some((output, row)) => {
                let input = row.iter().position(|x| !x.is_finite()).unwrap_or(0);
                let (tensor, found) = (self.matrix.name.clone(), row[input]);
                Err(ConvertError::NotFinite { tensor, output, input, found })
            }
        }
    }

    /// Multiplies weights of `output`, from `input` on, with the scales that stand beside them.
    fn scale(&self, output: usize, input: usize, weights: &mut [f32]) {
        if let Some(factors) = self.factors {
            factors.apply(output, input, weights);
        }
    }

    /// The bytes of rows `outputs` of a matrix that is stored row by row.
    fn rows_as_stored(&self, outputs: Range<usize>) -> &[u8] {
        let row = self.data.len() / self.outputs.len();
        let place = |output: usize| (output - self.outputs.start) * row;
        &self.data[place(outputs.start)..place(outputs.end)]
    }

    /// Turns elements of `N` bytes round, tile by tile, and dequantises them.
    fn turn<const N: usize>(&self, outputs: Range<usize>, values: &mut [f32]) -> Result<(), ConvertError> {
        let inputs = self.matrix.inputs;
        let (stored, _) = self.data.as_chunks::<N>();
        // Fetched before it is turned: a row lies far from the next, and copies wait for many of them at once.
        let mut tile = [[[0; N]; TILE]; 2 * TILE]; // [inputs, outputs]
        let mut turned = [[[0; N]; 2 * TILE]; TILE]; // [outputs, inputs]
        for first in outputs.clone().step_by(TILE) {
            let columns = first..outputs.end.min(first + TILE);
            for start in (0..inputs).step_by(2 * TILE) {
                let rows = start..inputs.min(start + 2 * TILE);
                for (input, tile) in rows.clone().zip(&mut tile) {
                    let place = |output: usize| input * self.outputs.len() + output - self.outputs.start;
                    tile[..columns.len()].copy_from_slice(&stored[place(columns.start)..place(columns.end)]);
                }
                for (i, tile) in tile.iter().enumerate() {
                    for (element, column) in tile.iter().zip(&mut turned) {
                        column[i] = *element;
                    }
                }
                for (output, column) in columns.clone().zip(&turned) {
                    let row = &mut values[(output - outputs.start) * inputs..][rows.clone()];
                    self.dequantise(self.matrix.dtype, column[..rows.len()].as_flattened(), row)?;
                    self.scale(output, start, row);
                }
            }
        }
        Ok(())
    }

    fn dequantise(&self, dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), ConvertError> {
        quant::dequantise(dtype, bytes, out)
            .map_err(|source| ConvertError::Elements { tensor: self.matrix.name.clone(), source })
    }

    /// The scales of int8 weights that can keep their values in blocks of `dtype`: none of its blocks may lie across two scales.
    fn keeps_int8(&self, dtype: DType) -> Option<&Factors> {
        let Matrix { dtype: stored, layout, inputs, scales, .. } = self.matrix;
        let shared = scales.as_ref()?.inputs;
        let whole = shared >= *inputs || shared.is_multiple_of(BLOCK);
        (dtype == DType::Q8_0 && *stored == DType::I8 && *layout == Layout::InOut && whole)
            .then_some(self.factors)?
    }

    /// Q8_0 of the very values that are stored, with their own scale wherever f16 has it.
    fn keep_int8(
        &self,
        outputs: Range<usize>,
        factors: &Factors,
        out: &mut [u8],
    ) -> Result<Int8Fidelity, ConvertError> {
        let inputs = self.matrix.inputs;
        let mut fidelity = Int8Fidelity::default();
        let (blocks, _) = out.as_chunks_mut::<BLOCK_BYTES>();
        let per_row = inputs / BLOCK;
        let mut tile = [[0; TILE]; BLOCK]; // [inputs, outputs]
        for first in outputs.clone().step_by(TILE) {
            let columns = first..outputs.end.min(first + TILE);
            for block in 0..per_row {
                for (i, tile) in tile.iter_mut().enumerate() {
                    let row = (block * BLOCK + i) * self.outputs.len();
                    let place = |output: usize| row + output - self.outputs.start;
                    tile[..columns.len()]
                        .copy_from_slice(&self.data[place(columns.start)..place(columns.end)]);
                }
                for (column, output) in columns.clone().enumerate() {
                    let scale = factors.at(block * BLOCK, output);
                    let block_scale = BlockScale::of(scale).ok_or_else(|| ConvertError::Scale {
                        tensor: self.matrix.name.clone(),
                        output,
                        found: scale,
                    })?;
                    let out = &mut blocks[(output - outputs.start) * per_row + block];
                    out[..2].copy_from_slice(&block_scale.bits.to_le_bytes());
                    for (out, row) in out[2..].iter_mut().zip(&tile) {
                        *out = row[column];
                    }
                    fidelity.add(block_scale.refit(out));
                }
            }
        }
        Ok(fidelity)
    }
}

/// Whether no weight is infinite or not a number. Looks at all of them, so that it looks at many at a time.
fn are_finite(weights: &[f32]) -> bool {
    weights.iter().fold(true, |all, x| all & x.is_finite())
}

/// Weights and bytes of a Q8_0 block.
const BLOCK: usize = 32;
const BLOCK_BYTES: usize = 34;

/// The scale of a block that stands for one of the checkpoint.
struct BlockScale {
    /// An f16.
    bits: u16,
    /// The checkpoint's scale in units of it: 1 if they are equal, less otherwise.
    ratio: f32,
}

impl BlockScale {
    /// `scale` if f16 has it, otherwise the next one that is larger: codes then stay within a byte. `None` if there is none.
    fn of(scale: f32) -> Option<Self> {
        let near = f16::from_f32(scale);
        let below = near.to_f32().abs() < scale.abs();
        // The next larger magnitude has the next number.
        let found = f16::from_bits(near.to_bits() + u16::from(below));
        let ratio = if scale == 0.0 { 1.0 } else { scale / found.to_f32() };
        found.is_finite().then_some(Self { bits: found.to_bits(), ratio })
    }

    /// Rounds the codes of a block to this scale where they are for another.
    fn refit(&self, block: &mut [u8; BLOCK_BYTES]) -> Int8Fidelity {
        let mut fidelity = Int8Fidelity { blocks: 1, ..Int8Fidelity::default() };
        if self.ratio == 1.0 {
            return fidelity;
        }
        for byte in &mut block[2..] {
            let exact = f32::from(byte.cast_signed()) * self.ratio;
            let code = exact.round_ties_even();
            fidelity.worst = fidelity.worst.max((code - exact).abs() / self.ratio);
            *byte = (code as i8).cast_unsigned();
        }
        fidelity.inexact = (fidelity.worst > 0.0).into();
        fidelity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bf16(bits: u16) -> f32 {
        half::bf16::from_bits(bits).to_f32()
    }

    #[test]
    fn every_scale_of_bf16_from_2_to_the_minus_17_on_is_one_of_f16() {
        let exact = |bits: u16| BlockScale::of(bf16(bits)).is_some_and(|scale| scale.ratio == 1.0);
        let (first, last) = (half::bf16::from_f32(2_f32.powi(-17)), half::bf16::from_f32(65280.0));
        assert!((first.to_bits()..=last.to_bits()).all(exact));
        assert!(!exact(first.to_bits() - 1));
        assert!(BlockScale::of(65536.0).is_none());
        assert!(BlockScale::of(f32::NAN).is_none());
    }

    #[test]
    fn a_scale_that_f16_lacks_moves_weights_by_half_a_step_of_the_block_at_most() {
        for bits in 1..half::bf16::from_f32(2_f32.powi(-17)).to_bits() {
            let scale = BlockScale::of(bf16(bits)).unwrap();
            assert!(scale.ratio <= 1.0);
            let mut block = [0; BLOCK_BYTES];
            block[2..].iter_mut().zip(0..).for_each(|(code, i)| *code = (i * 8 + 3) as u8);
            let stored = block;
            let fidelity = scale.refit(&mut block);
            let step = f16::from_bits(scale.bits).to_f32();
            let difference = |i: usize| {
                let exact = f64::from(stored[i].cast_signed()) * f64::from(bf16(bits));
                (f64::from(block[i].cast_signed()) * f64::from(step) - exact).abs()
            };
            let worst = (2..BLOCK_BYTES).map(difference).fold(0.0, f64::max);
            assert!(worst <= 0.501 * f64::from(step), "{bits}: {worst} with {step}");
            let reported = f64::from(fidelity.worst) * f64::from(bf16(bits));
            assert!((worst - reported).abs() <= 1e-3 * f64::from(step), "{bits}: {worst} {reported}");
        }
    }
}
