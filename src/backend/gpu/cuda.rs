//! NVIDIA's driver, through cudarc. Uses `runtime`, `library` and `compiler`.
//!
//! cudarc resolves each function when it is first called and panics where there is no driver, or one without it. [`Cuda::load`]
//! therefore looks for all that is called here before cudarc is asked for anything; then what is left of cudarc are errors. Its
//! `result` layer is used rather than the `safe` one, whose buffers record events of their own and so cannot be captured in graphs.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use cudarc::driver::result::{self, DriverError as Refused};
use cudarc::driver::sys::{
    self, CUctx_st, CUdevice_attribute as Attribute, CUevent_flags, CUevent_st, CUevent_wait_flags,
    CUfunc_st, CUfunction_attribute, CUgraphExec_st, CUgraphInstantiate_flags, CUmod_st, CUstream_st,
    CUstreamCaptureMode,
};

use super::compiler::Dialect;
use super::library::{self, Library, Wanted};
use super::{
    Compiler, DevicePointer, DriverError, GpuError, Handle, Launch, Memory, Properties, Runtime, Version,
};

/// The driver's library.
const DRIVER: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

const WANTED_DRIVER: Wanted =
    Wanted { what: "CUDA driver", folders: &[], install: "install NVIDIA's driver" };

const WANTED_NVRTC: Wanted = Wanted {
    what: "NVRTC",
    folders: &["/usr/local/cuda/lib64", "/usr/local/cuda-13/lib64", "/usr/local/cuda-12/lib64"],
    install: "install NVRTC, which is part of the CUDA toolkit and of the Python package nvidia-cuda-nvrtc, \
              where the system's loader finds it",
};

/// From here on, every function below is there, and code of an NVRTC of the same major version loads.
const OLDEST: Version = Version::new(12, 0);

/// Every function that cudarc is asked for here.
const NEEDED: &[&CStr] = &[
    c"cuCtxGetCurrent",
    c"cuCtxSetCurrent",
    c"cuCtxSynchronize",
    c"cuDeviceGet",
    c"cuDeviceGetAttribute",
    c"cuDeviceGetName",
    c"cuDevicePrimaryCtxRelease_v2",
    c"cuDevicePrimaryCtxRetain",
    c"cuDeviceTotalMem_v2",
    c"cuEventCreate",
    c"cuEventDestroy_v2",
    c"cuEventRecord",
    c"cuEventSynchronize",
    c"cuFuncSetAttribute",
    c"cuGraphDestroy",
    c"cuGraphExecDestroy",
    c"cuGraphInstantiateWithFlags",
    c"cuGraphLaunch",
    c"cuLaunchKernel",
    c"cuMemAlloc_v2",
    c"cuMemFreeHost",
    c"cuMemFree_v2",
    c"cuMemGetInfo_v2",
    c"cuMemHostAlloc",
    c"cuMemcpyDtoDAsync_v2",
    c"cuMemcpyDtoHAsync_v2",
    c"cuMemcpyHtoDAsync_v2",
    c"cuMemsetD8Async",
    c"cuModuleGetFunction",
    c"cuModuleLoadData",
    c"cuModuleUnload",
    c"cuStreamBeginCapture_v2",
    c"cuStreamCreate",
    c"cuStreamDestroy_v2",
    c"cuStreamEndCapture",
    c"cuStreamSynchronize",
    c"cuStreamWaitEvent",
];

/// Statuses of `cuInit` without a device.
const NO_DEVICE: c_int = 100;

/// Blocks get more than this many bytes of dynamic shared memory only if their kernel was allowed to have them.
const SHARED_WITHOUT_ASKING: u32 = 48 * 1024;

/// The driver.
#[derive(Debug)]
pub struct Cuda {
    version: Version,
    devices: usize,
    own: Own,
}

/// Functions that cudarc does not call the way they are needed.
#[derive(Debug)]
struct Own {
    error_name: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
    /// cudarc calls its successor, which drivers before 12.8 do not have.
    elapsed: unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> c_int,
}

