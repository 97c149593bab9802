//! Saved sessions.

use std::io::{self, Read};

use grok1::backend::page_bytes;
use grok1::{
    Cancel, Control, ErrorKind, KvType, Model, Outcome, Sampler, Session, SessionOptions, checkpoint,
};

use crate::models::{any_batch, exact, fixtures, logits, open, run_all, tiny, tiny_path};
use crate::oracle::oracle;
use crate::random::Random;
use crate::{assert_same, in_any_batch, same_bits, sonnet};

fn save(session: &Session, sampler: Option<&Sampler>) -> Vec<u8> {
    let mut bytes = Vec::new();
    session.save(&mut bytes, sampler, &Control::new()).unwrap();
    bytes
}

fn restore(model: &Model, bytes: &[u8]) -> grok1::Result<(Session, Option<Sampler>)> {
    model.restore(&mut &*bytes, &SessionOptions::new(), &Control::new())
}

/// A session of a few tokens, with its sampler.
fn small(model: &Model) -> Vec<u8> {
    let mut session = model.session().unwrap();
    session.feed(&[5, 6, 7], &Control::new()).unwrap();
    save(&session, Some(&Sampler::new().temperature(0.5).logit_bias(3, 1.0)))
}

#[test]
fn a_restored_session_goes_on_to_the_same_bits() {
    for options in in_any_batch() {
        let model = tiny(options.clone());
        let tokens = sonnet(&model);
        let whole = logits(&model, &tokens);
        for cut in [1, 64, 100, 257] {
            let mut session = model.session().unwrap();
            session.feed(&tokens[..cut], &Control::new()).unwrap();
            let bytes = save(&session, None);
            assert_eq!(save(&session, None), bytes);
            // The model it is restored into has other pages in use, and another batch size.
            let other = tiny(options.clone().batch_rows(50));
            let _occupied = logits(&other, &tokens[..70]);
            let (mut restored, sampler) = restore(&other, &bytes).unwrap();
            assert!(sampler.is_none());
            assert_eq!((restored.position(), restored.tokens()), (cut, &tokens[..cut]));
            assert!(same_bits(restored.logits().unwrap(), &whole[cut - 1]));
            assert_eq!(save(&restored, None), bytes);
            assert_same(&run_all(&mut restored, &tokens[cut..]), &whole[cut..], "restored");
        }
    }
}

#[test]
fn a_restored_sampler_goes_on_with_the_same_draws() {
    let model = tiny(any_batch());
    let write = |session: &mut Session, sampler: &mut Sampler, prompt: &str| -> Vec<u32> {
        let pieces = session.generate(prompt, sampler).max_tokens(20);
        pieces.map(|piece| piece.unwrap().token()).collect()
    };
    let (mut session, mut sampler) = (model.session().unwrap(), Sampler::new().temperature(0.9).seed(11));
    write(&mut session, &mut sampler, "The king");
    assert_eq!(session.tokens().len(), session.position() + 1, "one token waits");
    let (mut restored, restored_sampler) = restore(&model, &save(&session, Some(&sampler))).unwrap();
    let mut restored_sampler = restored_sampler.unwrap();
    assert_eq!(restored.tokens(), session.tokens());
    assert_eq!(write(&mut restored, &mut restored_sampler, ""), write(&mut session, &mut sampler, ""));
}

#[test]
fn an_empty_session_and_its_context_are_restored() {
    let model = tiny(any_batch());
    let options = SessionOptions::new().context(700).beyond_trained_length(true);
    let session = model.session_with(&options).unwrap();
    let bytes = save(&session, None);
    let (restored, _) = model.restore(&mut &*bytes, &options, &Control::new()).unwrap();
    assert_eq!((restored.position(), restored.context()), (0, 700));
    assert!(restored.logits().is_none());
}

