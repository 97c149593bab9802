//! What a generated token costs through the C ABI, compared with the Rust API: `cargo bench --features capi --bench c_path`. On the tiny
//! model, where a token is cheapest and the way to it weighs most.

use std::hint::black_box;
use std::mem::{MaybeUninit, size_of};
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use grok1::capi::*;
use grok1::{Control, Generation, Model, ModelOptions, Sampler, Session};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny");
const PROMPT: &str = "To be, or not to be";
const TOKENS: usize = 64;
const ROUNDS: usize = 150;

/// The fastest that each token of the text was: when nothing else on the machine came between.
struct Fastest([Duration; TOKENS]);

impl Fastest {
    fn note(&mut self, token: usize, start: Instant) {
        self.0[token] = self.0[token].min(start.elapsed());
    }

    /// Microseconds for each token; the first has the prompt with it.
    fn mean(&self) -> f64 {
        self.0[1..].iter().sum::<Duration>().as_secs_f64() * 1e6 / (TOKENS - 1) as f64
    }
}

/// Generates, and returns the last token.
fn rust(session: &mut Session, sampler: &mut Sampler, fastest: &mut Fastest) -> u32 {
    session.truncate(0);
    let control = Control::new();
    let mut generation = Generation::new().max_tokens(TOKENS).ignore_end_of_text(true);
    session.push_text(PROMPT).expect("a tokenizer");
    let mut last = 0;
    for token in 0..TOKENS {
        let start = Instant::now();
        let piece = generation.next(session, sampler, &control).expect("a token").expect("another one");
        black_box(piece.text());
        last = piece.token();
        drop(piece);
        fastest.note(token, start);
    }
    last
}

/// # Safety
/// Both are handles.
unsafe fn c(session: *mut grok1_session, sampler: *mut grok1_sampler, fastest: &mut Fastest) -> u32 {
    let (mut options, mut token) = (MaybeUninit::uninit(), MaybeUninit::<grok1_token>::uninit());
    let mut generation = null_mut();
    let mut last = 0;
    // SAFETY: handles and structs of this function, and those that it asks for.
    unsafe {
        succeeds(grok1_session_truncate(session, 0, null_mut()));
        grok1_generation_options_init(options.as_mut_ptr(), size_of::<grok1_generation_options>());
        let mut options = options.assume_init();
        (options.max_tokens, options.ignore_end_of_text) = (TOKENS, 1);
        succeeds(grok1_generation_new(&raw const options, &raw mut generation, null_mut()));
        succeeds(grok1_session_push_text(session, PROMPT.as_ptr().cast(), PROMPT.len(), null_mut()));
        for number in 0..TOKENS {
            let start = Instant::now();
            let (out, size) = (token.as_mut_ptr(), size_of::<grok1_token>());
            succeeds(grok1_generation_next(generation, session, sampler, null(), out, size, null_mut()));
            black_box((*out).text);
            last = (*out).id;
            fastest.note(number, start);
        }
        grok1_generation_free(generation);
    }
    last
}

fn succeeds(status: grok1_status) {
    assert_eq!(status, GROK1_OK);
}

fn main() {
    // One thread: others would only add what they wait for each other.
    let one_thread = ModelOptions::new().threads(1);
    let model = Model::open_with(TINY, one_thread, &Control::new()).expect("the tiny model");
    let mut session = model.session().expect("a session");
    let mut sampler = Sampler::new().greedy();
    let path = std::ffi::CString::new(TINY).expect("a path");
    let (mut c_model, mut c_session, mut c_sampler) = (null_mut(), null_mut(), null_mut());
    let (mut one_thread, mut options) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: what a C program does.
    unsafe {
        grok1_model_options_init(one_thread.as_mut_ptr(), size_of::<grok1_model_options>());
        let mut one_thread = one_thread.assume_init();
        one_thread.threads = 1;
        succeeds(grok1_model_load(
            path.as_ptr(),
            &raw const one_thread,
            null(),
            &raw mut c_model,
            null_mut(),
        ));
        succeeds(grok1_session_new(c_model, null(), &raw mut c_session, null_mut()));
        grok1_sampler_options_init(options.as_mut_ptr(), size_of::<grok1_sampler_options>());
        let mut options = options.assume_init();
        options.temperature = 0.0;
        succeeds(grok1_sampler_new(&raw const options, &raw mut c_sampler, null_mut()));
    }

    // In turns, so that both see the same of what else the machine does.
    let [mut in_rust, mut through_c] = [(); 2].map(|()| Fastest([Duration::MAX; TOKENS]));
    for _ in 0..ROUNDS {
        let last = rust(&mut session, &mut sampler, &mut in_rust);
        // SAFETY: both handles are alive.
        assert_eq!(last, unsafe { c(c_session, c_sampler, &mut through_c) }, "the same text");
    }
    let (rust, c) = (in_rust.mean(), through_c.mean());
    println!("a token: {rust:.1} us in Rust, {c:.1} us through C, ratio {:.4}", c / rust);
    // SAFETY: made above, and not used again.
    unsafe {
        grok1_sampler_free(c_sampler);
        grok1_session_free(c_session);
        grok1_model_free(c_model);
    }
}
