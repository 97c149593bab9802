//! Samplers. Uses `pointer`.

use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, MutexGuard};

use super::error::{Failure, grok1_error, guard, quiet};
use super::pointer::{self, User, Versioned};
use super::status::grok1_status;
use crate::{Alternative, Sampled, Sampler, log_probability};

/// Chooses the next token from a model's logits. One belongs to one sequence.
///
/// Steps come in a fixed order: logit bias, allowed tokens, penalties, the host's filter, temperature, top-k, top-p, min-p, draw. The
/// same logits, history and settings give the same token on every platform.
///
/// Lifetime: until `grok1_sampler_free`. Threads: one at a time, a second one gets `GROK1_ERR_BUSY`.
#[derive(Debug)]
pub struct grok1_sampler {
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) sampler: Sampler,
    /// Of the last token that was asked of this sampler alone.
    alternatives: Vec<grok1_alternative>,
}

impl grok1_sampler {
    pub(super) fn new(sampler: Sampler) -> Self {
        Self { state: Mutex::new(State { sampler, alternatives: Vec::new() }) }
    }

    /// The sampler, for this call alone.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, State>, Failure> {
        pointer::lock("sampler", &self.state)
    }
}

/// A token the model could go on with. This struct will never change.
///
/// Lifetime: that of the array it stands in. Threads: it is only read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_alternative {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability under the model itself, before any setting of the sampler.
    pub logprob: f32,
}

/// The alternatives of a token, for C.
pub(super) fn alternatives(found: &[Alternative]) -> Vec<grok1_alternative> {
    let for_c = |&Alternative { token, logprob }: &_| grok1_alternative { token, logprob };
    found.iter().map(for_c).collect()
}

/// A bias on the logit of a token. This struct will never change.
///
/// Lifetime: the call that it is given to. Threads: it is only read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_logit_bias {
    /// The token.
    pub token: u32,
    /// What is added to its logit; -infinity excludes it.
    pub bias: f32,
}

/// What a sampler does. Call `grok1_sampler_options_init` first, after which it draws from the model's own distribution; NULL for that.
///
/// Lifetime: the call that it is given to. Threads: it is only read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_sampler_options {
    /// Set by `grok1_sampler_options_init`.
    pub struct_size: usize,
    /// Makes draws repeatable: the same seed, the same tokens. Default 0; nothing is ever seeded from the clock.
    pub seed: u64,
    /// Keeps only so many best tokens; 0, the default, is off.
    pub top_k: usize,
    /// The penalties look at so many last tokens only; default `SIZE_MAX`, all of them.
    pub penalty_window: usize,
    /// Biases on the logits of tokens; NULL for none.
    pub logit_bias: *const grok1_logit_bias,
    /// How many.
    pub n_logit_bias: usize,
    /// The only tokens that may be chosen; NULL for any.
    pub allowed_tokens: *const u32,
    /// How many.
    pub n_allowed_tokens: usize,
    /// Divides logits; 0 takes the best token. Default 1.
    pub temperature: f32,
    /// Keeps only the fewest best tokens whose probabilities sum to more than this, from 0 to 1; 1, the default, is off.
    pub top_p: f32,
    /// Keeps only tokens with at least this share of the best one's probability, from 0 to 1; 0, the default, is off.
    pub min_p: f32,
    /// Divides positive logits of tokens that came before and multiplies negative ones, above 0; 1, the default, is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that came before. Default 0.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens that came before, as often as they came. Default 0.
    pub frequency_penalty: f32,
    /// How many of the model's most likely tokens to report with each token. Default 0.
    pub alternatives: u32,
    /// 0 to leave out log-probabilities, which saves a pass over the logits. Default 1.
    pub logprobs: i32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_sampler_options {}

impl Default for grok1_sampler_options {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            seed: 0,
            top_k: 0,
            penalty_window: usize::MAX,
            logit_bias: ptr::null(),
            n_logit_bias: 0,
            allowed_tokens: ptr::null(),
            n_allowed_tokens: 0,
            temperature: 1.0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            alternatives: 0,
            logprobs: 1,
        }
    }
}

