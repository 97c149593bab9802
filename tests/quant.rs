//! Quantising; dequantising, against the `gguf` package: the fixtures are written by `scripts/quant-fixtures.py`, which says what they contain.

mod support {
    pub(crate) mod random;
}

use grok1::DType;
use grok1::quant::{QuantError, can_quantise, dequantise, quantise};
use support::random::Random;

const FIXTURES: &[(DType, &[u8])] = &[
    (DType::F32, include_bytes!("fixtures/quant/f32.bin")),
    (DType::F16, include_bytes!("fixtures/quant/f16.bin")),
    (DType::BF16, include_bytes!("fixtures/quant/bf16.bin")),
    (DType::Q4_0, include_bytes!("fixtures/quant/q4_0.bin")),
    (DType::Q4_1, include_bytes!("fixtures/quant/q4_1.bin")),
    (DType::Q5_0, include_bytes!("fixtures/quant/q5_0.bin")),
    (DType::Q5_1, include_bytes!("fixtures/quant/q5_1.bin")),
    (DType::Q8_0, include_bytes!("fixtures/quant/q8_0.bin")),
    (DType::Q2K, include_bytes!("fixtures/quant/q2_k.bin")),
    (DType::Q3K, include_bytes!("fixtures/quant/q3_k.bin")),
    (DType::Q4K, include_bytes!("fixtures/quant/q4_k.bin")),
    (DType::Q5K, include_bytes!("fixtures/quant/q5_k.bin")),
    (DType::Q6K, include_bytes!("fixtures/quant/q6_k.bin")),
    (DType::Iq4Nl, include_bytes!("fixtures/quant/iq4_nl.bin")),
    (DType::Iq4Xs, include_bytes!("fixtures/quant/iq4_xs.bin")),
    (DType::Iq3Xxs, include_bytes!("fixtures/quant/iq3_xxs.bin")),
    (DType::Iq3S, include_bytes!("fixtures/quant/iq3_s.bin")),
    (DType::Iq2Xxs, include_bytes!("fixtures/quant/iq2_xxs.bin")),
    (DType::Iq2Xs, include_bytes!("fixtures/quant/iq2_xs.bin")),
    (DType::Iq2S, include_bytes!("fixtures/quant/iq2_s.bin")),
    (DType::Iq1S, include_bytes!("fixtures/quant/iq1_s.bin")),
    (DType::Iq1M, include_bytes!("fixtures/quant/iq1_m.bin")),
];

/// FNV-1a of the elements' bytes; NaNs are all alike.
fn hash(values: &[f32]) -> u64 {
    let canonical = values.iter().map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() });
    canonical
        .flat_map(u32::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn blocks_become_the_same_bits_as_in_the_gguf_package() {
    for &(dtype, fixture) in FIXTURES {
        let elements = dtype.block().max(32);
        let bytes = dtype.bytes_of(elements).unwrap() as usize;
        let records = fixture.chunks_exact(bytes + 8);
        assert!(records.len() > 10 && records.remainder().is_empty(), "{dtype}");
        for (index, record) in records.enumerate() {
            let (block, expected) = record.split_at(bytes);
            let mut values = vec![f32::NAN; elements as usize];
            dequantise(dtype, block, &mut values).unwrap();
            let expected = u64::from_le_bytes(expected.try_into().unwrap());
            assert_eq!(hash(&values), expected, "{dtype}, block {index}: {values:?}");
        }
    }
}

#[test]
fn blocks_do_not_depend_on_their_neighbours() {
    let mut random = Random(1);
    for &(dtype, _) in FIXTURES {
        let (block, size) = (dtype.block() as usize, dtype.block_bytes() as usize);
        let bytes: Vec<u8> = (0..5 * size).map(|_| random.next() as u8).collect();
        let (mut together, mut apart) = (vec![0.0; 5 * block], vec![0.0; 5 * block]);
        dequantise(dtype, &bytes, &mut together).unwrap();
        for (bytes, out) in bytes.chunks_exact(size).zip(apart.chunks_exact_mut(block)) {
            dequantise(dtype, bytes, out).unwrap();
        }
        assert_eq!(hash(&together), hash(&apart), "{dtype}");
    }
}

#[test]
fn bytes_that_are_not_those_of_the_elements_are_refused() {
    for (dtype, bytes, elements) in [
        (DType::Q4K, 144, 255),
        (DType::Q4K, 143, 256),
        (DType::Q4K, 288, 256),
        (DType::Q8_0, 0, 32),
        (DType::F32, 4, 2),
        (DType::F32, 6, 1),
    ] {
        let refused = dequantise(dtype, &vec![0; bytes], &mut vec![0.0; elements]);
        let Err(QuantError::Length { dtype: named, elements: asked, found }) = refused else {
            panic!("{dtype}: {refused:?}");
        };
        assert_eq!((named, asked, found), (dtype, elements, bytes));
    }
    dequantise(DType::Q6K, &[], &mut []).unwrap();
}

#[test]
fn values_that_a_type_cannot_hold_are_named() {
    for dtype in DType::ALL.into_iter().filter(|&dtype| can_quantise(dtype)) {
        let (block, size) = (dtype.block() as usize, dtype.block_bytes() as usize);
        let refused = |x: f32| {
            let (mut values, mut out) = (vec![1.0; 3 * block], vec![0; 3 * size]);
            values[2 * block - 1] = x;
            quantise(dtype, &values, &mut out)
        };
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let Err(QuantError::NotFinite { index, found }) = refused(x) else { panic!("{dtype}, {x}") };
            assert_eq!((index, found.to_bits()), (2 * block - 1, x.to_bits()), "{dtype}");
        }
        if dtype != DType::F32 {
            let Err(QuantError::TooLarge { dtype: named, index, found, limit }) = refused(-f32::MAX) else {
                panic!("{dtype}");
            };
            assert_eq!((named, index, found), (dtype, 2 * block - 1, -f32::MAX));
            refused(limit).unwrap();
            refused(-limit).unwrap();
            refused(limit.next_up()).unwrap_err();
        }
    }
}
