//! Kernels become code when they are first needed: from the cache, or by the driver's compiler for the very device. Uses `runtime`,
//! `compiler` and `cache`.

use std::path::PathBuf;

use super::cache::Cache;
use super::{GpuError, Runtime};

/// Kernels, as text.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Program<'a> {
    /// For messages: `kernels.cu`.
    pub name: &'a str,
    /// CUDA C++, or HIP.
    pub source: &'a str,
    /// What it includes: names and texts.
    pub headers: &'a [(&'a str, &'a str)],
    /// Of the compiler: `-DWIDTH=6144`.
    pub options: &'a [&'a str],
}

impl<'a> Program<'a> {
    /// A program that includes nothing.
    #[must_use]
    pub const fn new(name: &'a str, source: &'a str) -> Self {
        Self { name, source, headers: &[], options: &[] }
    }

    /// With texts that it includes, by name.
    #[must_use]
    pub const fn headers(mut self, headers: &'a [(&'a str, &'a str)]) -> Self {
        self.headers = headers;
        self
    }

    /// With options of the compiler.
    #[must_use]
    pub const fn options(mut self, options: &'a [&'a str]) -> Self {
        self.options = options;
        self
    }
}

/// How kernels are compiled.
#[derive(Clone, Debug, Default)]
pub struct CompileOptions {
    cache: CacheFolder,
    compiler: Option<String>,
}

#[derive(Clone, Debug, Default)]
enum CacheFolder {
    #[default]
    User,
    At(PathBuf),
    Nowhere,
}

impl CompileOptions {
    /// The compiler where it is usually found, and the user's cache: `grok1/kernels` in `XDG_CACHE_HOME`, or in `.cache` at home.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps code in another folder.
    #[must_use]
    pub fn cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = CacheFolder::At(folder.into());
        self
    }

    /// Keeps no code.
    #[must_use]
    pub fn no_cache(mut self) -> Self {
        self.cache = CacheFolder::Nowhere;
        self
    }

    /// Compiles with the library of this name or path, `libnvrtc.so.12` for example.
    #[must_use]
    pub fn compiler(mut self, library: impl Into<String>) -> Self {
        self.compiler = Some(library.into());
        self
    }

    fn open_cache(&self) -> Option<Cache> {
        match &self.cache {
            CacheFolder::User => Cache::of_user(),
            CacheFolder::At(folder) => Some(Cache::at(folder.clone())),
            CacheFolder::Nowhere => None,
        }
    }
}

/// Code of `program` for an architecture: what the cache has of this very compiler, or what it makes now. Where there is no compiler,
/// code that any other release made for this architecture will do.
///
/// A cache that cannot be written is logged, and is no error.
///
/// # Errors
/// [`GpuError`]: no compiler and nothing in the cache; an unknown architecture; a program that does not compile.
pub fn compile<R: Runtime>(
    runtime: &R,
    program: &Program<'_>,
    architecture: &str,
    options: &CompileOptions,
) -> Result<Vec<u8>, GpuError> {
    let cache = options.open_cache();
    let entry = cache.as_ref().map(|cache| cache.entry(program, architecture, R::COMPILER_OPTIONS));
    let compiler = match runtime.compiler(options.compiler.as_deref()) {
        Ok(compiler) => compiler,
        Err(missing) => {
            let kept = entry.and_then(|entry| entry.read_any());
            return kept.ok_or(missing);
        }
    };
    if let Some(code) = entry.as_ref().and_then(|entry| entry.read(compiler.identity())) {
        return Ok(code);
    }
    log::info!("compiling {} for {architecture} with {}", program.name, compiler.title());
    let code = compiler.compile(program, architecture)?;
    if let Some(entry) = entry {
        entry.write(compiler.identity(), &code);
    }
    Ok(code)
}
