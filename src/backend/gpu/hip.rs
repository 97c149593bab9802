//! AMD's HIP and Hygon's DTK, by a table of the functions that are needed, found when the program runs. Uses `runtime`, `library` and
//! `compiler`.
//!
//! Statuses are numbers here, since a newer driver may return some that no header knew; functions are found without their versions,
//! which ROCm and DTK number differently; no struct is read by its layout, which has changed.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

#[cfg(feature = "hip-sys")]
use hip_sys::hiprt;

use super::compiler::{Compilers, Dialect};
use super::library::{Library, StatusName, Wanted, functions, refused};
use super::rocblas::RocBlas;
use super::tool::{self, Tool};
use super::{
    Compiler, DevicePointer, DriverError, GpuError, Handle, Launch, Memory, Properties, Runtime, Version,
};

/// The driver. DTK's has precedence because some releases of DTK come with an alias under AMD's name.
const DRIVER: &[&str] = &[
    "libgalaxyhip.so.5",
    "libgalaxyhip.so",
    "libamdhip64.so.7",
    "libamdhip64.so.6",
    "libamdhip64.so.5",
    "libamdhip64.so",
];

/// hipRTC, where it is a library of its own.
const RTC: &[&str] = &["libhiprtc.so.7", "libhiprtc.so.6", "libhiprtc.so.5", "libhiprtc.so"];

/// Where DTK and ROCm install themselves.
const FOLDERS: &[&str] = &["/opt/dtk/lib", "/opt/dtk/hip/lib", "/opt/rocm/lib"];

const WANTED_DRIVER: Wanted =
    Wanted { what: "HIP driver", folders: FOLDERS, install: "install AMD's ROCm or Hygon's DTK" };

const WANTED_RTC: Wanted = Wanted {
    what: "hipRTC",
    folders: FOLDERS,
    install: "install hipRTC, which is part of ROCm and of DTK, where the system's loader finds it, or hipcc in PATH, \
              in bin of ROCM_PATH, in /opt/rocm/bin or in /opt/dtk/bin",
};

const HIPCC: tool::Wanted = tool::Wanted {
    name: "hipcc",
    root: "ROCM_PATH",
    folders: &["/opt/rocm/bin", "/opt/dtk/bin"],
    version: "HIP version: ",
    // hipRTC has in it what is in this header.
    arguments: &["--genco", "-include", "hip/hip_runtime.h"],
    architecture: "--offload-arch=",
    extension: "hip",
};

/// The first release that has every function of the table.
const OLDEST: Version = Version::new(5, 0);

/// The architectures of AMD that the kernels are written for. Some releases of hipRTC crash at a name that they do not know.
const AMD: &[&str] = &[
    "gfx900", "gfx906", "gfx908", "gfx90a", "gfx940", "gfx941", "gfx942", "gfx950", // 64 threads a warp
    "gfx1030", "gfx1031", "gfx1032", "gfx1100", "gfx1101", "gfx1102", "gfx1150", "gfx1151", "gfx1200",
    "gfx1201",
];

/// Those of Hygon, which only DTK compiles for: Z100, K100, K100_AI, BW1000 and its successor.
const HYGON: &[&str] = &["gfx906", "gfx926", "gfx928", "gfx936", "gfx938"];

/// Flags and numbers of `hip_runtime_api.h`, the same since HIP 5.
mod constant {
    use std::ffi::{c_int, c_uint};

    pub(super) const NO_DEVICE: c_int = 100;
    pub(super) const NOT_SUPPORTED: c_int = 801;
    pub(super) const MULTIPROCESSOR_COUNT: c_int = 63;
    pub(super) const MAX_SHARED_MEMORY_PER_BLOCK: c_int = 74;
    pub(super) const WARP_SIZE: c_int = 87;
    pub(super) const SHARED_SIZE_BYTES: c_int = 1;
    pub(super) const STREAM_NON_BLOCKING: c_uint = 1;
    pub(super) const EVENT_DISABLE_TIMING: c_uint = 2;
    pub(super) const HOST_MALLOC_PORTABLE: c_uint = 1;
    pub(super) const CAPTURE_THREAD_LOCAL: c_int = 1;
}

