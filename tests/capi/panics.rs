//! A defect in the middle of a call.

use std::ffi::c_void;
use std::ptr;

use grok1::capi::*;

use super::handles::{Handles, fails, info, ok, push_text, session};

const TOKENS: [u32; 2] = [100, 200];

#[test]
fn a_panic_poisons_what_took_part_and_nothing_else() {
    let handles = Handles::tiny();
    let other = session(handles.model);
    push_text(handles.session, "To be");
    // SAFETY: handles of this test.
    unsafe {
        let message = fails(GROK1_ERR_PANIC, |error| grok1_testing_panic(handles.session, error));
        assert_eq!(message, "a defect of grok1: asked for by a test");

        let feed = |session, error| grok1_session_feed(session, TOKENS.as_ptr(), 2, ptr::null(), error);
        let message = fails(GROK1_ERR_POISONED, |error| feed(handles.session, error));
        assert_eq!(message, "session took part in a call that a defect stopped; it can only be freed");
        let mut len = 1;
        assert!(grok1_session_logits(handles.session, &mut len).is_null());
        assert_eq!(len, 0);
        assert_eq!(info(handles.session).poisoned, 1);
        assert_eq!(info(other).poisoned, 0);

        ok(|error| feed(other, error));
        grok1_session_free(other);
    }
}

/// A callback that panics instead of returning, as one in Rust may.
unsafe extern "C-unwind" fn panics(_: *mut c_void, _: usize, _: *const f32, _: usize) -> i32 {
    panic!("in a callback");
}

#[test]
fn a_panic_within_a_run_leaves_the_model_usable() {
    let handles = Handles::tiny();
    let bystander = session(handles.model);
    let mut entries = [handles.session, bystander].map(|session| grok1_entry {
        session,
        tokens: TOKENS.as_ptr(),
        n_tokens: 2,
        ..Default::default()
    });
    entries[0].want = GROK1_WANT_ALL;
    entries[0].sink = Some(panics);
    // SAFETY: entries of this test.
    unsafe {
        let message =
            fails(GROK1_ERR_PANIC, |error| grok1_run(handles.model, entries.as_ptr(), 2, ptr::null(), error));
        assert_eq!(message, "a defect of grok1: in a callback");
        assert_eq!((info(handles.session).poisoned, info(bystander).poisoned), (1, 1));
        let fresh = session(handles.model);
        ok(|error| grok1_session_feed(fresh, TOKENS.as_ptr(), 2, ptr::null(), error));
        grok1_session_free(fresh);
        grok1_session_free(bystander);
    }
}
