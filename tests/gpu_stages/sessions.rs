//! Sessions on GPUs.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use grok1::backend::gpu::Runtime;
use grok1::{Cancel, Control, Entry, Generation, Model, Piece, Sampler, Session, SessionOptions, Want};

use crate::first;
use crate::support::models::{exact, logits, run_all, standard, tiny};
use crate::support::oracle::Distance;

const TOKENS: [u32; 10] = [1, 97, 1400, 33, 512, 7, 2047, 261, 99, 640];

/// More than a page, so that the one that is written is not the first.
fn long() -> Vec<u32> {
    (0..70).map(|index| index * 37 % 2048).collect()
}

fn session(model: &Model, tokens: &[u32]) -> Session {
    let mut session = model.session().unwrap();
    session.feed(tokens, &Control::new()).unwrap();
    session
}

fn save(session: &Session) -> Vec<u8> {
    let mut bytes = Vec::new();
    session.save(&mut bytes, None, &Control::new()).unwrap();
    bytes
}

fn restore(model: &Model, bytes: &[u8]) -> Session {
    model.restore(&mut &*bytes, &SessionOptions::new(), &Control::new()).unwrap().0
}

fn forks<R: Runtime>() {
    let model = tiny(first::<R>(standard()));
    let mut original = session(&model, &long());
    let mut fork = original.fork();
    let other = run_all(&mut original.fork(), &[5]);
    assert_eq!(run_all(&mut fork, &[6, 7]), run_all(&mut original, &[6, 7]));
    original.truncate(70);
    assert_eq!(run_all(&mut original, &[5]), other);
}

#[test]
fn forks_go_on_to_the_same_bits_beside_each_other() {
    on_each_runtime!(forks);
}

fn saved_sessions<R: Runtime>() {
    for (options, relative_rms) in [(exact(), 2e-5), (standard(), 3.95e-3)] {
        let (cpu, gpu) = (tiny(options.clone()), tiny(first::<R>(options)));
        for ([from, to], relative_rms) in
            [([&cpu, &gpu], relative_rms), ([&gpu, &cpu], relative_rms), ([&gpu, &gpu], 0.0)]
        {
            let bytes = save(&session(from, &long()));
            let mut restored = restore(to, &bytes);
            assert_eq!(save(&restored), bytes, "{} to {}", from.device(), to.device());
            let expected = run_all(&mut restore(from, &bytes), &TOKENS);
            let mut distance = Distance::default();
            run_all(&mut restored, &TOKENS).iter().zip(&expected).for_each(|(a, b)| distance.add(a, b));
            assert!(
                distance.relative_rms() <= relative_rms,
                "{} to {}: {distance:?}",
                from.device(),
                to.device()
            );
        }
    }
}

#[test]
fn a_session_goes_on_on_another_device() {
    on_each_runtime!(saved_sessions);
}

/// Logits of some tokens, each in a session of its own, run together in this order.
fn together(model: &Model, parts: [&[u32]; 3]) -> [Vec<Vec<f32>>; 3] {
    let mut sessions = [(); 3].map(|()| model.session().unwrap());
    let mut found = [(); 3].map(|()| Vec::new());
    let mut sinks = found.each_mut().map(|rows| {
        |_: usize, logits: &[f32]| {
            rows.push(logits.to_vec());
            ControlFlow::Continue(())
        }
    });
    let entries = sessions.iter_mut().zip(parts).zip(&mut sinks);
    let mut entries: Vec<_> =
        entries.map(|((session, tokens), sink)| Entry::new(session, tokens).want(Want::All(sink))).collect();
    model.run(&mut entries, &Control::new()).unwrap();
    drop(entries);
    found
}

