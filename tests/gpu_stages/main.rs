//! The GPU backend on stand-in drivers: every stage against the scalar backend, and whole models against the truth's results, for
//! both runtimes and both sizes of warps.
//!
//! As in `gpu_runtime`, each claim runs in a process of its own, which has the stand-ins; with `GROK1_GPU=cuda` or `GROK1_GPU=hip` on the
//! real driver.
#![cfg(all(target_os = "linux", any(feature = "cuda", feature = "hip")))]

#[macro_use]
#[path = "../support/stand_in.rs"]
mod stand_in;

#[path = "../support"]
mod support {
    pub(crate) mod blocks;
    pub(crate) mod models;
    pub(crate) mod oracle;
    pub(crate) mod random;
    pub(crate) mod stages;
}

mod choice;
mod conformance;
mod goldens;
mod loading;
mod memory;
mod offload;
mod passes;
mod sessions;

use std::sync::Arc;

use grok1::backend::gpu::{CompileOptions, Gpu, GpuOptions, Runtime};
use grok1::{ModelConfig, ModelOptions};

/// The runtime's first device, in default precision, with the code that earlier tests compiled.
fn open<R: Runtime>(runtime: &Arc<R>, config: &ModelConfig) -> Gpu<R> {
    let options = GpuOptions::new().compile(CompileOptions::new().cache(stand_in::cache()));
    Gpu::open(runtime, 0, config.clone(), options).unwrap()
}

/// On the runtime's first device.
fn first<R: Runtime>(options: ModelOptions) -> ModelOptions {
    let device = format!("{}:0", R::NAME).parse().unwrap();
    options.device(device).kernel_cache(stand_in::cache())
}
