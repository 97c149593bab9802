//! Kernels on the processor: compiled by the host's compiler with `tests/gpu/simt.h`, loaded, launched.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::{fs, ptr, slice};

use grok1::backend::gpu::kernels::{self, Cache, Groups, Matrix, Routed, THREADS};

/// Warps of NVIDIA's and AMD's gaming cards, and of AMD's and Hygon's others.
pub(crate) const WARPS: [u32; 2] = [32, 64];

/// `SimtOrder`: forward, reverse, shuffled.
pub(crate) const ORDERS: [c_uint; 3] = [0, 1, 2];

type Find = unsafe extern "C" fn(*const c_char) -> *const c_void;
type ParameterBytes = unsafe extern "C" fn(*const c_void) -> *const c_uint;
type Launch = unsafe extern "C" fn(
    *const c_void,
    *const [c_uint; 3],
    *const [c_uint; 3],
    c_uint,
    *const *const c_void,
    c_uint,
) -> *const c_char;

/// A compiled module. It stays loaded.
pub(crate) struct Module {
    pub(crate) warp: u32,
    find: Find,
    parameter_bytes: ParameterBytes,
    launch: Launch,
}

impl Module {
    /// Compiles `text`, which may include the kernels' files; `None`, which is said, without a compiler.
    pub(crate) fn new(warp: u32, text: &str) -> Option<Self> {
        let library = compile(text)?;
        let path = CString::new(library.to_str().unwrap()).unwrap();
        // SAFETY: the library's initialisers only enlist its kernels.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{} cannot be loaded", library.display());
        let symbol = |name: &CStr| {
            // SAFETY: the handle is open, the name ends in a zero.
            let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
            assert!(!found.is_null(), "{name:?} is missing");
            found
        };
        // SAFETY: simt.h declares them so.
        unsafe {
            Some(Self {
                warp,
                find: std::mem::transmute::<*mut c_void, Find>(symbol(c"simt_kernel")),
                parameter_bytes: std::mem::transmute::<*mut c_void, ParameterBytes>(symbol(
                    c"simt_parameter_bytes",
                )),
                launch: std::mem::transmute::<*mut c_void, Launch>(symbol(c"simt_launch")),
            })
        }
    }

    /// Runs a kernel, in blocks of [`THREADS`]; its complaint if it makes a mistake that can be seen.
    pub(crate) fn try_launch(
        &self,
        name: &str,
        grid: [usize; 3],
        shared: usize,
        order: c_uint,
        arguments: &[&dyn Argument],
    ) -> Result<(), String> {
        let symbol = CString::new(name).unwrap();
        // SAFETY: the name ends in a zero.
        let kernel = unsafe { (self.find)(symbol.as_ptr()) };
        assert!(!kernel.is_null(), "there is no kernel {name}");
        // SAFETY: the list ends with a 0.
        let expected: Vec<usize> = unsafe {
            let list = (self.parameter_bytes)(kernel);
            (0..).map(|i| *list.add(i) as usize).take_while(|&bytes| bytes > 0).collect()
        };
        let found: Vec<usize> = arguments.iter().map(|argument| argument.bytes()).collect();
        assert_eq!(found, expected, "sizes of the parameters of {name}");
        let pointers: Vec<*const c_void> = arguments.iter().map(|argument| argument.pointer()).collect();
        let (grid, block) = (grid.map(|count| count as c_uint), [THREADS as c_uint, 1, 1]);
        // SAFETY: the arguments have the sizes of the parameters; what a kernel does with them is what is tested.
        let complaint =
            unsafe { (self.launch)(kernel, &grid, &block, shared as c_uint, pointers.as_ptr(), order) };
        if complaint.is_null() {
            return Ok(());
        }
        // SAFETY: a text that lives until this thread's next launch.
        Err(unsafe { CStr::from_ptr(complaint) }.to_str().unwrap().to_owned())
    }
}

