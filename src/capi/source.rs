//! Files that the host reads for us. Uses `pointer`.

use std::ffi::{c_char, c_void};
use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::control::GROK1_CONTINUE;
use super::error::{Failure, quiet};
use super::pointer::{self, Versioned};
use crate::{MemoryFolder, Source};

/// Fills `data` with the `len` bytes from `offset`. Returns `GROK1_CONTINUE`, anything else if that failed. Comes from any thread,
/// from several at once.
pub type grok1_read_at_fn =
    Option<unsafe extern "C-unwind" fn(user: *mut c_void, offset: u64, data: *mut c_void, len: usize) -> i32>;

/// Hears that a source is needed no more. Comes once, from any thread.
pub type grok1_release_fn = Option<unsafe extern "C-unwind" fn(user: *mut c_void)>;

/// A file of a model that the host has somewhere of its own: behind a callback, or as an open file descriptor. Call
/// `grok1_source_init` first.
///
/// Lifetime: the struct and its name that of the call; what `user` points to, until `release`, after a call that succeeded. Threads:
/// see `grok1_read_at_fn`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_source {
    /// Set by `grok1_source_init`.
    pub struct_size: usize,
    /// The file's name, without folders, in UTF-8: formats and parts of a model are known by their names.
    pub name: *const c_char,
    /// Reads the file; NULL to use `fd`.
    pub read_at: grok1_read_at_fn,
    /// Called when the source is needed no more; NULL for nothing to do.
    pub release: grok1_release_fn,
    /// What the callbacks get.
    pub user: *mut c_void,
    /// Bytes of the file, if it has `read_at`.
    pub len: u64,
    /// A file descriptor, open for reading, if there is no `read_at`. It is duplicated: the host's own may be closed after the call.
    pub fd: isize,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_source {}

impl Default for grok1_source {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            name: ptr::null(),
            read_at: None,
            release: None,
            user: ptr::null_mut(),
            len: 0,
            fd: -1,
        }
    }
}

/// Fills `source`, which has `size` bytes (`sizeof *source`), with the defaults: no callbacks, no descriptor. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_source_init(source: *mut grok1_source, size: usize) {
    // SAFETY: as the header asks.
    unsafe { pointer::init(source, size) }
}

/// A folder of what the host has.
pub(super) struct HostFolder {
    pub(super) folder: MemoryFolder,
    sources: Vec<Arc<HostSource>>,
}

impl HostFolder {
    /// # Safety
    /// As the header asks of `sources`.
    pub(super) unsafe fn new(sources: *const grok1_source, count: usize) -> Result<Self, Failure> {
        let mut host = Self { folder: MemoryFolder::default(), sources: Vec::new() };
        // SAFETY: as this function asks.
        for source in unsafe { pointer::elements("sources", sources, count)? } {
            // SAFETY: as this function asks.
            let name = unsafe { pointer::word("name of a source", source.name)? }.to_owned();
            if source.read_at.is_some() {
                let source =
                    Arc::new(HostSource { name: name.clone(), source, owned: AtomicBool::new(false) });
                host.sources.push(Arc::clone(&source));
                host.folder.insert_source(name, source);
            } else {
                host.folder.insert_source(name.clone(), descriptor(name, source.fd)?);
            }
        }
        Ok(host)
    }

    /// From now on sources are ours to release.
    pub(super) fn own(&self) {
        for source in &self.sources {
            source.owned.store(true, Ordering::Relaxed);
        }
    }
}

/// A source behind callbacks.
struct HostSource {
    name: String,
    source: grok1_source,
    owned: AtomicBool,
}

// SAFETY: the header says that the callbacks come from any thread; the name's pointer is not used after the call.
unsafe impl Send for HostSource {}
// SAFETY: as above.
unsafe impl Sync for HostSource {}

impl Source for HostSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn len(&self) -> u64 {
        self.source.len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.source.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(read_at) = self.source.read_at else { return Err(io::ErrorKind::Unsupported.into()) };
        // SAFETY: the host's callback, and room for the bytes it is asked for.
        let status = unsafe { read_at(self.source.user, offset, out.as_mut_ptr().cast(), out.len()) };
        if status == GROK1_CONTINUE {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the host's callback returned {status} for {} bytes at {offset}",
            out.len()
        )))
    }

    fn slice(&self, _: Range<u64>) -> io::Result<Option<&[u8]>> {
        Ok(None)
    }
}

impl Drop for HostSource {
    fn drop(&mut self) {
        if let (true, Some(release)) = (self.owned.load(Ordering::Relaxed), self.source.release) {
            // SAFETY: the host's callback with the host's pointer, once.
            quiet((), || unsafe { release(self.source.user) });
        }
    }
}

#[cfg(unix)]
fn descriptor(name: String, fd: isize) -> Result<Arc<dyn Source>, Failure> {
    use std::fs::File;
    use std::os::fd::BorrowedFd;

    use crate::FileSource;
    use crate::checkpoint::CheckpointError;

    let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0).ok_or_else(|| {
        Failure::argument(format!("source {name} has neither read_at nor a file descriptor"))
    })?;
    // SAFETY: not negative, and only duplicated, which fails for one that is not open.
    let file = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().map(File::from);
    let source = file.and_then(|file| FileSource::from_file(&name, file));
    match source {
        Ok(source) => Ok(Arc::new(source)),
        Err(source) => Err(CheckpointError::Read { path: name, source }.into()),
    }
}

#[cfg(not(unix))]
fn descriptor(name: String, _: isize) -> Result<Arc<dyn Source>, Failure> {
    let message = format!("source {name} has no read_at, and there are no file descriptors on this system");
    Err(Failure::new(super::status::GROK1_ERR_UNSUPPORTED, message))
}
