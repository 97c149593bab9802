//! The two GPU runtimes, on the stand-ins of `tests/gpu/standin`: cudarc and the HIP table as they are, a driver that is not.
//!
//! A process has one driver, found where the loader looks when it starts. Each claim therefore runs in a process of its own: the test
//! starts this program again, for itself alone, with the stand-ins on the loader's path. With `GROK1_GPU=cuda` or `GROK1_GPU=hip` the
//! claims that are true of any driver run on the real one.
#![cfg(all(target_os = "linux", any(feature = "cuda", feature = "hip")))]

#[macro_use]
#[path = "../support/stand_in.rs"]
mod stand_in;

mod blas;
mod compiling;
mod device;
mod devices;
mod drivers;
mod launches;
mod memory;
mod mistakes;
