//! The drivers' compilers: NVRTC and hipRTC, two names for one interface, or a program in their place. Uses `library`, `tool` and `error`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use super::library::Library;
use super::tool::Tool;
use super::{GpuError, Program, Version};

/// What one of the two calls what both have.
pub(super) struct Dialect {
    /// For messages.
    pub(super) name: &'static str,
    pub(super) version: &'static CStr,
    pub(super) create: &'static CStr,
    pub(super) destroy: &'static CStr,
    pub(super) compile: &'static CStr,
    pub(super) log_size: &'static CStr,
    pub(super) log: &'static CStr,
    pub(super) code_size: &'static CStr,
    pub(super) code: &'static CStr,
}

type Handle = *mut c_void;

struct Functions {
    create: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    destroy: unsafe extern "C" fn(*mut Handle) -> c_int,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int,
    log_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    code_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    code: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
}

/// A compiler that is loaded.
pub struct Compiler {
    name: &'static str,
    options: &'static [&'static str],
    version: Version,
    /// Tells compilers apart that may make different code.
    identity: String,
    architectures: Vec<String>,
    means: Means,
}

/// How it is called.
enum Means {
    /// Not every release compiles on several threads.
    Library(Functions, Mutex<()>),
    Program(Tool),
}

/// The compilers that were loaded: none is ever unloaded, so that each is loaded once.
#[derive(Default)]
pub(super) struct Compilers(Mutex<Vec<(Option<String>, Arc<Compiler>)>>);

impl Compilers {
    /// The one at `library`, or the usual one.
    pub(super) fn get(
        &self,
        library: Option<&str>,
        load: impl FnOnce() -> Result<Compiler, GpuError>,
    ) -> Result<Arc<Compiler>, GpuError> {
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, compiler)) = loaded.iter().find(|(name, _)| name.as_deref() == library) {
            return Ok(Arc::clone(compiler));
        }
        let compiler = Arc::new(load()?);
        loaded.push((library.map(str::to_owned), Arc::clone(&compiler)));
        Ok(compiler)
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Compiler").field(&self.identity).finish()
    }
}

impl Compiler {
    /// The compiler in a library, which speaks `dialect`, is given `options` for every program, and knows `architectures`. `release`
    /// tells apart what its own version does not.
    ///
    /// # Safety
    /// The functions of these names have the types that both compilers' headers declare.
    pub(super) unsafe fn new(
        library: &Library,
        dialect: &Dialect,
        options: &'static [&'static str],
        release: &str,
        architectures: Vec<String>,
    ) -> Result<Self, GpuError> {
        let Dialect { name, version, create, destroy, compile, log_size, log, code_size, code } = *dialect;
        // SAFETY: the caller's.
        let functions = unsafe {
            Functions {
                create: library.function(create)?,
                destroy: library.function(destroy)?,
                compile: library.function(compile)?,
                log_size: library.function(log_size)?,
                log: library.function(log)?,
                code_size: library.function(code_size)?,
                code: library.function(code)?,
            }
        };
        // SAFETY: the caller's.
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int =
            unsafe { library.function(version) }?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two numbers; should it fail, they are 0.
        unsafe { version(&raw mut major, &raw mut minor) };
        let version = Version::new(major.unsigned_abs(), minor.unsigned_abs());
        let identity = format!("{}-{version}{release}", name.to_lowercase());
        let means = Means::Library(functions, Mutex::new(()));
        Ok(Self { name, options, version, identity, architectures, means })
    }

    /// A compiler that is a program.
    pub(super) fn of_tool(
        (tool, version): (Tool, Version),
        name: &'static str,
        options: &'static [&'static str],
        release: &str,
        architectures: Vec<String>,
    ) -> Self {
        let identity = format!("{name}-{version}{release}");
        Self { name, options, version, identity, architectures, means: Means::Program(tool) }
    }

    /// Its own version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// What it compiles for.
    #[must_use]
    pub fn architectures(&self) -> &[String] {
        &self.architectures
    }

    /// What tells its code from that of other compilers: `nvrtc-13.0`.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// Its name and version, for messages.
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// Compiles for one architecture.
    ///
    /// # Errors
    /// [`GpuError::UnknownArchitecture`], [`GpuError::Compile`], [`GpuError::Nul`].
    pub fn compile(&self, program: &Program<'_>, architecture: &str) -> Result<Vec<u8>, GpuError> {
        // Some releases of hipRTC crash at a name that they do not know.
        if !self.architectures.iter().any(|known| known == architecture) {
            return Err(GpuError::UnknownArchitecture {
                found: architecture.to_owned(),
                compiler: self.title(),
                known: self.architectures.clone(),
            });
        }
        let texts = Texts::new(program, self.options, architecture)?;
        let built = match &self.means {
            Means::Library(functions, turn) => {
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                functions.build(&texts)
            }
            Means::Program(tool) => tool.compile(program, self.options, architecture),
        };
        built.map_err(|log| GpuError::Compile {
            compiler: self.title(),
            program: program.name.to_owned(),
            architecture: architecture.to_owned(),
            log,
        })
    }
}