impl grok1_sampler_options {
    /// # Safety
    /// As the header asks of its fields.
    unsafe fn to_rust(self) -> Result<Sampler, Failure> {
        let mut sampler = Sampler::new()
            .seed(self.seed)
            .top_k(self.top_k)
            .penalty_window(self.penalty_window)
            .temperature(self.temperature)
            .top_p(self.top_p)
            .min_p(self.min_p)
            .repetition_penalty(self.repetition_penalty)
            .presence_penalty(self.presence_penalty)
            .frequency_penalty(self.frequency_penalty)
            .alternatives(self.alternatives as usize)
            .logprobs(self.logprobs != 0);
        // SAFETY: as this function asks.
        for bias in unsafe { pointer::slice("logit_bias", self.logit_bias, self.n_logit_bias)? } {
            sampler = sampler.logit_bias(bias.token, bias.bias);
        }
        if !self.allowed_tokens.is_null() || self.n_allowed_tokens > 0 {
            // SAFETY: as this function asks.
            let tokens =
                unsafe { pointer::slice("allowed_tokens", self.allowed_tokens, self.n_allowed_tokens)? };
            sampler = sampler.allowed_tokens(tokens.iter().copied());
        }
        sampler.validate()?;
        Ok(sampler)
    }
}

/// Fills `options`, which has `size` bytes (`sizeof *options`), with the defaults. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_sampler_options_init(options: *mut grok1_sampler_options, size: usize) {
    // SAFETY: as the header asks.
    unsafe { pointer::init(options, size) }
}

/// Makes a sampler. `options` may be NULL.
///
/// Returns `GROK1_ERR_ARGUMENT` for a setting out of range.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_sampler_new(
    options: *const grok1_sampler_options,
    sampler: *mut *mut grok1_sampler,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("sampler", sampler)?;
            let made = pointer::options("options", options)?.to_rust()?;
            out.write(pointer::new(grok1_sampler::new(made)));
            Ok(())
        })
    }
}

/// Makes a sampler that goes on independently from the same state; a filter is shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_sampler_clone(
    sampler: *const grok1_sampler,
    clone: *mut *mut grok1_sampler,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("clone", clone)?;
            let cloned = pointer::get("sampler", sampler)?.lock()?.sampler.clone();
            out.write(pointer::new(grok1_sampler::new(cloned)));
            Ok(())
        })
    }
}

/// The host's own filter: gets the tokens so far and the logits, which it may change; -infinity excludes a token. Comes on the thread
/// that samples.
pub type grok1_filter_fn = Option<
    unsafe extern "C-unwind" fn(
        user: *mut c_void,
        history: *const u32,
        n_history: usize,
        logits: *mut f32,
        n_logits: usize,
    ),
>;

/// Calls `filter` for each token, after bias, allowed tokens and penalties, in place of the filter set before. It is not part of a saved
/// sampler; clones share it, and `user` must live as long as all of them.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_sampler_set_filter(
    sampler: *mut grok1_sampler,
    filter: grok1_filter_fn,
    user: *mut c_void,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let handle = pointer::get("sampler", sampler)?;
            let callback = filter.ok_or_else(|| Failure::null("filter"))?;
            let user = User(user);
            let mut state = handle.lock()?;
            state.sampler = std::mem::take(&mut state.sampler).filter(move |history, logits| {
                let User(user) = { user };
                callback(user, history.as_ptr(), history.len(), logits.as_mut_ptr(), logits.len());
            });
            Ok(())
        })
    }
}

/// Chooses the token that follows `history` from `logits`, one per token of the vocabulary, and fills `sampled`, which has `size` bytes
/// (`sizeof *sampled`). What that points to stays until the sampler is used again. Generations sample by themselves: this is for logits
/// from elsewhere.
///
/// Returns `GROK1_ERR_ARGUMENT` if every token is excluded, the filter made NaN or +infinity, or a setting names a token that is not there;
/// `GROK1_ERR_FORMAT` if the logits themselves have NaN or +infinity.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_sampler_sample(
    sampler: *mut grok1_sampler,
    logits: *const f32,
    n_logits: usize,
    history: *const u32,
    n_history: usize,
    sampled: *mut grok1_sampled,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("sampled", sampled, size)?;
            let handle = pointer::get("sampler", sampler)?;
            let logits = pointer::slice("logits", logits, n_logits)?;
            let history = pointer::slice("history", history, n_history)?;
            let mut state = handle.lock()?;
            let Sampled { token, logprob, alternatives } = state.sampler.sample(logits, history)?;
            state.alternatives = self::alternatives(&alternatives);
            out.put(grok1_sampled {
                struct_size: size,
                alternatives: state.alternatives.as_ptr(),
                n_alternatives: state.alternatives.len(),
                token,
                logprob: logprob.unwrap_or(f32::NAN),
            });
            Ok(())
        })
    }
}

