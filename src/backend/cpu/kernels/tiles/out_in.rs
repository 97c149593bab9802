//! Weights stored `[outputs, inputs]`, of any type, to tiles whose rows are outputs. A unit is an output.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::block::{self, Unit};
use super::matrix::{Staged, Stored, UNITS, Weights};
use super::q8_0;
use super::{PAIR, PIECE, SIDE, STEP, Side, ask, narrow};
use crate::backend::cpu::kernels::integers::{self, *};
use crate::backend::cpu::kernels::unpack;
use crate::backend::cpu::simd::INPUTS;
use crate::backend::cpu::simd::amx::Tiles;
use crate::quant::Factors;
use crate::tensor::DType;

/// Half a piece is what the formats of blocks are read by.
const _: () = assert!(PIECE * STEP == INPUTS && UNITS == SIDE);

/// From the beginning of an output's first line to the end of its last.
pub(super) const LINES: usize = (PIECE - 1) * PAIR + 64;

/// The function for a type.
pub(super) fn run(dtype: DType, factors: Option<&Factors>) -> block::Run {
    macro_rules! run {
        ($format:ident) => {
            block::run::<Blocks<Any<$format>>>
        };
    }
    match (dtype, factors) {
        (DType::BF16, None) => block::run::<Numbers>,
        (DType::Q8_0, None) => block::run::<Blocks<q8_0::Q8_0>>,
        (dtype, None) => integers::with_format!(dtype, run, block::run::<Values>),
        _ => block::run::<Values>,
    }
}

/// How many units ahead memory is asked for.
const AHEAD: usize = 16;

/// The bytes of a unit in a type that stores 256 weights in `size` bytes, fewer where the inputs end, and the tiles from its line on;
/// none where the output does not exist.
#[inline(always)]
fn open<'a, 'b>(
    stored: &Stored<'a>,
    unit: usize,
    size: usize,
    out: &'b mut Weights,
) -> Option<(&'a [u8], &'b mut [u8; LINES])> {
    if unit >= stored.columns {
        return None;
    }
    let row = stored.matrix.row;
    let bytes = stored.bytes.get(unit * row..)?;
    let ahead = match unit + AHEAD {
        unit @ ..UNITS => stored.bytes.as_ptr().wrapping_add(unit * row),
        unit => stored.matrix.data.as_ptr().wrapping_add(stored.next + (unit - UNITS) * row),
    };
    for line in (0..size + 62).step_by(64) {
        ask(ahead.wrapping_add(line));
    }
    let size = size.min(row - stored.input / INPUTS * size);
    Some((bytes.get(..size)?, out.get_mut(64 * unit..)?.first_chunk_mut()?))
}

/// Weights of any type, by way of f32.
enum Values {}

impl Unit for Values {
    const SIDE: Side = Side::Right;

    #[inline(always)]
    unsafe fn unpack(stored: &Stored<'_>, unit: usize, tiles: &Tiles, _: &mut Staged, out: &mut Weights) {
        // SAFETY: the caller's.
        unsafe { values(stored, unit, tiles, out) };
    }
}

/// Apart: it is long, and every type's.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx512bf16,avx2,fma,f16c")]
#[inline(never)]
fn values(stored: &Stored<'_>, unit: usize, tiles: &Tiles, out: &mut Weights) {
    let matrix = stored.matrix;
    let size = INPUTS / matrix.dtype.block() as usize * matrix.dtype.block_bytes() as usize;
    let Some((bytes, out)) = open(stored, unit, size, out) else { return };
    let mut values = [0.0; INPUTS];
    let known = &mut values[..(matrix.inputs - stored.input).min(INPUTS)];
    unpack::unpack(tiles.floats, matrix.dtype, bytes, known);
    if let Some(factors) = matrix.factors {
        factors.apply(stored.column + unit, stored.input, known);
    }
    for (values, out) in values.as_chunks::<STEP>().0.iter().zip(out.chunks_mut(PAIR)) {
        let out = out[..64].as_mut_ptr();
        // SAFETY: a step is two vectors, a line one of bf16; this function has the features.
        unsafe {
            let low = _mm512_loadu_ps(values.as_ptr());
            let high = _mm512_loadu_ps(values.as_ptr().add(16));
            _mm512_storeu_si512(out.cast(), narrow(low, high));
        }
    }
}

/// Weights that are bf16 already.
enum Numbers {}

impl Unit for Numbers {
    const SIDE: Side = Side::Right;

