//! What there is here of each runtime, and why not more. Uses `device`.

use super::{GpuError, Memory, Properties};

/// A device that was found.
#[derive(Debug)]
#[non_exhaustive]
pub struct FoundDevice {
    /// Its number among those of its runtime.
    pub ordinal: usize,
    /// What it is.
    pub properties: Properties,
    /// How much of its memory is free, or why it cannot be opened.
    pub memory: Result<Memory, GpuError>,
}

/// What was found of a runtime.
#[derive(Debug)]
#[non_exhaustive]
pub struct Found {
    /// `cuda` or `hip`.
    pub runtime: &'static str,
    /// Its devices, at least one, or why there are none.
    pub devices: Result<Vec<FoundDevice>, GpuError>,
}

/// Looks for the devices of every runtime that there is code for, whether or not it was compiled into this program.
///
/// Opens each device for a moment to ask for its free memory, which takes some tenths of a second where nobody else keeps it open.
///
/// # Examples
/// ```
/// for found in grok1::backend::gpu::devices() {
///     match found.devices {
///         Ok(devices) => println!("{}: {} devices, {} first", found.runtime, devices.len(), devices[0].properties.name),
///         Err(error) => println!("{}: {error}", found.runtime),
///     }
/// }
/// ```
#[must_use]
pub fn devices() -> Vec<Found> {
    vec![Found { runtime: "cuda", devices: cuda() }, Found { runtime: "hip", devices: hip() }]
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Vec<FoundDevice>, GpuError> {
    of_runtime::<super::Cuda>()
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<Vec<FoundDevice>, GpuError> {
    Err(GpuError::NotBuilt { feature: "cuda" })
}

#[cfg(feature = "hip")]
fn hip() -> Result<Vec<FoundDevice>, GpuError> {
    of_runtime::<super::Hip>()
}

#[cfg(not(feature = "hip"))]
fn hip() -> Result<Vec<FoundDevice>, GpuError> {
    Err(GpuError::NotBuilt { feature: "hip" })
}

#[cfg(any(feature = "cuda", feature = "hip"))]
fn of_runtime<R: super::Runtime>() -> Result<Vec<FoundDevice>, GpuError> {
    let runtime = std::sync::Arc::new(R::load()?);
    let device = |ordinal| {
        let properties = runtime.properties(ordinal)?;
        let memory = super::Device::open(&runtime, ordinal).and_then(|device| device.memory());
        Ok(FoundDevice { ordinal, properties, memory })
    };
    (0..runtime.devices()).map(device).collect()
}
