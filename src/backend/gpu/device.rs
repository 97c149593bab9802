//! A device and what lives on it: each thing owns its part of the driver and gives it back when it is dropped. Uses `runtime`.
//!
//! Things keep their device open. Every call makes the device the calling thread's for as long as it takes, so that all may be used from
//! any thread, and a host finds its own device or context as it left it.
//!
//! Dropping a thing waits for its own work and for nobody else's: who waits for the whole device ends the captures of others. The
//! exception is [`Buffer`]: drivers themselves wait for the whole device before they take its memory back. On what they do to a capture
//! that another thread has begun their documentation is silent; should it end, the pass is queued call by call, with the same results.

use std::ffi::{CString, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use super::{DevicePointer, DriverError, GpuError, Launch, Memory, Properties, Runtime, kernels};

/// An open device. A clone is one more reference.
pub struct Device<R: Runtime>(Arc<Open<R>>);

struct Open<R: Runtime> {
    runtime: Arc<R>,
    context: R::Context,
    properties: Properties,
}

/// A runtime, with a device bound to the calling thread until this is dropped. Within one, others cost next to nothing.
pub(super) struct Bound<'a, R: Runtime> {
    runtime: &'a R,
    /// What the thread had before, if it was not this device.
    previous: Option<R::Current>,
    /// It is one thread's.
    thread: PhantomData<*const ()>,
}

impl<R: Runtime> Deref for Bound<'_, R> {
    type Target = R;

    fn deref(&self) -> &R {
        self.runtime
    }
}

impl<R: Runtime> Drop for Bound<'_, R> {
    fn drop(&mut self) {
        let Some(previous) = self.previous else { return };
        // SAFETY: as this runtime told it, of this thread.
        if let Err(error) = unsafe { self.runtime.restore(previous) } {
            log::warn!("cannot make a thread's device what it was: {error}");
        }
    }
}

impl<R: Runtime> Open<R> {
    /// The runtime, with this device bound to the calling thread.
    fn bound(&self) -> Result<Bound<'_, R>, DriverError> {
        // SAFETY: the context is this runtime's, and released only on drop.
        let previous = unsafe { self.runtime.bind(self.context) }?;
        Ok(Bound { runtime: &self.runtime, previous, thread: PhantomData })
    }

    /// Does what a drop has to do. There is nobody to tell of an error but the log.
    fn give_back(&self, what: &'static str, with: impl FnOnce(&R) -> Result<(), DriverError>) {
        if let Err(error) = self.bound().and_then(|runtime| with(&runtime)) {
            log::warn!("cannot give back {what}: {error}");
        }
    }
}

impl<R: Runtime> Drop for Open<R> {
    fn drop(&mut self) {
        // SAFETY: whatever belonged to the context held a reference to this, and is gone.
        if let Err(error) = unsafe { self.runtime.release(self.context) } {
            log::warn!("cannot close {}: {error}", self.properties.name);
        }
    }
}

impl<R: Runtime> Clone for Device<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R: Runtime> fmt::Debug for Device<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.0.properties.name).finish()
    }
}

impl<R: Runtime> Device<R> {
    /// Opens a device by its number.
    ///
    /// # Errors
    /// [`GpuError::NoSuchDevice`]; the driver's.
    pub fn open(runtime: &Arc<R>, ordinal: usize) -> Result<Self, GpuError> {
        let properties = runtime.properties(ordinal)?;
        let context = runtime.retain(ordinal)?;
        Ok(Self(Arc::new(Open { runtime: Arc::clone(runtime), context, properties })))
    }

    /// What it is.
    #[must_use]
    pub fn properties(&self) -> &Properties {
        &self.0.properties
    }

    /// The runtime it was opened by.
    #[must_use]
    pub fn runtime(&self) -> &Arc<R> {
        &self.0.runtime
    }

    /// How much of its memory is free.
    ///
    /// # Errors
    /// The driver's, here and in what follows.
    pub fn memory(&self) -> Result<Memory, GpuError> {
        // SAFETY: the device is bound.
        Ok(unsafe { self.0.bound()?.memory() }?)
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// Those of the work too.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        // SAFETY: the device is bound.
        Ok(unsafe { self.0.bound()?.synchronize() }?)
    }