/// The shared library of a module, from the last run if nothing has changed since.
fn compile(text: &str) -> Option<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gpu");
    let [header, scheduler] = ["simt.h", "simt.cpp"].map(|name| host.join(name));
    let mut files = kernels::files();
    files.push(("module.cu", text.into()));
    let mut hasher = DefaultHasher::new();
    (&files, fs::read(&header).unwrap(), fs::read(&scheduler).unwrap()).hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("simt-{:016x}", hasher.finish()));
    let library = folder.join("module.so");
    if library.exists() {
        return Some(library);
    }
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in &files {
        fs::write(folder.join(name), text.as_bytes()).unwrap();
    }
    // Not at its place before it is complete: others may look.
    let unfinished = folder.join(format!("{}.so", std::process::id()));
    let output = Command::new("g++")
        .args(["-std=c++17", "-O2", "-march=native", "-fPIC", "-shared", "-fvisibility=hidden"])
        .args(["-ffp-contract=off", "-fno-strict-aliasing", "-x", "c++", "-include"])
        .arg(&header)
        .arg("-I")
        .arg(&folder)
        .arg(folder.join("module.cu"))
        .arg(&scheduler)
        .arg("-o")
        .arg(&unfinished)
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: no g++");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&unfinished, &library).unwrap();
    Some(library)
}

/// A value that a kernel takes.
pub(crate) trait Argument {
    fn pointer(&self) -> *const c_void {
        ptr::from_ref(self).cast()
    }

    fn bytes(&self) -> usize {
        size_of_val(self)
    }
}

impl Argument for i32 {}
impl Argument for f32 {}
impl Argument for u64 {}
impl Argument for Matrix {}
impl Argument for Cache {}
impl Argument for Groups {}
impl Argument for Routed {}
impl Argument for kernels::Router {}

/// Memory that a kernel sees, with a page after its end that cannot be touched.
pub(crate) struct Buffer<T> {
    address: u64,
    len: usize,
    mapping: (*mut c_void, usize),
    element: PhantomData<T>,
}

const PAGE: usize = 4096;

/// Alignment of every buffer.
const ALIGN: usize = 16;

impl<T: Copy> Buffer<T> {
    /// All bits set: NaNs.
    pub(crate) fn new(len: usize) -> Self {
        let bytes = (len * size_of::<T>()).next_multiple_of(ALIGN);
        let mapped = bytes.next_multiple_of(PAGE) + PAGE;
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping of its own, of which the last page is closed and the rest before it filled.
        let start = unsafe {
            let start = libc::mmap(ptr::null_mut(), mapped, access, kind, -1 as c_int, 0);
            assert_ne!(start, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(start.byte_add(mapped - PAGE), PAGE, libc::PROT_NONE), 0);
            start.cast::<u8>().write_bytes(0xff, mapped - PAGE);
            start
        };
        let address = start as u64 + (mapped - PAGE - bytes) as u64;
        Self { address, len, mapping: (start, mapped), element: PhantomData }
    }

    pub(crate) fn of(values: &[T]) -> Self {
        let mut buffer = Self::new(values.len());
        buffer.values_mut().copy_from_slice(values);
        buffer
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn values(&self) -> &[T] {
        // SAFETY: mapped and filled; any bits are a value of the numbers that tests use.
        unsafe { slice::from_raw_parts(self.address as *const T, self.len) }
    }

    pub(crate) fn values_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; nobody else has it.
        unsafe { slice::from_raw_parts_mut(self.address as *mut T, self.len) }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: mapped when it was made.
        unsafe { libc::munmap(self.mapping.0, self.mapping.1) };
    }
}

/// Its address.
impl<T> Argument for Buffer<T> {
    fn pointer(&self) -> *const c_void {
        ptr::from_ref(&self.address).cast()
    }

    fn bytes(&self) -> usize {
        size_of::<u64>()
    }
}
