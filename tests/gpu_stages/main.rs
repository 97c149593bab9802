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
    pub(crate) mod random;
    pub(crate) mod stages;
}

mod conformance;
