//! A flag that stops long calls. Uses `error` and `pointer`.

use super::error::{grok1_error, guard, quiet};
use super::pointer;
use super::status::grok1_status;
use crate::Cancel;

/// A flag that stops the long calls it was given to.
///
/// Lifetime: until `grok1_cancel_free`; calls that use it keep what they need of it. Threads: may be set, cleared and read from any,
/// and from a signal handler.
#[derive(Debug)]
pub struct grok1_cancel {
    pub(super) cancel: Cancel,
}

/// Makes a flag that is not set.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_cancel_new(
    cancel: *mut *mut grok1_cancel,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            pointer::output("cancel", cancel)?.write(pointer::new(grok1_cancel { cancel: Cancel::new() }));
            Ok(())
        })
    }
}

/// Asks every call that was given this flag to stop. One atomic store: allowed in a signal handler. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_cancel_set(cancel: *const grok1_cancel) {
    // SAFETY: as the header asks. Not more than a load and a store, which a signal handler may do.
    if let Some(handle) = unsafe { cancel.as_ref() } {
        handle.cancel.set();
    }
}

/// Takes the request back, so that the flag can be used again. One atomic store. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_cancel_clear(cancel: *const grok1_cancel) {
    // SAFETY: as the header asks.
    if let Some(handle) = unsafe { cancel.as_ref() } {
        handle.cancel.clear();
    }
}

/// Whether a stop was asked for; false for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_cancel_is_set(cancel: *const grok1_cancel) -> bool {
    // SAFETY: as the header asks.
    quiet(false, || unsafe { cancel.as_ref() }.is_some_and(|handle| handle.cancel.is_set()))
}

/// Frees a flag. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_cancel_free(cancel: *mut grok1_cancel) {
    // SAFETY: as the header asks.
    unsafe { pointer::free(cancel) }
}
