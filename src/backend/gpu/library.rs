//! Libraries that are looked for when the program runs. Uses `error`.

use std::error::Error;
use std::ffi::{CStr, c_char, c_int};
use std::{fmt, iter};

use super::{DriverError, GpuError};

/// A loaded library, under the name by which it was found. It is never unloaded: drivers have threads of their own.
pub(super) struct Library {
    inner: &'static libloading::Library,
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
        // SAFETY: the caller's.
        unsafe { Self::first(wanted, names, Ok) }
    }

    /// What can be made of the first of `names` that can be loaded and that something can be made of; or why not of the first that can
    /// be loaded.
    ///
    /// # Safety
    /// As [`open`](Self::open).
    pub(super) unsafe fn first<T>(
        wanted: Wanted,
        names: &[impl AsRef<str>],
        make: impl Fn(Self) -> Result<T, GpuError>,
    ) -> Result<T, GpuError> {
        let Wanted { what, folders, install } = wanted;
        let (mut tried, mut refused) = (Vec::new(), None);
        for name in names.iter().map(AsRef::as_ref) {
            let mut broken = None;
            let in_folders = folders.iter().map(|folder| format!("{folder}/{name}"));
            for path in iter::once(name.to_owned()).chain(in_folders) {
                // SAFETY: the caller's.
                match unsafe { libloading::Library::new(&path) } {
                    Ok(inner) => match make(Self::of(Box::leak(Box::new(inner)), path)) {
                        Ok(made) => return Ok(made),
                        Err(error) => refused = refused.or(Some(error)),
                    },
                    Err(error) => broken = broken.or_else(|| reason(&error)),
                }
            }
            tried.push(broken.map_or_else(|| name.to_owned(), |reason| format!("{name} ({reason})")));
        }
        Err(refused.unwrap_or(GpuError::NoLibrary { what, tried, folders, install }))
    }

    /// A library that somebody else has loaded.
    pub(super) fn of(inner: &'static libloading::Library, name: String) -> Self {
        Self { inner, name }
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
        let found = unsafe { self.inner.get::<T>(symbol) };
        found.map(|function| *function).map_err(|_| GpuError::MissingSymbol {
            library: self.name.clone(),
            symbol: symbol.to_string_lossy().into_owned(),
        })
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Why a library cannot be loaded, unless there simply is no such file.
fn reason(error: &libloading::Error) -> Option<String> {
    error.source().map(ToString::to_string).filter(|reason| !reason.contains("No such file"))
}

/// A library's function that names a status: by a text that is never freed, or null.
pub(super) type StatusName = unsafe extern "C" fn(c_int) -> *const c_char;

/// The error of a call with such a status.
///
/// # Safety
/// `name` is what its type says.
pub(super) unsafe fn refused(name: StatusName, call: &'static str, code: c_int) -> DriverError {
    // SAFETY: the caller's.
    let name = unsafe { name(code) };
    if name.is_null() {
        return DriverError::new(call, code, "unknown status");
    }
    // SAFETY: as above.
    DriverError::new(call, code, unsafe { CStr::from_ptr(name) }.to_string_lossy())
}

/// A table of a library's functions, each of which returns a status: a number, since a newer library may return some that no header
/// knew. `$check` is a macro that gets each declaration, to compare it with one of somebody else's, or [`unchecked`].
macro_rules! functions {
    ($check:ident! $(#[$attribute:meta])* struct $table:ident { $($symbol:ident($($argument:ty),* $(,)?);)* }) => {
        $(#[$attribute])*
        #[allow(non_snake_case, reason = "the library's own names")]
        struct $table {
            $($symbol: unsafe extern "C" fn($($argument),*) -> std::ffi::c_int,)*
        }

        $($check! { $symbol($($argument),*) })*

        impl $table {
            /// # Safety
            /// The functions of these names have the types that the table says.
            unsafe fn resolve(library: &$crate::backend::gpu::library::Library) -> Result<Self, $crate::backend::gpu::GpuError> {
                Ok(Self {
                    $($symbol: {
                        let name = std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($symbol), "\0").as_bytes());
                        // SAFETY: the caller's.
                        unsafe { library.function(name.unwrap_or_default()) }?
                    },)*
                })
            }
        }
    };
}

/// Where there is nobody else.
macro_rules! unchecked {
    ($($declaration:tt)*) => {};
}

pub(super) use {functions, unchecked};
