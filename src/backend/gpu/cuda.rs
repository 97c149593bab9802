//! NVIDIA's driver, through cudarc. Uses `runtime`, `library` and `compiler`.
//!
//! cudarc finds and loads it, and its declarations are what ours are checked against. The calls are our own: cudarc's give their
//! status as an enum, and a status that a newer driver has and the enum has not would be undefined behaviour; cudarc also panics
//! where a function is missing.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::Arc;
use std::{fmt, ptr};

use cudarc::driver::sys::{
    self, CUcontext, CUctx_st, CUdevice, CUdevice_attribute as Attribute, CUdeviceptr, CUevent,
    CUevent_flags, CUevent_st, CUfunc_st, CUfunction, CUfunction_attribute, CUgraph, CUgraphExec,
    CUgraphExec_st, CUmod_st, CUmodule, CUstream, CUstream_flags, CUstream_st, CUstreamCaptureMode,
};

use super::compiler::{Compilers, Dialect};
use super::cublaslt::CublasLt;
use super::library::{Library, Wanted, functions};
use super::tool::{self, Tool};
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
              where the system's loader finds it, or nvcc in PATH, in bin of CUDA_PATH or in /usr/local/cuda/bin",
};

const NVCC: tool::Wanted = tool::Wanted {
    name: "nvcc",
    root: "CUDA_PATH",
    folders: &["/usr/local/cuda/bin"],
    version: "release ",
    arguments: &["--cubin"],
    architecture: "--gpu-architecture=",
    extension: "cu",
};

/// From here on, every function below is there, and code of an NVRTC of the same major version loads.
const OLDEST: Version = Version::new(12, 0);

/// Compares a declaration with cudarc's, which differs in the type of the status.
macro_rules! check {
    // Of CUDA 13 it has only the successor, with the same arguments, which drivers before 12.8 do not have.
    (cuEventElapsedTime($($argument:ty),*)) => {
        check! { cuEventElapsedTime_v2($($argument),*) }
    };
    ($symbol:ident($($argument:ty),*)) => {
        const _: unsafe fn($($argument),*) -> sys::CUresult = sys::$symbol;
    };
}

functions! { check!
    struct Table {
        cuInit(c_uint);
        cuDeviceGetCount(*mut c_int);
        cuDeviceGet(*mut CUdevice, c_int);
        cuDeviceGetName(*mut c_char, c_int, CUdevice);
        cuDeviceTotalMem_v2(*mut usize, CUdevice);
        cuDeviceGetAttribute(*mut c_int, Attribute, CUdevice);
        cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
        cuDevicePrimaryCtxRelease_v2(CUdevice);
        cuCtxGetCurrent(*mut CUcontext);
        cuCtxSetCurrent(CUcontext);
        cuCtxSynchronize();
        cuMemGetInfo_v2(*mut usize, *mut usize);
        cuMemAlloc_v2(*mut CUdeviceptr, usize);
        cuMemFree_v2(CUdeviceptr);
        cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
        cuMemFreeHost(*mut c_void);
        cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
        cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
        cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream);
        cuMemsetD8Async(CUdeviceptr, u8, usize, CUstream);
        cuModuleLoadData(*mut CUmodule, *const c_void);
        cuModuleUnload(CUmodule);
        cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
        cuFuncGetAttribute(*mut c_int, CUfunction_attribute, CUfunction);
        cuFuncSetAttribute(CUfunction, CUfunction_attribute, c_int);
        cuLaunchKernel(
            CUfunction,
            c_uint, c_uint, c_uint, // grid
            c_uint, c_uint, c_uint, // block
            c_uint,
            CUstream,
            *mut *mut c_void,
            *mut *mut c_void,
        );
        cuStreamCreate(*mut CUstream, c_uint);
        cuStreamDestroy_v2(CUstream);
        cuStreamSynchronize(CUstream);
        cuStreamWaitEvent(CUstream, CUevent, c_uint);
        cuEventCreate(*mut CUevent, c_uint);
        cuEventDestroy_v2(CUevent);
        cuEventRecord(CUevent, CUstream);
        cuEventSynchronize(CUevent);
        cuEventElapsedTime(*mut f32, CUevent, CUevent);
        cuStreamBeginCapture_v2(CUstream, CUstreamCaptureMode);
        cuStreamEndCapture(CUstream, *mut CUgraph);
        cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, c_ulonglong);
        cuGraphLaunch(CUgraphExec, CUstream);
        cuGraphExecDestroy(CUgraphExec);
        cuGraphDestroy(CUgraph);
    }
}

/// Statuses of `cuInit` without a device.
const NO_DEVICE: c_int = 100;

/// The driver.
pub struct Cuda {
    table: Table,
    error_name: ErrorName,
    version: Version,
    devices: usize,
    compilers: Compilers,
}