impl Functions {
    /// The code, or what the compiler says about the program.
    fn build(&self, texts: &Texts) -> Result<Vec<u8>, String> {
        let [headers, names, options] = [&texts.headers, &texts.header_names, &texts.options]
            .map(|texts| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>());
        let (count, option_count) = (headers.len() as c_int, options.len() as c_int);
        let Self { create, compile, .. } = *self;
        let mut handle = ptr::null_mut();
        // SAFETY: all texts end with a zero byte and outlive the call; there are as many of each as is said.
        let status = unsafe {
            let (source, name) = (texts.source.as_ptr(), texts.name.as_ptr());
            create(&raw mut handle, source, name, count, headers.as_ptr(), names.as_ptr())
        };
        check("create the program", status)?;
        let unit = Unit { handle, functions: self };
        // SAFETY: the program exists; the options are as above.
        let status = unsafe { compile(unit.handle, option_count, options.as_ptr()) };
        if status != 0 {
            return Err(match unit.log().trim() {
                "" => format!("status {status}"),
                log => log.to_owned(),
            });
        }
        unit.code()
    }
}

/// An error unless a step went well.
fn check(what: &str, status: c_int) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("cannot {what}: status {status}")) }
}

/// A program, as C takes it.
struct Texts {
    name: CString,
    source: CString,
    header_names: Vec<CString>,
    headers: Vec<CString>,
    options: Vec<CString>,
}

impl Texts {
    fn new(program: &Program<'_>, options: &[&str], architecture: &str) -> Result<Self, GpuError> {
        let text = |what, text: &str| CString::new(text).map_err(|_| GpuError::Nul { what });
        let architecture = format!("--gpu-architecture={architecture}");
        let options = options.iter().chain(program.options).copied().chain([architecture.as_str()]);
        Ok(Self {
            name: text("a program's name", program.name)?,
            source: text("a program", program.source)?,
            header_names: program
                .headers
                .iter()
                .map(|&(name, _)| text("a header's name", name))
                .collect::<Result<_, _>>()?,
            headers: program
                .headers
                .iter()
                .map(|&(_, header)| text("a header", header))
                .collect::<Result<_, _>>()?,
            options: options.map(|option| text("an option", option)).collect::<Result<_, _>>()?,
        })
    }
}

/// A program inside the compiler.
struct Unit<'a> {
    handle: Handle,
    functions: &'a Functions,
}

impl Unit<'_> {
    /// What the compiler said, or nothing if it does not tell.
    fn log(&self) -> String {
        let Functions { log_size, log, .. } = *self.functions;
        let bytes = self.bytes("read the log", log_size, log).unwrap_or_default();
        String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
    }

    fn code(&self) -> Result<Vec<u8>, String> {
        let Functions { code_size, code, .. } = *self.functions;
        let code = self.bytes("read the code", code_size, code)?;
        if code.is_empty() { Err("no code".to_owned()) } else { Ok(code) }
    }

    fn bytes(
        &self,
        what: &str,
        size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, String> {
        let mut len = 0;
        // SAFETY: the program exists; writes one number.
        check(what, unsafe { size(self.handle, &raw mut len) })?;
        let mut bytes = vec![0; len];
        // SAFETY: the program exists; writes as many bytes as was said.
        check(what, unsafe { get(self.handle, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Drop for Unit<'_> {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once. Nothing can be done about a failure, and nothing follows from one.
        unsafe { (self.functions.destroy)(&raw mut self.handle) };
    }
}