/// What a sampler chose.
///
/// Lifetime: what it points to, until the sampler is used again. Threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_sampled {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// The model's most likely tokens, best first, as many as the sampler was told to report.
    pub alternatives: *const grok1_alternative,
    /// How many.
    pub n_alternatives: usize,
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability under the model; NaN if the sampler was told to leave it out.
    pub logprob: f32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_sampled {}

/// The tokens that `grok1_sampler_sample` would draw from and, at the same places, their probabilities, in the order of ids: the form that
/// is called twice, with two buffers of `capacity`. Draws nothing.
///
/// Fails as `grok1_sampler_sample` does, and with `GROK1_ERR_BUFFER` if they do not fit.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_sampler_distribution(
    sampler: *mut grok1_sampler,
    logits: *const f32,
    n_logits: usize,
    history: *const u32,
    n_history: usize,
    tokens: *mut u32,
    probabilities: *mut f64,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let token_buffer = pointer::buffer("tokens", tokens, capacity, needed)?;
            let probability_buffer = pointer::buffer("probabilities", probabilities, capacity, needed)?;
            let handle = pointer::get("sampler", sampler)?;
            let logits = pointer::slice("logits", logits, n_logits)?;
            let history = pointer::slice("history", history, n_history)?;
            let kept = handle.lock()?.sampler.distribution(logits, history)?;
            let (tokens, probabilities): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
            token_buffer.put(&tokens)?;
            probability_buffer.put(&probabilities)
        })
    }
}

/// Natural logarithm of a token's probability under the softmax of `count` logits: what `grok1_session_score` writes, for rows of
/// `GROK1_WANT_ALL`. NaN if a logit is, for a token beyond them, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_log_probability(logits: *const f32, count: usize, token: u32) -> f32 {
    // SAFETY: as the header asks.
    quiet(f32::NAN, || unsafe {
        let logits = pointer::slice("logits", logits, count);
        logits.map_or(f32::NAN, |logits| log_probability(logits, token))
    })
}

/// How many tokens were drawn, which is the number of the next draw, in `*draws`.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_sampler_draws(
    sampler: *const grok1_sampler,
    draws: *mut u64,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("draws", draws)?;
            out.write(pointer::get("sampler", sampler)?.lock()?.sampler.draws());
            Ok(())
        })
    }
}

/// Goes on as if `draws` tokens had been drawn: 0 starts over.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_sampler_set_draws(
    sampler: *mut grok1_sampler,
    draws: u64,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            pointer::get("sampler", sampler)?.lock()?.sampler.set_draws(draws);
            Ok(())
        })
    }
}

/// Writes the sampler's settings and state, without its filter, to `data`: the form that is called twice.
///
/// Returns `GROK1_ERR_BUFFER` if they do not fit.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_sampler_save(
    sampler: *const grok1_sampler,
    data: *mut u8,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let buffer = pointer::buffer("data", data, capacity, needed)?;
            let handle = pointer::get("sampler", sampler)?;
            let bytes = handle.lock()?.sampler.to_bytes();
            buffer.put(&bytes)
        })
    }
}

/// Makes a sampler from what `grok1_sampler_save` wrote.
///
/// Returns `GROK1_ERR_FORMAT` if that is not what the bytes are.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_sampler_restore(
    data: *const u8,
    len: usize,
    sampler: *mut *mut grok1_sampler,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("sampler", sampler)?;
            let restored = Sampler::from_bytes(pointer::slice("data", data, len)?)?;
            out.write(pointer::new(grok1_sampler::new(restored)));
            Ok(())
        })
    }
}

/// Frees a sampler. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_sampler_free(sampler: *mut grok1_sampler) {
    // SAFETY: as the header asks.
    unsafe { pointer::free(sampler) }
}
