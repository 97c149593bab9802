//! Graphics processors, of NVIDIA through CUDA and of AMD and Hygon through HIP. Uses `backend` and the ground.
//!
//! Nothing of either is needed to build this, with or without the features `cuda` and `hip`: drivers and their compilers are found when
//! the program runs, and what is not there is an error that says so. [`devices`] tells what there is.
//!
//! With a feature, `Runtime` is what a driver offers, call by call; `Cuda` and `Hip` are the two. Over it, and written once, stand
//! `Device` and what lives on one. `compile` makes code of kernels for the very device, and keeps it on disk. `Gpu` is the
//! [`Backend`](super::Backend) over them.
//!
//! ```no_run
//! # #[cfg(feature = "cuda")] {
//! use std::sync::Arc;
//!
//! use grok1::backend::gpu::{CompileOptions, Cuda, Device, Launch, Program, Runtime, compile};
//!
//! let program = Program::new("double.cu", r#"extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }"#);
//! let runtime = Arc::new(Cuda::load()?);
//! let device = Device::open(&runtime, 0)?;
//! let code = compile(&*runtime, &program, &device.properties().architecture, &CompileOptions::new())?;
//! let twice = device.load(code)?.function("twice", 0)?;
//! let (stream, buffer) = (device.stream()?, device.allocate(64 * 4, "an example")?);
//! stream.fill(&buffer, 0, buffer.len(), 0)?;
//! // SAFETY: the kernel has one argument, a pointer to as many numbers as it has threads.
//! unsafe { stream.launch(&twice, Launch::linear(1, 64), [(&buffer.pointer()).into()]) }?;
//! stream.synchronize()?;
//! # }
//! # Ok::<(), grok1::Error>(())
//! ```

mod activations;
mod error;
mod found;
pub mod kernels;
mod properties;
mod version;

#[cfg(any(feature = "cuda", feature = "hip"))]
mod bandwidth;
#[cfg(any(feature = "cuda", feature = "hip"))]
mod blas;
#[cfg(any(feature = "cuda", feature = "hip"))]
mod cache;
#[cfg(any(feature = "cuda", feature = "hip"))]
mod compile;
#[cfg(any(feature = "cuda", feature = "hip"))]
mod compiler;
#[cfg(feature = "cuda")]
mod cublaslt;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(feature = "cuda", feature = "hip"))]
mod device;
#[cfg(feature = "hip")]
mod hip;
#[cfg(any(feature = "cuda", feature = "hip"))]
mod library;
#[cfg(feature = "hip")]
mod rocblas;
#[cfg(any(feature = "cuda", feature = "hip"))]
mod runtime;
#[cfg(any(feature = "cuda", feature = "hip"))]
mod stages;
#[cfg(any(feature = "cuda", feature = "hip"))]
mod tool;

pub(crate) use self::activations::Activations;
pub use self::error::{DriverError, GpuError};
pub use self::found::{Found, FoundDevice, devices};
pub use self::properties::{Memory, Properties};
pub use self::version::Version;

#[cfg(any(feature = "cuda", feature = "hip"))]
pub use self::{
    bandwidth::copy_bandwidth,
    blas::{Blas, BlasLibrary, Gemm, Operands},
    compile::{CompileOptions, Program, compile},
    compiler::Compiler,
    device::{Argument, Buffer, Device, Event, Function, Graph, Module, Parameter, Pinned, Stream},
    runtime::{DevicePointer, Handle, Launch, Runtime},
    stages::{Gpu, GpuOptions},
};

#[cfg(feature = "cuda")]
pub use self::cuda::Cuda;
#[cfg(feature = "hip")]
pub use self::hip::Hip;
