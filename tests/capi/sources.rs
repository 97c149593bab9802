//! Models from callbacks and from file descriptors.

use std::ffi::{CString, c_void};
use std::fs::File;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use grok1::capi::*;

use super::c::root;
use super::handles::{Handles, fails, ok, session};

/// A file, and how often it was released.
struct Stored {
    name: CString,
    bytes: Vec<u8>,
    released: AtomicUsize,
}

unsafe extern "C-unwind" fn read_at(user: *mut c_void, offset: u64, data: *mut c_void, len: usize) -> i32 {
    // SAFETY: what the test gave, and room for `len` bytes.
    unsafe {
        let stored = &*user.cast::<Stored>();
        let bytes = &stored.bytes[offset as usize..][..len];
        data.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), len);
    }
    GROK1_CONTINUE
}

unsafe extern "C-unwind" fn fails_to_read(_: *mut c_void, _: u64, _: *mut c_void, _: usize) -> i32 {
    5
}

unsafe extern "C-unwind" fn release(user: *mut c_void) {
    // SAFETY: what the test gave.
    unsafe { &(*user.cast::<Stored>()).released }.fetch_add(1, Ordering::SeqCst);
}

/// The files of the tiny model, in one folder.
fn tiny_files() -> Vec<PathBuf> {
    let tiny = root().join("assets/tiny");
    let tensors = std::fs::read_dir(tiny.join("ckpt-0")).unwrap().map(|entry| entry.unwrap().path());
    tensors.chain([tiny.join("config.json"), tiny.join("tokenizer.model")]).collect()
}

fn stored() -> Vec<Stored> {
    let stored = tiny_files().into_iter().map(|path| Stored {
        name: CString::new(path.file_name().unwrap().to_str().unwrap()).unwrap(),
        bytes: std::fs::read(path).unwrap(),
        released: AtomicUsize::new(0),
    });
    stored.collect()
}

fn sources(stored: &[Stored]) -> Vec<grok1_source> {
    let sources = stored.iter().map(|file| grok1_source {
        name: file.name.as_ptr(),
        read_at: Some(read_at),
        release: Some(release),
        user: ptr::from_ref(file).cast_mut().cast(),
        len: file.bytes.len() as u64,
        ..Default::default()
    });
    sources.collect()
}

fn open(sources: &[grok1_source]) -> *mut grok1_checkpoint {
    let mut checkpoint = ptr::null_mut();
    // SAFETY: sources of the test.
    ok(|error| unsafe {
        grok1_checkpoint_open_sources(sources.as_ptr(), sources.len(), &mut checkpoint, error)
    });
    checkpoint
}

/// Logits of a prompt; frees the checkpoint, and the model before it is used.
fn logits_of(checkpoint: *mut grok1_checkpoint) -> Vec<f32> {
    let mut model = ptr::null_mut();
    // SAFETY: a checkpoint of the test, and what is made of it.
    unsafe {
        ok(|error| grok1_checkpoint_load(checkpoint, ptr::null(), ptr::null(), &mut model, error));
        let session = session(model);
        grok1_checkpoint_free(checkpoint);
        grok1_model_free(model);
        let logits = logits(session);
        grok1_session_free(session);
        logits
    }
}

fn logits(session: *mut grok1_session) -> Vec<f32> {
    let (tokens, mut len) = ([100, 200, 300], 0);
    // SAFETY: a session of the test.
    unsafe {
        ok(|error| grok1_session_feed(session, tokens.as_ptr(), 3, ptr::null(), error));
        let logits = grok1_session_logits(session, &mut len);
        std::slice::from_raw_parts(logits, len).to_vec()
    }
}

#[test]
fn a_model_read_by_callbacks_is_the_same_and_its_sources_are_released_once() {
    let files = stored();
    let checkpoint = open(&sources(&files));
    let released = || files.iter().map(|file| file.released.load(Ordering::SeqCst)).sum::<usize>();
    assert_eq!(released(), 2); // config.json and tokenizer.model were read at once
    assert!(logits_of(checkpoint) == logits(Handles::tiny().session));
    assert!(files.iter().all(|file| file.released.load(Ordering::SeqCst) == 1));
}

#[test]
fn a_call_that_fails_releases_nothing() {
    let files = stored();
    let mut sources = sources(&files);
    sources.iter_mut().for_each(|source| source.read_at = Some(fails_to_read));
    let mut checkpoint = ptr::null_mut();
    // SAFETY: sources of the test.
    let message = fails(GROK1_ERR_RESOURCE, |error| unsafe {
        grok1_checkpoint_open_sources(sources.as_ptr(), sources.len(), &mut checkpoint, error)
    });
    assert!(message.contains("the host's callback returned 5 for "), "{message}");
    assert!(checkpoint.is_null());
    assert!(files.iter().all(|file| file.released.load(Ordering::SeqCst) == 0));
}

#[test]
#[cfg(unix)]
fn a_model_read_from_file_descriptors_is_the_same() {
    use std::os::fd::AsRawFd;

    let files: Vec<_> = tiny_files().into_iter().map(|path| (File::open(&path).unwrap(), path)).collect();
    let names: Vec<_> = files
        .iter()
        .map(|(_, path)| CString::new(path.file_name().unwrap().to_str().unwrap()).unwrap())
        .collect();
    let sources: Vec<_> = files
        .iter()
        .zip(&names)
        .map(|((file, _), name)| grok1_source {
            name: name.as_ptr(),
            fd: file.as_raw_fd() as isize,
            ..Default::default()
        })
        .collect();
    let checkpoint = open(&sources);
    drop(files);
    assert!(logits_of(checkpoint) == logits(Handles::tiny().session));
}

#[test]
#[cfg(unix)]
fn a_file_descriptor_that_is_none_is_refused() {
    let mut checkpoint = ptr::null_mut();
    for (fd, status, expected) in [
        (-1, GROK1_ERR_ARGUMENT, "source model.gguf has neither read_at nor a file descriptor"),
        (999_999, GROK1_ERR_RESOURCE, "cannot read model.gguf: Bad file descriptor (os error 9)"),
    ] {
        let source = grok1_source { name: c"model.gguf".as_ptr(), fd, ..Default::default() };
        // SAFETY: a source of the test.
        let message = fails(status, |error| unsafe {
            grok1_checkpoint_open_sources(&source, 1, &mut checkpoint, error)
        });
        assert_eq!(message, expected);
    }
}
