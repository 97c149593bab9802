//! The host's threads. Uses `pointer`.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::Failure;
use super::pointer::{self, Versioned};
use crate::Pool;

/// A part of parallel work, given to `grok1_pool_run_fn`.
pub type grok1_part_fn = unsafe extern "C" fn(context: *mut c_void, part: usize);

/// Calls `part(context, i)` once for each `i` below `parts`, on any threads and in any order, and returns when all have returned. After
/// that `context` is gone. Comes from any thread, from several at once.
pub type grok1_pool_run_fn = Option<
    unsafe extern "C-unwind" fn(user: *mut c_void, parts: usize, part: grok1_part_fn, context: *mut c_void),
>;

/// Threads of the host's own to compute on. Call `grok1_pool_init` first.
///
/// Lifetime: the struct that of the call; `user`, that of everything that was made with it. Threads: see `grok1_pool_run_fn`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_pool {
    /// Set by `grok1_pool_init`.
    pub struct_size: usize,
    /// How many threads work at once, the caller's included.
    pub width: usize,
    /// Runs the parts of parallel work.
    pub run: grok1_pool_run_fn,
    /// What `run` gets.
    pub user: *mut c_void,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_pool {}

impl Default for grok1_pool {
    fn default() -> Self {
        Self { struct_size: size_of::<Self>(), width: 1, run: None, user: ptr::null_mut() }
    }
}

/// Fills `pool`, which has `size` bytes (`sizeof *pool`), with the defaults: a width of 1 and nothing to run with. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_pool_init(pool: *mut grok1_pool, size: usize) {
    // SAFETY: as the header asks.
    unsafe { pointer::init(pool, size) }
}

/// The pool of some options; `None` for the library's own threads.
///
/// # Safety
/// As the header asks of `pool`.
pub(super) unsafe fn pool(pool: *const grok1_pool) -> Result<Option<Arc<dyn Pool>>, Failure> {
    if pool.is_null() {
        return Ok(None);
    }
    // SAFETY: as this function asks.
    let pool = unsafe { pointer::options("pool", pool)? };
    if pool.width == 0 || pool.run.is_none() {
        return Err(Failure::argument("pool has no width, or no run"));
    }
    Ok(Some(Arc::new(HostPool(pool))))
}

struct HostPool(grok1_pool);

// SAFETY: the header says that `run` comes from any thread, from several at once.
unsafe impl Send for HostPool {}
// SAFETY: as above.
unsafe impl Sync for HostPool {}

/// What `context` is.
struct Region<'a> {
    part: &'a (dyn Fn(usize) + Sync),
    parts: usize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Pool for HostPool {
    fn width(&self) -> usize {
        self.0.width
    }

    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        let Some(run) = self.0.run else { return };
        let region = Region { part, parts, panic: Mutex::new(None) };
        // SAFETY: the host's callback with the host's pointer; it uses the region only until it returns.
        unsafe { run(self.0.user, parts, run_part, (&raw const region).cast_mut().cast()) };
        if let Some(payload) = region.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }
}

/// Runs a part; what unwinds goes on in the call that the region belongs to, not through the host's threads.
unsafe extern "C" fn run_part(context: *mut c_void, part: usize) {
    // SAFETY: the host hands back the context of a `run` that has not returned.
    let Some(region) = (unsafe { context.cast::<Region<'_>>().as_ref() }) else { return };
    if part >= region.parts {
        return;
    }
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (region.part)(part))) {
        match &mut *region.panic.lock().unwrap_or_else(PoisonError::into_inner) {
            first @ None => *first = Some(payload),
            // Dropping it could panic again.
            Some(_) => std::mem::forget(payload),
        }
    }
}
