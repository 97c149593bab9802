//! Sequences. Uses `model` and `control`.

use std::ffi::c_char;
use std::ptr;
use std::sync::{Mutex, MutexGuard};

use super::control::{control, grok1_control};
use super::error::{Failure, grok1_error, guard, quiet};
use super::model::grok1_model;
use super::pointer::{self, Versioned};
use super::status::grok1_status;
use crate::{Session, SessionOptions};

/// One sequence of a model: its tokens, its keys and values.
///
/// A session remembers its tokens. Those that were run have keys and values; those that were pushed wait, and the next run begins
/// with them.
///
/// Lifetime: until `grok1_session_free`; it keeps its model alive. Threads: one at a time, a second one gets `GROK1_ERR_BUSY`.
#[derive(Debug)]
pub struct grok1_session {
    session: Mutex<Session>,
}

impl grok1_session {
    pub(super) fn new(session: Session) -> Self {
        Self { session: Mutex::new(session) }
    }

    /// The session, for this call alone.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, Session>, Failure> {
        pointer::lock("session", &self.session)
    }
}

/// How a session is made. Call `grok1_session_options_init` first; NULL for the defaults.
///
/// Lifetime: the call that it is given to. Threads: it is only read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_session_options {
    /// Set by `grok1_session_options_init`.
    pub struct_size: usize,
    /// Positions the session may have; 0 for as many as the model was trained for.
    pub context: usize,
    /// Not 0 to allow more positions than the model was trained for. What comes out there is untested.
    pub beyond_trained_length: i32,
    /// Zero.
    pub reserved: i32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_session_options {}

impl Default for grok1_session_options {
    fn default() -> Self {
        Self { struct_size: size_of::<Self>(), context: 0, beyond_trained_length: 0, reserved: 0 }
    }
}

impl grok1_session_options {
    pub(super) fn to_rust(self) -> Result<SessionOptions, Failure> {
        pointer::reserved("options", self.reserved)?;
        let options = SessionOptions::new().beyond_trained_length(self.beyond_trained_length != 0);
        Ok(if self.context == 0 { options } else { options.context(self.context) })
    }
}

/// Fills `options`, which has `size` bytes (`sizeof *options`), with the defaults. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_session_options_init(options: *mut grok1_session_options, size: usize) {
    // SAFETY: as the header asks.
    unsafe { pointer::init(options, size) }
}

/// Makes an empty session. `options` may be NULL.
///
/// Returns `GROK1_ERR_ARGUMENT` for a context of more positions than the model was trained for, unless the options allow it.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_session_new(
    model: *const grok1_model,
    options: *const grok1_session_options,
    session: *mut *mut grok1_session,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("session", session)?;
            let handle = pointer::get("model", model)?;
            let options = pointer::options("options", options)?.to_rust()?;
            out.write(pointer::new(grok1_session::new(handle.model.session_with(&options)?)));
            Ok(())
        })
    }
}

/// Runs `count` tokens, and those that wait before them; the logits of the last one are `grok1_session_logits` then. `control` may be
/// NULL. All or nothing: after an error the session is as it was.
///
/// Returns `GROK1_ERR_ARGUMENT` for no tokens or one that the model does not have, `GROK1_ERR_CONTEXT_FULL`, `GROK1_ERR_KV_FULL`,
/// `GROK1_ERR_CANCELLED`, `GROK1_ERR_RESOURCE` if a device refuses.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_session_feed(
    session: *mut grok1_session,
    tokens: *const u32,
    count: usize,
    control: *const grok1_control,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let handle = pointer::get("session", session)?;
            let tokens = pointer::slice("tokens", tokens, count)?;
            let control = self::control(control)?;
            handle.lock()?.feed(tokens, &control)?;
            Ok(())
        })
    }
}

/// Appends `count` tokens without running them: the next run begins with them, and checks whether the model has them.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_session_push(
    session: *mut grok1_session,
    tokens: *const u32,
    count: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let handle = pointer::get("session", session)?;
            let tokens = pointer::slice("tokens", tokens, count)?;
            let mut session = handle.lock()?;
            tokens.iter().for_each(|&token| session.push(token));
            Ok(())
        })
    }
}

