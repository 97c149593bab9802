//! Libraries that are looked for when the program runs. Uses `error`.

use std::error::Error;
use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::{fmt, iter};

use super::GpuError;

/// A loaded library, under the name by which it was found. It is never unloaded: drivers have threads of their own.
pub(super) struct Library {
    inner: ManuallyDrop<libloading::Library>,
    name: String,
}

/// A library to look for.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// For messages.
    pub(super) what: &'static str,
    /// Where it may be, should the system's loader not find it.
    pub(super) folders: &'static [&'static str],
    /// What to do when it is nowhere.
    pub(super) install: &'static str,
}

impl Library {
    /// The first of `names` that can be loaded.
    ///
    /// # Safety
    /// Each name is that of a library whose initialisers may be run: the driver, or the compiler, that is wanted.
    pub(super) unsafe fn open(wanted: Wanted, names: &[impl AsRef<str>]) -> Result<Self, GpuError> {
        let Wanted { what, folders, install } = wanted;
        let mut tried = Vec::new();
        for name in names.iter().map(AsRef::as_ref) {
            let mut broken = None;
            let in_folders = folders.iter().map(|folder| format!("{folder}/{name}"));
            for path in iter::once(name.to_owned()).chain(in_folders) {
                // SAFETY: the caller's.
                match unsafe { libloading::Library::new(&path) } {
                    Ok(inner) => return Ok(Self { inner: ManuallyDrop::new(inner), name: path }),
                    Err(error) => broken = broken.or_else(|| reason(&error)),
                }
            }
            tried.push(broken.map_or_else(|| name.to_owned(), |reason| format!("{name} ({reason})")));
        }
        Err(GpuError::NoLibrary { what, tried, folders, install })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A function.
    ///
    /// # Safety
    /// `T` is a function pointer of the symbol's own type.
    pub(super) unsafe fn function<T: Copy>(&self, symbol: &'static CStr) -> Result<T, GpuError> {
        // SAFETY: the caller's.
        unsafe { function(&self.inner, &self.name, symbol) }
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A function of a library that is called `name` in errors.
///
/// # Safety
/// As [`Library::function`].
pub(super) unsafe fn function<T: Copy>(
    library: &libloading::Library,
    name: &str,
    symbol: &'static CStr,
) -> Result<T, GpuError> {
    // SAFETY: the caller's.
    let found = unsafe { library.get::<T>(symbol) };
    found.map(|function| *function).map_err(|_| GpuError::MissingSymbol {
        library: name.to_owned(),
        symbol: symbol.to_string_lossy().into_owned(),
    })
}

/// Why a library cannot be loaded, unless there simply is no such file.
fn reason(error: &libloading::Error) -> Option<String> {
    error.source().map(ToString::to_string).filter(|reason| !reason.contains("No such file"))
}
