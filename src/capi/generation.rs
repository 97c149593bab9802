//! Generating text, token by token or all at once. Uses `session`, `sampler` and `run`'s rules.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard};

use super::control::{GROK1_CONTINUE, control, grok1_control};
use super::error::{Failure, grok1_error, guard};
use super::pointer::{self, Versioned};
use super::sampler::{alternatives, grok1_alternative, grok1_sampler};
use super::session::grok1_session;
use super::status::{GROK1_ERR_CANCELLED, GROK1_ERR_ENDED, grok1_status};
use crate::{Control, Finish, Generation, Piece, Sampler, Session};

/// A generation under way: limits, stop strings, and the text that is held back.
///
/// Lifetime: until `grok1_generation_free`; it holds no session, and one sequence should go on with the same. Threads: one at a time, a
/// second one gets `GROK1_ERR_BUSY`.
#[derive(Debug)]
pub struct grok1_generation {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    generation: Generation,
    /// What the last token pointed to.
    text: String,
    alternatives: Vec<grok1_alternative>,
}

impl grok1_generation {
    fn lock(&self) -> Result<MutexGuard<'_, State>, Failure> {
        pointer::lock("generation", &self.state)
    }
}

/// The generation goes on.
pub const GROK1_FINISH_NONE: i32 = 0;
/// The model ended its text.
pub const GROK1_FINISH_END_OF_TEXT: i32 = 1;
/// A stop string was complete.
pub const GROK1_FINISH_STOP: i32 = 2;
/// As many tokens as asked for.
pub const GROK1_FINISH_MAX_TOKENS: i32 = 3;
/// The session's context is full.
pub const GROK1_FINISH_CONTEXT_FULL: i32 = 4;

/// UTF-8 of `len` bytes, which may have NUL among them. This struct will never change.
///
/// Lifetime: the call that it is given to. Threads: it is only read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_text {
    /// The bytes.
    pub data: *const c_char,
    /// How many.
    pub len: usize,
}

/// What ends a generation. Call `grok1_generation_options_init` first; NULL to go on until the end-of-text token or a full context.
///
/// Lifetime: the call that it is given to. Threads: it is only read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_generation_options {
    /// Set by `grok1_generation_options_init`.
    pub struct_size: usize,
    /// Tokens at most; default `SIZE_MAX`, no limit.
    pub max_tokens: usize,
    /// Strings before which the text ends, wherever in it they appear; none may be empty. NULL for none.
    pub stop: *const grok1_text,
    /// How many.
    pub n_stop: usize,
    /// Not 0 to go on after the end-of-text token.
    pub ignore_end_of_text: i32,
    /// Zero.
    pub reserved: i32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_generation_options {}

impl Default for grok1_generation_options {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            max_tokens: usize::MAX,
            stop: ptr::null(),
            n_stop: 0,
            ignore_end_of_text: 0,
            reserved: 0,
        }
    }
}

impl grok1_generation_options {
    /// # Safety
    /// As the header asks of its fields.
    unsafe fn to_rust(self) -> Result<Generation, Failure> {
        pointer::reserved("options", self.reserved)?;
        let generation =
            Generation::new().max_tokens(self.max_tokens).ignore_end_of_text(self.ignore_end_of_text != 0);
        // SAFETY: as this function asks.
        Ok(generation.stop(unsafe { texts("stop", self.stop, self.n_stop)? }))
    }
}

/// # Safety
/// As the header asks of an array of texts.
pub(super) unsafe fn texts(
    name: &str,
    texts: *const grok1_text,
    count: usize,
) -> Result<Vec<String>, Failure> {
    // SAFETY: as this function asks.
    let texts = unsafe { pointer::slice(name, texts, count)? };
    // SAFETY: as this function asks.
    texts.iter().map(|text| unsafe { pointer::text(name, text.data, text.len) }.map(str::to_owned)).collect()
}

/// Fills `options`, which has `size` bytes (`sizeof *options`), with the defaults. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_generation_options_init(options: *mut grok1_generation_options, size: usize) {
    // SAFETY: as the header asks.
    unsafe { pointer::init(options, size) }
}

