//! How elements of each stored type become f32, and f32 such elements. Uses `tensor`.
//!
//! To read, each format is a function that takes one block: a plain loop over arrays of fixed length, marked `inline(always)` so that a kernel
//! can have it compiled for its own instructions. They are the definition, and their bits are the reference implementation's,
//! operation by operation. Kernels that unpack in vectors of their own share what is small and intricate: scales and lattice points.

#![allow(clippy::needless_range_loop, reason = "index loops over arrays read as the arithmetic they are")]

mod factors;
pub(crate) mod grids;
pub(crate) mod iq;
pub(crate) mod iq4;
pub(crate) mod k;
pub(crate) mod legacy;
mod plain;
mod quantise;

pub(crate) use factors::Factors;
pub(crate) use plain::half_to_f32;
pub use quantise::{can_quantise, quantise};

use crate::error::{Classify, ErrorKind};
use crate::tensor::DType;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// The elements do not fill whole blocks, or the blocks are not as many bytes.
    #[error("{found} bytes are not {elements} elements of {dtype}")]
    Length {
        /// The type.
        dtype: DType,
        /// Elements asked for.
        elements: usize,
        /// Bytes given.
        found: usize,
    },
    /// [`can_quantise`] says no.
    #[error("{dtype} can be read but not written")]
    NoQuantiser {
        /// The type.
        dtype: DType,
    },
    /// A value is infinite or not a number.
    #[error("value {index} is {found}")]
    NotFinite {
        /// Where it stands.
        index: usize,
        /// The value.
        found: f32,
    },
    /// A value is beyond the range of the type.
    #[error("value {index} is {found:e}, where {dtype} ends at {limit:e}")]
    TooLarge {
        /// The type.
        dtype: DType,
        /// Where it stands.
        index: usize,
        /// The value.
        found: f32,
        /// The largest magnitude that the type can hold.
        limit: f32,
    },
}

impl Classify for QuantError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Length { .. }
            | Self::NoQuantiser { .. }
            | Self::NotFinite { .. }
            | Self::TooLarge { .. } => ErrorKind::Argument,
        }
    }
}

/// Writes the elements in `bytes` to `out`; those of [`DType::I8`] come without their scales.
///
/// Any bytes are elements: a scale that is infinite or not a number gives such elements.
///
/// ```
/// # use grok1::{DType, quant};
/// let block: [u8; 18] = [0, 0x3c, 0x98, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8]; // a scale of 1, then codes
/// let mut values = [f32::NAN; 32];
/// quant::dequantise(DType::Q4_0, &block, &mut values)?;
/// assert_eq!((values[0], values[16]), (0.0, 1.0));
/// # Ok::<(), grok1::Error>(())
/// ```
///
/// # Errors
/// [`QuantError::Length`].
pub fn dequantise(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    if dtype.bytes_of(out.len() as u64) != Some(bytes.len() as u64) {
        return Err(QuantError::Length { dtype, elements: out.len(), found: bytes.len() });
    }
    unpack(dtype, bytes, out);
    Ok(())
}

/// Unpacks block by block. Not a function: called through one, those of the formats would not become a part of their caller.
macro_rules! each {
    ($bytes:ident, $out:ident, $unpack:path) => {
        for (block, out) in $bytes.as_chunks().0.iter().zip($out.as_chunks_mut().0) {
            $unpack(block, out);
        }
    };
}

/// The same, for formats that are looked up first.
macro_rules! points {
    ($bytes:ident, $out:ident, $look_up:path) => {
        for (block, out) in $bytes.as_chunks().0.iter().zip($out.as_chunks_mut().0) {
            $look_up(block).write(out);
        }
    };
}

/// [`dequantise`] of whole blocks, compiled for the instructions of its caller.
#[inline(always)]
pub(crate) fn unpack(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => each!(bytes, out, plain::f32),
        DType::F16 => each!(bytes, out, plain::f16),
        DType::BF16 => each!(bytes, out, plain::bf16),
        DType::F8E4M3 => each!(bytes, out, plain::f8_e4m3),
        DType::I8 => each!(bytes, out, plain::i8),
        DType::Q4_0 => each!(bytes, out, legacy::q4_0),
        DType::Q4_1 => each!(bytes, out, legacy::q4_1),
        DType::Q5_0 => each!(bytes, out, legacy::q5_0),
        DType::Q5_1 => each!(bytes, out, legacy::q5_1),
        DType::Q8_0 => each!(bytes, out, legacy::q8_0),
        DType::Q2K => each!(bytes, out, k::q2_k),
        DType::Q3K => each!(bytes, out, k::q3_k),
        DType::Q4K => each!(bytes, out, k::q4_k),
        DType::Q5K => each!(bytes, out, k::q5_k),
        DType::Q6K => each!(bytes, out, k::q6_k),
        DType::Iq4Nl => each!(bytes, out, iq4::iq4_nl),
        DType::Iq4Xs => each!(bytes, out, iq4::iq4_xs),
        DType::Iq3Xxs => points!(bytes, out, iq::iq3_xxs),
        DType::Iq3S => points!(bytes, out, iq::iq3_s),
        DType::Iq2Xxs => points!(bytes, out, iq::iq2_xxs),
        DType::Iq2Xs => points!(bytes, out, iq::iq2_xs),
        DType::Iq2S => points!(bytes, out, iq::iq2_s),
        DType::Iq1S => points!(bytes, out, iq::iq1_s),
        DType::Iq1M => points!(bytes, out, iq::iq1_m),
    }
}

/// `N` bytes of a block from `START` on; that they exist is checked when this is compiled.
#[inline(always)]
pub(crate) fn part<const START: usize, const N: usize, const BYTES: usize>(block: &[u8; BYTES]) -> [u8; N] {
    const { assert!(START + N <= BYTES) };
    std::array::from_fn(|i| block[START + i])
}

/// The f16 at byte `START` of a block.
#[inline(always)]
pub(crate) fn scale<const START: usize, const BYTES: usize>(block: &[u8; BYTES]) -> f32 {
    plain::half_to_f32(u16::from_le_bytes(part::<START, 2, BYTES>(block)))
}

/// Bit `i` of `byte` as the highest bit of byte `i`; the other bits are undefined.
#[inline(always)]
fn spread(byte: u8) -> u64 {
    // Byte `i` keeps bit `i`, if it is set; adding what is missing to 128 moves it up.
    let kept = (u64::from(byte) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
    kept + 0x0040_6070_787c_7e7f
}
