//! A decoded token allocates nothing: not the run, on any of its threads, and not the sampler.

mod support {
    pub(crate) mod models;
}

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use grok1::{Control, Entry, Model, ModelOptions, Sampler, Session};
use support::models::{exact, standard, tiny};

/// The system's memory, whose use is counted.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn count() {
    if COUNTS.load(SeqCst) {
        COUNT.fetch_add(1, SeqCst);
    }
}

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations during `work`, on all threads.
fn allocations(work: impl FnOnce()) -> usize {
    COUNT.store(0, SeqCst);
    COUNTS.store(true, SeqCst);
    work();
    COUNTS.store(false, SeqCst);
    COUNT.load(SeqCst)
}

/// Tokens that are decoded: more than a page of keys and values.
const TOKENS: usize = 100;

/// Decodes in sessions that go on together, from their beginning.
fn decode(model: &Model, sessions: &mut [Session; 3], samplers: &mut [Sampler; 3]) {
    let control = Control::new();
    for session in sessions.iter_mut() {
        session.truncate(1);
        session.push(7);
    }
    for _ in 0..TOKENS {
        let [a, b, c] = sessions;
        let mut entries = [a, b, c].map(|session| Entry::new(session, &[]));
        model.run(&mut entries, &control).unwrap();
        for (session, sampler) in sessions.iter_mut().zip(samplers.iter_mut()) {
            let sampled = sampler.sample(session.logits().unwrap(), session.tokens()).unwrap();
            session.push(sampled.token);
        }
    }
}

// One test: what another one allocates would count too.
#[test]
fn a_decoded_token_allocates_nothing() {
    type Options = fn() -> ModelOptions;
    let precisions: [(&str, Options); 2] = [("exact", exact), ("standard", standard)];
    for ((precision, options), threads) in
        precisions.into_iter().flat_map(|options| [(options, 1), (options, 3)])
    {
        let model = tiny(options().threads(threads));
        let mut sessions = [(); 3].map(|()| model.session().unwrap());
        for (token, session) in sessions.iter_mut().enumerate() {
            session.feed(&[token as u32 + 5], &Control::new()).unwrap();
        }
        let mut samplers = [
            Sampler::new().greedy(),
            Sampler::new().temperature(0.7).top_p(0.95).seed(1),
            Sampler::new().top_k(40).min_p(0.01).repetition_penalty(1.1).seed(2),
        ];
        // Buffers grow once, on each thread.
        for _ in 0..3 {
            decode(&model, &mut sessions, &mut samplers);
        }
        let found = allocations(|| decode(&model, &mut sessions, &mut samplers));
        assert_eq!(found, 0, "{precision}, {threads} threads");
    }
}
