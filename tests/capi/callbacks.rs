//! The log, the host's threads, and progress.

use std::ffi::c_void;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use grok1::capi::*;

use super::c::root;
use super::handles::{Handles, fails, ok, session};

type Messages = Mutex<Vec<(i32, String)>>;

unsafe extern "C-unwind" fn collect(
    user: *mut c_void,
    level: i32,
    message: *const std::ffi::c_char,
    len: usize,
) {
    // SAFETY: what the test gave, and the library's message.
    unsafe {
        let message = std::slice::from_raw_parts(message.cast::<u8>(), len);
        let message = String::from_utf8(message.to_vec()).unwrap();
        (*user.cast::<Messages>()).lock().unwrap().push((level, message));
        // Neither of these gets anywhere from here.
        log::error!(target: "grok1", "within");
        assert_eq!(grok1_set_log(None, ptr::null_mut(), 0, ptr::null_mut()), GROK1_ERR_BUSY);
    }
}

#[test]
fn messages_of_the_library_come_until_the_callback_is_replaced() {
    let messages = Messages::default();
    let user = ptr::from_ref(&messages).cast_mut().cast();
    // SAFETY: messages that live until the log is silent again.
    unsafe {
        fails(GROK1_ERR_ARGUMENT, |error| grok1_set_log(Some(collect), user, 6, error));
        ok(|error| grok1_set_log(Some(collect), user, GROK1_LOG_INFO, error));
        log::warn!(target: "grok1::model", "a {}", "warning");
        log::debug!(target: "grok1::model", "too much");
        log::error!(target: "grok12", "of another crate");
        drop(Handles::tiny());
        ok(|error| grok1_set_log(None, ptr::null_mut(), GROK1_LOG_TRACE, error));
        log::error!(target: "grok1", "nobody hears this");
    }
    // Other tests may have made the library say something.
    let ours = ["a warning", "within", "too much", "of another crate", "nobody hears this"];
    let mut messages = messages.into_inner().unwrap();
    let tells_of_a_model = |message: &str| message.contains("tiny") && message.contains(": xai, 4 layers, ");
    assert!(messages.iter().any(|(level, message)| *level == GROK1_LOG_INFO && tells_of_a_model(message)));
    messages.retain(|(_, message)| ours.contains(&message.as_str()));
    assert_eq!(messages, [(GROK1_LOG_WARN, "a warning".to_owned())]);
}

/// Runs parts on two threads, and counts the regions.
unsafe extern "C-unwind" fn run_parts(
    user: *mut c_void,
    parts: usize,
    part: grok1_part_fn,
    context: *mut c_void,
) {
    // SAFETY: what the test gave.
    unsafe { &*user.cast::<AtomicUsize>() }.fetch_add(1, Ordering::SeqCst);
    let context = context as usize;
    std::thread::scope(|scope| {
        for odd in 0..2 {
            scope.spawn(move || {
                for index in (odd..parts).step_by(2) {
                    // SAFETY: the library's function and context, before this region returns.
                    unsafe { part(context as *mut c_void, index) };
                }
            });
        }
    });
}

#[test]
fn the_hosts_threads_compute_the_same_bits() {
    let regions = AtomicUsize::new(0);
    let user = ptr::from_ref(&regions).cast_mut().cast();
    let pool = grok1_pool { width: 2, run: Some(run_parts), user, ..Default::default() };
    let options = grok1_model_options { pool: &pool, ..Default::default() };
    let path = std::ffi::CString::new(root().join("assets/tiny").to_str().unwrap()).unwrap();
    let mut model = ptr::null_mut();
    let logits = |model| {
        let (session, tokens, mut len) = (session(model), [100, 200, 300], 0);
        // SAFETY: handles of this test.
        unsafe {
            ok(|error| grok1_session_feed(session, tokens.as_ptr(), 3, ptr::null(), error));
            let logits = grok1_session_logits(session, &mut len);
            let logits = std::slice::from_raw_parts(logits, len).to_vec();
            grok1_session_free(session);
            logits
        }
    };
    // SAFETY: handles of this test.
    unsafe {
        ok(|error| grok1_model_load(path.as_ptr(), &options, ptr::null(), &mut model, error));
        assert!(logits(model) == logits(Handles::tiny().model));
        grok1_model_free(model);
    }
    assert!(regions.into_inner() > 10);
}

struct Heard {
    tasks: Vec<i32>,
    stop_after: usize,
}

unsafe extern "C-unwind" fn hear(user: *mut c_void, task: i32, done: u64, total: u64) -> i32 {
    assert!(done <= total);
    // SAFETY: what the test gave.
    let heard = unsafe { &mut *user.cast::<Heard>() };
    heard.tasks.push(task);
    if heard.tasks.len() >= heard.stop_after { GROK1_STOP } else { GROK1_CONTINUE }
}

#[test]
fn progress_is_told_and_may_stop_the_call() {
    let handles = Handles::tiny();
    let tokens = [1, 2, 3];
    for (stop_after, status) in [(usize::MAX, GROK1_OK), (1, GROK1_ERR_CANCELLED)] {
        let mut heard = Heard { tasks: Vec::new(), stop_after };
        let progress_user = (&raw mut heard).cast();
        let control = grok1_control { progress: Some(hear), progress_user, ..Default::default() };
        // SAFETY: handles of this test.
        let found =
            unsafe { grok1_session_feed(handles.session, tokens.as_ptr(), 3, &control, ptr::null_mut()) };
        assert_eq!(found, status);
        assert!(!heard.tasks.is_empty() && heard.tasks.iter().all(|&task| task == GROK1_TASK_RUN));
    }
}
