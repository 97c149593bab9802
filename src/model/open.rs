//! The backend of the device that was asked for. Uses `backend`, `plan` and `machine`.

use std::io;
use std::sync::Arc;

use super::offload::{self, Offload};
use super::{Device, ModelError, ModelOptions};
use crate::backend::BackendError;
use crate::backend::cpu::Cpu;
use crate::backend::gpu::{self, FoundDevice, GpuError, Memory};
#[cfg(any(feature = "cuda", feature = "hip"))]
use crate::backend::gpu::{CompileOptions, Gpu, GpuOptions, Runtime};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::machine::Cpus;
use crate::threads::{Pool, Threads};

/// A backend, before it has any weights, and the part of the model that it gets.
pub(super) enum Opened {
    Cpu(Cpu),
    #[cfg(feature = "cuda")]
    Cuda(Box<Gpu<gpu::Cuda>>, Offload),
    #[cfg(feature = "hip")]
    Hip(Box<Gpu<gpu::Hip>>, Offload),
}

/// Opens the device of `options`; with what spoke against those that were passed over.
pub(super) fn open(checkpoint: &Checkpoint, options: &ModelOptions) -> Result<(Opened, Vec<String>)> {
    let mut passed_over = Vec::new();
    let opened = match options.device {
        Device::Auto => match first_that_holds(checkpoint, options, &mut passed_over) {
            Some(opened) => opened,
            None => open_as(Device::Cpu, None, checkpoint, options)?,
        },
        device => open_as(device, None, checkpoint, options)?,
    };
    Ok((opened, passed_over))
}

/// Opens a device, with this much free memory if that is known.
fn open_as(
    device: Device,
    free: Option<usize>,
    checkpoint: &Checkpoint,
    options: &ModelOptions,
) -> Result<Opened> {
    match device {
        Device::Cuda(ordinal) => cuda(ordinal, free, checkpoint, options),
        Device::Hip(ordinal) => hip(ordinal, free, checkpoint, options),
        Device::Cpu | Device::Auto => cpu(checkpoint.config.clone(), options, None).map(Opened::Cpu),
        Device::Node(node) => {
            // A pool that is lent does not ask whether there is such a node.
            if Cpus::allowed().and_then(|cpus| cpus.of_node(node)).is_none() {
                return Err(ModelError::Node { node }.into());
            }
            cpu(checkpoint.config.clone(), options, Some(node)).map(Opened::Cpu)
        }
    }
}

/// The processor or one of its NUMA nodes, for models of `config`.
pub(super) fn cpu(config: ModelConfig, options: &ModelOptions, node: Option<usize>) -> Result<Cpu> {
    let pool: Arc<dyn Pool> = match &options.pool {
        Some(pool) => Arc::clone(pool),
        None => Arc::new(threads(options.threads, options.pin_threads, node).map_err(BackendError::Threads)?),
    };
    let cpu = Cpu::new(config, options.precision, options.weights, pool);
    Ok(node.into_iter().fold(cpu, Cpu::on_node))
}

fn threads(width: usize, pinned: bool, node: Option<usize>) -> io::Result<Threads> {
    match node {
        Some(node) => Threads::of_node(node, width, pinned),
        None if pinned => Threads::pinned(width),
        None => Threads::new(width),
    }
}

#[cfg(feature = "cuda")]
fn cuda(
    ordinal: usize,
    free: Option<usize>,
    checkpoint: &Checkpoint,
    options: &ModelOptions,
) -> Result<Opened> {
    gpu(ordinal, free, checkpoint, options).map(|(gpu, offload)| Opened::Cuda(gpu, offload))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize, _: Option<usize>, _: &Checkpoint, _: &ModelOptions) -> Result<Opened> {
    Err(GpuError::NotBuilt { feature: "cuda" }.into())
}

#[cfg(feature = "hip")]
fn hip(
    ordinal: usize,
    free: Option<usize>,
    checkpoint: &Checkpoint,
    options: &ModelOptions,
) -> Result<Opened> {
    gpu(ordinal, free, checkpoint, options).map(|(gpu, offload)| Opened::Hip(gpu, offload))
}

#[cfg(not(feature = "hip"))]
fn hip(_: usize, _: Option<usize>, _: &Checkpoint, _: &ModelOptions) -> Result<Opened> {
    Err(GpuError::NotBuilt { feature: "hip" }.into())
}

#[cfg(any(feature = "cuda", feature = "hip"))]
fn gpu<R: Runtime>(
    ordinal: usize,
    free: Option<usize>,
    checkpoint: &Checkpoint,
    options: &ModelOptions,
) -> Result<(Box<Gpu<R>>, Offload)> {
    let compile = match &options.kernel_cache {
        Some(folder) => CompileOptions::new().cache(folder),
        None => CompileOptions::new(),
    };
    let gpu = GpuOptions::new().precision(options.precision).compile(compile);
    let gpu = options.graphs.into_iter().fold(gpu, GpuOptions::graphs);
    let runtime = Arc::new(R::load()?);
    // Before kernels are compiled, and long before weights are loaded.
    let free = match free {
        Some(free) => free,
        None => gpu::Device::open(&runtime, ordinal)?.memory()?.free,
    };
    let offload = offload::choose(checkpoint, options, free)?;
    let mut config = checkpoint.config.clone();
    config.layers = offload.on_device();
    Ok((Box::new(Gpu::open(&runtime, ordinal, config, gpu)?), offload))
}

/// The first GPU that the plan finds room on for everything, and that can be opened. Adds for each before it why not.
fn first_that_holds(
    checkpoint: &Checkpoint,
    options: &ModelOptions,
    passed_over: &mut Vec<String>,
) -> Option<Opened> {
    let bytes = offload::needed(checkpoint, options, Offload::asked(options, checkpoint.layers.len()));
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    for found in gpu::devices() {
        let devices = match found.devices {
            Ok(devices) => devices,
            Err(error) => {
                passed_over.push(format!("no {}: {}", found.runtime, Error::from(error).chain()));
                continue;
            }
        };
        for FoundDevice { ordinal, memory, .. } in devices {
            let Some(device) = Device::gpu(found.runtime, ordinal) else { continue };
            let opened = memory.map_err(Error::from).and_then(|Memory { free, .. }| {
                if free < bytes {
                    return Err(GpuError::OutOfMemory { what: "all of the model", bytes, free }.into());
                }
                open_as(device, Some(free), checkpoint, options)
            });
            match opened {
                Ok(opened) => return Some(opened),
                Err(error) => passed_over.push(format!("not {device}: {}", error.chain())),
            }
        }
    }
    None
}
