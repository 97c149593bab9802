//! The same generations through Rust and through C, with equal results.

use std::ffi::c_void;
use std::ptr;

use grok1::capi::*;
use grok1::{Control, Finish, Model, ModelOptions, Precision, Sampler};

use super::c::root;
use super::handles::{Handles, generation, ok, push_text, sampler, session};

/// What a generation is asked for.
#[derive(Clone, Debug)]
struct Case {
    /// Prompts of one session, one after the other.
    prompts: &'static [&'static str],
    temperature: f32,
    top_p: f32,
    top_k: usize,
    min_p: f32,
    /// Repetition, presence and frequency penalty.
    penalties: [f32; 3],
    bias: &'static [(u32, f32)],
    allowed: Option<&'static [u32]>,
    alternatives: u32,
    seed: u64,
    stop: &'static [&'static str],
    max_tokens: usize,
    ignore_end: bool,
}

const PLAIN: Case = Case {
    prompts: &["To be, or not to be"],
    temperature: 1.0,
    top_p: 1.0,
    top_k: 0,
    min_p: 0.0,
    penalties: [1.0, 0.0, 0.0],
    bias: &[],
    allowed: None,
    alternatives: 0,
    seed: 0,
    stop: &[],
    max_tokens: 24,
    ignore_end: false,
};

fn cases() -> Vec<Case> {
    vec![
        Case { temperature: 0.0, ..PLAIN },
        Case { temperature: 0.7, top_p: 0.95, seed: 42, ..PLAIN },
        Case { top_k: 5, min_p: 0.05, seed: 7, alternatives: 3, ..PLAIN },
        Case { penalties: [1.2, 0.3, 0.1], seed: 3, ..PLAIN },
        Case { bias: &[(300, 8.0), (301, f32::NEG_INFINITY)], seed: 4, ..PLAIN },
        Case { allowed: Some(&[300, 301, 302]), seed: 5, ..PLAIN },
        Case { stop: &["\n\n", "th", "e "], seed: 6, max_tokens: 60, ..PLAIN },
        Case { prompts: &["KING HENRY.\n", "And then", "🙂"], seed: 8, max_tokens: 8, ..PLAIN },
        Case { max_tokens: 0, ..PLAIN },
        Case { ignore_end: true, seed: 9, max_tokens: 40, ..PLAIN },
    ]
}

/// A token and all that is told of it.
#[derive(Debug, PartialEq)]
struct Told {
    id: u32,
    text: String,
    logprob: u32, // its bits
    alternatives: Vec<(u32, u32)>,
    finish: Option<Finish>,
    index: usize,
}

fn through_rust(model: &Model, case: &Case) -> Vec<Told> {
    let [repetition, presence, frequency] = case.penalties;
    let mut sampler = Sampler::new()
        .temperature(case.temperature)
        .top_p(case.top_p)
        .top_k(case.top_k)
        .min_p(case.min_p)
        .repetition_penalty(repetition)
        .presence_penalty(presence)
        .frequency_penalty(frequency)
        .alternatives(case.alternatives as usize)
        .seed(case.seed);
    sampler = case.bias.iter().fold(sampler, |sampler, &(token, bias)| sampler.logit_bias(token, bias));
    if let Some(allowed) = case.allowed {
        sampler = sampler.allowed_tokens(allowed.iter().copied());
    }
    let mut session = model.session().unwrap();
    let mut told = Vec::new();
    for prompt in case.prompts {
        let pieces = session.generate(*prompt, &mut sampler).max_tokens(case.max_tokens);
        let pieces = pieces.stop(case.stop.iter().copied()).ignore_end_of_text(case.ignore_end);
        for (index, piece) in pieces.enumerate() {
            let piece = piece.unwrap();
            let alternatives = piece.alternatives().iter();
            told.push(Told {
                id: piece.token(),
                text: piece.text().to_owned(),
                logprob: piece.logprob().unwrap().to_bits(),
                alternatives: alternatives.map(|other| (other.token, other.logprob.to_bits())).collect(),
                finish: piece.finish(),
                index,
            });
        }
    }
    told
}

/// # Safety
/// A token that the library has just given.
unsafe fn told(token: &grok1_token) -> Told {
    // SAFETY: as this function asks.
    let (text, alternatives) = unsafe {
        let text = std::slice::from_raw_parts(token.text.cast(), token.text_len);
        (text, std::slice::from_raw_parts(token.alternatives, token.n_alternatives))
    };
    Told {
        id: token.id,
        text: String::from_utf8(text.to_vec()).unwrap(),
        logprob: token.logprob.to_bits(),
        alternatives: alternatives.iter().map(|other| (other.token, other.logprob.to_bits())).collect(),
        finish: match token.finish {
            GROK1_FINISH_NONE => None,
            GROK1_FINISH_END_OF_TEXT => Some(Finish::EndOfText),
            GROK1_FINISH_STOP => Some(Finish::Stop(token.stop_index as usize)),
            GROK1_FINISH_MAX_TOKENS => Some(Finish::MaxTokens),
            GROK1_FINISH_CONTEXT_FULL => Some(Finish::ContextFull),
            other => panic!("{other}"),
        },
        index: token.index,
    }
}

fn empty_token() -> grok1_token {
    // SAFETY: numbers and pointers, all of which may be zero.
    unsafe { std::mem::zeroed() }
}

/// How C generates.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// The library calls for each token.
    Push,
    /// The host asks for each token.
    Pull,
    /// The host runs the session itself.
    Accept,
}

