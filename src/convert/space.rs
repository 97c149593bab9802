//! How much room a file system has.

use std::io;
use std::path::Path;

/// Bytes that may still be written to the file system of `folder`; `None` where that cannot be asked.
#[cfg(unix)]
pub(super) fn free(folder: &Path) -> io::Result<Option<u64>> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends with a zero, and what is written is of the type asked for.
    if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros are a value of it, and the call filled it.
    let found = unsafe { found.assume_init() };
    // The fields' widths differ between systems.
    #[allow(clippy::unnecessary_cast, reason = "the fields are of other types on other systems")]
    Ok(Some((found.f_bavail as u64).saturating_mul(found.f_frsize as u64)))
}

/// Bytes that may still be written to the file system of `folder`; `None` where that cannot be asked.
#[cfg(not(unix))]
pub(super) fn free(_folder: &Path) -> io::Result<Option<u64>> {
    Ok(None)
}
