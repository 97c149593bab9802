//! Logits do not depend on how tokens are put into batches.

use grok1::backend::cpu::Cpu;
use grok1::{Control, Entry, Session};

use crate::models::{logits, run_all, standard, tiny, tiny_on};
use crate::oracle::Distance;
use crate::{assert_same, in_any_batch, same_bits, sonnet};

#[test]
fn chunks_of_any_size_give_the_same_bits() {
    for options in in_any_batch() {
        let model = tiny(options.clone());
        let tokens = sonnet(&model);
        let whole = logits(&model, &tokens);
        for rows in [1, 7, 64] {
            let chunked = logits(&tiny(options.clone().batch_rows(rows)), &tokens);
            assert_same(&chunked, &whole, &format!("{rows} rows at a time"));
        }
    }
}

#[test]
fn chunks_of_any_size_differ_by_roundings_in_standard_precision() {
    let model = tiny(standard());
    let tokens = sonnet(&model);
    let whole = logits(&model, &tokens);
    for rows in [1, 7, 64] {
        let chunked = logits(&tiny(standard().batch_rows(rows)), &tokens);
        let mut distance = Distance::default();
        chunked.iter().zip(&whole).for_each(|(a, b)| distance.add(a, b));
        assert!(distance.relative_rms() < 4e-3, "{rows} rows at a time: {distance:?}");
    }
}

#[test]
fn chunks_of_any_size_give_the_same_bits_on_every_instruction_set() {
    for isa in Cpu::instruction_sets() {
        let whole = tiny_on(isa, 512);
        let tokens = &sonnet(&whole)[..120];
        let whole = logits(&whole, tokens);
        for rows in [1, 2, 3, 5, 31] {
            let chunked = logits(&tiny_on(isa, rows), tokens);
            assert_same(&chunked, &whole, &format!("{isa}, {rows} rows at a time"));
        }
    }
}

#[test]
fn tokens_one_by_one_give_the_same_bits_as_a_prompt() {
    for options in in_any_batch() {
        let model = tiny(options);
        let tokens = sonnet(&model);
        let whole = logits(&model, &tokens);
        let mut session = model.session().unwrap();
        for (row, token) in tokens.iter().enumerate() {
            let logits = session.feed(&[*token], &Control::new()).unwrap();
            assert!(same_bits(logits, &whole[row]), "token {row}");
        }
    }
}

#[test]
fn pushed_tokens_give_the_same_bits_as_fed_ones() {
    let model = tiny(standard());
    let tokens = sonnet(&model);
    let mut session = model.session().unwrap();
    for &token in &tokens[..20] {
        session.push(token);
    }
    assert_eq!((session.position(), session.tokens()), (0, &tokens[..20]));
    let rows = run_all(&mut session, &tokens[20..]);
    assert_same(&rows, &logits(&model, &tokens), "waiting tokens come first");
    assert_eq!((session.position(), session.tokens()), (tokens.len(), &tokens[..]));
}

/// Prompts and single tokens of forty sessions in the same batches, several runs in a row.
#[test]
fn sessions_in_one_batch_do_not_see_each_other() {
    for options in in_any_batch() {
        let model = tiny(options);
        let tokens = sonnet(&model);
        // Each session reads the sonnet from its own place, first so many tokens, then one, then so many.
        let parts = |session: usize| {
            let first = 1 + session * 11 % 90;
            let text = &tokens[session * 3..][..first + 1 + session % 4];
            let (prompt, rest) = text.split_at(first);
            let (single, more) = rest.split_at(1);
            [prompt, single, more]
        };
        let mut sessions: Vec<Session> = (0..40).map(|_| model.session().unwrap()).collect();
        for step in 0..4 {
            // Late sessions are one step behind: their prompts run beside the others' single tokens.
            let mut entries: Vec<Entry<'_>> = Vec::new();
            for (index, session) in sessions.iter_mut().enumerate() {
                let part =
                    (step as usize).checked_sub(index % 2).and_then(|part| parts(index).get(part).copied());
                if let Some(part) = part.filter(|part| !part.is_empty()) {
                    entries.push(Entry::new(session, part));
                }
            }
            model.run(&mut entries, &Control::new()).unwrap();
        }
        for (index, session) in sessions.iter().enumerate() {
            let mut alone = model.session().unwrap();
            let expected = alone.feed(&parts(index).concat(), &Control::new()).unwrap();
            assert!(same_bits(session.logits().unwrap(), expected), "session {index}");
        }
    }
}

#[test]
fn a_fork_goes_on_as_its_original_would() {
    for options in in_any_batch() {
        let model = tiny(options);
        let tokens = sonnet(&model);
        let whole = logits(&model, &tokens);
        for cut in [1, 63, 64, 100, 256] {
            let mut original = model.session().unwrap();
            original.feed(&tokens[..cut], &Control::new()).unwrap();
            let mut fork = original.fork();
            assert!(same_bits(fork.logits().unwrap(), &whole[cut - 1]));
            // The original goes elsewhere first.
            original.feed(&tokens[..40], &Control::new()).unwrap();
            assert_same(&run_all(&mut fork, &tokens[cut..]), &whole[cut..], "fork");
        }
    }
}

#[test]
fn truncating_is_never_having_gone_there() {
    for options in in_any_batch() {
        let model = tiny(options);
        let tokens = sonnet(&model);
        let whole = logits(&model, &tokens);
        for cut in [0, 1, 63, 64, 65, 200] {
            let mut session = model.session().unwrap();
            session.feed(&tokens[..cut + 1], &Control::new()).unwrap();
            session.feed(&tokens[100..150], &Control::new()).unwrap();
            session.truncate(cut);
            assert_eq!((session.position(), session.tokens()), (cut, &tokens[..cut]));
            assert!(session.logits().is_none(), "those of a forgotten token");
            assert_same(&run_all(&mut session, &tokens[cut..]), &whole[cut..], "after truncating");
        }
    }
}

#[test]
fn taking_back_a_pushed_token_brings_the_logits_back() {
    let model = tiny(standard());
    let mut session = model.session().unwrap();
    let logits = session.feed(&[5, 6, 7], &Control::new()).unwrap().to_vec();
    session.push(8);
    assert!(session.logits().is_none());
    session.truncate(10);
    assert_eq!(session.tokens(), [5, 6, 7, 8], "there is nothing to forget");
    session.truncate(3);
    assert!(same_bits(session.logits().unwrap(), &logits));
}