#[cfg(feature = "hip-sys")]
const _: () = {
    use hiprt::hipFunction_attribute as OfFunction;
    use hiprt::{hipDeviceAttribute_t as Attribute, hipError_t as Error, hipStreamCaptureMode as Mode};

    assert!(constant::NO_DEVICE == Error::hipErrorNoDevice as c_int);
    assert!(constant::NOT_SUPPORTED == Error::hipErrorNotSupported as c_int);
    assert!(constant::MULTIPROCESSOR_COUNT == Attribute::hipDeviceAttributeMultiprocessorCount as c_int);
    assert!(
        constant::MAX_SHARED_MEMORY_PER_BLOCK
            == Attribute::hipDeviceAttributeMaxSharedMemoryPerBlock as c_int
    );
    assert!(constant::WARP_SIZE == Attribute::hipDeviceAttributeWarpSize as c_int);
    assert!(constant::SHARED_SIZE_BYTES == OfFunction::HIP_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as c_int);
    assert!(constant::STREAM_NON_BLOCKING == hiprt::hipStreamNonBlocking);
    assert!(constant::EVENT_DISABLE_TIMING == hiprt::hipEventDisableTiming);
    assert!(constant::HOST_MALLOC_PORTABLE == hiprt::hipHostMallocPortable);
    assert!(constant::CAPTURE_THREAD_LOCAL == Mode::hipStreamCaptureModeThreadLocal as c_int);
    assert!(size_of::<hiprt::hipDeviceProp_t>() <= DESCRIPTION);
};

/// Compares a declaration with that of hip-sys: as many arguments as there.
#[cfg(feature = "hip-sys")]
macro_rules! check {
    ($symbol:ident($($argument:ty),*)) => {
        const _: () = {
            let _: unsafe extern "C" fn($(any!($argument)),*) -> hiprt::hipError_t = hiprt::$symbol;
        };
    };
}

/// Any type, in the place of one.
#[cfg(feature = "hip-sys")]
macro_rules! any {
    ($type:ty) => {
        _
    };
}

#[cfg(not(feature = "hip-sys"))]
use super::library::unchecked as check;

functions! { check!
    struct Table {
        hipGetDeviceCount(*mut c_int);
        hipGetDevice(*mut c_int);
        hipSetDevice(c_int);
        hipDeviceSynchronize();
        hipDeviceGetName(*mut c_char, c_int, c_int);
        hipDeviceTotalMem(*mut usize, c_int);
        hipDeviceGetAttribute(*mut c_int, c_int, c_int);
        hipMemGetInfo(*mut usize, *mut usize);
        hipMalloc(*mut *mut c_void, usize);
        hipFree(*mut c_void);
        hipHostMalloc(*mut *mut c_void, usize, c_uint);
        hipHostFree(*mut c_void);
        hipMemcpyHtoDAsync(*mut c_void, *const c_void, usize, *mut c_void);
        hipMemcpyDtoHAsync(*mut c_void, *mut c_void, usize, *mut c_void);
        hipMemcpyDtoDAsync(*mut c_void, *mut c_void, usize, *mut c_void);
        hipMemsetD8Async(*mut c_void, u8, usize, *mut c_void);
        hipModuleLoadData(*mut *mut c_void, *const c_void);
        hipModuleUnload(*mut c_void);
        hipModuleGetFunction(*mut *mut c_void, *mut c_void, *const c_char);
        hipFuncGetAttribute(*mut c_int, c_int, *mut c_void);
        hipModuleLaunchKernel(
            *mut c_void,
            c_uint, c_uint, c_uint, // grid
            c_uint, c_uint, c_uint, // block
            c_uint,
            *mut c_void,
            *mut *mut c_void,
            *mut *mut c_void,
        );
        hipStreamCreateWithFlags(*mut *mut c_void, c_uint);
        hipStreamDestroy(*mut c_void);
        hipStreamSynchronize(*mut c_void);
        hipStreamWaitEvent(*mut c_void, *mut c_void, c_uint);
        hipEventCreateWithFlags(*mut *mut c_void, c_uint);
        hipEventDestroy(*mut c_void);
        hipEventRecord(*mut c_void, *mut c_void);
        hipEventSynchronize(*mut c_void);
        hipEventElapsedTime(*mut f32, *mut c_void, *mut c_void);
    }
}

