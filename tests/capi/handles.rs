//! Handles that a test needs, made as a C program makes them.

use std::ffi::{CStr, CString};
use std::ptr;

use grok1::capi::*;

use super::c::root;

/// The message of an error, which is freed.
///
/// # Safety
/// `error` is NULL or was received from a call.
pub(crate) unsafe fn error_message(error: *mut grok1_error) -> String {
    // SAFETY: as this function asks.
    unsafe {
        let message = CStr::from_ptr(grok1_error_message(error)).to_str().unwrap().to_owned();
        grok1_error_free(error);
        message
    }
}

/// Calls a function with a place for its error, and expects success.
pub(crate) fn ok(call: impl FnOnce(*mut *mut grok1_error) -> grok1_status) {
    let mut error = ptr::null_mut();
    let status = call(&mut error);
    // SAFETY: what the call gave.
    assert_eq!(status, GROK1_OK, "{}", unsafe { error_message(error) });
}

/// Calls a function with a place for its error, and expects a failure; returns what it says.
pub(crate) fn fails(
    status: grok1_status,
    call: impl FnOnce(*mut *mut grok1_error) -> grok1_status,
) -> String {
    let mut error = ptr::null_mut();
    let found = call(&mut error);
    // SAFETY: what the call gave.
    unsafe {
        assert_eq!(grok1_error_status(error), found);
        let message = error_message(error);
        assert_eq!(found, status, "{message}");
        message
    }
}

/// One of each, of the tiny model.
pub(crate) struct Handles {
    pub(crate) model: *mut grok1_model,
    pub(crate) session: *mut grok1_session,
    pub(crate) sampler: *mut grok1_sampler,
}

impl Handles {
    pub(crate) fn tiny() -> Self {
        Self::tiny_with(&grok1_model_options::default())
    }

    pub(crate) fn tiny_with(options: &grok1_model_options) -> Self {
        let path = CString::new(root().join("assets/tiny").to_str().unwrap()).unwrap();
        let mut model = ptr::null_mut();
        // SAFETY: a path, options, and a place for the model.
        ok(|error| unsafe { grok1_model_load(path.as_ptr(), options, ptr::null(), &mut model, error) });
        Self { model, session: session(model), sampler: sampler(&grok1_sampler_options::default()) }
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        // SAFETY: made by `tiny`, and freed once.
        unsafe {
            grok1_model_free(self.model);
            grok1_session_free(self.session);
            grok1_sampler_free(self.sampler);
        }
    }
}

pub(crate) fn session(model: *const grok1_model) -> *mut grok1_session {
    let mut session = ptr::null_mut();
    // SAFETY: a model of the test's, and a place for the session.
    ok(|error| unsafe { grok1_session_new(model, ptr::null(), &mut session, error) });
    session
}

pub(crate) fn sampler(options: &grok1_sampler_options) -> *mut grok1_sampler {
    let mut sampler = ptr::null_mut();
    // SAFETY: options of the test's, and a place for the sampler.
    ok(|error| unsafe { grok1_sampler_new(options, &mut sampler, error) });
    sampler
}

pub(crate) fn generation(options: &grok1_generation_options) -> *mut grok1_generation {
    let mut generation = ptr::null_mut();
    // SAFETY: options of the test's, and a place for the generation.
    ok(|error| unsafe { grok1_generation_new(options, &mut generation, error) });
    generation
}

pub(crate) fn push_text(session: *mut grok1_session, text: &str) {
    // SAFETY: text and its length.
    ok(|error| unsafe { grok1_session_push_text(session, text.as_ptr().cast(), text.len(), error) });
}

pub(crate) fn info(session: *const grok1_session) -> grok1_session_info {
    // SAFETY: numbers, all of which may be zero; the size is that of the struct.
    unsafe {
        let mut info: grok1_session_info = std::mem::zeroed();
        ok(|error| grok1_session_get_info(session, &mut info, size_of_val(&info), error));
        info
    }
}
