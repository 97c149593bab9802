//! Sessions that are written and read through callbacks.

use std::ffi::c_void;
use std::ptr;

use grok1::capi::*;

use super::handles::{Handles, fails, generation, info, ok, push_text, sampler};

/// A file in memory.
#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
    read: usize,
}

unsafe extern "C-unwind" fn write(user: *mut c_void, data: *const c_void, len: usize) -> i32 {
    // SAFETY: what the test gave, and the library's bytes.
    unsafe { (*user.cast::<Memory>()).bytes.extend_from_slice(std::slice::from_raw_parts(data.cast(), len)) };
    GROK1_CONTINUE
}

unsafe extern "C-unwind" fn fails_to_write(_: *mut c_void, _: *const c_void, _: usize) -> i32 {
    3
}

/// Gives at most 1000 bytes at a time.
unsafe extern "C-unwind" fn read(user: *mut c_void, data: *mut c_void, len: usize, read: *mut usize) -> i32 {
    // SAFETY: what the test gave, and room for `len` bytes.
    unsafe {
        let memory = &mut *user.cast::<Memory>();
        let next = &memory.bytes[memory.read..];
        *read = next.len().min(len).min(1000);
        data.cast::<u8>().copy_from_nonoverlapping(next.as_ptr(), *read);
        memory.read += *read;
    }
    GROK1_CONTINUE
}

/// Claims to have read more than there was room for.
unsafe extern "C-unwind" fn reads_too_much(
    _: *mut c_void,
    _: *mut c_void,
    len: usize,
    read: *mut usize,
) -> i32 {
    // SAFETY: the library's place for the number.
    unsafe { *read = len + 1 };
    GROK1_CONTINUE
}

fn next_tokens(session: *mut grok1_session, sampler: *mut grok1_sampler) -> Vec<u32> {
    let generation = generation(&grok1_generation_options::default());
    let tokens = (0..8).map(|_| {
        // SAFETY: numbers and pointers, all of which may be zero; handles of the test.
        unsafe {
            let mut token: grok1_token = std::mem::zeroed();
            let size = size_of_val(&token);
            let control = ptr::null();
            ok(|error| grok1_generation_next(generation, session, sampler, control, &mut token, size, error));
            token.id
        }
    });
    let tokens = tokens.collect();
    // SAFETY: made above.
    unsafe { grok1_generation_free(generation) };
    tokens
}

#[test]
fn a_restored_session_and_its_sampler_go_on_where_they_were() {
    let handles = Handles::tiny();
    let drawing = sampler(&grok1_sampler_options { seed: 5, ..Default::default() });
    push_text(handles.session, "To be, or not to be");
    next_tokens(handles.session, drawing);
    let mut memory = Memory::default();
    let user = (&raw mut memory).cast();
    let (mut session, mut sampler) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: handles of this test, and what the callbacks take for their user.
    unsafe {
        ok(|error| grok1_session_save(handles.session, drawing, Some(write), user, ptr::null(), error));
        (*user.cast::<Memory>()).bytes.extend([7; 5]);
        ok(|error| {
            let (options, control) = (ptr::null(), ptr::null());
            let (session, sampler) = (&mut session, &mut sampler);
            grok1_session_restore(handles.model, Some(read), user, options, control, session, sampler, error)
        });
        assert_eq!(memory.bytes.len() - memory.read, 5, "no more is read than was saved");
        assert_eq!(info(session).tokens, info(handles.session).tokens);
        assert_eq!(next_tokens(session, sampler), next_tokens(handles.session, drawing));
        grok1_session_free(session);
        grok1_sampler_free(sampler);
        grok1_sampler_free(drawing);
    }
}

#[test]
fn callbacks_that_fail_are_resource_errors_and_changed_bytes_format_errors() {
    let handles = Handles::tiny();
    push_text(handles.session, "To be");
    let mut memory = Memory::default();
    let user = (&raw mut memory).cast();
    let mut session = ptr::null_mut();
    // SAFETY: handles of this test, and what the callbacks take for their user.
    unsafe {
        let message = fails(GROK1_ERR_RESOURCE, |error| {
            let (sampler, control) = (ptr::null(), ptr::null());
            grok1_session_save(handles.session, sampler, Some(fails_to_write), user, control, error)
        });
        assert!(message.ends_with("the host's callback returned 3"), "{message}");
        let restore = |read, session, error| {
            let (options, control, sampler) = (ptr::null(), ptr::null(), ptr::null_mut());
            grok1_session_restore(handles.model, Some(read), user, options, control, session, sampler, error)
        };
        let message = fails(GROK1_ERR_RESOURCE, |error| restore(reads_too_much, &mut session, error));
        assert!(message.ends_with("the host's callback says that it read 9 of 8"), "{message}");
        ok(|error| grok1_session_save(handles.session, ptr::null(), Some(write), user, ptr::null(), error));
        let last = memory.bytes.len() - 1;
        memory.bytes[last] ^= 1;
        let message = fails(GROK1_ERR_FORMAT, |error| restore(read, &mut session, error));
        assert!(message.contains("checksum"), "{message}");
        assert!(session.is_null());
    }
}