    /// Memory with undefined contents, for `what`.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    pub fn allocate(&self, bytes: usize, what: &'static str) -> Result<Buffer<R>, GpuError> {
        let runtime = self.0.bound()?;
        // SAFETY: the device is bound; the length is not 0.
        let pointer = match unsafe { runtime.allocate(bytes.max(1)) } {
            Ok(pointer) => pointer,
            Err(error) if error.is_out_of_memory() => {
                return Err(GpuError::OutOfMemory { what, bytes, free: self.memory()?.free });
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Buffer { device: self.clone(), pointer, bytes })
    }

    /// Refuses a kernel whose blocks want more shared memory than they get.
    pub(super) fn check_shared(&self, kernel: &str, bytes: u32) -> Result<(), GpuError> {
        let most = self.properties().shared_memory;
        if bytes <= most {
            return Ok(());
        }
        Err(GpuError::SharedMemory { kernel: kernel.to_owned(), bytes, most })
    }

    /// Zeroed memory of the host that copies go from and to at full speed, and while the host does something else.
    ///
    /// # Errors
    /// [`GpuError::Pin`], [`GpuError::Failed`].
    pub fn pinned(&self, bytes: usize) -> Result<Pinned<R>, GpuError> {
        let runtime = self.0.bound()?;
        // SAFETY: the device is bound; the length is not 0.
        let start = unsafe { runtime.allocate_pinned(bytes.max(1)) };
        let start = start.map_err(|source| match source {
            source if source.is_of_earlier_work() => source.into(),
            source => GpuError::Pin { bytes, source },
        })?;
        let start = NonNull::new(start)
            .ok_or_else(|| GpuError::Pin { bytes, source: DriverError::new("pin", 0, "no address") })?;
        // SAFETY: so many bytes were allocated, for this alone.
        unsafe { start.write_bytes(0, bytes.max(1)) };
        Ok(Pinned { device: self.clone(), start, bytes })
    }

    /// A queue of work.
    pub fn stream(&self) -> Result<Stream<R>, GpuError> {
        // SAFETY: the device is bound.
        let stream = unsafe { self.0.bound()?.create_stream() }?;
        Ok(Stream { device: self.clone(), stream })
    }

    /// A place in a queue that streams can wait for.
    pub fn event(&self) -> Result<Event<R>, GpuError> {
        self.create_event(false)
    }

    /// An event that tells the time.
    pub fn timed_event(&self) -> Result<Event<R>, GpuError> {
        self.create_event(true)
    }

    fn create_event(&self, timed: bool) -> Result<Event<R>, GpuError> {
        // SAFETY: the device is bound.
        let event = unsafe { self.0.bound()?.create_event(timed) }?;
        Ok(Event { device: self.clone(), event })
    }

    /// Loads code that was compiled for this device's architecture.
    ///
    /// # Errors
    /// The driver's: no code for this device, or of a newer compiler than it knows.
    pub fn load(&self, code: Vec<u8>) -> Result<Module<R>, GpuError> {
        // SAFETY: the device is bound; the code's buffer is kept, and does not move, as long as the module.
        let module = unsafe { self.0.bound()?.load_module(&code) }?;
        Ok(Module(Arc::new(Loaded { device: self.clone(), module, _code: code })))
    }

    /// Makes it the calling thread's.
    pub(super) fn bind(&self) -> Result<Bound<'_, R>, GpuError> {
        Ok(self.0.bound()?)
    }

    /// Does what a drop has to do.
    pub(super) fn give_back(&self, what: &'static str, with: impl FnOnce(&R) -> Result<(), DriverError>) {
        self.0.give_back(what, with);
    }

    fn same(&self, other: &Self) -> Result<(), GpuError> {
        if Arc::ptr_eq(&self.0, &other.0) { Ok(()) } else { Err(GpuError::OtherDevice) }
    }
}

/// Memory on a device.
pub struct Buffer<R: Runtime> {
    device: Device<R>,
    pointer: DevicePointer,
    bytes: usize,
}