/// Makes a generation. `options` may be NULL. An empty stop string is refused with the first token.
///
/// Returns `GROK1_ERR_UTF8` for a stop string.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_generation_new(
    options: *const grok1_generation_options,
    generation: *mut *mut grok1_generation,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("generation", generation)?;
            let generation = pointer::options("options", options)?.to_rust()?;
            let state = State { generation, text: String::new(), alternatives: Vec::new() };
            out.write(pointer::new(grok1_generation { state: Mutex::new(state) }));
            Ok(())
        })
    }
}

/// A generated token and the text that it made certain.
///
/// Lifetime: what it points to, until the generation is used again, or the callback returns that got it. Threads: it is only read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_token {
    /// The bytes that whoever receives it said it has; in a callback those that the library has.
    pub struct_size: usize,
    /// Text that became certain with this token: whole characters, nothing that may still turn out to be a stop string. Often empty,
    /// never NULL, and NUL-terminated only by chance: see `text_len`.
    pub text: *const c_char,
    /// Bytes of the text.
    pub text_len: usize,
    /// The model's most likely tokens here, best first, as many as the sampler was told to report.
    pub alternatives: *const grok1_alternative,
    /// How many.
    pub n_alternatives: usize,
    /// Number of this token among those of the generation, from 0.
    pub index: usize,
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability under the model; NaN if the sampler was told to leave it out.
    pub logprob: f32,
    /// `GROK1_FINISH_...`: why the generation ended, if this is its last token.
    pub finish: i32,
    /// With `GROK1_FINISH_STOP` the number of the stop string among those given.
    pub stop_index: u32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_token {}

fn finish_code(finish: Option<Finish>) -> (i32, u32) {
    match finish {
        None => (GROK1_FINISH_NONE, 0),
        Some(Finish::EndOfText) => (GROK1_FINISH_END_OF_TEXT, 0),
        Some(Finish::Stop(index)) => (GROK1_FINISH_STOP, index as u32),
        Some(Finish::MaxTokens) => (GROK1_FINISH_MAX_TOKENS, 0),
        Some(Finish::ContextFull) => (GROK1_FINISH_CONTEXT_FULL, 0),
    }
}

impl State {
    fn accept(&mut self, session: &mut Session, sampler: &mut Sampler) -> Result<grok1_token, Failure> {
        let piece = self.generation.accept(session, sampler)?;
        self.token(piece)
    }

    fn next(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        control: &Control,
    ) -> Result<grok1_token, Failure> {
        let piece = self.generation.next(session, sampler, control)?;
        self.token(piece)
    }

    /// Keeps what the token points to.
    fn token(&mut self, piece: Option<Piece>) -> Result<grok1_token, Failure> {
        let piece = piece.ok_or_else(|| Failure::new(GROK1_ERR_ENDED, "the generation has ended"))?;
        self.text.clear();
        self.text.push_str(piece.text());
        self.alternatives = alternatives(piece.alternatives());
        let (finish, stop_index) = finish_code(piece.finish());
        Ok(grok1_token {
            struct_size: size_of::<grok1_token>(),
            text: self.text.as_ptr().cast(),
            text_len: self.text.len(),
            alternatives: self.alternatives.as_ptr(),
            n_alternatives: self.alternatives.len(),
            index: self.generation.tokens().saturating_sub(1),
            id: piece.token(),
            logprob: piece.logprob().unwrap_or(f32::NAN),
            finish,
            stop_index,
        })
    }
}

/// Samples the next token from the session's logits, pushes it to the session, and fills `token`, which has `size` bytes (`sizeof *token`):
/// for sessions that `grok1_run` runs.
///
/// Returns `GROK1_ERR_ENDED` after the last token, `GROK1_ERR_ARGUMENT` if the session has no logits or there are stop strings but no
/// tokenizer, and what `grok1_sampler_sample` returns. Nothing was changed then.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_generation_accept(
    generation: *mut grok1_generation,
    session: *mut grok1_session,
    sampler: *mut grok1_sampler,
    token: *mut grok1_token,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("token", token, size)?;
            let generation = pointer::get("generation", generation)?;
            let session = pointer::get("session", session)?;
            let sampler = pointer::get("sampler", sampler)?;
            let mut state = generation.lock()?;
            let token = state.accept(&mut *session.lock()?, &mut sampler.lock()?.sampler)?;
            out.put(token);
            Ok(())
        })
    }
}

