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

/// All types that can be written.
fn quantised() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|&dtype| can_quantise(dtype))
}

fn to_bytes(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut out = vec![0xff; dtype.bytes_of(values.len() as u64).unwrap() as usize];
    quantise(dtype, values, &mut out).unwrap();
    out
}

fn round_trip(dtype: DType, values: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; values.len()];
    dequantise(dtype, &to_bytes(dtype, values), &mut out).unwrap();
    out
}

/// Normally distributed, with a deviation of `size`.
fn gaussian(count: usize, size: f32) -> Vec<f32> {
    let mut random = Random(7);
    let mut one = || {
        let (radius, angle) = (random.float(1e-7, 1.0), random.float(0.0, std::f32::consts::TAU));
        size * (-2.0 * radius.ln()).sqrt() * angle.cos()
    };
    (0..count).map(|_| one()).collect()
}

/// Square root of the mean squared error, relative to that of the values.
fn relative_error(values: &[f32], found: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let errors = values.iter().zip(found).map(|(&x, &y)| f64::from(x) - f64::from(y));
    let error = squares(&mut errors.into_iter());
    let all = squares(&mut values.iter().map(|&x| f64::from(x)));
    if error == 0.0 { 0.0 } else { (error / all).sqrt() }
}

#[test]
fn errors_are_at_most_those_of_llama_cpp() {
    // Of the same 65,536 values: ours, and that of `ggml_quantize_chunk` without importance matrix (llama-cpp-python 0.3.36).
    let cases = [
        (DType::F32, 0.0, 0.0),
        (DType::F16, 0.0002078, 0.0002078),
        (DType::BF16, 0.0016446, 0.0016446),
        (DType::Q4_0, 0.0812676, 0.0861033),
        (DType::Q4_1, 0.0693115, 0.0784326),
        (DType::Q5_0, 0.0401303, 0.0426934),
        (DType::Q5_1, 0.0334196, 0.0378907),
        (DType::Q8_0, 0.0053843, 0.0053875),
        (DType::Q2K, 0.2612717, 0.2987917),
        (DType::Q3K, 0.1446258, 0.1518560),
        (DType::Q4K, 0.0701334, 0.0714983),
        (DType::Q5K, 0.0348044, 0.0361917),
        (DType::Q6K, 0.0166521, 0.0178797),
        (DType::Iq4Nl, 0.0734357, 0.0760432),
        (DType::Iq4Xs, 0.0741979, 0.0766546),
    ];
    assert!(cases.iter().map(|case| case.0).eq(quantised()));
    let values = gaussian(1 << 16, 0.02);
    for (dtype, ours, llama_cpp) in cases {
        let found = relative_error(&values, &round_trip(dtype, &values));
        assert!(found <= 1.001 * ours && ours <= llama_cpp, "{dtype}: {found:.7}, was {ours}");
    }
}

/// Blocks as the formats define them, whose codes, scales and minima each reach both ends.
fn on_the_grid(dtype: DType, random: &mut Random) -> Vec<f32> {
    const TABLE: [f32; 16] = [
        -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0,
        113.0,
    ];
    let integers = |low: i32, high: i32| (low..=high).map(|q| q as f32).collect::<Vec<_>>();
    // Numbers of the codes, elements of a run, integers of scales, largest integer of minima.
    let (numbers, run, scales, mins) = match dtype {
        DType::F32 => (integers(-9, 9), 32, 1..=1, 0),
        DType::F16 | DType::BF16 => (integers(-1, 1), 32, 1..=1, 0),
        DType::Q4_0 => (integers(-8, 7), 32, 1..=1, 0),
        DType::Q5_0 => (integers(-16, 15), 32, 1..=1, 0),
        DType::Q8_0 => (integers(-127, 127), 32, 1..=1, 0),
        DType::Q4_1 => (integers(0, 15), 32, 1..=1, 1),
        DType::Q5_1 => (integers(0, 31), 32, 1..=1, 1),
        DType::Q2K => (integers(0, 3), 16, 1..=15, 15),
        DType::Q3K => (integers(-4, 3), 16, -32..=31, 0),
        DType::Q4K => (integers(0, 15), 32, 1..=63, 63),
        DType::Q5K => (integers(0, 31), 32, 1..=63, 63),
        DType::Q6K => (integers(-32, 31), 16, -128..=127, 0),
        DType::Iq4Nl => (TABLE.to_vec(), 32, 1..=1, 0),
        DType::Iq4Xs => (TABLE.to_vec(), 32, -32..=31, 0),
        _ => unreachable!("{dtype} cannot be written"),
    };
    let runs = (dtype.block() as usize).max(32) / run;
    let unit = |random: &mut Random| {
        let unit = random.float(0.001, 0.1);
        if dtype == DType::BF16 {
            half::bf16::from_f32(unit).to_f32()
        } else {
            half::f16::from_f32(unit).to_f32()
        }
    };
    let (d, m) = (unit(random), unit(random));
    let mut values = Vec::new();
    for index in 0..runs {
        let span = (scales.end() - scales.start() + 1) as usize;
        let mut scale = scales.start() + random.below(span) as i32;
        let mut min = random.below(mins + 1);
        if index == runs / 2 {
            // The scale that fixes the unit is the least negative one, else the largest.
            scale = if *scales.start() < 0 { *scales.start() } else { *scales.end() };
            min = mins;
        }
        let mut codes: Vec<f32> = (0..run).map(|_| numbers[random.below(numbers.len())]).collect();
        codes[3] = numbers[0];
        codes[run - 1] = numbers[numbers.len() - 1];
        values.extend(codes.iter().map(|code| (d * scale as f32) * code - m * min as f32));
    }
    values
}