unsafe extern "C-unwind" fn on_token(user: *mut c_void, token: *const grok1_token) -> i32 {
    // SAFETY: what the test gave, and the library's token.
    unsafe { (*user.cast::<Vec<Told>>()).push(told(&*token)) };
    GROK1_CONTINUE
}

fn through_c(model: *const grok1_model, case: &Case, form: Form) -> Vec<Told> {
    let bias: Vec<_> = case.bias.iter().map(|&(token, bias)| grok1_logit_bias { token, bias }).collect();
    let [repetition_penalty, presence_penalty, frequency_penalty] = case.penalties;
    let sampler = sampler(&grok1_sampler_options {
        seed: case.seed,
        top_k: case.top_k,
        logit_bias: bias.as_ptr(),
        n_logit_bias: bias.len(),
        allowed_tokens: case.allowed.map_or(ptr::null(), <[u32]>::as_ptr),
        n_allowed_tokens: case.allowed.map_or(0, <[u32]>::len),
        temperature: case.temperature,
        top_p: case.top_p,
        min_p: case.min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        alternatives: case.alternatives,
        ..Default::default()
    });
    let stop: Vec<_> =
        case.stop.iter().map(|stop| grok1_text { data: stop.as_ptr().cast(), len: stop.len() }).collect();
    let session = session(model);
    let mut all: Vec<Told> = Vec::new();
    for prompt in case.prompts {
        push_text(session, prompt);
        let generation = generation(&grok1_generation_options {
            max_tokens: case.max_tokens,
            stop: stop.as_ptr(),
            n_stop: stop.len(),
            ignore_end_of_text: case.ignore_end.into(),
            ..Default::default()
        });
        // SAFETY: handles of this function, and what the callback takes for its user.
        unsafe {
            match form {
                Form::Push => ok(|error| {
                    let user = (&raw mut all).cast();
                    grok1_generation_run(
                        generation,
                        session,
                        sampler,
                        Some(on_token),
                        user,
                        ptr::null(),
                        error,
                    )
                }),
                Form::Pull | Form::Accept => loop {
                    let (mut token, size) = (empty_token(), size_of::<grok1_token>());
                    let mut error = ptr::null_mut();
                    let status = if let Form::Pull = form {
                        let control = ptr::null();
                        grok1_generation_next(
                            generation, session, sampler, control, &mut token, size, &mut error,
                        )
                    } else {
                        if grok1_session_logits(session, &mut 0).is_null() {
                            let want = GROK1_WANT_SAMPLE;
                            let entry = grok1_entry { session, want, sampler, ..Default::default() };
                            ok(|error| grok1_run(model, &entry, 1, ptr::null(), error));
                        }
                        grok1_generation_accept(generation, session, sampler, &mut token, size, &mut error)
                    };
                    grok1_error_free(error);
                    if status == GROK1_ERR_ENDED {
                        break;
                    }
                    assert_eq!(status, GROK1_OK);
                    all.push(told(&token));
                },
            }
            grok1_generation_free(generation);
        }
    }
    // SAFETY: made above.
    unsafe {
        grok1_session_free(session);
        grok1_sampler_free(sampler);
    }
    all
}

#[test]
fn every_generation_is_the_same_through_rust_and_through_c() {
    // Forms run the tokens of a prompt in other batches, which is the same bits in Exact only.
    let options = ModelOptions::new().precision(Precision::Exact);
    let model = Model::open_with(root().join("assets/tiny"), options, &Control::new()).unwrap();
    let handles =
        Handles::tiny_with(&grok1_model_options { precision: GROK1_PRECISION_EXACT, ..Default::default() });
    for case in cases() {
        let expected = through_rust(&model, &case);
        assert_eq!(expected.is_empty(), case.max_tokens == 0);
        for form in [Form::Push, Form::Pull, Form::Accept] {
            assert_eq!(through_c(handles.model, &case, form), expected, "{form:?} {case:?}");
        }
    }
}

/// Adds to the logit of token 300.
unsafe extern "C-unwind" fn favour_300(
    user: *mut c_void,
    _: *const u32,
    history: usize,
    logits: *mut f32,
    n_logits: usize,
) {
    // SAFETY: what the test gave, and the library's logits.
    unsafe {
        *user.cast::<usize>() = history;
        std::slice::from_raw_parts_mut(logits, n_logits)[300] = 100.0;
    }
}

#[test]
fn a_filter_changes_what_is_sampled() {
    let handles = Handles::tiny();
    let mut history = 0_usize;
    let tokens = [100, 200];
    let mut sampled: grok1_sampled =
        // SAFETY: numbers and pointers, all of which may be zero.
        unsafe { std::mem::zeroed() };
    // SAFETY: handles and locals of this test.
    unsafe {
        ok(|error| {
            let user = (&raw mut history).cast();
            grok1_sampler_set_filter(handles.sampler, Some(favour_300), user, error)
        });
        ok(|error| grok1_session_feed(handles.session, tokens.as_ptr(), 2, ptr::null(), error));
        let mut len = 0;
        let logits = grok1_session_logits(handles.session, &mut len);
        ok(|error| {
            let (tokens, size) = (tokens.as_ptr(), size_of::<grok1_sampled>());
            grok1_sampler_sample(handles.sampler, logits, len, tokens, 2, &mut sampled, size, error)
        });
    }
    assert_eq!((sampled.token, history), (300, 2));
}
