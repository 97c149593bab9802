//! Every stage, shape and format. CUDA is tested with warps of 32 threads and HIP with 64.

use std::sync::Arc;

use grok1::backend::gpu::{CompileOptions, Gpu, GpuOptions, Runtime};
use grok1::checkpoint::Checkpoint;

use crate::stand_in;
use crate::support::stages::{self, Batches, EXACT, Numbers, STANDARD, traces};

/// Every size of tiles, more than one tile, and a sequence of more than one span.
const BATCHES: Batches<'_> = &[[1, 0, 0], [3, 0, 0], [17, 0, 0], [110, 2, 0], [1, 1, 1]];

/// One line of the table, on the runtime's first device.
pub(crate) fn conforms<R: Runtime>(name: &str, checkpoint: &Checkpoint, numbers: Numbers) {
    conforms_with::<R>(GpuOptions::new(), name, checkpoint, numbers);
}

fn conforms_with<R: Runtime>(options: GpuOptions, name: &str, checkpoint: &Checkpoint, numbers: Numbers) {
    let (precision, kv, _) = numbers;
    let options = options.precision(precision).compile(CompileOptions::new().cache(stand_in::cache()));
    let runtime = Arc::new(R::load().unwrap());
    let gpu = Gpu::open(&runtime, 0, checkpoint.config.clone(), options).unwrap();
    let found = traces(&gpu, checkpoint, kv, BATCHES);
    stages::conforms(name, checkpoint, numbers, BATCHES, [(R::NAME.to_owned(), found)]);
}

fn shapes_in_exact<R: Runtime>() {
    stages::shapes(EXACT, &conforms::<R>);
}

#[test]
fn every_stage_of_every_shape_conforms_in_exact_precision() {
    on_each_runtime!(shapes_in_exact);
}

fn shapes_in_standard<R: Runtime>() {
    stages::shapes(STANDARD, &conforms::<R>);
}

#[test]
fn every_stage_of_every_shape_conforms_in_standard_precision() {
    on_each_runtime!(shapes_in_standard);
}

fn plain_types<R: Runtime>() {
    stages::plain_types(&conforms::<R>);
}

#[test]
fn every_type_and_layout_of_weights_conforms() {
    on_each_runtime!(plain_types);
}

fn scaled_types<R: Runtime>() {
    stages::scaled_types(&conforms::<R>);
}

#[test]
fn fp8_with_scales_of_every_grain_conforms() {
    on_each_runtime!(scaled_types);
}

fn block_formats<R: Runtime>() {
    stages::block_formats(&|name, checkpoint, numbers| {
        conforms_with::<R>(GpuOptions::new().as_stored(), name, checkpoint, numbers);
    });
}

#[test]
fn every_format_of_blocks_conforms_as_it_is_stored() {
    on_each_runtime!(block_formats);
}

fn packed_formats<R: Runtime>() {
    stages::tiled_formats(&conforms::<R>);
}

#[test]
fn every_packed_format_conforms() {
    on_each_runtime!(packed_formats);
}

fn other_options<R: Runtime>() {
    stages::other_options(&conforms::<R>);
}

#[test]
fn caps_and_renormalised_gates_conform() {
    on_each_runtime!(other_options);
}