impl<R: Runtime> Buffer<R> {
    /// Its address, for kernels.
    #[must_use]
    pub fn pointer(&self) -> DevicePointer {
        self.pointer
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The address of `bytes` bytes from `at`, on this device.
    pub(super) fn address(
        &self,
        device: &Device<R>,
        at: usize,
        bytes: usize,
    ) -> Result<DevicePointer, GpuError> {
        device.same(&self.device)?;
        self.part(at, bytes)
    }

    /// The address of `bytes` bytes from `at`.
    fn part(&self, at: usize, bytes: usize) -> Result<DevicePointer, GpuError> {
        within(at, bytes, self.bytes)?;
        Ok(self.pointer.offset(at))
    }
}

impl<R: Runtime> fmt::Debug for Buffer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("pointer", &self.pointer).field("bytes", &self.bytes).finish()
    }
}

impl<R: Runtime> Drop for Buffer<R> {
    fn drop(&mut self) {
        // SAFETY: allocated by this runtime, and freed once; drivers wait for the work on the device first.
        self.device.0.give_back("device memory", |runtime| unsafe { runtime.free(self.pointer) });
    }
}

/// Memory of the host that is not paged out.
pub struct Pinned<R: Runtime> {
    device: Device<R>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its bytes, as a `Vec` does.
unsafe impl<R: Runtime> Send for Pinned<R> {}
// SAFETY: as above.
unsafe impl<R: Runtime> Sync for Pinned<R> {}

impl<R: Runtime> Deref for Pinned<R> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: so many bytes were allocated and set, and are this value's own.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl<R: Runtime> DerefMut for Pinned<R> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl<R: Runtime> fmt::Debug for Pinned<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("bytes", &self.bytes).finish()
    }
}

impl<R: Runtime> Drop for Pinned<R> {
    fn drop(&mut self) {
        // SAFETY: allocated by this runtime, and freed once; who queued a copy has waited for it.
        self.device
            .0
            .give_back("pinned memory", |runtime| unsafe { runtime.free_pinned(self.start.as_ptr()) });
    }
}

/// An error unless `at..at + bytes` lies in `0..of`.
fn within(at: usize, bytes: usize, of: usize) -> Result<(), GpuError> {
    match at.checked_add(bytes) {
        Some(end) if end <= of => Ok(()),
        _ => Err(GpuError::Range { at, bytes, of }),
    }
}

/// A queue of work, done in order and beside that of other streams.
pub struct Stream<R: Runtime> {
    device: Device<R>,
    stream: R::Stream,
}

impl<R: Runtime> Stream<R> {
    /// The driver's stream, for its vendor's libraries, if it is this device's.
    pub(super) fn of(&self, device: &Device<R>) -> Result<R::Stream, GpuError> {
        device.same(&self.device)?;
        Ok(self.stream)
    }

