//! What a driver offers, call by call. Uses `properties`, `error`, `compiler` and `blas`.
//!
//! [`Runtime`] is thin on purpose: its two implementations only translate names and types. Everything that owns something, checks
//! something or cleans up is written once, over it, in [`device`](super::device).

use std::ffi::{CStr, c_void};
use std::fmt;
use std::sync::Arc;

use super::{BlasLibrary, Compiler, DriverError, GpuError, Memory, Properties};

/// An address on a device. The host can only hand it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct DevicePointer(pub u64);

impl DevicePointer {
    /// `bytes` further on.
    #[must_use]
    pub fn offset(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes as u64))
    }

    /// As C takes it.
    pub(super) fn as_ptr(self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0 as usize)
    }
}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Launch {
    /// One row of blocks.
    #[must_use]
    pub const fn linear(blocks: u32, threads: u32) -> Self {
        Self { grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 0 }
    }
}

/// A thing of the driver's, which is only handed back to it.
pub struct Handle<T>(pub *mut T);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// SAFETY: nothing is reached through it but by the driver, whose functions may be called by any thread.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

/// A driver that is loaded and has devices.
///
/// # Safety of its calls
/// Every call but [`load`](Self::load), [`devices`](Self::devices), [`properties`](Self::properties), [`compiler`](Self::compiler) and
/// [`retain`](Self::retain) needs that its handles come from this runtime, were not given back, and belong to the context that is
/// bound to the calling thread; that addresses and lengths stay within one allocation, of the device or of the host as the call
/// says; and that host memory of an asynchronous copy stays as it is until the stream has got past the copy.
#[allow(clippy::missing_safety_doc, reason = "said once, above")]
pub trait Runtime: fmt::Debug + Send + Sync + Sized + 'static {
    /// `cuda` or `hip`.
    const NAME: &'static str;

    /// What its compiler is told for every program. Products and sums are not contracted: an operation is fused where a program says so,
    /// and nowhere else.
    const COMPILER_OPTIONS: &'static [&'static str];

    /// What the others belong to: a device as this process sees it.
    type Context: Copy + fmt::Debug + Send + Sync;
    /// What may be a thread's: a context of ours or of a host's, or none.
    type Current: Copy + fmt::Debug;
    /// A queue of work.
    type Stream: Copy + fmt::Debug + Send + Sync;
    /// A place in a queue.
    type Event: Copy + fmt::Debug + Send + Sync;
    /// Loaded code.
    type Module: Copy + fmt::Debug + Send + Sync;
    /// A kernel of a module.
    type Function: Copy + fmt::Debug + Send + Sync;
    /// Work that was captured and can be queued again whole.
    type Graph: Copy + fmt::Debug + Send + Sync;

    /// The vendor's library for products of matrices.
    type Blas: BlasLibrary<Stream = Self::Stream>;

    /// Finds the driver, checks that it is new enough and has every function, and initialises it.
    ///
    /// # Errors
    /// [`GpuError`]: no library, a missing symbol, an old driver, no device.
    fn load() -> Result<Self, GpuError>;

    /// How many devices there are.
    fn devices(&self) -> usize;

    /// What a device is.
    ///
    /// # Errors
    /// [`GpuError::NoSuchDevice`]; the driver's.
    fn properties(&self, ordinal: usize) -> Result<Properties, GpuError>;

    /// The compiler that makes code for this driver: the library `library`, or where there is one usually; if there is none, the
    /// vendor's compiler as a program, `nvcc` or `hipcc`. Looked for once.
    ///
    /// # Errors
    /// [`GpuError`]: no library, a missing symbol, a compiler newer than the driver.
    fn compiler(&self, library: Option<&str>) -> Result<Arc<Compiler>, GpuError>;

    /// Opens a device. `ordinal` is less than [`devices`](Self::devices).
    ///
    /// # Errors
    /// The driver's, here and in what follows.
    fn retain(&self, ordinal: usize) -> Result<Self::Context, DriverError>;

    /// Closes it. Its last call.
    ///
    /// # Safety
    /// See [`Runtime`], here and in what follows.
    unsafe fn release(&self, context: Self::Context) -> Result<(), DriverError>;

    /// Makes it the calling thread's. Tells what was before, unless that was this one already.
    unsafe fn bind(&self, context: Self::Context) -> Result<Option<Self::Current>, DriverError>;

    /// Makes the calling thread's what was before.
    unsafe fn restore(&self, previous: Self::Current) -> Result<(), DriverError>;

    /// Memory of the bound device.
    unsafe fn memory(&self) -> Result<Memory, DriverError>;

    /// Waits for all work on the bound device.
    unsafe fn synchronize(&self) -> Result<(), DriverError>;

    /// Memory on the device, with undefined contents. `bytes` is not 0.
    unsafe fn allocate(&self, bytes: usize) -> Result<DevicePointer, DriverError>;

    /// Gives it back, after waiting for all work on the device.
    unsafe fn free(&self, pointer: DevicePointer) -> Result<(), DriverError>;

    /// Memory of the host that is copied from and to without a detour. `bytes` is not 0.
    unsafe fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8, DriverError>;

    /// Gives it back.
    unsafe fn free_pinned(&self, pointer: *mut u8) -> Result<(), DriverError>;

    /// Queues a copy from the host.
    unsafe fn copy_to_device(
        &self,
        to: DevicePointer,
        from: *const u8,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError>;

    /// Queues a copy to the host.
    unsafe fn copy_to_host(
        &self,
        to: *mut u8,
        from: DevicePointer,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError>;

    /// Queues a copy on the device, of bytes that do not overlap.
    unsafe fn copy_on_device(
        &self,
        to: DevicePointer,
        from: DevicePointer,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError>;

    /// Queues setting bytes to a value.
    unsafe fn fill(
        &self,
        at: DevicePointer,
        value: u8,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError>;

    /// Loads code, which stays where it is until [`unload_module`](Self::unload_module).
    unsafe fn load_module(&self, code: &[u8]) -> Result<Self::Module, DriverError>;

    /// Gives it back.
    unsafe fn unload_module(&self, module: Self::Module) -> Result<(), DriverError>;

    /// A kernel by its name.
    unsafe fn function(&self, module: Self::Module, name: &CStr) -> Result<Self::Function, DriverError>;

    /// Bytes of shared memory that a kernel has beside what it is launched with.
    unsafe fn shared_bytes(&self, function: Self::Function) -> Result<u32, DriverError>;

    /// Lets a kernel be launched with up to `bytes` of dynamic shared memory.
    unsafe fn allow_shared(&self, function: Self::Function, bytes: u32) -> Result<(), DriverError>;

    /// Queues a kernel. `arguments` are addresses of values, as many and of the types that the kernel has; they are copied.
    unsafe fn launch(
        &self,
        function: Self::Function,
        launch: Launch,
        stream: Self::Stream,
        arguments: &mut [*mut c_void],
    ) -> Result<(), DriverError>;

    /// A queue that waits for no other.
    unsafe fn create_stream(&self) -> Result<Self::Stream, DriverError>;

    /// Gives it back; work that is queued is still done.
    unsafe fn destroy_stream(&self, stream: Self::Stream) -> Result<(), DriverError>;

    /// Waits until all that is queued is done.
    unsafe fn synchronize_stream(&self, stream: Self::Stream) -> Result<(), DriverError>;

    /// Queues waiting for an event.
    unsafe fn wait_event(&self, stream: Self::Stream, event: Self::Event) -> Result<(), DriverError>;

    /// An event, which tells the time if `timed`.
    unsafe fn create_event(&self, timed: bool) -> Result<Self::Event, DriverError>;

    /// Gives it back.
    unsafe fn destroy_event(&self, event: Self::Event) -> Result<(), DriverError>;

    /// Queues the event.
    unsafe fn record_event(&self, event: Self::Event, stream: Self::Stream) -> Result<(), DriverError>;

    /// Waits until the stream has got to the event.
    unsafe fn synchronize_event(&self, event: Self::Event) -> Result<(), DriverError>;

    /// Milliseconds from one timed event to another. Both have happened.
    unsafe fn elapsed(&self, from: Self::Event, to: Self::Event) -> Result<f32, DriverError>;

    /// From now on what this thread queues is kept, and not done.
    unsafe fn begin_capture(&self, stream: Self::Stream) -> Result<(), DriverError>;

    /// Ends that, also if the captured calls failed, and makes what was kept ready to be queued.
    unsafe fn end_capture(&self, stream: Self::Stream) -> Result<Self::Graph, DriverError>;

    /// Queues what was captured. No other thread uses the graph.
    unsafe fn launch_graph(&self, graph: Self::Graph, stream: Self::Stream) -> Result<(), DriverError>;

    /// Gives it back.
    unsafe fn destroy_graph(&self, graph: Self::Graph) -> Result<(), DriverError>;
}
