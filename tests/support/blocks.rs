//! Random weights in the formats of blocks, with scales as a model has them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use grok1::DType;
use grok1::quant::dequantise;
use half::f16;

use super::random::Random;

/// All formats of blocks.
pub(crate) const FORMATS: [DType; 19] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2K,
    DType::Q3K,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
    DType::Iq4Nl,
    DType::Iq4Xs,
    DType::Iq3Xxs,
    DType::Iq3S,
    DType::Iq2Xxs,
    DType::Iq2Xs,
    DType::Iq2S,
    DType::Iq1S,
    DType::Iq1M,
];

/// Where the f16 scales and minima of a block lie, and how large they are for codes around zero with a scale of one.
fn places(dtype: DType) -> &'static [(usize, f32)] {
    match dtype {
        DType::Q4_1 => &[(0, 1.0), (2, -7.5)],
        DType::Q5_1 => &[(0, 1.0), (2, -15.5)],
        DType::Q2K => &[(80, 1.0), (82, 1.5)],
        DType::Q3K => &[(108, 1.0)],
        DType::Q4K => &[(0, 1.0), (2, 7.5)],
        DType::Q5K => &[(0, 1.0), (2, 15.5)],
        DType::Q6K => &[(208, 1.0)],
        _ => &[(0, 1.0)],
    }
}

fn set_scale(dtype: DType, block: &mut [u8], scale: f32) {
    if dtype == DType::Iq1M {
        // A nibble in each of the four words at the end.
        for (i, word) in block[48..].chunks_exact_mut(2).enumerate() {
            let nibble = f16::from_f32(scale).to_bits() >> (4 * i) & 15;
            word[1] = word[1] & 15 | (nibble as u8) << 4;
        }
    } else {
        for &(place, factor) in places(dtype) {
            block[place..place + 2].copy_from_slice(&f16::from_f32(scale * factor).to_le_bytes());
        }
    }
}

/// Blocks of random codes that hold `elements` of root mean square `size`.
pub(crate) fn blocks(random: &mut Random, dtype: DType, elements: usize, size: f32) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..dtype.bytes_of(elements as u64).unwrap()).map(|_| random.next() as u8).collect();
    let blocks = |bytes: &mut Vec<u8>, scale: &mut dyn FnMut() -> f32| {
        for block in bytes.chunks_exact_mut(dtype.block_bytes() as usize) {
            set_scale(dtype, block, scale());
        }
    };
    blocks(&mut bytes, &mut || 1.0);
    let mut values = vec![0.0; elements];
    dequantise(dtype, &bytes, &mut values).unwrap();
    let squares: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
    let scale = size / (squares / elements as f64).sqrt() as f32;
    blocks(&mut bytes, &mut || scale * random.float(0.5, 1.5));
    bytes
}
