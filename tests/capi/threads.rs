//! Several threads, and calls within calls.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use grok1::capi::*;

use super::handles::{Handles, error_message, fails, generation, ok, push_text, session};

/// A handle that goes to another thread.
#[derive(Clone, Copy)]
struct Sent<T>(*mut T);
// SAFETY: the header says what threads may do with each handle; that is what is tested.
unsafe impl<T> Send for Sent<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Sent<T> {}

impl<T> Sent<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

fn logits_after(session: *mut grok1_session, tokens: &[u32]) -> Vec<f32> {
    let mut len = 0;
    // SAFETY: a session of this thread's.
    unsafe {
        ok(|error| grok1_session_feed(session, tokens.as_ptr(), tokens.len(), ptr::null(), error));
        let logits = grok1_session_logits(session, &mut len);
        std::slice::from_raw_parts(logits, len).to_vec()
    }
}

#[test]
fn two_threads_use_one_model() {
    let handles = Handles::tiny();
    let model = Sent(handles.model);
    let work = |first: u32| {
        let session = session(model.get());
        let tokens: Vec<u32> = (first..first + 40).collect();
        let logits: Vec<_> = tokens.chunks(8).map(|tokens| logits_after(session, tokens)).collect();
        // SAFETY: made above.
        unsafe { grok1_session_free(session) };
        logits
    };
    let alone = [work(100), work(300)];
    let together = std::thread::scope(|scope| {
        let threads = [scope.spawn(|| work(100)), scope.spawn(|| work(300))];
        threads.map(|thread| thread.join().unwrap())
    });
    assert!(alone == together);
}

#[test]
fn a_session_that_two_threads_use_is_busy_for_one_of_them() {
    let handles = Handles::tiny();
    let shared = Sent(handles.session);
    let (started, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The callback waits within the call until the other thread was refused.
            unsafe extern "C-unwind" fn wait(user: *mut c_void, _: i32, _: u64, _: u64) -> i32 {
                // SAFETY: the two flags, which outlive the call.
                let (started, done) = unsafe { *user.cast::<(&AtomicBool, &AtomicBool)>() };
                started.store(true, Ordering::SeqCst);
                while !done.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                GROK1_CONTINUE
            }
            let mut flags = (&started, &done);
            let control = grok1_control {
                progress: Some(wait),
                progress_user: (&raw mut flags).cast(),
                ..Default::default()
            };
            let tokens = [1, 2, 3];
            // SAFETY: a session that lives as long as the scope.
            ok(|error| unsafe { grok1_session_feed(shared.get(), tokens.as_ptr(), 3, &control, error) });
        });
        while !started.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        // SAFETY: a session that lives as long as the scope.
        unsafe {
            fails(GROK1_ERR_BUSY, |error| grok1_session_truncate(shared.get(), 0, error));
            assert!(grok1_session_logits(shared.get(), &mut 0).is_null());
        }
        done.store(true, Ordering::SeqCst);
    });
}

/// What a token callback tries.
struct Tries {
    session: *mut grok1_session,
    sampler: *mut grok1_sampler,
    other: *mut grok1_session,
    found: Vec<grok1_status>,
}

unsafe extern "C-unwind" fn try_calls(user: *mut c_void, _: *const grok1_token) -> i32 {
    // SAFETY: what the test gave.
    unsafe {
        let tries = &mut *user.cast::<Tries>();
        tries.found.push(grok1_session_truncate(tries.session, 0, ptr::null_mut()));
        tries.found.push(grok1_sampler_set_draws(tries.sampler, 0, ptr::null_mut()));
        tries.found.push(grok1_session_feed(tries.other, [1].as_ptr(), 1, ptr::null(), ptr::null_mut()));
    }
    GROK1_STOP
}

#[test]
fn a_callback_may_use_other_handles_but_not_those_of_its_call() {
    let handles = Handles::tiny();
    let other = session(handles.model);
    let generation = generation(&grok1_generation_options::default());
    push_text(handles.session, "To be");
    let (session, sampler) = (handles.session, handles.sampler);
    let mut tries = Tries { session, sampler, other, found: Vec::new() };
    // SAFETY: handles of this test, and what the callback takes for its user.
    unsafe {
        let user = (&raw mut tries).cast();
        let message = fails(GROK1_ERR_CANCELLED, |error| {
            grok1_generation_run(generation, session, sampler, Some(try_calls), user, ptr::null(), error)
        });
        assert_eq!(message, "stopped by on_token");
        assert_eq!(tries.found, [GROK1_ERR_BUSY, GROK1_ERR_BUSY, GROK1_OK]);
        grok1_session_free(other);
        grok1_generation_free(generation);
    }
}

/// Runs another session of the same model from within a run.
unsafe extern "C-unwind" fn run_within(user: *mut c_void, _: usize, _: *const f32, _: usize) -> i32 {
    // SAFETY: what the test gave.
    unsafe {
        let (other, status) = &mut *user.cast::<(*mut grok1_session, grok1_status)>();
        *status = grok1_session_feed(*other, [1].as_ptr(), 1, ptr::null(), ptr::null_mut());
    }
    GROK1_CONTINUE
}

#[test]
fn a_run_within_a_run_of_the_same_model_is_busy() {
    let handles = Handles::tiny();
    let mut user = (session(handles.model), GROK1_OK);
    let tokens = [1];
    let entry = grok1_entry {
        session: handles.session,
        tokens: tokens.as_ptr(),
        n_tokens: 1,
        want: GROK1_WANT_ALL,
        sink: Some(run_within),
        sink_user: (&raw mut user).cast(),
        ..Default::default()
    };
    // SAFETY: an entry of this test.
    unsafe {
        ok(|error| grok1_run(handles.model, &entry, 1, ptr::null(), error));
        assert_eq!(user.1, GROK1_ERR_BUSY);
        grok1_session_free(user.0);
    }
}

#[test]
fn a_session_given_twice_or_of_another_model_is_an_argument_error() {
    let (handles, strangers) = (Handles::tiny(), Handles::tiny());
    let tokens = [1];
    let entry = |session| grok1_entry { session, tokens: tokens.as_ptr(), n_tokens: 1, ..Default::default() };
    for (second, expected) in [
        (handles.session, "entry 1: its session is that of entry 0"),
        (strangers.session, "entry 1: the session belongs to another model"),
        (ptr::null_mut(), "entry 1: session is NULL"),
    ] {
        let entries = [entry(handles.session), entry(second)];
        let mut error = ptr::null_mut();
        // SAFETY: entries of this test.
        unsafe {
            let status = grok1_run(handles.model, entries.as_ptr(), 2, ptr::null(), &mut error);
            assert_eq!(status, GROK1_ERR_ARGUMENT);
            assert_eq!(grok1_error_entry(error), 1);
            assert_eq!(error_message(error), expected);
        }
    }
}