    #[inline(always)]
    unsafe fn unpack(stored: &Stored<'_>, unit: usize, _: &Tiles, _: &mut Staged, out: &mut Weights) {
        let Some((bytes, out)) = open(stored, unit, 2 * INPUTS, out) else { return };
        for (step, out) in out.chunks_mut(PAIR).enumerate() {
            let bytes = bytes.get(2 * STEP * step..).unwrap_or_default();
            if let Some(line) = bytes.first_chunk::<64>() {
                out[..64].copy_from_slice(line);
            } else {
                out[..64].fill(0);
                out[..bytes.len()].copy_from_slice(bytes);
            }
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

/// The numbers that codes are.
static CODES: [f32; 32] = {
    let mut codes = [0.0; 32];
    let mut i = 0;
    while i < 32 {
        codes[i] = i as f32;
        i += 1;
    }
    codes
};

/// How the codes of a format become weights.
#[derive(Clone, Copy)]
enum By {
    /// A table of 16 weights for each of the two runs of 32 codes.
    PairOfLines,
    /// The same for each of the two runs of 16 codes in a line.
    PairOfRuns,
    /// A table of 32 weights for a run of 32 codes.
    Line,
    Arithmetic,
}

impl By {
    const fn format<F: Format>() -> Self {
        match (F::BITS, F::RUN) {
            (0..=4, 32) => Self::PairOfLines,
            (0..=4, _) => Self::PairOfRuns,
            (5, 32) => Self::Line,
            _ => Self::Arithmetic,
        }
    }
}

/// A type of blocks, and how they become lines of tiles.
pub(super) trait Lines {
    /// 256 weights: `[u8; N]`.
    type Bytes: AsMut<[u8]>;
    const ZERO: Self::Bytes;

    /// Puts the weights, as bf16, into the line of each step.
    ///
    /// # Safety
    /// The processor must have all that `Amx` proves; callers are compiled with it.
    unsafe fn lines(tiles: &Tiles, block: &Self::Bytes, out: &mut [u8; LINES]);
}

/// Weights of a type of blocks.
struct Blocks<L>(PhantomData<L>);

impl<L: Lines> Unit for Blocks<L> {
    const SIDE: Side = Side::Right;

    #[inline(always)]
    unsafe fn unpack(stored: &Stored<'_>, unit: usize, tiles: &Tiles, _: &mut Staged, out: &mut Weights) {
        let Some((bytes, out)) = open(stored, unit, size_of::<L::Bytes>(), out) else { return };
        let mut padded;
        let block = if bytes.len() == size_of::<L::Bytes>() {
            // SAFETY: `Bytes` is an array of bytes, and there are as many.
            unsafe { &*bytes.as_ptr().cast::<L::Bytes>() }
        } else {
            padded = L::ZERO;
            padded.as_mut()[..bytes.len()].copy_from_slice(bytes);
            &padded
        };
        // SAFETY: this function has the features.
        unsafe { L::lines(tiles, block, out) };
    }
}

/// Any format, by its codes and scales.
struct Any<F>(PhantomData<F>);

impl<F: Format> Lines for Any<F> {
    type Bytes = F::Bytes;
    const ZERO: F::Bytes = F::ZERO;

    #[inline(always)]
    unsafe fn lines(tiles: &Tiles, block: &F::Bytes, out: &mut [u8; LINES]) {
        let s = tiles.integers;
        let block = F::open(block);
        let mut heads = [[0.0; 16]; 2];
        let [scales, offsets] = F::scales(s, &block);
        // SAFETY: the caller's; both are vectors.
        unsafe {
            _mm512_storeu_ps(heads[0].as_mut_ptr(), scales);
            _mm512_storeu_ps(heads[1].as_mut_ptr(), offsets);
        }
        // Read from memory each is spread by the load; from the register it takes two shuffles, which there are enough of.
        let heads = std::hint::black_box(&heads);
        for quarter in 0..PIECE / 2 {
            let codes = F::codes(s, &block, quarter);
            let lines = lines(By::format::<F>(), heads, quarter, codes);
            for i in 0..2 {
                let out = out[(2 * quarter + i) * PAIR..][..64].as_mut_ptr();
                // SAFETY: the caller's; the slice is a vector.
                unsafe { _mm512_storeu_si512(out.cast(), lines[i]) };
            }
        }
    }
}

/// The weights of a quarter, in the order of their inputs.
#[inline(always)]
fn lines(by: By, heads: &[[f32; 16]; 2], quarter: usize, codes: __m512i) -> [__m512i; 2] {
    let run = 4 * quarter;
    // SAFETY: callers have the features.
    unsafe {
        match by {
            By::PairOfLines => {
                let upper = _mm512_maskz_set1_epi8(0xffff_ffff_0000_0000, 16);
                let table = table(heads, [run, run + 2], [0, 0]);
                let [first, second] = spread(_mm512_or_si512(codes, upper));
                [_mm512_permutexvar_epi16(first, table), _mm512_permutexvar_epi16(second, table)]
            }
            By::PairOfRuns => {
                let upper = _mm512_maskz_set1_epi8(0xffff_0000_ffff_0000, 16);
                let [first, second] = spread(_mm512_or_si512(codes, upper));
                let tables = [table(heads, [run, run + 1], [0, 0]), table(heads, [run + 2, run + 3], [0, 0])];
                [_mm512_permutexvar_epi16(first, tables[0]), _mm512_permutexvar_epi16(second, tables[1])]
            }
            By::Line => {
                let [first, second] = spread(codes);
                let tables = [table(heads, [run; 2], [0, 16]), table(heads, [run + 2; 2], [0, 16])];
                [_mm512_permutexvar_epi16(first, tables[0]), _mm512_permutexvar_epi16(second, tables[1])]
            }
            By::Arithmetic => {
                let mut runs = [_mm512_setzero_ps(); 4];
                // No closures where vectors are: they would not be compiled with the instructions.
                for i in 0..4 {
                    let places = _mm512_loadu_si512(RUNS[i].as_ptr().cast());
                    let codes = _mm512_maskz_permutexvar_epi8(0x1111_1111_1111_1111, places, codes);
                    runs[i] = weights(heads, run + i, _mm512_cvtepi32_ps(codes));
                }
                [narrow(runs[0], runs[1]), narrow(runs[2], runs[3])]
            }
        }
    }
}

/// 16 weights of a run.
///
/// # Safety
/// The processor must have AVX-512 F; callers are compiled with it.
#[inline(always)]
unsafe fn weights(heads: &[[f32; 16]; 2], run: usize, codes: __m512) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_fmsub_ps(codes, _mm512_set1_ps(heads[0][run]), _mm512_set1_ps(heads[1][run])) }
}

/// The weights of 16 codes of a run, and of 16 of another, each from a code on.
///
/// # Safety
/// The processor must have AVX-512 BF16; callers are compiled with it.
#[inline(always)]
unsafe fn table(heads: &[[f32; 16]; 2], runs: [usize; 2], from: [usize; 2]) -> __m512i {
    let [low, high] = from.map(|code| CODES[code..][..16].as_ptr());
    // SAFETY: the slices are vectors; the rest is the caller's.
    unsafe {
        let low = weights(heads, runs[0], _mm512_loadu_ps(low));
        let high = weights(heads, runs[1], _mm512_loadu_ps(high));
        narrow(low, high)
    }
}

/// Codes as 16 bits each.
///
/// # Safety
/// The processor must have AVX-512 BW; callers are compiled with it.
#[inline(always)]
unsafe fn spread(codes: __m512i) -> [__m512i; 2] {
    // SAFETY: the caller's.
    unsafe {
        [
            _mm512_cvtepu8_epi16(_mm512_castsi512_si256(codes)),
            _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64::<1>(codes)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Sizes, bf16_bytes, check, random_bytes, values};
    use super::super::{Matrix, Product};
    use super::*;
    use crate::backend::cpu::kernels::Out;
    use crate::backend::cpu::shared::Shared;
    use crate::quant;

    fn case(dtype: DType, sizes: Sizes) {
        let Sizes { inputs, outputs, .. } = sizes;
        let size = inputs / dtype.block() as usize * dtype.block_bytes() as usize * outputs;
        let (weights, known) = if matches!(dtype, DType::F32 | DType::BF16) {
            let known = values(inputs * outputs);
            let bytes = match dtype {
                DType::F32 => known.iter().flat_map(|x| x.to_le_bytes()).collect(),
                _ => bf16_bytes(&known),
            };
            (bytes, known)
        } else {
            let bytes = random_bytes(dtype, size);
            let mut known = vec![0.0; inputs * outputs];
            quant::dequantise(dtype, &bytes, &mut known).unwrap();
            (bytes, known)
        };
        let weight = |i: usize, j: usize| half::bf16::from_f32(known[j * inputs + i]).to_f32();
        check(&dtype.to_string(), sizes, Side::Right, weight, |amx, x, out| {
            let (buffer, matrix) = (Shared::new(out), Matrix::out_in(&weights, dtype, inputs, None));
            // Not from the first output on, nor to the last.
            let columns = [0..outputs.min(35), outputs.min(35)..outputs];
            for columns in columns {
                let out = Out::rows(&buffer, 0, outputs);
                // SAFETY: nobody else uses the buffer.
                amx.enter_tiles(unsafe { Product::new(x, matrix, columns, out) });
            }
        });
    }

    #[test]
    fn every_type_gives_the_sums_of_its_bf16_values() {
        for dtype in DType::ALL.into_iter().filter(|&dtype| dtype != DType::I8) {
            case(dtype, Sizes { rows: 33, inputs: 1024 + dtype.block() as usize, outputs: 100 });
        }
    }

    #[test]
    fn odd_sizes_give_them_too() {
        for rows in [1, 2, 16, 17, 31, 65] {
            for outputs in [1, 15, 32, 49] {
                case(DType::BF16, Sizes { rows, inputs: 7, outputs });
                case(DType::F32, Sizes { rows, inputs: 333, outputs });
                case(DType::Q8_0, Sizes { rows, inputs: 96, outputs });
            }
        }
    }
}
