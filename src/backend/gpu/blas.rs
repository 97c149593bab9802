//! Products of whole matrices by the vendor's own library, for prompts. Uses `device` and `runtime`.
//!
//! cuBLASLt and rocBLAS multiply bf16 by bf16 and add up in f32; they know no quantised weights. Those are first unpacked to bf16, a
//! range of outputs at a time, by [`Kernel::Dequantise`](super::kernels::Kernel::Dequantise).
//!
//! **That rounds weights**, once each, to the nearest bf16, which nothing else here does. It puts outputs off by 1.7e-3 of their root mean
//! square, in every format of weights alike (measured on the matrices of the tiny model, in f64): as much as rounding the activations
//! does, but on top of that. And so prompts only go this way when that was asked for.
//!
//! The libraries are looked for when the program runs. They are large, cuBLASLt half a gigabyte, and not to have one is usual:
//! ```no_run
//! # use grok1::backend::gpu::{Blas, Device, Runtime};
//! # fn load<R: Runtime>(device: &Device<R>) {
//! let blas = Blas::load(device).inspect_err(|reason| log::warn!("prompts without BLAS: {reason}")).ok();
//! # }
//! ```
//!
//! rocBLAS ends the whole process if it has no kernels for the device, and it has them for fewer than the driver.

use std::fmt;

use super::{Buffer, Device, DevicePointer, DriverError, Event, GpuError, Properties, Runtime, Stream};
use crate::tensor::Layout;

/// Bytes that the library may use for partial sums.
const WORKSPACE: usize = 32 << 20;

/// The shape of a product: `out = x * weights^T`, or `out += x * weights^T`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// Rows of `x` and of `out`.
    pub rows: usize,
    /// Length of a row of `out`.
    pub outputs: usize,
    /// Length of a row of `x`.
    pub inputs: usize,
    /// How the weights lie: `[outputs, inputs]`, or `[inputs, outputs]`.
    pub layout: Layout,
    /// Elements from one row of `out` to the next.
    pub out_stride: usize,
    /// The same of `x`.
    pub x_stride: usize,
    /// The same of the weights.
    pub weights_stride: usize,
    /// Whether the product is added to what `out` holds.
    pub accumulate: bool,
}

impl Gemm {
    /// A product of matrices without gaps between their rows.
    #[must_use]
    pub const fn new(rows: usize, outputs: usize, inputs: usize, layout: Layout) -> Self {
        let weights_stride = if matches!(layout, Layout::OutIn) { inputs } else { outputs };
        let (out_stride, x_stride) = (outputs, inputs);
        Self { rows, outputs, inputs, layout, out_stride, x_stride, weights_stride, accumulate: false }
    }

    /// Rows of the weights as they lie, and the length of each.
    pub(super) const fn weights(&self) -> [usize; 2] {
        if matches!(self.layout, Layout::OutIn) {
            [self.outputs, self.inputs]
        } else {
            [self.inputs, self.outputs]
        }
    }
}

/// Where the matrices of a product are.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// f32 `[rows, outputs]`.
    pub out: DevicePointer,
    /// bf16 `[rows, inputs]`.
    pub x: DevicePointer,
    /// bf16 `[outputs, inputs]` or `[inputs, outputs]`.
    pub weights: DevicePointer,
}

/// A vendor's library. [`Blas`] owns one, and checks what it is given.
///
/// # Safety of its calls
/// The device that it was opened for is bound to the calling thread, streams and addresses are that device's.
#[allow(clippy::missing_safety_doc, reason = "said once, above")]
pub trait BlasLibrary: fmt::Debug + Send + Sized + 'static {
    /// The runtime's.
    type Stream;

    /// Finds the library and opens it for the bound device. `workspace` is so many bytes of the device's, aligned to 256, for as long as
    /// the library is open.
    ///
    /// # Errors
    /// [`GpuError`]: no library, a missing symbol; the library's own.
    unsafe fn open(device: &Properties, workspace: (DevicePointer, usize)) -> Result<Self, GpuError>;

    /// Queues a product. No length is 0, and no stride less than what it spans.
    unsafe fn gemm(&mut self, stream: Self::Stream, operands: Operands, shape: &Gemm)
    -> Result<(), GpuError>;

    /// Gives back what the library has. Its last call; nothing is queued.
    unsafe fn close(&mut self) -> Result<(), DriverError>;
}

