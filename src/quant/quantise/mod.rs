//! How f32 become elements of each type that can be written. Uses the dequantisers, which define the layouts.
//!
//! The bits are the same on every machine: sums have a fixed order, and nothing is fused. So the code is plain loops, compiled for
//! each instruction set they gain from.

mod legacy;
mod plain;

use super::QuantError;
use crate::tensor::DType;

/// Elements checked, then packed, while they are in the nearest cache; whole blocks of every type.
const PIECE: usize = 4096;

/// The largest magnitude that a type holds wherever in a block it stands; `None` if we have no quantiser for the type.
fn limit(dtype: DType) -> Option<f32> {
    const HALF: f32 = 65504.0;
    Some(match dtype {
        DType::F32 => f32::MAX,
        // The last that are not nearer to the power of two after the largest number.
        DType::F16 => f32::from_bits(0x477f_efff),
        DType::BF16 => f32::from_bits(0x7f7f_7fff),
        DType::Q8_0 => 127.0 * HALF,
        _ => return None,
    })
}

/// Whether [`quantise`] can write the type: all but I8, F8E4M3, and the IQ types of less than four bits.
#[must_use]
pub fn can_quantise(dtype: DType) -> bool {
    limit(dtype).is_some()
}

/// Writes `values` to `out` as elements of `dtype`, with the smallest squared error that a quick search finds.
///
/// The same values give the same bytes on every machine, and a block depends on its own values only.
///
/// ```
/// # use grok1::{DType, quant};
/// let values = [0.5; 32];
/// let mut bytes = [0; 34]; // a scale of 0.5 / 127 and 32 times the code 127
/// quant::quantise(DType::Q8_0, &values, &mut bytes)?;
/// assert_eq!(bytes[2..], [127; 32]);
/// # Ok::<(), grok1::Error>(())
/// ```
///
/// # Errors
/// [`QuantError::Length`], [`QuantError::NoQuantiser`], [`QuantError::NotFinite`], [`QuantError::TooLarge`]; what is in `out` is
/// then of no use.
pub fn quantise(dtype: DType, values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    let limit = limit(dtype).ok_or(QuantError::NoQuantiser { dtype })?;
    if dtype.bytes_of(values.len() as u64) != Some(out.len() as u64) {
        return Err(QuantError::Length { dtype, elements: values.len(), found: out.len() });
    }
    if Isa::best().pack(dtype, limit, values, out) {
        return Ok(());
    }
    match values.iter().position(|x| x.is_nan() || x.abs() > limit) {
        Some(index) if values[index].is_finite() => {
            Err(QuantError::TooLarge { dtype, index, found: values[index], limit })
        }
        Some(index) => Err(QuantError::NotFinite { index, found: values[index] }),
        None => Ok(()),
    }
}

/// Instructions that the loops are compiled for.
#[derive(Clone, Copy, Debug)]
enum Isa {
    /// Those every processor of the target has.
    Base,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that this processor has, best first.
    fn available() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            (is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl"))
            .then_some(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            is_x86_feature_detected!("avx2").then_some(Self::Avx2),
            Some(Self::Base),
        ]
        .into_iter()
        .flatten()
    }

    fn best() -> Self {
        Self::available().next().unwrap_or(Self::Base)
    }

    /// [`pack`], compiled for these instructions, which must be [`available`](Self::available).
    fn pack(self, dtype: DType, limit: f32, values: &[f32], out: &mut [u8]) -> bool {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn avx2(dtype: DType, limit: f32, values: &[f32], out: &mut [u8]) -> bool {
            pack(dtype, limit, values, out)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn avx512(dtype: DType, limit: f32, values: &[f32], out: &mut [u8]) -> bool {
            pack(dtype, limit, values, out)
        }
        match self {
            Self::Base => pack(dtype, limit, values, out),
            // SAFETY: `available`, the only maker of this value, has looked.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2(dtype, limit, values, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512(dtype, limit, values, out) },
        }
    }
}

/// Packs block by block. Not a function: called through one, those of the formats would not become a part of their caller.
macro_rules! each {
    ($values:ident, $out:ident, $pack:path) => {
        for (values, out) in $values.as_chunks().0.iter().zip($out.as_chunks_mut().0) {
            $pack(values, out);
        }
    };
}

/// Packs whole blocks, compiled for the instructions of its caller; `false` if a value is beyond `limit` or not a number.
#[inline(always)]
fn pack(dtype: DType, limit: f32, values: &[f32], out: &mut [u8]) -> bool {
    let bytes = PIECE / dtype.block() as usize * dtype.block_bytes() as usize;
    for (values, out) in values.chunks(PIECE).zip(out.chunks_mut(bytes)) {
        // Bits of magnitudes are in the order of the numbers, with NaNs above all.
        let mut largest = 0;
        for x in values {
            largest = largest.max(x.to_bits() & 0x7fff_ffff);
        }
        if largest > limit.to_bits() {
            return false;
        }
        match dtype {
            DType::F32 => each!(values, out, plain::f32),
            DType::F16 => each!(values, out, plain::f16),
            DType::BF16 => each!(values, out, plain::bf16),
            DType::Q8_0 => each!(values, out, legacy::q8_0),
            _ => return false,
        }
    }
    true
}

/// The integer nearest to `x`, ties to even, plus 2^23 + 2^22, of whose bits the lowest are those of the integer; for magnitudes
/// below 2^21.
///
/// One addition, where `f32::round_ties_even` is a call if the processor has no instruction for it.
#[inline(always)]
fn shifted(x: f32) -> u32 {
    (x + 12_582_912.0).to_bits()
}

/// `1 / x`, or zero for an `x` so small that no f16 comes of it.
#[inline(always)]
fn inverse(x: f32) -> f32 {
    if x.abs() < 1e-20 { 0.0 } else { 1.0 / x }
}
