//! What a run can be asked for.

use std::ops::ControlFlow;

use grok1::backend::{Batch, Observer, Routing};
use grok1::{Control, Entry, Want};

use crate::models::{any_batch, exact, logits, run_all, tiny};
use crate::oracle::log_softmax;
use crate::{same_bits, sonnet};

#[test]
fn nothing_leaves_no_logits() {
    let model = tiny(any_batch());
    let tokens = sonnet(&model);
    let mut session = model.session().unwrap();
    session.feed(&tokens[..9], &Control::new()).unwrap();
    let entry = Entry::new(&mut session, &tokens[9..10]).want(Want::Nothing);
    model.run(&mut [entry], &Control::new()).unwrap();
    assert_eq!(session.position(), 10);
    assert!(session.logits().is_none());
    let last = session.feed(&tokens[10..11], &Control::new()).unwrap();
    assert!(same_bits(last, &logits(&model, &tokens[..11])[10]));
}

#[test]
fn all_shows_every_token_and_keeps_the_last() {
    let model = tiny(any_batch().batch_rows(48));
    let tokens = sonnet(&model);
    let mut session = model.session().unwrap();
    let rows = run_all(&mut session, &tokens);
    assert_eq!(rows.len(), tokens.len());
    assert!(same_bits(session.logits().unwrap(), &rows[rows.len() - 1]));
}

#[test]
fn indices_count_the_tokens_that_waited() {
    let model = tiny(any_batch());
    let mut session = model.session().unwrap();
    session.feed(&[5, 6], &Control::new()).unwrap();
    session.push(7);
    let mut seen = Vec::new();
    let mut sink = |index: usize, _: &[f32]| {
        seen.push(index);
        ControlFlow::Continue(())
    };
    model.run(&mut [Entry::new(&mut session, &[8, 9]).want(Want::All(&mut sink))], &Control::new()).unwrap();
    assert_eq!(seen, [0, 1, 2]);
}

#[test]
fn hidden_states_are_what_logits_are_made_of() {
    let model = tiny(exact());
    let tokens = &sonnet(&model)[..70];
    let embedding = &model.checkpoint().head.embedding; // [vocab, width]
    let bytes = embedding.data.slice().unwrap().unwrap();
    let embedding: Vec<f32> =
        bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect();
    let mut hidden = Vec::new();
    let mut sink = |row: usize, values: &[f32]| {
        assert_eq!(row, hidden.len());
        hidden.push(values.to_vec());
        ControlFlow::Continue(())
    };
    let mut session = model.session().unwrap();
    model
        .run(&mut [Entry::new(&mut session, tokens).want(Want::Hidden(&mut sink))], &Control::new())
        .unwrap();
    assert!(session.logits().is_none());
    assert_eq!(hidden.len(), tokens.len());
    for (hidden, logits) in hidden.iter().zip(logits(&model, tokens)) {
        for (row, logit) in embedding.chunks_exact(hidden.len()).zip(logits) {
            let sum: f64 = row.iter().zip(hidden).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((sum * f64::from(model.config().output_scale) - f64::from(logit)).abs() < 1e-4);
        }
    }
}

#[test]
fn every_entry_gets_what_it_asked_for() {
    let model = tiny(any_batch().batch_rows(10));
    let tokens = &sonnet(&model)[..24];
    let mut sessions = [(); 4].map(|()| model.session().unwrap());
    let (mut all, mut hidden) = (Vec::new(), 0);
    let mut all_sink = |_: usize, logits: &[f32]| {
        all.push(logits.to_vec());
        ControlFlow::Continue(())
    };
    let mut hidden_sink = |_: usize, values: &[f32]| {
        assert_eq!(values.len(), model.config().width);
        hidden += 1;
        ControlFlow::Continue(())
    };
    let [a, b, c, d] = &mut sessions;
    let mut entries = [
        Entry::new(a, tokens).want(Want::Hidden(&mut hidden_sink)),
        Entry::new(b, tokens).want(Want::Nothing),
        Entry::new(c, tokens).want(Want::All(&mut all_sink)),
        Entry::new(d, tokens),
    ];
    model.run(&mut entries, &Control::new()).unwrap();
    let expected = logits(&model, tokens);
    crate::assert_same(&all, &expected, "all");
    assert_eq!(hidden, tokens.len());
    assert!(sessions[0].logits().is_none() && sessions[1].logits().is_none());
    for session in &sessions[2..] {
        assert!(same_bits(session.logits().unwrap(), &expected[tokens.len() - 1]));
    }
}

#[test]
fn scores_are_log_probabilities_of_what_came_before() {
    let model = tiny(any_batch());
    let tokens = &sonnet(&model)[..50];
    let rows = logits(&model, tokens);
    let expected = |token: usize| log_softmax(&rows[token - 1])[tokens[token] as usize];
    let assert_scores = |scores: &[Option<f32>], first: usize| {
        for (offset, score) in scores.iter().enumerate() {
            let (score, expected) = (f64::from(score.unwrap()), expected(first + offset));
            assert!((score - expected).abs() < 1e-5, "token {}: {score}, {expected}", first + offset);
        }
    };
    let mut session = model.session().unwrap();
    let scores = session.score(tokens, &Control::new()).unwrap();
    assert_eq!((scores.len(), scores[0]), (50, None));
    assert_scores(&scores[1..], 1);
    // In parts: the last logits of one call score the first token of the next.
    let mut session = model.session().unwrap();
    session.feed(&tokens[..10], &Control::new()).unwrap();
    assert_scores(&session.score(&tokens[10..30], &Control::new()).unwrap(), 10);
    // Waiting tokens come before those that are scored.
    session.push(tokens[30]);
    session.push(tokens[31]);
    assert_scores(&session.score(&tokens[32..], &Control::new()).unwrap(), 32);
    assert!(same_bits(session.logits().unwrap(), &rows[49]));
    // Without logits there is nothing to score the first one by.
    session.truncate(20);
    let scores = session.score(&tokens[20..25], &Control::new()).unwrap();
    assert_eq!(scores[0], None);
    assert_scores(&scores[1..], 21);
}

#[test]
fn an_observer_sees_every_row_of_every_batch() {
    #[derive(Default)]
    struct Seen {
        rows: Vec<(u32, u32)>,
        routed: usize,
        hidden: usize,
    }
    impl Observer for Seen {
        fn batch(&mut self, batch: &Batch<'_>) {
            self.rows.extend(batch.rows().iter().map(|row| (row.token, row.position)));
        }
        fn routing(&mut self, _layer: usize, routing: &Routing<'_>) {
            self.routed += routing.experts.len();
        }
        fn hidden(&mut self, _layer: usize, hidden: &[f32]) {
            self.hidden += hidden.len();
        }
    }
    let model = tiny(any_batch().batch_rows(7));
    let (mut a, mut b) = (model.session().unwrap(), model.session().unwrap());
    a.feed(&[3, 4], &Control::new()).unwrap();
    let (more, prompt) = ([5; 4], [6; 6]);
    let mut seen = Seen::default();
    let mut entries = [Entry::new(&mut a, &more), Entry::new(&mut b, &prompt)];
    model.observe(&mut entries, &Control::new(), &mut seen).unwrap();
    let rows: Vec<(u32, u32)> = (2..6).map(|p| (5, p)).chain((0..6).map(|p| (6, p))).collect();
    assert_eq!(seen.rows, rows);
    let config = model.config();
    assert_eq!(seen.routed, 10 * config.layers * config.selected_experts);
    assert_eq!(seen.hidden, 10 * config.layers * config.width);
}