impl Own {
    fn name(&self, code: c_int) -> String {
        let mut name = ptr::null();
        // SAFETY: writes one address: of a text that is never freed, or null.
        let status = unsafe { (self.error_name)(code, &raw mut name) };
        if status != 0 || name.is_null() {
            return "unknown status".to_owned();
        }
        // SAFETY: as above.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), DriverError> {
        if code == 0 { Ok(()) } else { Err(DriverError::new(call, code, self.name(code))) }
    }
}

impl Cuda {
    /// A status as an error that tells its call.
    fn check<T>(&self, call: &'static str, result: Result<T, Refused>) -> Result<T, DriverError> {
        result.map_err(|Refused(status)| {
            let code = status as c_int;
            DriverError::new(call, code, self.own.name(code))
        })
    }

    fn device(&self, ordinal: usize) -> Result<sys::CUdevice, DriverError> {
        let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        self.check("cuDeviceGet", result::device::get(ordinal))
    }
}

/// Calls one of cudarc's functions. Its handles, addresses and lengths are those that [`Runtime`]'s caller vouches for.
macro_rules! call {
    ($cuda:ident, $call:literal, $function:expr) => {
        // SAFETY: as said above.
        $cuda.check($call, unsafe { $function })
    };
}

impl Runtime for Cuda {
    const NAME: &'static str = "cuda";
    const COMPILER_OPTIONS: &'static [&'static str] = &["-std=c++17", "--fmad=false"];

    /// The device, which is what the primary context is given back by, and the context.
    type Context = (sys::CUdevice, Handle<CUctx_st>);
    type Stream = Handle<CUstream_st>;
    type Event = Handle<CUevent_st>;
    type Module = Handle<CUmod_st>;
    type Function = Handle<CUfunc_st>;
    type Graph = Handle<CUgraphExec_st>;

    fn load() -> Result<Self, GpuError> {
        // SAFETY: the driver's library.
        let found = unsafe { Library::open(WANTED_DRIVER, &[DRIVER]) }?;
        // cudarc looks again, and under more names: the library of the first that it finds is what it will call.
        // SAFETY: as above.
        if !unsafe { sys::is_culib_present() } {
            let Wanted { what, folders, install } = WANTED_DRIVER;
            return Err(GpuError::NoLibrary { what, tried: vec![DRIVER.to_owned()], folders, install });
        }
        // SAFETY: as above; it is there, so that this does not panic.
        let driver = unsafe { sys::culib() };
        // SAFETY: the types are those of `cuda.h`; cudarc never unloads the library.
        let (version, init, count, own) = unsafe {
            let version: unsafe extern "C" fn(*mut c_int) -> c_int =
                library::function(driver, found.name(), c"cuDriverGetVersion")?;
            let init: unsafe extern "C" fn(u32) -> c_int =
                library::function(driver, found.name(), c"cuInit")?;
            let count: unsafe extern "C" fn(*mut c_int) -> c_int =
                library::function(driver, found.name(), c"cuDeviceGetCount")?;
            let error_name = library::function(driver, found.name(), c"cuGetErrorName")?;
            let elapsed = library::function(driver, found.name(), c"cuEventElapsedTime")?;
            (version, init, count, Own { error_name, elapsed })
        };
        let mut number = 0;
        // SAFETY: writes one number.
        own.check("cuDriverGetVersion", unsafe { version(&raw mut number) })?;
        let number = number.unsigned_abs();
        let version = Version::new(number / 1000, number % 1000 / 10);
        if version < OLDEST {
            return Err(GpuError::OldDriver { runtime: Self::NAME, found: version, expected: OLDEST });
        }
        for symbol in NEEDED {
            // SAFETY: the address is only looked up.
            unsafe { library::function::<*const c_void>(driver, found.name(), symbol) }?;
        }
        // SAFETY: takes no more than a number, which must be 0.
        match unsafe { init(0) } {
            NO_DEVICE => return Err(GpuError::NoDevice { runtime: Self::NAME }),
            status => own.check("cuInit", status)?,
        }
        let mut devices = 0;
        // SAFETY: writes one number.
        own.check("cuDeviceGetCount", unsafe { count(&raw mut devices) })?;
        match usize::try_from(devices) {
            Ok(devices @ 1..) => Ok(Self { version, devices, own }),
            _ => Err(GpuError::NoDevice { runtime: Self::NAME }),
        }
    }

    fn devices(&self) -> usize {
        self.devices
    }

    fn properties(&self, ordinal: usize) -> Result<Properties, GpuError> {
        if ordinal >= self.devices {
            return Err(GpuError::NoSuchDevice { runtime: Self::NAME, ordinal, count: self.devices });
        }
        let device = self.device(ordinal)?;
        let attribute = |which| {
            call!(self, "cuDeviceGetAttribute", result::device::get_attribute(device, which))
                .map(i32::unsigned_abs)
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok(Properties {
            name: self.check("cuDeviceGetName", result::device::get_name(device))?,
            architecture: format!("sm_{major}{minor}"),
            memory: call!(self, "cuDeviceTotalMem", result::device::total_mem(device))?,
            warp: attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?,
            compute_units: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_memory: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            driver: self.version,
            graphs: true,
        })
    }

    fn compiler(&self, library: Option<&str>) -> Result<Compiler, GpuError> {
        nvrtc(self.version, library)
    }

    fn retain(&self, ordinal: usize) -> Result<Self::Context, DriverError> {
        let device = self.device(ordinal)?;
        let context = call!(self, "cuDevicePrimaryCtxRetain", result::primary_ctx::retain(device))?;
        Ok((device, Handle(context)))
    }

    unsafe fn release(&self, (device, _): Self::Context) -> Result<(), DriverError> {
        call!(self, "cuDevicePrimaryCtxRelease", result::primary_ctx::release(device))
    }

    unsafe fn bind(&self, (_, context): Self::Context) -> Result<(), DriverError> {
        let current = self.check("cuCtxGetCurrent", result::ctx::get_current())?;
        if current == Some(context.0) {
            return Ok(());
        }
        call!(self, "cuCtxSetCurrent", result::ctx::set_current(context.0))
    }

    unsafe fn memory(&self) -> Result<Memory, DriverError> {
        let (free, total) = self.check("cuMemGetInfo", result::mem_get_info())?;
        Ok(Memory { free, total })
    }

    unsafe fn synchronize(&self) -> Result<(), DriverError> {
        self.check("cuCtxSynchronize", result::ctx::synchronize())
    }

    unsafe fn allocate(&self, bytes: usize) -> Result<DevicePointer, DriverError> {
        call!(self, "cuMemAlloc", result::malloc_sync(bytes)).map(DevicePointer)
    }

    unsafe fn free(&self, pointer: DevicePointer) -> Result<(), DriverError> {
        call!(self, "cuMemFree", result::free_sync(pointer.0))
    }

    unsafe fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8, DriverError> {
        // Not write-combined, which cudarc's safe layer would choose: the host reads what it copied back.
        call!(self, "cuMemHostAlloc", result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_PORTABLE))
            .map(<*mut c_void>::cast)
    }

    unsafe fn free_pinned(&self, pointer: *mut u8) -> Result<(), DriverError> {
        call!(self, "cuMemFreeHost", result::free_host(pointer.cast()))
    }

    unsafe fn copy_to_device(
        &self,
        to: DevicePointer,
        from: *const u8,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError> {
        call!(
            self,
            "cuMemcpyHtoDAsync",
            result::memcpy_htod_async(to.0, std::slice::from_raw_parts(from, bytes), stream.0)
        )
    }

    unsafe fn copy_to_host(
        &self,
        to: *mut u8,
        from: DevicePointer,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError> {
        call!(
            self,
            "cuMemcpyDtoHAsync",
            result::memcpy_dtoh_async(std::slice::from_raw_parts_mut(to, bytes), from.0, stream.0)
        )
    }

    unsafe fn copy_on_device(
        &self,
        to: DevicePointer,
        from: DevicePointer,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError> {
        call!(self, "cuMemcpyDtoDAsync", result::memcpy_dtod_async(to.0, from.0, bytes, stream.0))
    }

    unsafe fn fill(
        &self,
        at: DevicePointer,
        value: u8,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError> {
        call!(self, "cuMemsetD8Async", result::memset_d8_async(at.0, value, bytes, stream.0))
    }

    unsafe fn load_module(&self, code: &[u8]) -> Result<Self::Module, DriverError> {
        call!(self, "cuModuleLoadData", result::module::load_data(code.as_ptr().cast())).map(Handle)
    }

    unsafe fn unload_module(&self, module: Self::Module) -> Result<(), DriverError> {
        call!(self, "cuModuleUnload", result::module::unload(module.0))
    }

    unsafe fn function(&self, module: Self::Module, name: &CStr) -> Result<Self::Function, DriverError> {
        call!(self, "cuModuleGetFunction", result::module::get_function(module.0, name.to_owned()))
            .map(Handle)
    }

    unsafe fn allow_shared(&self, function: Self::Function, bytes: u32) -> Result<(), DriverError> {
        if bytes <= SHARED_WITHOUT_ASKING {
            return Ok(());
        }
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        call!(self, "cuFuncSetAttribute", result::function::set_function_attribute(function.0, which, bytes))
    }

    unsafe fn launch(
        &self,
        function: Self::Function,
        Launch { grid, block, shared_bytes }: Launch,
        stream: Self::Stream,
        arguments: &mut [*mut c_void],
    ) -> Result<(), DriverError> {
        call!(
            self,
            "cuLaunchKernel",
            result::launch_kernel(function.0, grid.into(), block.into(), shared_bytes, stream.0, arguments)
        )
    }

    unsafe fn create_stream(&self) -> Result<Self::Stream, DriverError> {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        self.check("cuStreamCreate", stream).map(Handle)
    }

    unsafe fn destroy_stream(&self, stream: Self::Stream) -> Result<(), DriverError> {
        call!(self, "cuStreamDestroy", result::stream::destroy(stream.0))
    }

    unsafe fn synchronize_stream(&self, stream: Self::Stream) -> Result<(), DriverError> {
        call!(self, "cuStreamSynchronize", result::stream::synchronize(stream.0))
    }

    unsafe fn wait_event(&self, stream: Self::Stream, event: Self::Event) -> Result<(), DriverError> {
        let flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        call!(self, "cuStreamWaitEvent", result::stream::wait_event(stream.0, event.0, flags))
    }

    unsafe fn create_event(&self, timed: bool) -> Result<Self::Event, DriverError> {
        let flags =
            if timed { CUevent_flags::CU_EVENT_DEFAULT } else { CUevent_flags::CU_EVENT_DISABLE_TIMING };
        self.check("cuEventCreate", result::event::create(flags)).map(Handle)
    }

    unsafe fn destroy_event(&self, event: Self::Event) -> Result<(), DriverError> {
        call!(self, "cuEventDestroy", result::event::destroy(event.0))
    }

    unsafe fn record_event(&self, event: Self::Event, stream: Self::Stream) -> Result<(), DriverError> {
        call!(self, "cuEventRecord", result::event::record(event.0, stream.0))
    }

    unsafe fn synchronize_event(&self, event: Self::Event) -> Result<(), DriverError> {
        call!(self, "cuEventSynchronize", result::event::synchronize(event.0))
    }

    unsafe fn elapsed(&self, from: Self::Event, to: Self::Event) -> Result<f32, DriverError> {
        let mut milliseconds = 0.0;
        // SAFETY: writes one number; the events are the caller's.
        let status = unsafe { (self.own.elapsed)(&raw mut milliseconds, from.0, to.0) };
        self.own.check("cuEventElapsedTime", status)?;
        Ok(milliseconds)
    }

    unsafe fn begin_capture(&self, stream: Self::Stream) -> Result<(), DriverError> {
        // Other threads may do what they like meanwhile.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        call!(self, "cuStreamBeginCapture", result::stream::begin_capture(stream.0, mode))
    }

    unsafe fn end_capture(&self, stream: Self::Stream) -> Result<Self::Graph, DriverError> {
        let graph = call!(self, "cuStreamEndCapture", result::stream::end_capture(stream.0))?;
        let flags = CUgraphInstantiate_flags(0);
        let executable = call!(self, "cuGraphInstantiate", result::graph::instantiate(graph, flags));
        call!(self, "cuGraphDestroy", result::graph::destroy(graph))?;
        executable.map(Handle)
    }

    unsafe fn launch_graph(&self, graph: Self::Graph, stream: Self::Stream) -> Result<(), DriverError> {
        call!(self, "cuGraphLaunch", result::graph::launch(graph.0, stream.0))
    }

    unsafe fn destroy_graph(&self, graph: Self::Graph) -> Result<(), DriverError> {
        call!(self, "cuGraphExecDestroy", result::graph::exec_destroy(graph.0))
    }
}

const NVRTC: Dialect = Dialect {
    name: "NVRTC",
    version: c"nvrtcVersion",
    create: c"nvrtcCreateProgram",
    destroy: c"nvrtcDestroyProgram",
    compile: c"nvrtcCompileProgram",
    log_size: c"nvrtcGetProgramLogSize",
    log: c"nvrtcGetProgramLog",
    code_size: c"nvrtcGetCUBINSize",
    code: c"nvrtcGetCUBIN",
};

/// The newest NVRTC whose code the driver loads: of the driver's major version, or of one before it. cudarc looks for one of the
/// version that it was built for, and panics if there is none.
fn nvrtc(driver: Version, library: Option<&str>) -> Result<Compiler, GpuError> {
    let names = match library {
        Some(library) => vec![library.to_owned()],
        None => (OLDEST.major..=driver.major).rev().map(|major| format!("libnvrtc.so.{major}")).collect(),
    };
    // SAFETY: the compiler's library.
    let library = unsafe { Library::open(WANTED_NVRTC, &names) }?;
    // SAFETY: the types are those of `nvrtc.h`.
    let compiler =
        unsafe { Compiler::new(&library, &NVRTC, Cuda::COMPILER_OPTIONS, "", architectures(&library)?) }?;
    if compiler.version().major > driver.major {
        let (compiler, found) = (compiler.title(), compiler.version());
        return Err(GpuError::NewCompiler { compiler, found, expected: driver });
    }
    Ok(compiler)
}

/// What an NVRTC compiles for, with the names that stand for one device and all its features: `sm_90`, `sm_90a`.
fn architectures(library: &Library) -> Result<Vec<String>, GpuError> {
    // SAFETY: the types are those of `nvrtc.h`.
    let (count, list): (
        unsafe extern "C" fn(*mut c_int) -> c_int,
        unsafe extern "C" fn(*mut c_int) -> c_int,
    ) = unsafe {
        (library.function(c"nvrtcGetNumSupportedArchs")?, library.function(c"nvrtcGetSupportedArchs")?)
    };
    let mut len = 0;
    // SAFETY: writes one number.
    let counted = unsafe { count(&raw mut len) };
    let mut numbers = vec![0; usize::try_from(len).unwrap_or(0)];
    // SAFETY: writes as many numbers as it said.
    if counted != 0 || unsafe { list(numbers.as_mut_ptr()) } != 0 {
        numbers.clear();
    }
    let names = numbers.iter().flat_map(|&number| {
        let all_features = (number >= 90).then(|| format!("sm_{number}a"));
        std::iter::once(format!("sm_{number}")).chain(all_features)
    });
    Ok(names.collect())
}
