//! What the stand-in for a GPU finds wrong with kernels.

use crate::simt::{Buffer, Module, ORDERS, WARPS};
use grok1::backend::gpu::kernels::THREADS;

/// The kernels of `mistakes.cu` for a warp.
fn mistakes(warp: u32) -> Option<Module> {
    Module::new(warp, &format!("#define WARP {warp}\n{}", include_str!("../gpu/mistakes.cu")))
}

/// Runs one block in every order and collects complaints.
fn complaints(module: &Module, kernel: &str) -> Vec<String> {
    let launch = |order| {
        let out = Buffer::<f32>::new(THREADS);
        module.try_launch(kernel, [1, 1, 1], THREADS * size_of::<f32>(), order, &[&out])
    };
    ORDERS.into_iter().filter_map(|order| launch(order).err()).collect()
}

#[test]
fn each_mistake_is_found_in_every_order() {
    let cases = [
        ("missing_barrier", "race: values["),
        ("missing_second_barrier", "race: values["),
        ("all_write_one", "race: values[0] is written"),
        ("divergent_barrier", "the barrier at"),
        ("two_barriers_for_one", "divergent barriers"),
        ("early_exit", "barrier"),
        ("divergent_shuffle", "shuffle"),
        ("shuffle_after_exit", "lanes of"),
        ("uninitialised", "is read before it was written"),
        ("beyond_the_end", "values[256] is beyond its 256 elements"),
        ("before_the_start", "values[-1] is beyond its 256 elements"),
    ];
    for module in WARPS.into_iter().filter_map(mistakes) {
        for (kernel, expected) in cases {
            let found = complaints(&module, kernel);
            let named = |complaint: &String| complaint.contains(expected) || kernel == "missing_barrier";
            assert!(found.len() == ORDERS.len() && found.iter().all(named), "{kernel}: {found:?}");
        }
    }
}

#[test]
fn a_sound_kernel_passes_in_every_order() {
    for module in WARPS.into_iter().filter_map(mistakes) {
        assert_eq!(complaints(&module, "sound"), [""; 0]);
    }
}

#[test]
fn a_sum_over_32_lanes_is_wrong_where_there_are_64() {
    for module in WARPS.into_iter().filter_map(mistakes) {
        let out = Buffer::<f32>::new(THREADS);
        module.try_launch("assumes_32_lanes", [1, 1, 1], 0, 0, &[&out]).unwrap();
        let warp = module.warp as usize;
        let right = (warp * (warp - 1) / 2) as f32;
        assert_eq!(out.values()[0] == right, warp == 32);
    }
}

#[test]
fn blocks_and_grids_of_other_sizes_are_refused() {
    for module in WARPS.into_iter().filter_map(mistakes) {
        let out = Buffer::<f32>::new(THREADS);
        let complaint = module.try_launch("sound", [1, 0, 1], 0, 0, &[&out]).unwrap_err();
        assert_eq!(complaint, "sound: launched with an empty grid");
    }
}
