//! Work that was interrupted goes on where it was, and never with what is not its own.

use std::fs;
use std::path::Path;

use grok1::convert::Conversion;
use grok1::{Cancel, Checkpoint, Control, ErrorKind, checkpoint};

use crate::scratch::Scratch;
use crate::{recipe, tiny, to_gguf};

/// Begins to write and stops after about this share.
fn begin(checkpoint: &Checkpoint, name: &str, path: &Path, share: f64) {
    let cancel = Cancel::new();
    let stop = cancel.clone();
    let control = Control::new().cancel(&cancel).progress(move |progress| {
        if progress.done as f64 > share * progress.total as f64 {
            stop.set();
        }
    });
    let error = Conversion::to_gguf(checkpoint, recipe(name)).run(path, &control).unwrap_err();
    assert!(error.is_cancelled(), "{error:?}");
}

#[test]
fn tensors_that_are_done_are_not_made_again() {
    let (scratch, tiny) = (Scratch::new("resume"), tiny());
    let (path, direct) = (scratch.path("tiny.gguf"), scratch.path("direct.gguf"));
    begin(&tiny, "q8_0", &path, 0.5);
    let report = to_gguf(&tiny, recipe("q8_0"), &path);
    assert!((10..report.tensors).contains(&report.resumed), "{report:?}");
    let expected = to_gguf(&tiny, recipe("q8_0"), &direct);
    assert!(fs::read(&path).unwrap() == fs::read(&direct).unwrap());
    assert_eq!(report.int8, expected.int8, "what was found earlier counts");
}

#[test]
fn work_for_another_recipe_or_input_is_begun_anew() {
    let (scratch, tiny) = (Scratch::new("anew"), tiny());
    let (path, direct) = (scratch.path("tiny.gguf"), scratch.path("direct.gguf"));
    begin(&tiny, "q5_0", &path, 0.5);
    assert_eq!(to_gguf(&tiny, recipe("q4_0"), &path).resumed, 0);
    let expected = to_gguf(&tiny, recipe("q4_0"), &direct);
    assert_eq!(expected.resumed, 0);
    assert!(fs::read(&path).unwrap() == fs::read(&direct).unwrap());

    let other = checkpoint::open(&direct, None).unwrap();
    let third = scratch.path("third.gguf");
    begin(&tiny, "q4_0", &third, 0.5);
    assert_eq!(to_gguf(&other, recipe("q4_0"), &third).resumed, 0);
}

#[test]
fn what_is_not_whole_does_not_open() {
    let (scratch, tiny) = (Scratch::new("hole"), tiny());
    let path = scratch.path("tiny.gguf");
    begin(&tiny, "f32", &path, 0.9);
    assert!(!path.exists());
    let partial = scratch.path("tiny.gguf.partial").join("tiny.gguf");
    let error = grok1::Error::from(checkpoint::open(&partial, None).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Format, "{error:?}");
}

#[test]
fn files_that_were_taken_away_are_made_again() {
    let (scratch, tiny) = (Scratch::new("taken"), tiny());
    let path = scratch.path("tiny.gguf");
    begin(&tiny, "q8_0", &path, 0.5);
    fs::remove_file(scratch.path("tiny.gguf.partial").join("tiny.gguf")).unwrap();
    assert_eq!(to_gguf(&tiny, recipe("q8_0"), &path).resumed, 0);
    Conversion::to_gguf(&tiny, recipe("q8_0")).verify(&path, &Control::new()).unwrap();
}

#[test]
fn any_number_of_threads_makes_the_same_bytes() {
    let (scratch, tiny) = (Scratch::new("threads"), tiny());
    let write = |threads: usize| {
        let path = scratch.path(&format!("{threads}.gguf"));
        let conversion = Conversion::to_gguf(&tiny, recipe("q4_k_m")).threads(threads);
        conversion.run(&path, &Control::new()).unwrap();
        fs::read(path).unwrap()
    };
    assert!(write(1) == write(8));
}