    /// Waits until all that was queued is done.
    ///
    /// # Errors
    /// Those of the work too.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        // SAFETY: the device is bound; the stream is its own.
        Ok(unsafe { self.device.0.bound()?.synchronize_stream(self.stream) }?)
    }

    /// Copies to the device, and waits until that is done.
    ///
    /// # Errors
    /// [`GpuError::Range`], [`GpuError::OtherDevice`]; the driver's.
    pub fn write(&self, to: &Buffer<R>, at: usize, from: &[u8]) -> Result<(), GpuError> {
        // SAFETY: the bytes are borrowed until the copy is done.
        unsafe { self.queue_write(to, at, from) }?;
        self.synchronize()
    }

    /// Copies to the host, and waits until that is done.
    ///
    /// # Errors
    /// [`GpuError::Range`], [`GpuError::OtherDevice`]; the driver's.
    pub fn read(&self, from: &Buffer<R>, at: usize, to: &mut [u8]) -> Result<(), GpuError> {
        // SAFETY: the bytes are borrowed until the copy is done.
        unsafe { self.queue_read(from, at, to) }?;
        self.synchronize()
    }

    /// Queues a copy to the device. From [`Pinned`] memory it does not hold up the host.
    ///
    /// # Safety
    /// `from` stays as it is, and where it is, until the stream has got past the copy.
    ///
    /// # Errors
    /// [`GpuError::Range`], [`GpuError::OtherDevice`]; the driver's.
    pub unsafe fn queue_write(&self, to: &Buffer<R>, at: usize, from: &[u8]) -> Result<(), GpuError> {
        self.device.same(&to.device)?;
        let to = to.part(at, from.len())?;
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: both sides hold so many bytes; the caller keeps those of the host.
        Ok(unsafe { self.device.0.bound()?.copy_to_device(to, from.as_ptr(), from.len(), self.stream) }?)
    }

    /// Queues a copy to the host. To [`Pinned`] memory it does not hold up the host.
    ///
    /// # Safety
    /// `to` is neither touched nor dropped until the stream has got past the copy.
    ///
    /// # Errors
    /// [`GpuError::Range`], [`GpuError::OtherDevice`]; the driver's.
    pub unsafe fn queue_read(&self, from: &Buffer<R>, at: usize, to: &mut [u8]) -> Result<(), GpuError> {
        self.device.same(&from.device)?;
        let from = from.part(at, to.len())?;
        if to.is_empty() {
            return Ok(());
        }
        // SAFETY: both sides hold so many bytes; the caller keeps those of the host.
        Ok(unsafe { self.device.0.bound()?.copy_to_host(to.as_mut_ptr(), from, to.len(), self.stream) }?)
    }

    /// Queues a copy from one buffer to another.
    ///
    /// # Errors
    /// [`GpuError::Range`], [`GpuError::OtherDevice`]; the driver's.
    pub fn copy(
        &self,
        to: &mut Buffer<R>,
        to_at: usize,
        from: &Buffer<R>,
        from_at: usize,
        bytes: usize,
    ) -> Result<(), GpuError> {
        self.device.same(&to.device)?;
        self.device.same(&from.device)?;
        let (to, from) = (to.part(to_at, bytes)?, from.part(from_at, bytes)?);
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: both sides hold so many bytes, and are different allocations; freeing them waits for the copy.
        Ok(unsafe { self.device.0.bound()?.copy_on_device(to, from, bytes, self.stream) }?)
    }

    /// Queues setting `bytes` bytes from `at` to `value`.
    ///
    /// # Errors
    /// [`GpuError::Range`], [`GpuError::OtherDevice`]; the driver's.
    pub fn fill(&self, to: &Buffer<R>, at: usize, bytes: usize, value: u8) -> Result<(), GpuError> {
        self.device.same(&to.device)?;
        let at = to.part(at, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the buffer holds so many bytes; freeing it waits for this.
        Ok(unsafe { self.device.0.bound()?.fill(at, value, bytes, self.stream) }?)
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// `arguments` are as many and of the types that the kernel has; with them it stays within buffers that live until it has run, as
    /// its module does.
    ///
    /// # Errors
    /// [`GpuError::Launch`], [`GpuError::Failed`], [`GpuError::OtherDevice`].
    pub unsafe fn launch<const N: usize>(
        &self,
        function: &Function<R>,
        launch: Launch,
        mut arguments: [Argument<'_>; N],
    ) -> Result<(), GpuError> {
        self.device.same(&function.module.device)?;
        // SAFETY: an argument is nothing but its address.
        let addresses =
            unsafe { std::slice::from_raw_parts_mut(arguments.as_mut_ptr().cast::<*mut c_void>(), N) };
        // SAFETY: the device is bound and the function its own; the rest is the caller's.
        unsafe { self.device.0.bound()?.launch(function.function, launch, self.stream, addresses) }.map_err(
            |source| {
                if source.is_of_earlier_work() {
                    return source.into();
                }
                let Launch { grid, block, shared_bytes } = launch;
                let kernel = function.name.to_string_lossy().into_owned();
                GpuError::Launch { kernel, grid, block, shared_bytes, source }
            },
        )
    }

    /// Queues the event.
    ///
    /// # Errors
    /// [`GpuError::OtherDevice`]; the driver's.
    pub fn record(&self, event: &Event<R>) -> Result<(), GpuError> {
        self.device.same(&event.device)?;
        // SAFETY: the device is bound; stream and event are its own.
        Ok(unsafe { self.device.0.bound()?.record_event(event.event, self.stream) }?)
    }

    /// Queues waiting for an event, as it was last recorded.
    ///
    /// # Errors
    /// [`GpuError::OtherDevice`]; the driver's.
    pub fn wait(&self, event: &Event<R>) -> Result<(), GpuError> {
        self.device.same(&event.device)?;
        // SAFETY: the device is bound; stream and event are its own.
        Ok(unsafe { self.device.0.bound()?.wait_event(self.stream, event.event) }?)
    }

    /// Keeps what `work` queues on this stream instead of doing it, to be queued whole and often.
    ///
    /// `work` must not wait for the stream. See [`Properties::graphs`].
    ///
    /// # Errors
    /// Those of `work`; the driver's.
    pub fn capture(&self, work: impl FnOnce() -> Result<(), GpuError>) -> Result<Graph<R>, GpuError> {
        let launched = self.device.event()?;
        // SAFETY: the device is bound; the stream is its own.
        unsafe { self.device.0.bound()?.begin_capture(self.stream) }?;
        let worked = work();
        // SAFETY: as above; a capture has begun.
        let captured = unsafe { self.device.0.bound()?.end_capture(self.stream) };
        let graph = captured.map(|graph| Graph { device: self.device.clone(), graph, launched });
        // What went wrong in the work tells more than that nothing could be made of it.
        worked?;
        Ok(graph?)
    }

    /// Queues what was captured.
    ///
    /// # Safety
    /// What the captured calls needed still holds: their buffers and modules live until the graph has run.
    ///
    /// # Errors
    /// [`GpuError::OtherDevice`]; the driver's.
    pub unsafe fn launch_graph(&self, graph: &mut Graph<R>) -> Result<(), GpuError> {
        self.device.same(&graph.device)?;
        let runtime = self.device.0.bound()?;
        // SAFETY: the device is bound; stream and graph are its own, and nobody else uses the graph; the rest is the caller's.
        unsafe { runtime.launch_graph(graph.graph, self.stream) }?;
        self.record(&graph.launched)
    }
}

impl<R: Runtime> fmt::Debug for Stream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stream").field(&self.stream).finish()
    }
}

