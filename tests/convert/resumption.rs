//! Work that was interrupted goes on where it was, and never with what is not its own.

use std::fs;
use std::path::Path;

use grok1::convert::{Conversion, ConvertError};
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
fn work_for_another_recipe_or_input_is_refused_and_kept() {
    let (scratch, tiny) = (Scratch::new("leftover"), tiny());
    let (path, direct) = (scratch.path("tiny.gguf"), scratch.path("direct.gguf"));
    begin(&tiny, "q5_0", &path, 0.5);
    let message = |checkpoint: &Checkpoint, name: &str| {
        let error = Conversion::to_gguf(checkpoint, recipe(name)).run(&path, &Control::new()).unwrap_err();
        (error.kind(), error.to_string())
    };
    let folder = scratch.path("tiny.gguf.partial");
    let expected = format!(
        "{} is left over from another conversion, which was interrupted: repeat that one, or remove it",
        folder.display()
    );
    assert_eq!(message(&tiny, "q4_0"), (ErrorKind::Argument, expected.clone()));
    to_gguf(&tiny, recipe("q5_0"), &direct);
    let other = checkpoint::open(&direct, None).unwrap();
    assert_eq!(message(&other, "q5_0"), (ErrorKind::Argument, expected));
    assert!(to_gguf(&tiny, recipe("q5_0"), &path).resumed > 0);
}

#[test]
fn an_input_that_was_changed_meanwhile_is_another_input() {
    let scratch = Scratch::new("changed");
    let (input, path) = (scratch.path("input.gguf"), scratch.path("tiny.gguf"));
    to_gguf(&tiny(), recipe("f16"), &input);
    begin(&checkpoint::open(&input, None).unwrap(), "q8_0", &path, 0.5);
    // Not among the few bytes that the fingerprint looks at.
    let mut bytes = fs::read(&input).unwrap();
    let place = bytes.len() - 99;
    bytes[place] ^= 1;
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&input, bytes).unwrap();
    let checkpoint = checkpoint::open(&input, None).unwrap();
    let error = Conversion::to_gguf(&checkpoint, recipe("q8_0")).run(&path, &Control::new()).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(ConvertError::Leftover { .. })), "{error:?}");
}

/// Lets a conversion end and puts its files back as if it had been killed when they were whole, before they were moved.
fn whole_but_not_moved(scratch: &Scratch, name: &str) {
    let (tiny, path) = (tiny(), scratch.path("tiny.gguf"));
    begin(&tiny, name, &path, 0.5);
    let folder = scratch.path("tiny.gguf.partial");
    let journal = fs::read_to_string(folder.join("journal")).unwrap();
    to_gguf(&tiny, recipe(name), &path);
    fs::create_dir_all(folder.join("files")).unwrap();
    fs::rename(&path, folder.join("files/tiny.gguf")).unwrap();
    fs::write(folder.join("journal"), journal + "whole\n").unwrap();
}

#[test]
fn files_that_are_whole_are_moved_by_the_next_run_and_replace_nothing() {
    let (scratch, tiny) = (Scratch::new("whole"), tiny());
    let (path, direct) = (scratch.path("tiny.gguf"), scratch.path("direct.gguf"));
    to_gguf(&tiny, recipe("q8_0"), &direct);
    whole_but_not_moved(&scratch, "q8_0");
    fs::write(&path, "precious").unwrap();
    let error = Conversion::to_gguf(&tiny, recipe("q8_0")).run(&path, &Control::new()).unwrap_err();
    assert_eq!(error.to_string(), format!("{} exists already", path.display()));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();
    to_gguf(&tiny, recipe("q8_0"), &path);
    assert!(fs::read(&path).unwrap() == fs::read(&direct).unwrap());
    assert_eq!(scratch.names(), ["direct.gguf", "tiny.gguf"]);
}

#[test]
fn a_file_that_was_moved_before_the_end_is_known() {
    let (scratch, tiny) = (Scratch::new("moved"), tiny());
    whole_but_not_moved(&scratch, "q8_0");
    let (path, folder) = (scratch.path("tiny.gguf"), scratch.path("tiny.gguf.partial"));
    // Killed between the two names that the file has for a moment.
    fs::hard_link(folder.join("files/tiny.gguf"), &path).unwrap();
    to_gguf(&tiny, recipe("q8_0"), &path);
    assert_eq!(scratch.names(), ["tiny.gguf"]);
    Conversion::to_gguf(&tiny, recipe("q8_0")).verify(&path, &Control::new()).unwrap();
}

#[test]
fn a_model_may_be_called_as_the_journal_is() {
    let scratch = Scratch::new("name");
    to_gguf(&tiny(), recipe("q8_0"), &scratch.path("journal"));
    assert_eq!(scratch.names(), ["journal"]);
    checkpoint::open(scratch.path("journal"), None).unwrap();
}

#[test]
fn what_is_not_whole_does_not_open() {
    let (scratch, tiny) = (Scratch::new("hole"), tiny());
    let path = scratch.path("tiny.gguf");
    begin(&tiny, "f32", &path, 0.9);
    assert!(!path.exists());
    let partial = scratch.path("tiny.gguf.partial").join("files/tiny.gguf");
    let error = grok1::Error::from(checkpoint::open(&partial, None).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Format, "{error:?}");
}

#[test]
fn files_that_were_taken_away_are_made_again() {
    let (scratch, tiny) = (Scratch::new("taken"), tiny());
    let path = scratch.path("tiny.gguf");
    begin(&tiny, "q8_0", &path, 0.5);
    fs::remove_file(scratch.path("tiny.gguf.partial").join("files/tiny.gguf")).unwrap();
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