#[test]
fn a_saved_context_beyond_the_trained_length_needs_the_option_that_allows_it() {
    let model = tiny(any_batch());
    let allowed = SessionOptions::new().beyond_trained_length(true);
    let session = model.session_with(&allowed.clone().context(700)).unwrap();
    let bytes = save(&session, None);
    let error = restore(&model, &bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Argument);
    assert!(error.to_string().starts_with("a context of 700 exceeds the trained 512"), "{error}");
    assert_eq!(model.restore(&mut &*bytes, &allowed, &Control::new()).unwrap().0.context(), 700);
    let shorter = SessionOptions::new().context(40);
    assert_eq!(model.restore(&mut &*bytes, &shorter, &Control::new()).unwrap().0.context(), 40);
}

#[test]
fn the_model_can_be_run_while_a_session_is_being_written() {
    #[derive(Debug)]
    struct Running<'a>(&'a Model, usize);
    impl io::Write for Running<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // The model can be run while it is being saved from.
            let mut session = self.0.session().unwrap();
            session.feed(&[7], &Control::new()).map_err(io::Error::other)?;
            self.1 += 1;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let model = tiny(any_batch());
    let mut session = model.session().unwrap();
    session.feed(&[5, 6], &Control::new()).unwrap();
    let mut out = io::BufWriter::with_capacity(1 << 12, Running(&model, 0));
    session.save(&mut out, None, &Control::new()).unwrap();
    assert!(out.into_inner().unwrap().1 > 1);
}

#[test]
fn another_model_is_refused() {
    let model = tiny(any_batch());
    let bytes = small(&model);
    let mut others = vec![open(fixtures().join("r2_onelayer_odd"), any_batch())];
    others.extend(oracle().map(|oracle| open(oracle.join("tiny_g2"), any_batch())));
    for other in others {
        let error = restore(&other, &bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format);
        assert!(error.to_string().starts_with("saved session: of model "), "{error}");
    }
    let error = restore(&tiny(exact()), &bytes).unwrap_err();
    assert_eq!(error.to_string(), "saved session: KV type is 1, expected 0");
}