/// The vendor's library, open for a device.
///
/// All products use one piece of memory for partial sums: what is queued on one stream has to have been waited for before another is
/// used.
#[derive(Debug)]
pub struct Blas<R: Runtime> {
    library: R::Blas,
    device: Device<R>,
    /// When the last product is done.
    queued: Event<R>,
    _workspace: Buffer<R>,
}

impl<R: Runtime> Blas<R> {
    /// Looks for the library and opens it.
    ///
    /// # Errors
    /// Why there is none: [`GpuError::NoLibrary`], [`GpuError::MissingSymbol`], [`GpuError::OutOfMemory`]; the library's own.
    pub fn load(device: &Device<R>) -> Result<Self, GpuError> {
        let workspace = device.allocate(WORKSPACE, "the workspace of BLAS")?;
        let queued = device.event()?;
        let _bound = device.bind()?;
        // SAFETY: the device is bound; the memory is kept as long as the library.
        let library = unsafe { R::Blas::open(device.properties(), (workspace.pointer(), WORKSPACE)) }?;
        Ok(Self { library, device: device.clone(), queued, _workspace: workspace })
    }

    /// Queues a product. Each matrix is given by a buffer and the byte that it begins at: `out` of f32, `x` and `weights` of bf16.
    ///
    /// # Errors
    /// [`GpuError::Range`]: a matrix that leaves its buffer, or rows that overlap; [`GpuError::NoAlgorithm`]; [`GpuError::OtherDevice`];
    /// the library's own.
    pub fn gemm(
        &mut self,
        stream: &Stream<R>,
        out: (&Buffer<R>, usize),
        x: (&Buffer<R>, usize),
        weights: (&Buffer<R>, usize),
        shape: &Gemm,
    ) -> Result<(), GpuError> {
        let operands = Operands {
            out: matrix(&self.device, out, [shape.rows, shape.outputs], shape.out_stride, size_of::<f32>())?,
            x: matrix(&self.device, x, [shape.rows, shape.inputs], shape.x_stride, size_of::<u16>())?,
            weights: matrix(&self.device, weights, shape.weights(), shape.weights_stride, size_of::<u16>())?,
        };
        if shape.rows == 0 || shape.outputs == 0 {
            return Ok(());
        }
        let _bound = self.device.bind()?;
        // SAFETY: the device is bound, the stream its own; the matrices lie within its buffers, which are not freed before the work on
        // the device is done.
        let multiplied = unsafe { self.library.gemm(stream.of(&self.device)?, operands, shape) };
        // Also after an error: some of it may be queued.
        multiplied.and(stream.record(&self.queued))
    }
}

/// The address of `rows` rows of so many elements, each `stride` after the one before.
fn matrix<R: Runtime>(
    device: &Device<R>,
    (buffer, at): (&Buffer<R>, usize),
    [rows, length]: [usize; 2],
    stride: usize,
    element: usize,
) -> Result<DevicePointer, GpuError> {
    if stride < length {
        return Err(GpuError::Range { at: 0, bytes: length * element, of: stride * element });
    }
    let last = rows.saturating_sub(1).saturating_mul(stride);
    buffer.address(device, at, last.saturating_add(length).saturating_mul(element))
}

impl<R: Runtime> Drop for Blas<R> {
    fn drop(&mut self) {
        // Its products may still be queued.
        let waited = self.queued.synchronize();
        let library = &mut self.library;
        // SAFETY: the device is bound; this is the last call.
        self.device.give_back("a BLAS library", |_| unsafe { library.close() });
        if let Err(error) = waited {
            log::warn!("products may have failed: {error}");
        }
    }
}
