//! Errors for people, and the guard around every entry point. Uses `status` and `pointer`.

use std::any::Any;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use super::pointer::{self, c_string};
use super::status::*;
use crate::{Error, ModelError};

/// What went wrong, for people and logs. The status alone says what to do.
///
/// Lifetime: owned by whoever received it, until `grok1_error_free`. Threads: immutable, may be used from any.
#[derive(Debug)]
pub struct grok1_error {
    status: grok1_status,
    message: CString,
    entry: Option<usize>,
}

/// What `grok1_error_entry` returns for an error of no entry.
///
/// cbindgen:ignore
pub const GROK1_NO_ENTRY: usize = usize::MAX;

/// The status that the call returned; `GROK1_OK` for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_error_status(error: *const grok1_error) -> grok1_status {
    // SAFETY: as the header asks.
    quiet(GROK1_ERR_PANIC, || unsafe { error.as_ref() }.map_or(GROK1_OK, |error| error.status))
}

/// The error and all its causes in one line of UTF-8; "" for NULL. Lives as long as the error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_error_message(error: *const grok1_error) -> *const c_char {
    // SAFETY: as the header asks.
    quiet(c"".as_ptr(), || unsafe { error.as_ref() }.map_or(c"", |error| &error.message).as_ptr())
}

/// The index of the entry of `grok1_run` that was at fault; `GROK1_NO_ENTRY` if none was, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_error_entry(error: *const grok1_error) -> usize {
    // SAFETY: as the header asks.
    let entry = || unsafe { error.as_ref() }.and_then(|error| error.entry);
    quiet(GROK1_NO_ENTRY, || entry().unwrap_or(GROK1_NO_ENTRY))
}

/// Frees an error. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_error_free(error: *mut grok1_error) {
    // SAFETY: as the header asks.
    unsafe { pointer::free(error) }
}

/// Why an entry point fails.
pub(super) struct Failure {
    status: grok1_status,
    message: String,
    entry: Option<usize>,
}

impl Failure {
    pub(super) fn new(status: grok1_status, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), entry: None }
    }

    pub(super) fn argument(message: impl Into<String>) -> Self {
        Self::new(GROK1_ERR_ARGUMENT, message)
    }

    /// An argument that must not be NULL.
    pub(super) fn null(name: &str) -> Self {
        Self::argument(format!("{name} is NULL"))
    }

    /// The entry of a run that is at fault.
    pub(super) fn in_entry(mut self, entry: usize) -> Self {
        self.message = format!("entry {entry}: {}", self.message);
        self.entry = Some(entry);
        self
    }

    pub(super) fn is(&self, status: grok1_status) -> bool {
        self.status == status
    }

    fn of_panic(payload: Box<dyn Any + Send>) -> Self {
        let said = payload.downcast_ref::<&str>().copied();
        let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let failure = Self::new(GROK1_ERR_PANIC, format!("a defect of grok1: {}", said.unwrap_or("a panic")));
        // A payload may itself panic when it is dropped.
        quiet((), move || drop(payload));
        failure
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let model = error.downcast_ref::<ModelError>();
        let status = match model {
            Some(ModelError::Reentrant) => GROK1_ERR_BUSY,
            _ => error.kind().into(),
        };
        Self { status, message: error.chain(), entry: model.and_then(ModelError::entry) }
    }
}

/// Runs an entry point: catches what unwinds, and hands the error to the caller if `error` is not NULL.
///
/// # Safety
/// `error` is NULL or may be written.
pub(super) unsafe fn guard(
    error: *mut *mut grok1_error,
    entry_point: impl FnOnce() -> Result<(), Failure>,
) -> grok1_status {
    let out = NonNull::new(error).filter(|out| out.is_aligned());
    // SAFETY: as this function asks.
    let set = |value| out.into_iter().for_each(|out| unsafe { out.write(value) });
    set(ptr::null_mut());
    let Failure { status, message, entry } = match catch_unwind(AssertUnwindSafe(entry_point)) {
        Ok(Ok(())) => return GROK1_OK,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::of_panic(payload),
    };
    if out.is_some() {
        set(pointer::new(grok1_error { status, message: c_string(&message), entry }));
    }
    status
}

/// Runs an entry point without a status: what unwinds becomes `fallback`.
pub(super) fn quiet<T>(fallback: T, entry_point: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(entry_point)) {
        Ok(value) => value,
        Err(payload) => {
            // Dropping it could panic again.
            std::mem::forget(payload);
            fallback
        }
    }
}