functions! { check!
    /// What old releases lack.
    struct Graphs {
        hipStreamBeginCapture(*mut c_void, c_int);
        hipStreamEndCapture(*mut c_void, *mut *mut c_void);
        hipGraphInstantiate(*mut *mut c_void, *mut c_void, *mut *mut c_void, *mut c_char, usize);
        hipGraphLaunch(*mut c_void, *mut c_void);
        hipGraphExecDestroy(*mut c_void);
        hipGraphDestroy(*mut c_void);
    }
}

/// Calls a function of a table. Its handles, addresses and lengths are those that [`Runtime`]'s caller vouches for; all else are numbers
/// and places for results.
macro_rules! call {
    ($hip:ident, $table:expr, $function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: as said above.
        $hip.check(stringify!($function), unsafe { ($table.$function)($($argument),*) })
    };
    ($hip:ident, $function:ident($($argument:expr),* $(,)?)) => {
        call!($hip, $hip.table, $function($($argument),*))
    };
}

/// The driver, of ROCm or of DTK.
pub struct Hip {
    table: Table,
    graphs: Option<Graphs>,
    error_name: StatusName,
    /// Writes a struct, of a layout that depends on the release.
    describe: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    version: Version,
    /// The version in full, which tells compilers apart.
    release: u32,
    devices: usize,
    is_dtk: bool,
    library: Library,
    compilers: Compilers,
}

impl std::fmt::Debug for Hip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hip").field("version", &self.version).field("library", &self.library).finish()
    }
}

/// Fields of `hipDeviceProp_t` have moved; in all releases it is smaller than this.
const DESCRIPTION: usize = 4096;

impl Hip {
    fn check(&self, call: &'static str, code: c_int) -> Result<(), DriverError> {
        if code == 0 { Ok(()) } else { Err(self.refused(call, code)) }
    }

    fn refused(&self, call: &'static str, code: c_int) -> DriverError {
        // SAFETY: HIP's function for this.
        unsafe { refused(self.error_name, call, code) }
    }

    fn graphs(&self) -> Result<&Graphs, DriverError> {
        self.graphs.as_ref().ok_or_else(|| self.refused("hipStreamBeginCapture", constant::NOT_SUPPORTED))
    }

    /// What kernels are compiled for, without its features: of `gfx90a:sramecc+:xnack-`, `gfx90a`.
    fn architecture(&self, device: c_int) -> Result<String, GpuError> {
        // Aligned as any struct is.
        let mut description = [0_u64; DESCRIPTION / 8];
        // SAFETY: there is more room than any release's struct takes.
        let status = unsafe { (self.describe)(description.as_mut_ptr().cast(), device) };
        self.check("hipGetDeviceProperties", status)?;
        let bytes: Vec<u8> = description.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(architecture(&bytes).unwrap_or_default())
    }

    /// hipRTC, in the driver's library or in one of its own, or else `hipcc`.
    fn find_compiler(&self, library: Option<&str>) -> Result<Compiler, GpuError> {
        let (vendor, known) = if self.is_dtk { ("dtk", HYGON) } else { ("rocm", AMD) };
        let release = format!("-{vendor}-{}", self.release);
        let known = || known.iter().map(|&name| name.to_owned()).collect();
        let options = Self::COMPILER_OPTIONS;
        // SAFETY: the types are those of `hiprtc.h`.
        let new = |library: &Library| unsafe { Compiler::new(library, &HIPRTC, options, &release, known()) };
        if let Some(library) = library {
            // SAFETY: the compiler's library.
            return new(&unsafe { Library::open(WANTED_RTC, &[library]) }?);
        }
        if let Ok(inside) = new(&self.library) {
            return Ok(inside);
        }
        // SAFETY: as above.
        let found = unsafe { Library::first(WANTED_RTC, RTC, |library| new(&library)) };
        found.or_else(|missing| {
            let tool = Tool::find(&HIPCC).ok_or(missing)?;
            Ok(Compiler::of_tool(tool, HIPCC.name, options, &release, known()))
        })
    }
}

/// The last text that is an architecture's name: the device's own name comes before it, and may be the same.
fn architecture(description: &[u8]) -> Option<String> {
    let mut names = description.split(|&byte| byte == 0).filter_map(|text| {
        let name = text.split(|&byte| byte == b':').next()?;
        let number = name.strip_prefix(b"gfx")?;
        let is_number = (3..=5).contains(&number.len()) && number.iter().all(u8::is_ascii_hexdigit);
        is_number.then(|| String::from_utf8_lossy(name).into_owned())
    });
    names.next_back()
}

