//! Structs of programs that are older or newer than the library.

use std::ptr;

use grok1::capi::*;

use super::handles::{Handles, error_message};

/// A struct as a newer header would have it.
#[repr(C)]
struct Newer<T> {
    known: T,
    added: [u64; 2],
}

fn newer<T: Default>(init: unsafe extern "C" fn(*mut T, usize)) -> Newer<T> {
    let mut newer = Newer { known: T::default(), added: [7, 7] };
    // SAFETY: the size is that of the struct.
    unsafe { init((&raw mut newer).cast(), size_of::<Newer<T>>()) };
    newer
}

fn sampler_with(options: *const grok1_sampler_options) -> (grok1_status, String) {
    let (mut sampler, mut error) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: pointers to locals, and options as the test made them.
    unsafe {
        let status = grok1_sampler_new(options, &mut sampler, &mut error);
        assert_eq!(sampler.is_null(), status != GROK1_OK);
        grok1_sampler_free(sampler);
        (status, error_message(error))
    }
}

#[test]
fn a_newer_struct_is_taken_if_it_sets_nothing_that_is_new() {
    let mut options = newer(grok1_sampler_options_init);
    assert_eq!(options.added, [0, 0]);
    assert_eq!(options.known.struct_size, size_of::<Newer<grok1_sampler_options>>());
    assert_eq!(sampler_with(&raw const options.known).0, GROK1_OK);
    options.added[1] = 1;
    let (status, message) = sampler_with(&raw const options.known);
    assert_eq!(status, GROK1_ERR_ABI);
    assert_eq!(message, "options has 112 bytes and sets what this version, which knows 96, does not have");
}

#[test]
fn a_struct_that_was_not_initialised_is_refused() {
    let options = grok1_sampler_options { struct_size: 0, ..Default::default() };
    let (status, message) = sampler_with(&raw const options);
    assert_eq!(status, GROK1_ERR_ARGUMENT);
    assert_eq!(message, "options has a size of 0, expected 96 or more: was it initialised?");
}

#[test]
fn initialising_an_older_struct_writes_no_more_than_it_has() {
    let mut bytes = [0xaa_u8; 64];
    let aligned = bytes.as_mut_ptr().wrapping_add(bytes.as_ptr().align_offset(8));
    // SAFETY: 24 bytes of 64, from the first one that is aligned.
    unsafe { grok1_sampler_options_init(aligned.cast(), 24) };
    let written = bytes.iter().filter(|&&byte| byte != 0xaa).count();
    assert_eq!(written, 24);
}

#[test]
fn an_info_of_a_newer_program_is_filled_as_far_as_it_is_known() {
    let handles = Handles::tiny();
    let mut info = Newer { known: empty_info(), added: [7, 7] };
    let size = size_of_val(&info);
    // SAFETY: the size is that of the struct.
    let status =
        unsafe { grok1_model_get_info(handles.model, (&raw mut info).cast(), size, ptr::null_mut()) };
    assert_eq!(status, GROK1_OK);
    assert_eq!((info.known.struct_size, info.known.vocab, info.added), (size, 2048, [0, 0]));
    // SAFETY: the size is less than that of the struct.
    let status = unsafe { grok1_model_get_info(handles.model, (&raw mut info).cast(), 8, ptr::null_mut()) };
    assert_eq!(status, GROK1_ERR_ARGUMENT);
}

fn empty_info() -> grok1_model_info {
    // SAFETY: numbers and pointers, all of which may be zero.
    unsafe { std::mem::zeroed() }
}

#[test]
fn structs_of_an_array_have_one_size() {
    let handles = Handles::tiny();
    let mut entries = [grok1_entry { session: handles.session, ..Default::default() }; 2];
    entries[1].struct_size += 8;
    let mut error = ptr::null_mut();
    // SAFETY: two entries, the second of which lies about its size, which is never read.
    let status = unsafe { grok1_run(handles.model, entries.as_ptr(), 2, ptr::null(), &mut error) };
    assert_eq!(status, GROK1_ERR_ARGUMENT);
    // SAFETY: the error of the call.
    assert_eq!(unsafe { error_message(error) }, "entries have sizes of 64 and 72");
}
