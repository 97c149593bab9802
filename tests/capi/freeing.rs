//! Handles freed in any order, and while they are used.

use std::ffi::c_void;
use std::ptr;

use grok1::capi::*;

use super::handles::{Handles, generation, ok, push_text, sampler, session};

const SPEC: &std::ffi::CStr =
    c"layers=1,width=64,heads=4,kv_heads=2,head_dim=16,experts=4,ffn=64,vocab=64,context=64,type=f32";

/// Every order of the numbers below `count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1);
    let longer = shorter.iter().flat_map(|order| {
        (0..=order.len()).map(|place| {
            let mut order = order.clone();
            order.insert(place, count - 1);
            order
        })
    });
    longer.collect()
}

#[test]
fn handles_may_be_freed_in_every_order_and_the_others_go_on() {
    for order in orders(5) {
        let (mut checkpoint, mut model, mut fork) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        let options = grok1_model_options { threads: 1, ..Default::default() };
        // SAFETY: handles that were not freed yet.
        unsafe {
            ok(|error| grok1_checkpoint_synthetic(SPEC.as_ptr(), &mut checkpoint, error));
            ok(|error| grok1_checkpoint_load(checkpoint, &options, ptr::null(), &mut model, error));
            let session = session(model);
            let sampler = sampler(&grok1_sampler_options::default());
            ok(|error| grok1_session_feed(session, [1].as_ptr(), 1, ptr::null(), error));
            ok(|error| grok1_session_fork(session, &mut fork, error));
            let mut alive = [true; 5];
            for freed in order {
                match freed {
                    0 => grok1_checkpoint_free(checkpoint),
                    1 => grok1_model_free(model),
                    2 => grok1_session_free(session),
                    3 => grok1_session_free(fork),
                    _ => grok1_sampler_free(sampler),
                }
                alive[freed] = false;
                for (session, alive) in [(session, alive[2]), (fork, alive[3])] {
                    if alive {
                        ok(|error| grok1_session_feed(session, [2, 3].as_ptr(), 2, ptr::null(), error));
                    }
                }
            }
        }
    }
}

struct Freed {
    handles: [*mut c_void; 4],
    tokens: usize,
}

/// Frees everything that the call it is called from uses.
unsafe extern "C-unwind" fn free_all(user: *mut c_void, _: *const grok1_token) -> i32 {
    // SAFETY: what the test gave, freed the first time.
    unsafe {
        let freed = &mut *user.cast::<Freed>();
        freed.tokens += 1;
        if freed.tokens == 1 {
            let [model, session, sampler, generation] = freed.handles;
            grok1_model_free(model.cast());
            grok1_session_free(session.cast());
            grok1_sampler_free(sampler.cast());
            grok1_generation_free(generation.cast());
        }
    }
    GROK1_CONTINUE
}

#[test]
fn a_callback_may_free_the_handles_of_its_own_call() {
    let handles = Handles::tiny();
    let generation = generation(&grok1_generation_options { max_tokens: 5, ..Default::default() });
    push_text(handles.session, "To be");
    let (model, session, sampler) = (handles.model, handles.session, handles.sampler);
    std::mem::forget(handles);
    let handles = [model.cast(), session.cast(), sampler.cast(), generation.cast()];
    let mut freed = Freed { handles, tokens: 0 };
    // SAFETY: handles of this test, and what the callback takes for its user.
    ok(|error| unsafe {
        let user = (&raw mut freed).cast();
        grok1_generation_run(generation, session, sampler, Some(free_all), user, ptr::null(), error)
    });
    assert_eq!(freed.tokens, 5);
}
