//! What cannot be converted is refused with one precise error, and leaves nothing behind.

use std::fs;
use std::sync::{Arc, OnceLock};

use grok1::checkpoint::{self, Synthetic};
use grok1::convert::{Conversion, ConvertError, Recipe, Unwritable};
use grok1::{Blob, Cancel, Control, DType, ErrorKind, Layout, MemorySource, Threads};

use crate::scratch::Scratch;
use crate::{recipe, tiny, to_gguf};

fn error(conversion: &Conversion<'_>, path: &std::path::Path) -> (ErrorKind, String) {
    let error = conversion.run(path, &Control::new()).unwrap_err();
    (error.kind(), error.chain())
}

#[test]
fn nothing_is_overwritten() {
    let (scratch, tiny) = (Scratch::new("exists"), tiny());
    let path = scratch.path("tiny.gguf");
    fs::write(&path, "precious").unwrap();
    let found = error(&Conversion::to_gguf(&tiny, recipe("q8_0")), &path);
    assert_eq!(found, (ErrorKind::Argument, format!("{} exists already", path.display())));
    // One file of a set is as precious.
    fs::write(scratch.path("set-00002-of-00004.gguf"), "precious").unwrap();
    let set = scratch.path("set.gguf");
    let (kind, _) = error(&Conversion::to_gguf(&tiny, recipe("f16")).split_at(5_000_000), &set);
    assert_eq!(kind, ErrorKind::Argument);
    assert_eq!(scratch.names(), ["set-00002-of-00004.gguf", "tiny.gguf"]);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_folder_that_is_not_ours_is_left_alone() {
    let (scratch, tiny) = (Scratch::new("occupied"), tiny());
    let conversion = Conversion::to_gguf(&tiny, recipe("q8_0"));
    for (name, file) in [("a", "thesis.txt"), ("b", "journal")] {
        let folder = scratch.path(&format!("{name}.gguf.partial"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(file), "precious").unwrap();
        let (kind, message) = error(&conversion, &scratch.path(&format!("{name}.gguf")));
        assert_eq!(kind, ErrorKind::Argument, "{message}");
        assert!(
            message.ends_with(".partial is in the way: it is not left over from a conversion"),
            "{message}"
        );
        assert_eq!(fs::read(folder.join(file)).unwrap(), b"precious");
    }
}

#[test]
fn two_conversions_do_not_write_the_same_output() {
    let (scratch, tiny) = (Scratch::new("busy"), tiny());
    let path = scratch.path("tiny.gguf");
    let second = Arc::new(OnceLock::new());
    let control = {
        let (tiny, path, second) = (tiny.clone(), path.clone(), Arc::clone(&second));
        Control::new().progress(move |_| {
            second.get_or_init(|| {
                let result = Conversion::to_gguf(&tiny, recipe("q8_0")).run(&path, &Control::new());
                result.map_or_else(|error| error.chain(), |_| "ran".to_owned())
            });
        })
    };
    Conversion::to_gguf(&tiny, recipe("q8_0")).run(&path, &control).unwrap();
    let message = second.get().unwrap();
    assert!(message.starts_with("another conversion is writing to "), "{message}");
}

#[test]
fn a_disk_that_is_too_small_is_noticed_before_anything_is_written() {
    let scratch = Scratch::new("space");
    // 80 TB.
    let huge = checkpoint::synthetic(&Synthetic::new().layers(4096)).unwrap();
    let path = scratch.path("huge.gguf");
    match Conversion::to_gguf(&huge, recipe("f32")).run(&path, &Control::new()) {
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Resource);
            assert!(matches!(error.downcast_ref(), Some(ConvertError::Space { .. })), "{error:?}");
        }
        Ok(_) => panic!("written"),
    }
    assert!(scratch.names().is_empty());
}

#[test]
fn names_and_exceptions_that_mean_nothing_are_told() {
    let message = |result: Result<Recipe, ConvertError>| result.unwrap_err().to_string();
    assert_eq!(message(Recipe::named("iq1_s")), "\"iq1_s\" is no type that can be written");
    assert_eq!(message(Recipe::named("f8_e4m3")), "\"f8_e4m3\" is no type that can be written");
    assert_eq!(message(recipe("q4_k").except("down")), "\"down\" is not of the form pattern=type");
    assert_eq!(message(recipe("q4_k").except("=q4_k")), "\"=q4_k\" is not of the form pattern=type");
    assert_eq!(message(recipe("q4_k").except("a=q4_k_m")), "\"q4_k_m\" is no type that can be written");
    let (scratch, tiny) = (Scratch::new("pattern"), tiny());
    for pattern in ["ffn_dwon", "attn_norm", "gate_inp"] {
        let recipe = recipe("q4_k").except(&format!("{pattern}=f16")).unwrap();
        let found = error(&Conversion::to_gguf(&tiny, recipe), &scratch.path("tiny.gguf"));
        assert_eq!(found, (ErrorKind::Argument, format!("no matrix has {pattern:?} in its name")));
    }
}