impl<R: Runtime> Drop for Stream<R> {
    fn drop(&mut self) {
        // What it was given may go after it.
        // SAFETY: made by this runtime, and given back once.
        self.device.0.give_back("a stream", |runtime| unsafe {
            let waited = runtime.synchronize_stream(self.stream);
            runtime.destroy_stream(self.stream).and(waited)
        });
    }
}

/// A place in a stream.
pub struct Event<R: Runtime> {
    device: Device<R>,
    event: R::Event,
}

impl<R: Runtime> Event<R> {
    /// Waits until the stream has got there.
    ///
    /// # Errors
    /// Those of the work before it too.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        // SAFETY: the device is bound; the event is its own.
        Ok(unsafe { self.device.0.bound()?.synchronize_event(self.event) }?)
    }

    /// Waits for both, and tells the milliseconds from `earlier` to this. Both are [timed](Device::timed_event).
    ///
    /// # Errors
    /// [`GpuError::OtherDevice`]; the driver's.
    pub fn milliseconds_since(&self, earlier: &Self) -> Result<f32, GpuError> {
        self.device.same(&earlier.device)?;
        earlier.synchronize()?;
        self.synchronize()?;
        // SAFETY: the device is bound; both events are its own.
        Ok(unsafe { self.device.0.bound()?.elapsed(earlier.event, self.event) }?)
    }
}

impl<R: Runtime> fmt::Debug for Event<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Event").field(&self.event).finish()
    }
}

impl<R: Runtime> Drop for Event<R> {
    fn drop(&mut self) {
        // SAFETY: made by this runtime, and given back once.
        self.device.0.give_back("an event", |runtime| unsafe { runtime.destroy_event(self.event) });
    }
}

