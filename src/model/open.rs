//! The backend of the device that was asked for. Uses `backend` and `plan`.

use std::sync::Arc;

use super::{Device, ModelOptions};
use crate::backend::cpu::Cpu;
use crate::backend::gpu::{self, FoundDevice, GpuError, Memory};
#[cfg(any(feature = "cuda", feature = "hip"))]
use crate::backend::gpu::{CompileOptions, Gpu, GpuOptions, Runtime};
use crate::backend::{BATCH_ROWS, BackendError};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::plan::{self, Place, PlanOptions};
use crate::threads::{Pool, Threads};

/// A backend, before it has any weights.
pub(super) enum Opened {
    Cpu(Cpu),
    #[cfg(feature = "cuda")]
    Cuda(Box<Gpu<gpu::Cuda>>),
    #[cfg(feature = "hip")]
    Hip(Box<Gpu<gpu::Hip>>),
}

/// Opens the device of `options`.
pub(super) fn open(checkpoint: &Checkpoint, options: &ModelOptions) -> Result<Opened> {
    match options.device {
        Device::Auto => match first_that_holds(checkpoint, options) {
            Some(opened) => Ok(opened),
            None => open_as(Device::Cpu, checkpoint, options),
        },
        device => open_as(device, checkpoint, options),
    }
}

fn open_as(device: Device, checkpoint: &Checkpoint, options: &ModelOptions) -> Result<Opened> {
    match device {
        Device::Cuda(ordinal) => cuda(ordinal, checkpoint, options),
        Device::Hip(ordinal) => hip(ordinal, checkpoint, options),
        Device::Cpu | Device::Auto => cpu(checkpoint, options),
    }
}

fn cpu(checkpoint: &Checkpoint, options: &ModelOptions) -> Result<Opened> {
    let pool: Arc<dyn Pool> = match &options.pool {
        Some(pool) => Arc::clone(pool),
        None => Arc::new(Threads::new(options.threads).map_err(BackendError::Threads)?),
    };
    Ok(Opened::Cpu(Cpu::new(checkpoint.config.clone(), options.precision, options.weights, pool)))
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize, checkpoint: &Checkpoint, options: &ModelOptions) -> Result<Opened> {
    gpu(ordinal, checkpoint, options).map(Opened::Cuda)
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize, _: &Checkpoint, _: &ModelOptions) -> Result<Opened> {
    Err(GpuError::NotBuilt { feature: "cuda" }.into())
}

#[cfg(feature = "hip")]
fn hip(ordinal: usize, checkpoint: &Checkpoint, options: &ModelOptions) -> Result<Opened> {
    gpu(ordinal, checkpoint, options).map(Opened::Hip)
}

#[cfg(not(feature = "hip"))]
fn hip(_: usize, _: &Checkpoint, _: &ModelOptions) -> Result<Opened> {
    Err(GpuError::NotBuilt { feature: "hip" }.into())
}

#[cfg(any(feature = "cuda", feature = "hip"))]
fn gpu<R: Runtime>(ordinal: usize, checkpoint: &Checkpoint, options: &ModelOptions) -> Result<Box<Gpu<R>>> {
    let compile = match &options.kernel_cache {
        Some(folder) => CompileOptions::new().cache(folder),
        None => CompileOptions::new(),
    };
    let gpu = GpuOptions::new().precision(options.precision).compile(compile);
    let gpu = options.graphs.into_iter().fold(gpu, GpuOptions::graphs);
    let runtime = Arc::new(R::load()?);
    Ok(Box::new(Gpu::open(&runtime, ordinal, checkpoint.config.clone(), gpu)?))
}

/// The first GPU that the plan finds room on for everything, and that can be opened. For each before it, the log tells why not.
fn first_that_holds(checkpoint: &Checkpoint, options: &ModelOptions) -> Option<Opened> {
    let bytes = usize::try_from(needed(checkpoint, options)).unwrap_or(usize::MAX);
    for found in gpu::devices() {
        let devices = match found.devices {
            Ok(devices) => devices,
            Err(error) => {
                log::info!("auto: no {}: {}", found.runtime, Error::from(error).chain());
                continue;
            }
        };
        for FoundDevice { ordinal, memory, .. } in devices {
            let Some(device) = Device::gpu(found.runtime, ordinal) else { continue };
            let opened = memory.map_err(Error::from).and_then(|Memory { free, .. }| {
                if free < bytes {
                    return Err(GpuError::OutOfMemory { what: "all of the model", bytes, free }.into());
                }
                open_as(device, checkpoint, options)
            });
            match opened {
                Ok(opened) => {
                    log::info!("auto: {device}, which holds all of the model");
                    return Some(opened);
                }
                Err(error) => log::info!("auto: not {device}: {}", error.chain()),
            }
        }
    }
    log::info!("auto: cpu, since no GPU takes all of the model");
    None
}

/// Bytes that the model takes on a device that holds all of it, as the plan counts them.
fn needed(checkpoint: &Checkpoint, options: &ModelOptions) -> u64 {
    let plan = PlanOptions::new()
        .kv_type(options.kv_type)
        .batch_rows(options.batch_rows.unwrap_or(BATCH_ROWS))
        .devices([plan::Device::new("any", u64::MAX)]);
    let places = checkpoint.plan(&plan).places;
    places.first().map_or(u64::MAX, Place::bytes)
}