/// Appends text of `len` bytes without running it. Text that begins a session is encoded as SentencePiece does; later text goes on
/// where the session's ends.
///
/// Returns `GROK1_ERR_UTF8`, and `GROK1_ERR_ARGUMENT` if the model has no tokenizer.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_session_push_text(
    session: *mut grok1_session,
    text: *const c_char,
    len: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let handle = pointer::get("session", session)?;
            let text = pointer::text("text", text, len)?;
            let mut session = handle.lock()?;
            session.push_text(text)?;
            Ok(())
        })
    }
}

/// Runs `count` tokens and writes to `scores`, which has room for as many, the natural logarithm of each one's probability after all
/// that came before it. The first one is NaN if there is nothing to predict it from. `control` may be NULL.
///
/// Fails as `grok1_session_feed` does.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_session_score(
    session: *mut grok1_session,
    tokens: *const u32,
    count: usize,
    scores: *mut f32,
    control: *const grok1_control,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let handle = pointer::get("session", session)?;
            let tokens = pointer::slice("tokens", tokens, count)?;
            let out = pointer::array("scores", scores, count)?;
            let control = self::control(control)?;
            let scores = handle.lock()?.score(tokens, &control)?;
            for (out, score) in out.iter_mut().zip(scores) {
                out.write(score.unwrap_or(f32::NAN));
            }
            Ok(())
        })
    }
}

/// Logits of the last token, `*len` of them (the model's vocabulary), if the last run asked for them and nothing was pushed since;
/// otherwise NULL and 0. NULL too while another call uses the session. They stay until the session is used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_session_logits(session: *const grok1_session, len: *mut usize) -> *const f32 {
    // SAFETY: as the header asks.
    quiet(ptr::null(), || unsafe {
        let Ok(out) = pointer::output("len", len) else { return ptr::null() };
        let Some(handle) = pointer::optional(session) else { return ptr::null() };
        let Ok(session) = handle.lock() else { return ptr::null() };
        session.logits().map_or(ptr::null(), |logits| {
            out.write(logits.len());
            logits.as_ptr()
        })
    })
}

/// Copies all tokens, those that wait included: the form that is called twice.
///
/// Returns `GROK1_ERR_BUFFER` if they do not fit.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_session_tokens(
    session: *const grok1_session,
    tokens: *mut u32,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let buffer = pointer::buffer("tokens", tokens, capacity, needed)?;
            let handle = pointer::get("session", session)?;
            buffer.put(handle.lock()?.tokens())
        })
    }
}

/// Forgets all tokens from number `len` on.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_session_truncate(
    session: *mut grok1_session,
    len: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            pointer::get("session", session)?.lock()?.truncate(len);
            Ok(())
        })
    }
}

/// Makes a session with the same past. Keys and values are shared until one of the two goes on.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_session_fork(
    session: *const grok1_session,
    fork: *mut *mut grok1_session,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("fork", fork)?;
            let handle = pointer::get("session", session)?;
            let forked = handle.lock()?.fork();
            out.write(pointer::new(grok1_session::new(forked)));
            Ok(())
        })
    }
}

/// A session, in short.
///
/// Lifetime and threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_session_info {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// All tokens, those that wait included.
    pub tokens: usize,
    /// Tokens that were run.
    pub position: usize,
    /// Tokens that can be run in all.
    pub context: usize,
    /// Not 0 if `grok1_session_logits` has any.
    pub has_logits: i32,
    /// Not 0 after a call that ended with `GROK1_ERR_PANIC`: what else this says is what that call left.
    pub poisoned: i32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_session_info {}

/// Fills `info`, which has `size` bytes (`sizeof *info`). A poisoned session has one too.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_session_get_info(
    session: *const grok1_session,
    info: *mut grok1_session_info,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("info", info, size)?;
            let handle = pointer::get("session", session)?;
            let session = pointer::lock_even_poisoned("session", &handle.session)?;
            out.put(grok1_session_info {
                struct_size: size,
                tokens: session.tokens().len(),
                position: session.position(),
                context: session.context(),
                has_logits: session.is_ready().into(),
                poisoned: handle.session.is_poisoned().into(),
            });
            Ok(())
        })
    }
}

/// Frees a session. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_session_free(session: *mut grok1_session) {
    // SAFETY: as the header asks.
    unsafe { pointer::free(session) }
}