type ErrorName = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda").field("version", &self.version).finish_non_exhaustive()
    }
}

/// An error unless a call went well.
fn check(error_name: ErrorName, call: &'static str, code: c_int) -> Result<(), DriverError> {
    if code == 0 {
        return Ok(());
    }
    let mut name = ptr::null();
    // SAFETY: writes one address: of a text that is never freed, or null.
    let status = unsafe { error_name(code, &raw mut name) };
    if status != 0 || name.is_null() {
        return Err(DriverError::new(call, code, "unknown status"));
    }
    // SAFETY: as above.
    Err(DriverError::new(call, code, unsafe { CStr::from_ptr(name) }.to_string_lossy()))
}

/// Calls a function of the table. Its handles, addresses and lengths are those that [`Runtime`]'s caller vouches for; all else are
/// numbers and places for results.
macro_rules! call {
    ($cuda:ident, $function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: as said above.
        check($cuda.error_name, stringify!($function), unsafe { ($cuda.table.$function)($($argument),*) })
    };
}

impl Cuda {
    fn device(&self, ordinal: usize) -> Result<CUdevice, DriverError> {
        let mut device = 0;
        call!(self, cuDeviceGet(&raw mut device, c_int::try_from(ordinal).unwrap_or(c_int::MAX)))?;
        Ok(device)
    }
}