#[test]
fn what_a_form_cannot_hold_is_refused_by_name() {
    let scratch = Scratch::new("unwritable");
    let mut capped = tiny();
    capped.config.router_cap = Some(30.0);
    let conversions = [Conversion::to_gguf(&capped, recipe("q8_0")), Conversion::to_safetensors(&capped)];
    for conversion in conversions {
        let error = conversion.run(scratch.path("tiny.gguf"), &Control::new()).unwrap_err();
        let found = error.downcast_ref();
        assert!(
            matches!(found, Some(ConvertError::Unwritable { what: Unwritable::RouterCap, .. })),
            "{error:?}"
        );
    }
    let mut uncapped = tiny();
    uncapped.config.attention_cap = None;
    let found = error(&Conversion::to_gguf(&uncapped, recipe("q8_0")), &scratch.path("tiny.gguf"));
    assert_eq!(found, (ErrorKind::Argument, "GGUF cannot hold attention without a soft cap".to_owned()));
    let found = error(&Conversion::to_gguf(&tiny(), recipe("q8_0")), &scratch.path("x-00001-of-00002.gguf"));
    let message = "x-00001-of-00002.gguf names a file of a set: leave out the numbers";
    assert_eq!(found, (ErrorKind::Argument, message.to_owned()));
    let mut other = tiny();
    other.vocabulary.as_mut().unwrap().entries.pop();
    let found = error(&Conversion::to_gguf(&other, recipe("q8_0")), &scratch.path("tiny.gguf"));
    let message = "the tokenizer has 2047 tokens, expected the model's 2048";
    assert_eq!(found, (ErrorKind::Argument, message.to_owned()));
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let scratch = Scratch::new("nan");
    let path = scratch.path("tiny.gguf");
    to_gguf(&tiny(), recipe("q8_0"), &path);
    // The scale of a block of the third row of an expert becomes NaN.
    let (tensor, row) = ("blk.1.ffn_up_exps.weight[2]", 3);
    let checkpoint = checkpoint::open(&path, None).unwrap();
    let up = &checkpoint.layers[1].up[2];
    let mut block = [0; 34];
    up.data.read_at(row * 256 / 32 * 34, &mut block).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let place = bytes.windows(34).position(|window| window == block).unwrap();
    bytes[place..place + 2].copy_from_slice(&0x7e00_u16.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let checkpoint = checkpoint::open(&path, None).unwrap();
    for name in ["q8_0", "q4_k"] {
        let out = scratch.path(&format!("{name}-again.gguf"));
        let found = error(&Conversion::to_gguf(&checkpoint, recipe(name)), &out);
        let message =
            format!("{tensor}: the weight of output {row} and input 0 is NaN, expected a finite number");
        assert_eq!(found, (ErrorKind::Format, message));
        assert!(!out.exists());
    }
}

#[test]
fn a_checkpoint_that_a_host_has_damaged_is_refused() {
    let (scratch, mut tiny) = (Scratch::new("host"), tiny());
    let query = &mut tiny.layers[0].query;
    query.data = query.data.part(0..query.data.len() / 2).unwrap();
    let (kind, message) = error(&Conversion::to_gguf(&tiny, recipe("q8_0")), &scratch.path("tiny.gguf"));
    assert_eq!(kind, ErrorKind::Format);
    assert!(
        message.contains("found 32768 bytes of i8, expected as many as 256 rows of 256 have"),
        "{message}"
    );
}

#[test]
fn a_weight_beyond_its_type_is_named() {
    let (scratch, mut tiny) = (Scratch::new("large"), tiny());
    let mut bytes: Vec<_> = [0.5_f32; 256 * 8].iter().flat_map(|x| x.to_le_bytes()).collect();
    bytes[4 * (3 * 256 + 7)..][..4].copy_from_slice(&70_000_f32.to_le_bytes());
    let query = &mut tiny.layers[0].key;
    let mut outputs = vec![0; 4 * 256 * (query.outputs - 8)];
    outputs.splice(0..0, bytes);
    let source = Arc::new(MemorySource::new("large", outputs));
    query.data = Blob::new(source, 0..4 * 256 * query.outputs as u64).unwrap();
    (query.dtype, query.layout, query.scales) = (DType::F32, Layout::OutIn, None);
    let name = query.name.clone();
    let found = error(&Conversion::to_gguf(&tiny, recipe("f16")), &scratch.path("tiny.gguf"));
    let message =
        format!("{name}: the weight of output 3 and input 7 is 70000, expected at most 65519.996 in f16");
    assert_eq!(found, (ErrorKind::Format, message));
}

#[test]
fn a_byte_that_differs_is_found() {
    let (scratch, tiny) = (Scratch::new("differs"), tiny());
    let path = scratch.path("tiny.gguf");
    let conversion = Conversion::to_gguf(&tiny, recipe("q4_k_m"));
    conversion.run(&path, &Control::new()).unwrap();
    let good = fs::read(&path).unwrap();
    for place in [5, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = conversion.verify(&path, &Control::new()).unwrap_err();
        let expected = format!("{} differs at byte {place} from what the input makes", path.display());
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Format, expected));
    }
}

#[test]
fn a_cancelled_conversion_is_the_callers_to_repeat() {
    let (scratch, tiny) = (Scratch::new("cancel"), tiny());
    let path = scratch.path("tiny.gguf");
    let cancel = Cancel::new();
    let stop = cancel.clone();
    let control = Control::new().cancel(&cancel).progress(move |progress| {
        if progress.done > progress.total / 2 {
            stop.set();
        }
    });
    let conversion = Conversion::to_gguf(&tiny, recipe("q6_k")).pool(Arc::new(Threads::new(2).unwrap()));
    let error = conversion.run(&path, &control).unwrap_err();
    assert!(error.is_cancelled() && !path.exists());
    conversion.run(&path, &Control::new()).unwrap();
    let (whole, direct) = (fs::read(&path).unwrap(), scratch.path("direct.gguf"));
    to_gguf(&tiny, recipe("q6_k"), &direct);
    assert!(whole == fs::read(&direct).unwrap());
    assert_eq!(scratch.names(), ["direct.gguf", "tiny.gguf"]);
}