/// Loaded code. A clone is one more reference.
pub struct Module<R: Runtime>(Arc<Loaded<R>>);

struct Loaded<R: Runtime> {
    device: Device<R>,
    module: R::Module,
    /// HIP goes on reading it.
    _code: Vec<u8>,
}

impl<R: Runtime> Module<R> {
    /// A kernel by its name, to be launched with up to `shared_bytes` of dynamic shared memory.
    ///
    /// # Errors
    /// [`GpuError::NoKernel`], [`GpuError::Nul`], [`GpuError::SharedMemory`]; the driver's.
    pub fn function(&self, name: &str, shared_bytes: u32) -> Result<Function<R>, GpuError> {
        let runtime = self.0.device.0.bound()?;
        let c_name = CString::new(name).map_err(|_| GpuError::Nul { what: "a kernel's name" })?;
        // SAFETY: the device is bound; the module is its own.
        let function = unsafe { runtime.function(self.0.module, &c_name) }
            .map_err(|source| GpuError::NoKernel { name: name.to_owned(), source })?;
        // SAFETY: as above; the function is the module's.
        let own = unsafe { runtime.shared_bytes(function) }?;
        self.0.device.check_shared(name, own.saturating_add(shared_bytes))?;
        // SAFETY: as above.
        unsafe { runtime.allow_shared(function, shared_bytes) }?;
        Ok(Function { module: Arc::clone(&self.0), function, name: c_name })
    }
}

impl<R: Runtime> Clone for Module<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R: Runtime> fmt::Debug for Module<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Module").field(&self.0.module).finish()
    }
}

impl<R: Runtime> Drop for Loaded<R> {
    fn drop(&mut self) {
        // SAFETY: loaded by this runtime, and given back once; who queued its kernels has waited for them.
        self.device.0.give_back("a module", |runtime| unsafe { runtime.unload_module(self.module) });
    }
}

/// A kernel. Keeps its module.
pub struct Function<R: Runtime> {
    module: Arc<Loaded<R>>,
    function: R::Function,
    name: CString,
}

impl<R: Runtime> fmt::Debug for Function<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Function").field(&self.name).finish()
    }
}

/// Work that is queued whole.
pub struct Graph<R: Runtime> {
    device: Device<R>,
    graph: R::Graph,
    /// When it was last queued, and is done.
    launched: Event<R>,
}

impl<R: Runtime> fmt::Debug for Graph<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Graph").field(&self.graph).finish()
    }
}

impl<R: Runtime> Drop for Graph<R> {
    fn drop(&mut self) {
        self.device.0.give_back("a graph", |runtime| {
            // It may still be queued, and not every driver keeps it until then.
            // SAFETY: made by this runtime, and given back once; the device is bound.
            unsafe {
                let waited = runtime.synchronize_event(self.launched.event);
                runtime.destroy_graph(self.graph).and(waited)
            }
        });
    }
}

/// One argument of a kernel: the address of its value.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Argument<'a> {
    address: *const c_void,
    value: PhantomData<&'a ()>,
}

/// A type that arguments of kernels have.
///
/// # Safety
/// It has the same bits on host and device.
pub unsafe trait Parameter: Copy {}

macro_rules! parameters {
    ($($type:ty)*) => {
        // SAFETY: numbers and addresses are the same on both sides.
        $(unsafe impl Parameter for $type {})*
    };
}

parameters!(i32 u32 i64 u64 f32 DevicePointer);

// SAFETY: `repr(C)` structs of addresses and numbers, which the kernels declare in the same order.
unsafe impl Parameter for kernels::Matrix {}
// SAFETY: as above.
unsafe impl Parameter for kernels::Cache {}
// SAFETY: as above.
unsafe impl Parameter for kernels::Groups {}
// SAFETY: as above.
unsafe impl Parameter for kernels::Router {}
// SAFETY: as above.
unsafe impl Parameter for kernels::Routed {}

impl<'a, T: Parameter> From<&'a T> for Argument<'a> {
    fn from(value: &'a T) -> Self {
        Self { address: std::ptr::from_ref(value).cast(), value: PhantomData }
    }
}
