//! The stand-in's matrix instructions.

use half::bf16;

use crate::machine::random;
use crate::simt::{Buffer, Module, ORDERS};

/// The kernels of `collectives.cu`.
fn collectives() -> Option<Module> {
    Module::new(32, concat!("#define WARP 32\n", include_str!("../gpu/collectives.cu")))
}

/// What a kernel makes of `a` (`[16, 16]`) and `b` (`[8, 16]` or `[16, 8]`).
fn run(module: &Module, kernel: &str, order: u32, a: &[bf16], b: &[bf16]) -> Result<Vec<f32>, String> {
    let (out, a, b) = (Buffer::<f32>::new(128), Buffer::of(a), Buffer::of(b));
    module.try_launch(kernel, [1, 1, 1], 0, order, &[&out, &a, &b])?;
    Ok(out.values().to_vec())
}

/// Small whole numbers, all products and sums of which are exact.
fn whole(seed: u64, len: usize) -> Vec<bf16> {
    random(seed, len, 20.0).into_iter().map(|x| bf16::from_f32(x.round())).collect()
}

#[test]
fn a_matrix_instruction_multiplies() {
    let Some(module) = collectives() else { return };
    let (a, b) = (whole(1, 16 * 16), whole(2, 8 * 16));
    let product = |i: usize, j: usize| -> f32 {
        1.0 + (0..16).map(|k| a[i * 16 + k].to_f32() * b[j * 16 + k].to_f32()).sum::<f32>()
    };
    let expected: Vec<f32> =
        (0..16).flat_map(|i| (0..8).map(move |j| (i, j))).map(|(i, j)| product(i, j)).collect();
    let rows: Vec<bf16> =
        (0..16).flat_map(|k| (0..8).map(move |j| (k, j))).map(|(k, j)| b[j * 16 + k]).collect();
    for order in ORDERS {
        for (kernel, b) in [("product", &b), ("product_of_columns", &b), ("product_of_rows", &rows)] {
            assert_eq!(run(&module, kernel, order, &a, b).unwrap(), expected, "{kernel}");
        }
    }
}

#[test]
fn mistakes_with_matrix_instructions_are_found() {
    let Some(module) = collectives() else { return };
    let (a, b) = (whole(1, 16 * 16), whole(2, 8 * 16));
    let cases = [
        ("lane_missing", "mma at"),
        ("row_missing", "is beyond its"),
        ("copy_without_barrier", ": tile["),
        ("copy_too_early", "race: tile["),
        ("copy_not_aligned", "not aligned"),
    ];
    for (kernel, expected) in cases {
        for order in ORDERS {
            let complaint = run(&module, kernel, order, &a, &b).unwrap_err();
            let lane_left = kernel == "lane_missing" && complaint.contains("lanes of its warp wait");
            assert!(complaint.contains(expected) || lane_left, "{kernel}: {complaint}");
        }
    }
    let early = run(&module, "waits_too_little", 0, &a, &b).unwrap();
    assert!(early.iter().all(|x| x.is_nan()));
}