impl Runtime for Cuda {
    const NAME: &'static str = "cuda";
    const COMPILER_OPTIONS: &'static [&'static str] = &["-std=c++17", "--fmad=false"];

    /// The device, which is what the primary context is given back by, and the context.
    type Context = (CUdevice, Handle<CUctx_st>);
    type Current = Handle<CUctx_st>;
    type Stream = Handle<CUstream_st>;
    type Event = Handle<CUevent_st>;
    type Module = Handle<CUmod_st>;
    type Function = Handle<CUfunc_st>;
    type Graph = Handle<CUgraphExec_st>;
    type Blas = CublasLt;

    fn load() -> Result<Self, GpuError> {
        // SAFETY: the driver's library.
        let found = unsafe { Library::open(WANTED_DRIVER, &[DRIVER]) }?;
        // cudarc looks again, and under more names: the library of the first that it finds is the one to call.
        // SAFETY: as above.
        if !unsafe { sys::is_culib_present() } {
            let Wanted { what, folders, install } = WANTED_DRIVER;
            return Err(GpuError::NoLibrary { what, tried: vec![DRIVER.to_owned()], folders, install });
        }
        // SAFETY: as above; it is there, so that this does not panic.
        let library = Library::of(unsafe { sys::culib() }, found.name().to_owned());
        // SAFETY: the types are those of `cuda.h`.
        let (version, error_name): (unsafe extern "C" fn(*mut c_int) -> c_int, ErrorName) =
            unsafe { (library.function(c"cuDriverGetVersion")?, library.function(c"cuGetErrorName")?) };
        let mut number: c_int = 0;
        // SAFETY: writes one number.
        check(error_name, "cuDriverGetVersion", unsafe { version(&raw mut number) })?;
        let number = number.unsigned_abs();
        let version = Version::new(number / 1000, number % 1000 / 10);
        if version < OLDEST {
            return Err(GpuError::OldDriver { runtime: Self::NAME, found: version, expected: OLDEST });
        }
        // SAFETY: the types are cudarc's, but for the status.
        let table = unsafe { Table::resolve(&library) }?;
        let mut cuda = Self { table, error_name, version, devices: 0, compilers: Compilers::default() };
        match call!(cuda, cuInit(0)) {
            Err(error) if error.code == NO_DEVICE => {
                return Err(GpuError::NoDevice { runtime: Self::NAME });
            }
            initialised => initialised?,
        }
        let mut devices = 0;
        call!(cuda, cuDeviceGetCount(&raw mut devices))?;
        match usize::try_from(devices) {
            Ok(devices @ 1..) => cuda.devices = devices,
            _ => return Err(GpuError::NoDevice { runtime: Self::NAME }),
        }
        Ok(cuda)
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
            let mut value: c_int = 0;
            call!(self, cuDeviceGetAttribute(&raw mut value, which, device)).map(|()| value.unsigned_abs())
        };
        let mut name = [0_u8; 256];
        call!(self, cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device))?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let mut memory = 0;
        call!(self, cuDeviceTotalMem_v2(&raw mut memory, device))?;
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok(Properties {
            name: String::from_utf8_lossy(name).into_owned(),
            architecture: format!("sm_{major}{minor}"),
            memory,
            warp: attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?,
            compute_units: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_memory: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            driver: self.version,
            graphs: true,
        })
    }

    fn compiler(&self, library: Option<&str>) -> Result<Arc<Compiler>, GpuError> {
        self.compilers.get(library, || compiler(self.version, library))
    }

    fn retain(&self, ordinal: usize) -> Result<Self::Context, DriverError> {
        let device = self.device(ordinal)?;
        let mut context = ptr::null_mut();
        call!(self, cuDevicePrimaryCtxRetain(&raw mut context, device))?;
        Ok((device, Handle(context)))
    }

    unsafe fn release(&self, (device, _): Self::Context) -> Result<(), DriverError> {
        call!(self, cuDevicePrimaryCtxRelease_v2(device))
    }

    unsafe fn bind(&self, (_, context): Self::Context) -> Result<Option<Self::Current>, DriverError> {
        let mut current = ptr::null_mut();
        call!(self, cuCtxGetCurrent(&raw mut current))?;
        if current == context.0 {
            return Ok(None);
        }
        call!(self, cuCtxSetCurrent(context.0))?;
        Ok(Some(Handle(current)))
    }

    unsafe fn restore(&self, previous: Self::Current) -> Result<(), DriverError> {
        call!(self, cuCtxSetCurrent(previous.0))
    }

    unsafe fn memory(&self) -> Result<Memory, DriverError> {
        let mut memory = Memory { free: 0, total: 0 };
        call!(self, cuMemGetInfo_v2(&raw mut memory.free, &raw mut memory.total))?;
        Ok(memory)
    }

    unsafe fn synchronize(&self) -> Result<(), DriverError> {
        call!(self, cuCtxSynchronize())
    }

    unsafe fn allocate(&self, bytes: usize) -> Result<DevicePointer, DriverError> {
        let mut pointer = 0;
        call!(self, cuMemAlloc_v2(&raw mut pointer, bytes))?;
        Ok(DevicePointer(pointer))
    }

    unsafe fn free(&self, pointer: DevicePointer) -> Result<(), DriverError> {
        call!(self, cuMemFree_v2(pointer.0))
    }

    unsafe fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8, DriverError> {
        let mut pointer = ptr::null_mut();
        // Not write-combined: the host reads what it copied back.
        call!(self, cuMemHostAlloc(&raw mut pointer, bytes, sys::CU_MEMHOSTALLOC_PORTABLE))?;
        Ok(pointer.cast())
    }

    unsafe fn free_pinned(&self, pointer: *mut u8) -> Result<(), DriverError> {
        call!(self, cuMemFreeHost(pointer.cast()))
    }

    unsafe fn copy_to_device(
        &self,
        to: DevicePointer,
        from: *const u8,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError> {
        call!(self, cuMemcpyHtoDAsync_v2(to.0, from.cast(), bytes, stream.0))
    }

    unsafe fn copy_to_host(
        &self,
        to: *mut u8,
        from: DevicePointer,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError> {
        call!(self, cuMemcpyDtoHAsync_v2(to.cast(), from.0, bytes, stream.0))
    }

    unsafe fn copy_on_device(
        &self,
        to: DevicePointer,
        from: DevicePointer,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError> {
        call!(self, cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, stream.0))
    }

    unsafe fn fill(
        &self,
        at: DevicePointer,
        value: u8,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError> {
        call!(self, cuMemsetD8Async(at.0, value, bytes, stream.0))
    }

    unsafe fn load_module(&self, code: &[u8]) -> Result<Self::Module, DriverError> {
        let mut module = ptr::null_mut();
        call!(self, cuModuleLoadData(&raw mut module, code.as_ptr().cast()))?;
        Ok(Handle(module))
    }

    unsafe fn unload_module(&self, module: Self::Module) -> Result<(), DriverError> {
        call!(self, cuModuleUnload(module.0))
    }

    unsafe fn function(&self, module: Self::Module, name: &CStr) -> Result<Self::Function, DriverError> {
        let mut function = ptr::null_mut();
        call!(self, cuModuleGetFunction(&raw mut function, module.0, name.as_ptr()))?;
        Ok(Handle(function))
    }

    unsafe fn shared_bytes(&self, function: Self::Function) -> Result<u32, DriverError> {
        let (mut bytes, which) = (0, CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
        call!(self, cuFuncGetAttribute(&raw mut bytes, which, function.0)).map(|()| bytes.unsigned_abs())
    }

    /// Blocks get more than 48 KiB, with what their kernel has anyway, only if it was allowed to have them.
    unsafe fn allow_shared(&self, function: Self::Function, bytes: u32) -> Result<(), DriverError> {
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        call!(self, cuFuncSetAttribute(function.0, which, c_int::try_from(bytes).unwrap_or(c_int::MAX)))
    }

    unsafe fn launch(
        &self,
        function: Self::Function,
        Launch { grid, block, shared_bytes }: Launch,
        stream: Self::Stream,
        arguments: &mut [*mut c_void],
    ) -> Result<(), DriverError> {
        let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (grid, block);
        call!(
            self,
            cuLaunchKernel(
                function.0,
                grid_x,
                grid_y,
                grid_z,
                block_x,
                block_y,
                block_z,
                shared_bytes,
                stream.0,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        )
    }

    unsafe fn create_stream(&self) -> Result<Self::Stream, DriverError> {
        let mut stream = ptr::null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
        call!(self, cuStreamCreate(&raw mut stream, flags))?;
        Ok(Handle(stream))
    }

    unsafe fn destroy_stream(&self, stream: Self::Stream) -> Result<(), DriverError> {
        call!(self, cuStreamDestroy_v2(stream.0))
    }

    unsafe fn synchronize_stream(&self, stream: Self::Stream) -> Result<(), DriverError> {
        call!(self, cuStreamSynchronize(stream.0))
    }

    unsafe fn wait_event(&self, stream: Self::Stream, event: Self::Event) -> Result<(), DriverError> {
        call!(self, cuStreamWaitEvent(stream.0, event.0, 0))
    }

    unsafe fn create_event(&self, timed: bool) -> Result<Self::Event, DriverError> {
        let mut event = ptr::null_mut();
        let flags = if timed { 0 } else { CUevent_flags::CU_EVENT_DISABLE_TIMING as c_uint };
        call!(self, cuEventCreate(&raw mut event, flags))?;
        Ok(Handle(event))
    }

    unsafe fn destroy_event(&self, event: Self::Event) -> Result<(), DriverError> {
        call!(self, cuEventDestroy_v2(event.0))
    }

    unsafe fn record_event(&self, event: Self::Event, stream: Self::Stream) -> Result<(), DriverError> {
        call!(self, cuEventRecord(event.0, stream.0))
    }

    unsafe fn synchronize_event(&self, event: Self::Event) -> Result<(), DriverError> {
        call!(self, cuEventSynchronize(event.0))
    }

    unsafe fn elapsed(&self, from: Self::Event, to: Self::Event) -> Result<f32, DriverError> {
        let mut milliseconds = 0.0;
        call!(self, cuEventElapsedTime(&raw mut milliseconds, from.0, to.0))?;
        Ok(milliseconds)
    }

    unsafe fn begin_capture(&self, stream: Self::Stream) -> Result<(), DriverError> {
        // Other threads may do what they like meanwhile.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        call!(self, cuStreamBeginCapture_v2(stream.0, mode))
    }

    unsafe fn end_capture(&self, stream: Self::Stream) -> Result<Self::Graph, DriverError> {
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        call!(self, cuStreamEndCapture(stream.0, &raw mut graph))?;
        let instantiated = call!(self, cuGraphInstantiateWithFlags(&raw mut executable, graph, 0));
        let destroyed = call!(self, cuGraphDestroy(graph));
        instantiated.and(destroyed)?;
        Ok(Handle(executable))
    }

    unsafe fn launch_graph(&self, graph: Self::Graph, stream: Self::Stream) -> Result<(), DriverError> {
        call!(self, cuGraphLaunch(graph.0, stream.0))
    }

    unsafe fn destroy_graph(&self, graph: Self::Graph) -> Result<(), DriverError> {
        call!(self, cuGraphExecDestroy(graph.0))
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

/// The newest NVRTC whose code the driver loads: of the driver's major version, or of one before it; or else an `nvcc` of such a version.
/// cudarc looks for an NVRTC of the version that it was built for, and panics if there is none.
fn compiler(driver: Version, library: Option<&str>) -> Result<Compiler, GpuError> {
    let names = match library {
        Some(library) => vec![library.to_owned()],
        None => (OLDEST.major..=driver.major).rev().map(|major| format!("libnvrtc.so.{major}")).collect(),
    };
    let new = |library: Library| {
        // SAFETY: the types are those of `nvrtc.h`.
        let compiler =
            unsafe { Compiler::new(&library, &NVRTC, Cuda::COMPILER_OPTIONS, "", architectures(&library)?) }?;
        for_driver(compiler, driver)
    };
    // SAFETY: the compiler's library.
    let found = unsafe { Library::first(WANTED_NVRTC, &names, new) };
    found.or_else(|missing| {
        let found = if library.is_none() { Tool::find(&NVCC) } else { None };
        let (tool, version) = found.ok_or(missing)?;
        let known = tool.list("--list-gpu-code");
        for_driver(Compiler::of_tool((tool, version), NVCC.name, Cuda::COMPILER_OPTIONS, "", known), driver)
    })
}

/// The compiler, if the driver is not too old for its code.
fn for_driver(compiler: Compiler, driver: Version) -> Result<Compiler, GpuError> {
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