/// Runs what waits in the session, if it has no logits, then samples a token as `grok1_generation_accept` does: generating step by step.
/// `control` may be NULL. After `GROK1_ERR_CANCELLED` calling it again goes on.
///
/// Returns `GROK1_ERR_ENDED` after the last token; otherwise fails as `grok1_session_feed` and `grok1_generation_accept` do.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_generation_next(
    generation: *mut grok1_generation,
    session: *mut grok1_session,
    sampler: *mut grok1_sampler,
    control: *const grok1_control,
    token: *mut grok1_token,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("token", token, size)?;
            let generation = pointer::get("generation", generation)?;
            let session = pointer::get("session", session)?;
            let sampler = pointer::get("sampler", sampler)?;
            let control = self::control(control)?;
            let mut state = generation.lock()?;
            let token = state.next(&mut *session.lock()?, &mut sampler.lock()?.sampler, &control)?;
            out.put(token);
            Ok(())
        })
    }
}

/// Gets a generated token. Returns `GROK1_CONTINUE`, or `GROK1_STOP` to stop the call. Comes on the thread that made the call, when nothing
/// is computed; the session, the sampler and the generation of that call are refused with `GROK1_ERR_BUSY` here, others are not.
pub type grok1_token_fn =
    Option<unsafe extern "C-unwind" fn(user: *mut c_void, token: *const grok1_token) -> i32>;

/// Generates to the end: calls `on_token` for each token that `grok1_generation_next` would give. `control` may be NULL.
///
/// Returns `GROK1_OK` when the generation has ended, `GROK1_ERR_CANCELLED` if `on_token` stopped it: calling it again goes on with the next
/// token. Otherwise fails as `grok1_generation_next` does.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_generation_run(
    generation: *mut grok1_generation,
    session: *mut grok1_session,
    sampler: *mut grok1_sampler,
    on_token: grok1_token_fn,
    user: *mut c_void,
    control: *const grok1_control,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let generation = pointer::get("generation", generation)?;
            let session = pointer::get("session", session)?;
            let sampler = pointer::get("sampler", sampler)?;
            let callback = on_token.ok_or_else(|| Failure::null("on_token"))?;
            let control = self::control(control)?;
            let mut state = generation.lock()?;
            let (mut session, mut sampler) = (session.lock()?, sampler.lock()?);
            while state.generation.finish().is_none() {
                let token = match state.next(&mut session, &mut sampler.sampler, &control) {
                    Err(failure) if failure.is(GROK1_ERR_ENDED) => break, // without a single token
                    other => other?,
                };
                if callback(user, &raw const token) != GROK1_CONTINUE {
                    return Err(Failure::new(GROK1_ERR_CANCELLED, "stopped by on_token"));
                }
            }
            Ok(())
        })
    }
}

/// A generation, in short.
///
/// Lifetime and threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_generation_info {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// Tokens so far.
    pub tokens: usize,
    /// `GROK1_FINISH_...`: why it ended, if it has.
    pub finish: i32,
    /// With `GROK1_FINISH_STOP` the number of the stop string among those given.
    pub stop_index: u32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_generation_info {}

/// Fills `info`, which has `size` bytes (`sizeof *info`).
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_generation_get_info(
    generation: *const grok1_generation,
    info: *mut grok1_generation_info,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("info", info, size)?;
            let handle = pointer::get("generation", generation)?;
            let state = handle.lock()?;
            let (finish, stop_index) = finish_code(state.generation.finish());
            let tokens = state.generation.tokens();
            out.put(grok1_generation_info { struct_size: size, tokens, finish, stop_index });
            Ok(())
        })
    }
}

/// Frees a generation. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_generation_free(generation: *mut grok1_generation) {
    // SAFETY: as the header asks.
    unsafe { pointer::free(generation) }
}
