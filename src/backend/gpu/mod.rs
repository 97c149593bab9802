//! Devices with kernels: one source for all of them. Uses `quant`.

pub mod kernels;
