//! How f32 become elements of each type that can be written. Uses the dequantisers, which define the layouts.
//!
//! The bytes are the same on every machine: sums have a fixed order and nothing is fused. The code is plain loops whose lanes are
//! independent, so that a compiler makes vectors of them; everything is `inline(always)`, to be compiled with the instructions of
//! whoever calls [`pack`].

mod codebook;
mod fit;
mod iq4;
mod k;
mod lanes;
mod legacy;
mod plain;
mod super_block;

use lanes::LANES;

use super::QuantError;
use crate::tensor::DType;

/// Elements checked, then packed, while they are in the nearest cache; whole blocks of every type.
const PIECE: usize = 4096;

/// The largest magnitude that scales and minima of f16 reach, of one sign or the other; `None` if we have no quantiser for the type.
fn limit(dtype: DType) -> Option<f32> {
    const HALF: f32 = 65504.0;
    Some(match dtype {
        DType::F32 => f32::MAX,
        // The last that are not rounded beyond the largest number.
        DType::F16 => f32::from_bits(0x477f_efff),
        DType::BF16 => f32::from_bits(0x7f7f_7fff),
        DType::Q4_0 => 8.0 * HALF,
        DType::Q5_0 => 16.0 * HALF,
        DType::Q8_0 | DType::Iq4Nl => 127.0 * HALF,
        DType::Q4_1 | DType::Q5_1 => HALF,
        DType::Q2K => 15.0 * HALF,
        DType::Q3K => 32.0 * 4.0 * HALF,
        DType::Q4K | DType::Q5K => 63.0 * HALF,
        DType::Q6K => 128.0 * 32.0 * HALF,
        DType::Iq4Xs => 32.0 * 127.0 * HALF,
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
    if pack_vectorised(dtype, limit, values, out) {
        return Ok(());
    }
    match values.iter().position(|x| x.is_nan() || x.abs() > limit) {
        Some(index) if values[index].is_finite() => {
            Err(QuantError::TooLarge { dtype, index, found: values[index], limit })
        }
        Some(index) => Err(QuantError::NotFinite { index, found: values[index] }),
        None => Err(QuantError::NoQuantiser { dtype }),
    }
}

/// [`pack`], compiled for the widest vectors it gains from that this processor has.
fn pack_vectorised(dtype: DType, limit: f32, values: &[f32], out: &mut [u8]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn avx2(dtype: DType, limit: f32, values: &[f32], out: &mut [u8]) -> bool {
            pack(dtype, limit, values, out)
        }
        // SAFETY: the processor has AVX2.
        return unsafe { avx2(dtype, limit, values, out) };
    }
    pack(dtype, limit, values, out)
}

/// Packs block by block. Not a function: called through one, those of the formats would not become a part of their caller.
macro_rules! each {
    ($values:ident, $out:ident, $pack:path) => {
        for (values, out) in $values.as_chunks().0.iter().zip($out.as_chunks_mut().0) {
            $pack(values, out);
        }
    };
}

/// The same, as many blocks of `$runs` runs at a time as fill the lanes.
macro_rules! together {
    ($runs:literal, $values:ident, $out:ident, $pack:path) => {{
        let values = $values.as_chunks().0.chunks(LANES / $runs);
        for (values, out) in values.zip($out.as_chunks_mut().0.chunks_mut(LANES / $runs)) {
            $pack(values, out);
        }
    }};
}

/// Packs whole blocks, compiled for the instructions of its caller; `false` if a value is beyond `limit` or not a number, or if
/// there is no quantiser.
#[inline(always)]
fn pack(dtype: DType, limit: f32, values: &[f32], out: &mut [u8]) -> bool {
    let bytes = PIECE / dtype.block() as usize * dtype.block_bytes() as usize;
    for (values, out) in values.chunks(PIECE).zip(out.chunks_mut(bytes)) {
        // Bits of magnitudes are in the order of the numbers, with NaNs above all.
        let mut largest = 0;
        for x in values {
            largest = largest.max(x.abs().to_bits());
        }
        if largest > limit.to_bits() {
            return false;
        }
        match dtype {
            DType::F32 => each!(values, out, plain::f32),
            DType::F16 => each!(values, out, plain::f16),
            DType::BF16 => each!(values, out, plain::bf16),
            DType::Q8_0 => each!(values, out, legacy::q8_0),
            DType::Q4_0 => together!(1, values, out, legacy::q4_0),
            DType::Q4_1 => together!(1, values, out, legacy::q4_1),
            DType::Q5_0 => together!(1, values, out, legacy::q5_0),
            DType::Q5_1 => together!(1, values, out, legacy::q5_1),
            DType::Q2K => together!(16, values, out, k::q2_k),
            DType::Q3K => together!(16, values, out, k::q3_k),
            DType::Q4K => together!(8, values, out, k::q4_k),
            DType::Q5K => together!(8, values, out, k::q5_k),
            DType::Q6K => together!(16, values, out, k::q6_k),
            DType::Iq4Nl => together!(1, values, out, iq4::iq4_nl),
            DType::Iq4Xs => together!(8, values, out, iq4::iq4_xs),
            _ => return false,
        }
    }
    true
}

/// Writes `bytes` to a block from `START` on; that they fit is checked when this is compiled.
#[inline(always)]
fn put<const START: usize, const N: usize, const BYTES: usize>(block: &mut [u8; BYTES], bytes: [u8; N]) {
    const { assert!(START + N <= BYTES) };
    block[START..START + N].copy_from_slice(&bytes);
}

/// The lowest four bits of 32 codes: low nibbles, then high ones.
#[inline(always)]
fn nibbles(codes: &[u8; 32]) -> [u8; 16] {
    let mut out = [0; 16];
    for i in 0..16 {
        out[i] = codes[i] & 15 | codes[16 + i] << 4;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_bytes() {
        let mut state = 1_u32;
        let mut uniform = || {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        // Runs of very different magnitudes, down to subnormal ones, around zero and not.
        let mut values = Vec::new();
        for _ in 0..40 * 16 {
            let (size, centre) = (f32::powi(10.0, (uniform() * 12.0) as i32 - 4), (4.0 * uniform()).trunc());
            values.extend((0..16).map(|_| size * (uniform() + uniform() + uniform() + centre)));
        }
        values[512..1024].fill(0.0);
        values[2048..2304].fill(1e-41);
        for dtype in DType::ALL.into_iter().filter(|&dtype| can_quantise(dtype)) {
            let limit = limit(dtype).unwrap();
            let mut plain = vec![0; dtype.bytes_of(values.len() as u64).unwrap() as usize];
            let mut vectors = plain.clone();
            assert!(pack(dtype, limit, &values, &mut plain), "{dtype}");
            assert!(pack_vectorised(dtype, limit, &values, &mut vectors), "{dtype}");
            assert!(plain == vectors, "{dtype}");
        }
    }
}
