//! Running tokens of many sessions together. Uses `session`.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ops::ControlFlow;
use std::ptr;

use super::control::{GROK1_CONTINUE, control, grok1_control};
use super::error::{Failure, grok1_error, guard};
use super::model::grok1_model;
use super::pointer::{self, Versioned};
use super::sampler::grok1_sampler;
use super::session::grok1_session;
use super::status::grok1_status;
use crate::{Entry, Want};

/// The last token's logits are wanted: `grok1_session_logits` has them then. The default.
pub const GROK1_WANT_LAST: i32 = 0;
/// Only keys and values are wanted.
pub const GROK1_WANT_NOTHING: i32 = 1;
/// Every token's logits are wanted, in `sink`; the last one's also in `grok1_session_logits`.
pub const GROK1_WANT_ALL: i32 = 2;
/// Every token's hidden state after the last norm is wanted, in `sink`.
pub const GROK1_WANT_HIDDEN: i32 = 3;
/// What `sampler` needs to choose the next token is wanted, for `grok1_generation_accept` with it as it is. The same tokens come of it as
/// of `GROK1_WANT_LAST`, but a device may hand over its best few logits instead of all of them, so that `grok1_session_logits` would
/// have to compute them again.
pub const GROK1_WANT_SAMPLE: i32 = 4;

/// Gets `count` values of token number `row` among those that the entry ran, one token after the other, on the thread that made the
/// call. Returns `GROK1_CONTINUE`, or `GROK1_STOP` to cancel the run. The values are there for as long as the callback runs; calls
/// that run, save or restore sessions of the same model are refused with `GROK1_ERR_BUSY` here.
pub type grok1_row_fn = Option<
    unsafe extern "C-unwind" fn(user: *mut c_void, row: usize, values: *const f32, count: usize) -> i32,
>;

/// Tokens to run on a session. Call `grok1_entry_init` first.
///
/// Lifetime: the call that it is given to. Threads: it is only read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_entry {
    /// Set by `grok1_entry_init`.
    pub struct_size: usize,
    /// The session; none may be in two entries of a run.
    pub session: *mut grok1_session,
    /// The tokens to run after those that wait in the session; NULL and 0 if only those are to run.
    pub tokens: *const u32,
    /// How many.
    pub n_tokens: usize,
    /// Gets values for `GROK1_WANT_ALL` and `GROK1_WANT_HIDDEN`.
    pub sink: grok1_row_fn,
    /// What `sink` gets.
    pub sink_user: *mut c_void,
    /// `GROK1_WANT_...`
    pub want: i32,
    /// Zero.
    pub reserved: i32,
    /// Whose needs `GROK1_WANT_SAMPLE` is about; no two entries may have the same.
    pub sampler: *const grok1_sampler,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_entry {}

impl Default for grok1_entry {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            session: ptr::null_mut(),
            tokens: ptr::null(),
            n_tokens: 0,
            sink: None,
            sink_user: ptr::null_mut(),
            want: GROK1_WANT_LAST,
            reserved: 0,
            sampler: ptr::null(),
        }
    }
}

/// Fills `entry`, which has `size` bytes (`sizeof *entry`), with the defaults. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_entry_init(entry: *mut grok1_entry, size: usize) {
    // SAFETY: as the header asks.
    unsafe { pointer::init(entry, size) }
}

/// Runs tokens of any number of sessions of `model` together: prompts, single tokens and verification of drafts alike. `entries` is an
/// array of `count` that `grok1_entry_init` was called for. `control` may be NULL.
///
/// All or nothing: after an error every session is as it was, and `grok1_error_entry` says which entry was at fault.
///
/// Returns `GROK1_ERR_ARGUMENT` for a session that is NULL, of another model or in two entries, for no tokens or one that the model does
/// not have, and for a sink or a sampler that is missing; `GROK1_ERR_BUSY`, `GROK1_ERR_CONTEXT_FULL`, `GROK1_ERR_KV_FULL`,
/// `GROK1_ERR_CANCELLED`, and `GROK1_ERR_RESOURCE` if a device refuses.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_run(
    model: *const grok1_model,
    entries: *const grok1_entry,
    count: usize,
    control: *const grok1_control,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let handle = pointer::get("model", model)?;
            let given = pointer::elements("entries", entries, count)?;
            let control = self::control(control)?;
            refuse_twice(&given)?;

            let sessions = each(&given, |entry| pointer::get("session", entry.session))?;
            let tokens = each(&given, |entry| pointer::slice("tokens", entry.tokens, entry.n_tokens))?;
            let mut sinks = each(&given, sink)?;
            let mut locked = each(&sessions, |session| session.lock())?;
            let samplers = each(&given, |entry| match entry.want {
                GROK1_WANT_SAMPLE => pointer::get("sampler", entry.sampler).map(Some),
                _ => Ok(None),
            })?;
            let samplers =
                each(&samplers, |sampler| sampler.as_ref().map(|sampler| sampler.lock()).transpose())?;
            let mut run = Vec::with_capacity(count);
            for ((((entry, session), tokens), sink), sampler) in
                given.iter().zip(&mut locked).zip(tokens).zip(&mut sinks).zip(&samplers)
            {
                run.push(Entry::new(session, tokens).want(match (entry.want, sampler) {
                    (GROK1_WANT_NOTHING, _) => Want::Nothing,
                    (GROK1_WANT_ALL, _) => Want::All(sink),
                    (GROK1_WANT_HIDDEN, _) => Want::Hidden(sink),
                    (_, Some(sampler)) => Want::Sample(&sampler.sampler),
                    _ => Want::Last,
                }));
            }
            handle.model.run(&mut run, &control)?;
            Ok(())
        })
    }
}

/// What each entry gives, or the failure of the first that fails.
fn each<'a, E, T>(entries: &'a [E], give: impl Fn(&'a E) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    entries
        .iter()
        .enumerate()
        .map(|(index, entry)| give(entry).map_err(|failure| failure.in_entry(index)))
        .collect()
}

fn refuse_twice(entries: &[grok1_entry]) -> Result<(), Failure> {
    let mut seen = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        if let Some(first) = seen.insert(entry.session, index) {
            return Err(Failure::argument(format!("its session is that of entry {first}")).in_entry(index));
        }
    }
    Ok(())
}

/// What hands rows to the host's callback.
fn sink(entry: &grok1_entry) -> Result<impl FnMut(usize, &[f32]) -> ControlFlow<()> + use<>, Failure> {
    pointer::reserved("entries", entry.reserved)?;
    let needs_sink = match entry.want {
        GROK1_WANT_LAST | GROK1_WANT_NOTHING | GROK1_WANT_SAMPLE => false,
        GROK1_WANT_ALL | GROK1_WANT_HIDDEN => true,
        other => return Err(Failure::argument(format!("want is {other}"))),
    };
    if needs_sink && entry.sink.is_none() {
        return Err(Failure::null("sink"));
    }
    let (callback, user) = (entry.sink, entry.sink_user);
    Ok(move |row: usize, values: &[f32]| {
        let Some(callback) = callback else { return ControlFlow::Continue(()) };
        // SAFETY: the host's callback with the host's pointer, during the call that both were given to.
        match unsafe { callback(user, row, values.as_ptr(), values.len()) } {
            GROK1_CONTINUE => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    })
}