#[test]
fn the_scalar_backend_restores_what_the_processors_saved() {
    let path = fixtures().join("r2_onelayer_odd");
    let (cpu, scalar) = (open(&path, exact()), crate::models::open_scalar(&path));
    let tokens: Vec<u32> = (1..60).collect();
    let expected = logits(&scalar, &tokens).pop().unwrap();
    for (from, to) in [(&cpu, &scalar), (&scalar, &cpu)] {
        let mut session = from.session().unwrap();
        session.feed(&tokens[..40], &Control::new()).unwrap();
        let (mut restored, _) = restore(to, &save(&session, None)).unwrap();
        let found = restored.feed(&tokens[40..], &Control::new()).unwrap();
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}

#[test]
fn a_truncated_file_is_an_error_at_every_length() {
    let model = tiny(any_batch());
    let bytes = small(&model);
    // Every place in the header, some further on.
    for length in (0..100).chain((100..bytes.len()).step_by(61)).chain([bytes.len() - 1]) {
        let error = restore(&model, &bytes[..length]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format);
        assert_eq!(error.to_string(), "saved session: cannot read", "{length}");
    }
    assert!(restore(&model, &bytes).is_ok());
    assert_eq!(model.kv_bytes(), 0, "failures keep no pages");
}

#[test]
fn a_changed_byte_is_an_error_wherever_it_is() {
    let model = tiny(any_batch());
    let bytes = small(&model);
    let mut random = Random(1);
    let header = (0..72).flat_map(|at| [(at, 1), (at, 0x80)]);
    let anywhere = (0..400).map(|_| (random.below(bytes.len()), 1 << random.below(8)));
    for (at, flip) in header.chain(anywhere) {
        let mut changed = bytes.clone();
        changed[at] ^= flip;
        let kind = restore(&model, &changed).err().map(|error| error.kind());
        // A longer context may be asked for; that it was not is the caller's argument.
        let context = (32..40).contains(&at) && kind == Some(ErrorKind::Argument);
        assert!(context || kind == Some(ErrorKind::Format), "byte {at}: {kind:?}");
    }
}

/// A count of the header: context, tokens, position, logits, bytes of the sampler.
const COUNTS: std::ops::Range<usize> = 32..72;

#[test]
fn counts_are_checked_before_anything_is_made_from_them() {
    let model = tiny(any_batch());
    let bytes = small(&model);
    let cases: [(usize, u64, &str); 8] = [
        (0, u64::MAX, "context is 18446744073709551615, expected at most 2147483648"),
        (1, 1 << 33, "number of tokens is 8589934592, expected at most 4294967296"),
        (2, 4, "position is 4, expected at most 3"),
        (2, u64::MAX, "position is 18446744073709551615, expected at most 3"),
        (3, 2049, "number of logits is 2049, expected at most 2048"),
        (3, 1, "number of logits is 1, expected 2048"),
        (4, 1 << 40, "size of the sampler is 1099511627776, expected at most 67108864"),
        (1, 1 << 31, ""),
    ];
    for (count, value, message) in cases {
        let mut changed = bytes.clone();
        changed[COUNTS][count * 8..][..8].copy_from_slice(&value.to_le_bytes());
        let error = restore(&model, &changed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format);
        if !message.is_empty() {
            assert_eq!(error.to_string(), format!("saved session: {message}"));
        }
    }
}

#[test]
fn what_is_no_saved_session_is_named() {
    let model = tiny(any_batch());
    let mut bytes = small(&model);
    bytes[8] = 9;
    assert_eq!(restore(&model, &bytes).unwrap_err().to_string(), "saved session: version is 9, expected 1");
    let error = restore(&model, b"GGUF....").unwrap_err();
    assert!(error.to_string().starts_with("saved session: magic is [71, 71, 85, 70"), "{error}");
}

#[test]
fn a_session_that_finds_no_pages_is_not_restored() {
    let bytes = save(
        &{
            let model = tiny(any_batch());
            let mut session = model.session().unwrap();
            session.feed(&[5; 65], &Control::new()).unwrap();
            session
        },
        None,
    );
    let page = page_bytes(tiny(any_batch()).config(), KvType::BF16) as u64;
    let model = tiny(any_batch().kv_limit(page));
    let error = restore(&model, &bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Outcome(Outcome::KvFull));
    assert_eq!(model.kv_bytes(), 0);
}

#[test]
fn saving_and_restoring_can_be_cancelled() {
    let model = tiny(any_batch());
    let bytes = small(&model);
    let cancel = Cancel::new();
    cancel.set();
    let control = Control::new().cancel(&cancel);
    assert!(model.restore(&mut &*bytes, &SessionOptions::new(), &control).unwrap_err().is_cancelled());
    let (session, _) = restore(&model, &bytes).unwrap();
    assert!(session.save(&mut Vec::new(), None, &control).unwrap_err().is_cancelled());
}

#[test]
fn a_writer_that_fails_and_a_reader_that_fails_are_told_apart_from_bad_files() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the line is down"))
        }
    }
    let model = tiny(any_batch());
    let (session, _) = restore(&model, &small(&model)).unwrap();
    let error = session.save(&mut &mut [0; 100][..], None, &Control::new()).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::Resource, "saved session: cannot write".to_owned())
    );
    let error = model.restore(&mut Failing, &SessionOptions::new(), &Control::new()).unwrap_err();
    assert_eq!(
        (error.kind(), error.chain()),
        (ErrorKind::Resource, "saved session: cannot read: the line is down".to_owned())
    );
}

#[test]
fn a_model_that_differs_only_in_scales_is_another() {
    let mut checkpoint = checkpoint::open(tiny_path(), None).unwrap();
    let fingerprint = checkpoint.fingerprint(&Control::new()).unwrap();
    let other = checkpoint.layers[1].key.scales.clone();
    checkpoint.layers[0].key.scales = other;
    assert_ne!(checkpoint.fingerprint(&Control::new()).unwrap(), fingerprint);
}
