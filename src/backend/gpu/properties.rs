//! What can be known of a device. Uses `version`.

use super::Version;

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Properties {
    /// Its maker's name: `NVIDIA H200`.
    pub name: String,
    /// What kernels are compiled for: `sm_90`, `gfx90a`.
    pub architecture: String,
    /// Bytes of its memory.
    pub memory: usize,
    /// Threads that go in step: 32, or 64.
    pub warp: u32,
    /// Streaming multiprocessors, or compute units.
    pub compute_units: u32,
    /// Bytes of shared memory that a block may ask for.
    pub shared_memory: u32,
    /// Of the driver's interface.
    pub driver: Version,
    /// Whether captured graphs can be relied upon.
    pub graphs: bool,
}

impl Properties {
    /// A device's; for implementers of `Runtime`.
    #[must_use]
    #[allow(clippy::too_many_arguments, reason = "as many as a device has")]
    pub fn new(
        name: String,
        architecture: String,
        memory: usize,
        warp: u32,
        compute_units: u32,
        shared_memory: u32,
        driver: Version,
        graphs: bool,
    ) -> Self {
        Self { name, architecture, memory, warp, compute_units, shared_memory, driver, graphs }
    }
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Free now.
    pub free: usize,
    /// In all.
    pub total: usize,
}