fn batches<R: Runtime>() {
    let model = tiny(first::<R>(exact()));
    let [a, b, c] = [&TOKENS[..1], &TOKENS[..3], &TOKENS[3..]];
    let found = together(&model, [a, b, c]);
    let [rows_c, rows_a, rows_b] = together(&model, [c, a, b]);
    assert!(found == [rows_a, rows_b, rows_c], "a row's bits depend on its place in the batch");
    for (tokens, found) in [a, b, c].into_iter().zip(&found) {
        let mut distance = Distance::default();
        logits(&model, tokens).iter().zip(found).for_each(|(alone, found)| distance.add(found, alone));
        // Other kernels may take as few rows as these, which sum in another order.
        assert!(distance.relative_rms() <= 2e-5, "{distance:?}");
    }
}

#[test]
fn sessions_of_a_batch_get_the_logits_that_each_gets_alone() {
    on_each_runtime!(batches);
}

fn cancelling<R: Runtime>() {
    let model = tiny(first::<R>(standard()).batch_rows(6));
    let mut undisturbed = session(&model, &TOKENS[..1]);
    let expected = undisturbed.feed(&TOKENS[1..], &Control::new()).unwrap();
    let mut session = session(&model, &TOKENS[..1]);
    let (before, bits) = (model.kv_bytes(), save(&session));
    // In the middle of the first batch, and of the second; there are four layers.
    for layers in [2, 6] {
        let (cancel, reports) = (Cancel::new(), AtomicU64::new(0));
        let control = Control::new().cancel(&cancel).progress({
            let cancel = cancel.clone();
            move |_| {
                if reports.fetch_add(1, Relaxed) + 1 == layers {
                    cancel.set();
                }
            }
        });
        assert!(session.feed(&TOKENS[1..], &control).unwrap_err().is_cancelled());
        assert_eq!((session.position(), model.kv_bytes()), (1, before));
        assert!(save(&session) == bits);
    }
    assert_eq!(session.feed(&TOKENS[1..], &Control::new()).unwrap(), expected);
}

#[test]
fn a_prompt_that_is_cancelled_leaves_its_session_as_it_was() {
    on_each_runtime!(cancelling);
}

/// Each filter alone and with others; some that need all logits, now and then or always.
fn samplers() -> [Sampler; 9] {
    let sampler = Sampler::new().temperature(0.8).seed(3);
    [
        sampler.clone().greedy().alternatives(3),
        sampler.clone().top_k(40),
        sampler.clone().top_k(256).top_p(0.9).min_p(0.01).logprobs(false),
        sampler.clone().min_p(0.05).alternatives(256),
        sampler.clone().top_p(0.9),
        sampler.clone().temperature(1.2).top_p(0.95),
        sampler.clone().temperature(9.0).top_p(0.95),
        sampler.clone(),
        sampler.top_k(40).repetition_penalty(1.1),
    ]
}

fn candidates<R: Runtime>() {
    let model = tiny(first::<R>(standard()));
    for sampler in samplers() {
        let mut by_candidates = model.session().unwrap();
        let mut by_logits = by_candidates.fork();
        let expected: Vec<Piece> = {
            let (mut sampler, mut generation) = (sampler.clone(), Generation::new().max_tokens(6));
            by_logits.push_text("The king").unwrap();
            let pieces = std::iter::from_fn(|| {
                if generation.finish().is_none() {
                    by_logits.feed(&[], &Control::new()).unwrap();
                }
                generation.accept(&mut by_logits, &mut sampler).unwrap()
            });
            pieces.collect()
        };
        let mut drawing = sampler.clone();
        let pieces = by_candidates.generate("The king", &mut drawing).max_tokens(6);
        assert_eq!(pieces.map(Result::unwrap).collect::<Vec<_>>(), expected, "{sampler:?}");
        // Who asks for logits gets those of the same kernels.
        for session in [&mut by_candidates, &mut by_logits] {
            session.truncate(session.position());
        }
        assert!(by_candidates.logits().unwrap() == by_logits.logits().unwrap(), "{sampler:?}");
    }
}

#[test]
fn text_by_the_best_few_logits_is_that_by_all_of_them() {
    on_each_runtime!(candidates);
}