#[test]
fn values_of_a_type_stay_as_they_are() {
    let mut random = Random(3);
    for dtype in quantised() {
        let mut values = Vec::new();
        for _ in 0..40 {
            values.extend(on_the_grid(dtype, &mut random));
        }
        let found = round_trip(dtype, &values);
        for (i, (found, expected)) in found.iter().zip(&values).enumerate() {
            assert_eq!(found, expected, "{dtype}, value {i}");
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for dtype in quantised() {
        for zero in [0.0, -0.0] {
            let found = round_trip(dtype, &[zero; 768]);
            assert!(found.iter().all(|&x| x == 0.0), "{dtype}");
        }
    }
}

#[test]
fn scales_too_small_for_all_digits_of_f16_cost_little() {
    for dtype in quantised().filter(|dtype| dtype.block() > 1) {
        let [usual, small] = [0.02, 1e-5].map(|size| {
            let values = gaussian(1 << 14, size);
            relative_error(&values, &round_trip(dtype, &values))
        });
        assert!(small <= 1.3 * usual, "{dtype}: {small}, usually {usual}");
    }
}

/// The error of each block, relative to its values; what is not finite counts as infinite.
fn worst_block(dtype: DType, values: &[f32]) -> f64 {
    let found = round_trip(dtype, values);
    let block = (dtype.block() as usize).max(32);
    let blocks = values.chunks_exact(block).zip(found.chunks_exact(block));
    blocks.map(|(values, found)| relative_error(values, found)).fold(0.0, |worst, error| {
        if error <= worst { worst } else { error } // NaN is the worst
    })
}

#[test]
fn no_block_is_worse_than_zeros_would_be() {
    let bell = gaussian(1 << 14, 1.0);
    type Map = fn(f32) -> f32;
    let sets: [(&str, Map); 7] = [
        ("bell", |x| x),
        ("all positive", |x| x + 8.0),
        ("all negative", |x| x - 8.0),
        ("constant", |_| 0.3),
        ("constant and negative", |_| -0.3),
        ("sparse", |x| if x.abs() > 2.0 { x } else { 0.0 }),
        ("heavy tails", |x| x.powi(7)),
    ];
    for dtype in quantised() {
        for (name, set) in sets {
            // Down to numbers of which f16 has few, none, and f32 few.
            for exponent in [3, 0, -3, -5, -6, -7, -8, -12, -25, -41] {
                let size = 10_f64.powi(exponent);
                let values: Vec<f32> = bell.iter().map(|&x| (f64::from(set(x)) * size) as f32).collect();
                if values.iter().all(|x| x.abs() < 60_000.0) {
                    let worst = worst_block(dtype, &values);
                    assert!(worst <= 1.0 + 1e-6, "{dtype}, {name}, 1e{exponent}: {worst}");
                }
            }
        }
    }
}

#[test]
fn the_largest_values_that_a_type_holds_have_no_larger_error_than_others() {
    for dtype in quantised() {
        let mut values = gaussian(1 << 13, 1.0);
        let usual = worst_block(dtype, &values);
        let Err(QuantError::TooLarge { limit, .. }) =
            quantise(dtype, &[f32::MAX; 256], &mut vec![0; dtype.bytes_of(256).unwrap() as usize])
        else {
            assert_eq!(dtype, DType::F32);
            continue;
        };
        let largest = values.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        for x in &mut values {
            *x = (*x / largest * limit).clamp(-limit, limit);
        }
        let worst = worst_block(dtype, &values);
        assert!(worst <= 1.2 * usual, "{dtype}: {worst}, usually {usual}");
    }
}

#[test]
fn any_cut_between_blocks_gives_the_same_bytes() {
    let values = gaussian(37 * 256, 0.02);
    for dtype in quantised() {
        let together = to_bytes(dtype, &values);
        for blocks in [1, 3, 16, 33] {
            let apart: Vec<u8> = values
                .chunks(blocks * dtype.block() as usize)
                .flat_map(|values| to_bytes(dtype, values))
                .collect();
            assert!(together == apart, "{dtype}, {blocks} blocks at a time");
        }
    }
}

#[test]
fn types_without_quantiser_and_wrong_lengths_are_refused() {
    for dtype in DType::ALL.into_iter().filter(|&dtype| !can_quantise(dtype)) {
        let refused = quantise(dtype, &[], &mut []);
        assert!(matches!(refused, Err(QuantError::NoQuantiser { dtype: named }) if named == dtype));
    }
    for (dtype, bytes, elements) in [(DType::Q4K, 144, 255), (DType::Q4K, 143, 256), (DType::F16, 2, 2)] {
        let refused = quantise(dtype, &vec![0.0; elements], &mut vec![0; bytes]);
        let Err(QuantError::Length { dtype: named, elements: given, found }) = refused else {
            panic!("{dtype}: {refused:?}");
        };
        assert_eq!((named, given, found), (dtype, elements, bytes));
    }
}

#[test]
fn values_that_a_type_cannot_hold_are_named() {
    for dtype in quantised() {
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