impl Runtime for Hip {
    const NAME: &'static str = "hip";
    const COMPILER_OPTIONS: &'static [&'static str] = &["-std=c++17", "-O3", "-ffp-contract=off"];

    /// The device's number.
    type Context = c_int;
    type Current = c_int;
    type Stream = Handle<c_void>;
    type Event = Handle<c_void>;
    type Module = Handle<c_void>;
    type Function = Handle<c_void>;
    type Graph = Handle<c_void>;
    type Blas = RocBlas;

    fn load() -> Result<Self, GpuError> {
        // SAFETY: the driver's library.
        let library = unsafe { Library::open(WANTED_DRIVER, DRIVER) }?;
        // SAFETY: the types are those of `hip_runtime_api.h`.
        let (version, table, graphs, error_name, describe) = unsafe {
            let version: unsafe extern "C" fn(*mut c_int) -> c_int =
                library.function(c"hipRuntimeGetVersion")?;
            let describe = library
                .function(c"hipGetDevicePropertiesR0600")
                .or_else(|_| library.function(c"hipGetDeviceProperties"))?;
            let graphs = Graphs::resolve(&library).ok();
            (version, Table::resolve(&library)?, graphs, library.function(c"hipGetErrorName")?, describe)
        };
        let mut release = 0;
        // SAFETY: writes one number.
        let status = unsafe { version(&raw mut release) };
        let release = release.unsigned_abs();
        let version = Version::new(release / 10_000_000, release / 100_000 % 100);
        let is_dtk = library.name().contains("galaxyhip");
        let compilers = Compilers::default();
        let mut hip = Self {
            table,
            graphs,
            error_name,
            describe,
            version,
            release,
            devices: 0,
            is_dtk,
            library,
            compilers,
        };
        hip.check("hipRuntimeGetVersion", status)?;
        if version < OLDEST {
            return Err(GpuError::OldDriver { runtime: Self::NAME, found: version, expected: OLDEST });
        }
        let mut devices = 0;
        // SAFETY: takes a number that must be 0; writes one number.
        // Initialises the driver too; `hipInit` would call a machine without devices an invalid one.
        let counted = call!(hip, hipGetDeviceCount(&raw mut devices));
        match (counted, usize::try_from(devices)) {
            (Ok(()), Ok(devices @ 1..)) => hip.devices = devices,
            (Err(error), _) if error.code != constant::NO_DEVICE => return Err(error.into()),
            _ => return Err(GpuError::NoDevice { runtime: Self::NAME }),
        }
        Ok(hip)
    }

    fn devices(&self) -> usize {
        self.devices
    }

    fn properties(&self, ordinal: usize) -> Result<Properties, GpuError> {
        let device = match c_int::try_from(ordinal) {
            Ok(device) if ordinal < self.devices => device,
            _ => {
                return Err(GpuError::NoSuchDevice { runtime: Self::NAME, ordinal, count: self.devices });
            }
        };
        let attribute = |which| {
            let mut value = 0;
            call!(self, hipDeviceGetAttribute(&raw mut value, which, device)).map(|()| value.unsigned_abs())
        };
        let mut name = [0_u8; 256];
        call!(self, hipDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device))?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let mut memory = 0;
        call!(self, hipDeviceTotalMem(&raw mut memory, device))?;
        Ok(Properties {
            name: String::from_utf8_lossy(name).into_owned(),
            architecture: self.architecture(device)?,
            memory,
            warp: attribute(constant::WARP_SIZE)?,
            compute_units: attribute(constant::MULTIPROCESSOR_COUNT)?,
            shared_memory: attribute(constant::MAX_SHARED_MEMORY_PER_BLOCK)?,
            driver: self.version,
            // Capturing has been seen to fail under DTK.
            graphs: self.graphs.is_some() && !self.is_dtk,
        })
    }

    fn compiler(&self, library: Option<&str>) -> Result<Arc<Compiler>, GpuError> {
        self.compilers.get(library, || self.find_compiler(library))
    }

    fn retain(&self, ordinal: usize) -> Result<Self::Context, DriverError> {
        // The device's primary context is made when it is first used, and stays.
        Ok(c_int::try_from(ordinal).unwrap_or(c_int::MAX))
    }

    unsafe fn release(&self, _device: Self::Context) -> Result<(), DriverError> {
        Ok(())
    }

    unsafe fn bind(&self, device: Self::Context) -> Result<Option<Self::Current>, DriverError> {
        let mut current = 0;
        call!(self, hipGetDevice(&raw mut current))?;
        if current == device {
            return Ok(None);
        }
        call!(self, hipSetDevice(device))?;
        Ok(Some(current))
    }

    unsafe fn restore(&self, previous: Self::Current) -> Result<(), DriverError> {
        call!(self, hipSetDevice(previous))
    }

    unsafe fn memory(&self) -> Result<Memory, DriverError> {
        let mut memory = Memory { free: 0, total: 0 };
        call!(self, hipMemGetInfo(&raw mut memory.free, &raw mut memory.total))?;
        Ok(memory)
    }

    unsafe fn synchronize(&self) -> Result<(), DriverError> {
        call!(self, hipDeviceSynchronize())
    }

    unsafe fn allocate(&self, bytes: usize) -> Result<DevicePointer, DriverError> {
        let mut pointer = ptr::null_mut();
        call!(self, hipMalloc(&raw mut pointer, bytes))?;
        Ok(DevicePointer(pointer.addr() as u64))
    }

    unsafe fn free(&self, pointer: DevicePointer) -> Result<(), DriverError> {
        call!(self, hipFree(pointer.as_ptr()))
    }

    unsafe fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8, DriverError> {
        let mut pointer = ptr::null_mut();
        let flags = constant::HOST_MALLOC_PORTABLE;
        call!(self, hipHostMalloc(&raw mut pointer, bytes, flags))?;
        Ok(pointer.cast())
    }

    unsafe fn free_pinned(&self, pointer: *mut u8) -> Result<(), DriverError> {
        call!(self, hipHostFree(pointer.cast()))
    }

    unsafe fn copy_to_device(
        &self,
        to: DevicePointer,
        from: *const u8,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError> {
        call!(self, hipMemcpyHtoDAsync(to.as_ptr(), from.cast(), bytes, stream.0))
    }

    unsafe fn copy_to_host(
        &self,
        to: *mut u8,
        from: DevicePointer,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError> {
        call!(self, hipMemcpyDtoHAsync(to.cast(), from.as_ptr(), bytes, stream.0))
    }

    unsafe fn copy_on_device(
        &self,
        to: DevicePointer,
        from: DevicePointer,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError> {
        call!(self, hipMemcpyDtoDAsync(to.as_ptr(), from.as_ptr(), bytes, stream.0))
    }

    unsafe fn fill(
        &self,
        at: DevicePointer,
        value: u8,
        bytes: usize,
        stream: Self::Stream,
    ) -> Result<(), DriverError> {
        call!(self, hipMemsetD8Async(at.as_ptr(), value, bytes, stream.0))
    }

    unsafe fn load_module(&self, code: &[u8]) -> Result<Self::Module, DriverError> {
        let mut module = ptr::null_mut();
        call!(self, hipModuleLoadData(&raw mut module, code.as_ptr().cast()))?;
        Ok(Handle(module))
    }

    unsafe fn unload_module(&self, module: Self::Module) -> Result<(), DriverError> {
        call!(self, hipModuleUnload(module.0))
    }

    unsafe fn function(&self, module: Self::Module, name: &CStr) -> Result<Self::Function, DriverError> {
        let mut function = ptr::null_mut();
        call!(self, hipModuleGetFunction(&raw mut function, module.0, name.as_ptr()))?;
        Ok(Handle(function))
    }

    unsafe fn shared_bytes(&self, function: Self::Function) -> Result<u32, DriverError> {
        let mut bytes = 0;
        call!(self, hipFuncGetAttribute(&raw mut bytes, constant::SHARED_SIZE_BYTES, function.0))
            .map(|()| bytes.unsigned_abs())
    }

    /// Blocks may have all there is without asking.
    unsafe fn allow_shared(&self, _function: Self::Function, _bytes: u32) -> Result<(), DriverError> {
        Ok(())
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
            hipModuleLaunchKernel(
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
        let flags = constant::STREAM_NON_BLOCKING;
        call!(self, hipStreamCreateWithFlags(&raw mut stream, flags))?;
        Ok(Handle(stream))
    }

    unsafe fn destroy_stream(&self, stream: Self::Stream) -> Result<(), DriverError> {
        call!(self, hipStreamDestroy(stream.0))
    }

    unsafe fn synchronize_stream(&self, stream: Self::Stream) -> Result<(), DriverError> {
        call!(self, hipStreamSynchronize(stream.0))
    }

    unsafe fn wait_event(&self, stream: Self::Stream, event: Self::Event) -> Result<(), DriverError> {
        call!(self, hipStreamWaitEvent(stream.0, event.0, 0))
    }

    unsafe fn create_event(&self, timed: bool) -> Result<Self::Event, DriverError> {
        let mut event = ptr::null_mut();
        let flags = if timed { 0 } else { constant::EVENT_DISABLE_TIMING };
        call!(self, hipEventCreateWithFlags(&raw mut event, flags))?;
        Ok(Handle(event))
    }

    unsafe fn destroy_event(&self, event: Self::Event) -> Result<(), DriverError> {
        call!(self, hipEventDestroy(event.0))
    }

    unsafe fn record_event(&self, event: Self::Event, stream: Self::Stream) -> Result<(), DriverError> {
        call!(self, hipEventRecord(event.0, stream.0))
    }

    unsafe fn synchronize_event(&self, event: Self::Event) -> Result<(), DriverError> {
        call!(self, hipEventSynchronize(event.0))
    }

    unsafe fn elapsed(&self, from: Self::Event, to: Self::Event) -> Result<f32, DriverError> {
        let mut milliseconds = 0.0;
        call!(self, hipEventElapsedTime(&raw mut milliseconds, from.0, to.0))?;
        Ok(milliseconds)
    }

    unsafe fn begin_capture(&self, stream: Self::Stream) -> Result<(), DriverError> {
        // Other threads may do what they like meanwhile.
        call!(self, self.graphs()?, hipStreamBeginCapture(stream.0, constant::CAPTURE_THREAD_LOCAL))
    }

    unsafe fn end_capture(&self, stream: Self::Stream) -> Result<Self::Graph, DriverError> {
        let graphs = self.graphs()?;
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        call!(self, graphs, hipStreamEndCapture(stream.0, &raw mut graph))?;
        // Without a place for the node at fault and for a text about it.
        let (node, text) = (ptr::null_mut(), ptr::null_mut());
        let instantiated =
            call!(self, graphs, hipGraphInstantiate(&raw mut executable, graph, node, text, 0));
        let destroyed = call!(self, graphs, hipGraphDestroy(graph));
        instantiated.and(destroyed)?;
        Ok(Handle(executable))
    }

    unsafe fn launch_graph(&self, graph: Self::Graph, stream: Self::Stream) -> Result<(), DriverError> {
        call!(self, self.graphs()?, hipGraphLaunch(graph.0, stream.0))
    }

    unsafe fn destroy_graph(&self, graph: Self::Graph) -> Result<(), DriverError> {
        call!(self, self.graphs()?, hipGraphExecDestroy(graph.0))
    }
}

const HIPRTC: Dialect = Dialect {
    name: "hipRTC",
    version: c"hiprtcVersion",
    create: c"hiprtcCreateProgram",
    destroy: c"hiprtcDestroyProgram",
    compile: c"hiprtcCompileProgram",
    log_size: c"hiprtcGetProgramLogSize",
    log: c"hiprtcGetProgramLog",
    code_size: c"hiprtcGetCodeSize",
    code: c"hiprtcGetCode",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_architecture_is_found_wherever_a_release_has_put_it() {
        let describe = |offset: usize, text: &[u8]| {
            let mut description = vec![0; DESCRIPTION];
            description[..11].copy_from_slice(b"gfx90c card");
            description[offset..offset + text.len()].copy_from_slice(text);
            description[2000..2004].copy_from_slice(b"gfx!");
            architecture(&description)
        };
        assert_eq!(describe(396, b"gfx906").unwrap(), "gfx906");
        assert_eq!(describe(1160, b"gfx90a:sramecc+:xnack-").unwrap(), "gfx90a");
        assert_eq!(describe(700, b"gfx1100\0").unwrap(), "gfx1100");
        assert_eq!(describe(700, b"sm_90"), None);
    }
}
