//! The kernels of GPUs, run on the processor at both sizes of warps, against plain definitions in f64.
#![cfg(unix)]

mod attention;
#[path = "../support/blocks.rs"]
mod blocks;
mod candidates;
mod collectives;
mod experts;
mod formats;
mod machine;
mod mistakes;
mod mma;
mod packed;
#[path = "../support/random.rs"]
mod random;
mod rows;
mod simt;
mod weights;
