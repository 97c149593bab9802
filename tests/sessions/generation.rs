//! Generating text.

use grok1::{
    Control, Entry, Finish, Generation, Model, ModelError, Piece, Prompt, Sampler, Session, SessionError,
};

use crate::models::{any_batch, exact, fixtures, open, tiny};
use crate::oracle::log_softmax;
use crate::same_bits;

const END: u32 = 2;

fn greedy() -> Sampler {
    Sampler::new().greedy()
}

fn text(pieces: &[Piece]) -> String {
    pieces.iter().map(Piece::text).collect()
}

fn tokens(pieces: &[Piece]) -> Vec<u32> {
    pieces.iter().map(Piece::token).collect()
}

/// So many tokens after a prompt.
fn generate<'p>(session: &mut Session, prompt: impl Into<Prompt<'p>>, count: usize) -> Vec<Piece> {
    let mut sampler = greedy();
    session.generate(prompt, &mut sampler).max_tokens(count).map(Result::unwrap).collect()
}

/// A model without tokenizer.
fn wordless() -> Model {
    open(fixtures().join("r2_onelayer_odd"), exact())
}

#[test]
fn text_goes_on_where_the_prompt_ends() {
    let model = tiny(any_batch());
    let tokenizer = model.tokenizer().unwrap();
    let mut session = model.session().unwrap();
    let pieces = generate(&mut session, "The king", 30);
    assert!(text(&pieces).starts_with(' '), "a new word: {:?}", text(&pieces));
    assert_eq!(tokenizer.decode(session.tokens()).unwrap(), format!("The king{}", text(&pieces)));
    // Within a word nothing stands between.
    let pieces = generate(&mut model.session().unwrap(), "To be, or not to b", 1);
    assert!(!text(&pieces).starts_with(' '), "{:?}", text(&pieces));
}

#[test]
fn text_that_begins_a_session_has_no_space_in_front() {
    let model = tiny(any_batch());
    let mut session = model.session().unwrap();
    session.push(END);
    let pieces = generate(&mut session, "", 12);
    assert!(!text(&pieces).is_empty() && !text(&pieces).starts_with(' '), "{:?}", text(&pieces));
    assert_eq!(model.tokenizer().unwrap().decode(session.tokens()).unwrap(), text(&pieces));
}

#[test]
fn pushed_text_is_a_prompt_and_a_generation_runs_it() {
    let model = tiny(any_batch());
    let expected = {
        let mut session = model.session().unwrap();
        [generate(&mut session, "The king", 5), generate(&mut session, " and", 5)]
    };
    let (mut session, mut sampler) = (model.session().unwrap(), greedy());
    for (prompt, expected) in ["The king", " and"].into_iter().zip(expected) {
        session.push_text(prompt).unwrap();
        let mut generation = Generation::new().max_tokens(5);
        let next = || generation.next(&mut session, &mut sampler, &Control::new()).unwrap();
        assert_eq!(std::iter::from_fn(next).collect::<Vec<_>>(), expected);
    }
    let mut session = wordless().session().unwrap();
    let error = session.push_text("word").unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(ModelError::NoTokenizer)));
}

#[test]
fn a_prompt_of_tokens_is_a_prompt() {
    let model = tiny(any_batch());
    let ids = model.tokenizer().unwrap().encode("The king");
    let expected = generate(&mut model.session().unwrap(), "The king", 10);
    assert_eq!(generate(&mut model.session().unwrap(), &ids, 10), expected);
}

#[test]
fn a_conversation_goes_on_as_if_all_had_been_one_prompt() {
    let model = tiny(any_batch());
    let tokenizer = model.tokenizer().unwrap();
    let mut session = model.session().unwrap();
    let first = generate(&mut session, "ROMEO.\n", 9);
    let second = generate(&mut session, "\nJULIET.\n", 9);
    let all = [
        tokenizer.encode("ROMEO.\n"),
        tokens(&first),
        tokenizer.encode_continuation("\nJULIET.\n"),
        tokens(&second),
    ]
    .concat();
    assert_eq!(session.tokens(), all);
    let mut at_once = model.session().unwrap();
    let expected = at_once.feed(&all, &Control::new()).unwrap();
    assert!(same_bits(session.feed(&[], &Control::new()).unwrap(), expected));
}

#[test]
fn an_empty_prompt_goes_on_from_where_the_session_is() {
    let model = tiny(any_batch());
    let expected = generate(&mut model.session().unwrap(), "The king", 10);
    let mut session = model.session().unwrap();
    let mut pieces = generate(&mut session, "The king", 4);
    pieces.extend(generate(&mut session, "", 6));
    assert_eq!(tokens(&pieces), tokens(&expected));
    assert_eq!(text(&pieces), text(&expected));
}

#[test]
fn it_ends_after_so_many_tokens() {
    let model = tiny(any_batch());
    let mut session = model.session().unwrap();
    let mut sampler = greedy();
    let mut generation = session.generate("The king", &mut sampler).max_tokens(3);
    let finishes: Vec<_> = generation.by_ref().map(|piece| piece.unwrap().finish()).collect();
    assert_eq!(finishes, [None, None, Some(Finish::MaxTokens)]);
    assert!(generation.next().is_none());
    assert_eq!(session.position(), session.tokens().len() - 1, "the last token waits");
    // None at all: the prompt is run and nothing sampled.
    let mut session = model.session().unwrap();
    assert!(generate(&mut session, "The king", 0).is_empty());
    assert_eq!(session.position(), 2);
}

#[test]
fn it_ends_with_the_end_of_text_unless_told_otherwise() {
    let model = tiny(any_batch());
    let mut session = model.session().unwrap();
    let mut sampler = greedy().logit_bias(END, 1e3);
    let pieces: Vec<Piece> = session.generate("The king", &mut sampler).map(Result::unwrap).collect();
    assert_eq!(tokens(&pieces), [END]);
    assert_eq!((pieces[0].finish(), pieces[0].text()), (Some(Finish::EndOfText), ""));
    assert_eq!(session.tokens().last(), Some(&END));
    let pieces = session.generate("", &mut sampler).ignore_end_of_text(true).max_tokens(3);
    assert_eq!(tokens(&pieces.map(Result::unwrap).collect::<Vec<_>>()), [END; 3]);
}

#[test]
fn it_ends_before_a_stop_string_wherever_tokens_begin_and_end() {
    let model = tiny(any_batch());
    let whole = text(&generate(&mut model.session().unwrap(), "The king", 40));
    for start in [1, 4, 9, 20] {
        for length in [1, 3, 8] {
            let stop = &whole[start..start + length];
            let (mut session, mut sampler) = (model.session().unwrap(), greedy());
            let pieces = session.generate("The king", &mut sampler).stop(["\u{0}", stop]).max_tokens(40);
            let pieces: Vec<Piece> = pieces.map(Result::unwrap).collect();
            assert_eq!(text(&pieces), whole[..whole.find(stop).unwrap()], "{stop:?}");
            assert_eq!(pieces[pieces.len() - 1].finish(), Some(Finish::Stop(1)));
            assert!(pieces[..pieces.len() - 1].iter().all(|piece| piece.finish().is_none()));
        }
    }
}

#[test]
fn text_that_was_held_back_for_a_stop_string_comes_with_the_last_piece() {
    let model = tiny(any_batch());
    let whole = text(&generate(&mut model.session().unwrap(), "The king", 12));
    let stop = format!("{}\u{0}", &whole[1..]);
    let (mut session, mut sampler) = (model.session().unwrap(), greedy());
    let pieces = session.generate("The king", &mut sampler).stop([stop]).max_tokens(12);
    assert_eq!(text(&pieces.map(Result::unwrap).collect::<Vec<_>>()), whole);
}

#[test]
fn the_same_seed_writes_the_same_text() {
    let model = tiny(any_batch());
    let write = |seed| {
        let (mut session, mut sampler) =
            (model.session().unwrap(), Sampler::new().temperature(0.9).seed(seed));
        let pieces = session.generate("The king", &mut sampler).max_tokens(40);
        tokens(&pieces.map(Result::unwrap).collect::<Vec<_>>())
    };
    assert_eq!(write(1), write(1));
    assert_ne!(write(1), write(2));
}

#[test]
fn a_piece_tells_its_log_probability_and_the_alternatives() {
    let model = tiny(any_batch());
    let mut session = model.session().unwrap();
    let expected = log_softmax(session.feed(&[484, 537], &Control::new()).unwrap());
    let mut sampler = Sampler::new().seed(4).alternatives(5);
    let piece = session.generate("", &mut sampler).next().unwrap().unwrap();
    assert!((f64::from(piece.logprob().unwrap()) - expected[piece.token() as usize]).abs() < 1e-5);
    let mut best: Vec<u32> = (0..2048).collect();
    best.sort_by(|&a, &b| expected[b as usize].total_cmp(&expected[a as usize]));
    assert_eq!(piece.alternatives().iter().map(|other| other.token).collect::<Vec<_>>(), best[..5]);
    for other in piece.alternatives() {
        assert!((f64::from(other.logprob) - expected[other.token as usize]).abs() < 1e-5);
    }
}

#[test]
fn a_host_can_drive_many_generations_in_one_batch() {
    let model = tiny(any_batch());
    let tokenizer = model.tokenizer().unwrap();
    let prompts = ["The king", "ROMEO.\n", "And God said"].map(|prompt| tokenizer.encode(prompt));
    let mut work: Vec<(Session, Sampler, Generation, String)> = Vec::new();
    for _ in &prompts {
        work.push((model.session().unwrap(), greedy(), Generation::new().max_tokens(12), String::new()));
    }
    let entries = work.iter_mut().zip(&prompts).map(|((session, ..), prompt)| Entry::new(session, prompt));
    model.run(&mut entries.collect::<Vec<_>>(), &Control::new()).unwrap();
    for tokens in 1.. {
        for (session, sampler, generation, text) in &mut work {
            let piece = generation.accept(session, sampler).unwrap().unwrap();
            assert_eq!(generation.tokens(), tokens);
            text.push_str(piece.text());
        }
        if work[0].2.finish().is_some() {
            break;
        }
        let entries = work.iter_mut().map(|(session, ..)| Entry::new(session, &[]));
        model.run(&mut entries.collect::<Vec<_>>(), &Control::new()).unwrap();
    }
    for ((mut session, mut sampler, mut generation, written), prompt) in work.into_iter().zip(&prompts) {
        assert_eq!(generation.finish(), Some(Finish::MaxTokens));
        assert_eq!(generation.accept(&mut session, &mut sampler).unwrap(), None);
        assert_eq!(written, text(&generate(&mut model.session().unwrap(), prompt, 12)));
    }
}

#[test]
fn a_generation_may_move_to_another_thread_and_be_cloned() {
    let model = tiny(any_batch());
    let expected = generate(&mut model.session().unwrap(), "The king", 8);
    let (mut session, mut sampler) = (model.session().unwrap(), greedy());
    session.feed(&model.tokenizer().unwrap().encode("The king"), &Control::new()).unwrap();
    let mut generation = Generation::new().max_tokens(8);
    let first = generation.accept(&mut session, &mut sampler).unwrap().unwrap();
    let (mut fork, mut copy, mut other) = (session.fork(), generation.clone(), sampler.clone());
    let thread = std::thread::spawn(move || {
        let mut pieces = vec![first];
        while copy.finish().is_none() {
            fork.feed(&[], &Control::new()).unwrap();
            pieces.extend(copy.accept(&mut fork, &mut other).unwrap());
        }
        pieces
    });
    assert_eq!(thread.join().unwrap(), expected);
    assert_eq!((generation.tokens(), session.tokens().len()), (1, 3));
}

#[test]
fn without_logits_there_is_nothing_to_accept() {
    let model = tiny(any_batch());
    let (mut session, mut sampler, mut generation) = (model.session().unwrap(), greedy(), Generation::new());
    let error = generation.accept(&mut session, &mut sampler).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(SessionError::NoLogits)), "{error:?}");
    session.feed(&[5], &Control::new()).unwrap();
    session.push(6);
    let error = generation.accept(&mut session, &mut sampler).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(SessionError::NoLogits)), "{error:?}");
    assert_eq!((generation.tokens(), session.tokens()), (0, &[5, 6][..]));
}

#[test]
fn a_sampler_that_finds_no_token_ends_the_iterator_and_changes_nothing() {
    let model = tiny(any_batch());
    let mut session = model.session().unwrap();
    let mut sampler = Sampler::new().filter(|_, logits| logits[7] = f32::NAN);
    let mut pieces = session.generate("The king", &mut sampler);
    let error = pieces.next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the logit of token 7 is NaN after bias, penalties and filter");
    assert!(pieces.next().is_none());
    assert_eq!((session.position(), session.tokens().len(), sampler.draws()), (2, 2, 0));
    assert_eq!(generate(&mut session, "", 5), generate(&mut model.session().unwrap(), "The king", 5));
}

#[test]
fn a_cancelled_generation_can_be_taken_up_again() {
    let model = tiny(any_batch());
    let (mut session, mut sampler, cancel) = (model.session().unwrap(), greedy(), grok1::Cancel::new());
    let control = Control::new().cancel(&cancel);
    let mut pieces = Vec::new();
    for piece in session.generate("The king", &mut sampler).control(&control).max_tokens(12) {
        match piece {
            Ok(piece) => pieces.push(piece),
            Err(error) => assert!(error.is_cancelled()),
        }
        if pieces.len() == 5 {
            cancel.set();
        }
    }
    assert_eq!(pieces.len(), 5);
    pieces.extend(generate(&mut session, "", 7));
    let expected = generate(&mut model.session().unwrap(), "The king", 12);
    assert_eq!(text(&pieces), text(&expected));
}

#[test]
fn a_model_without_tokenizer_works_by_tokens() {
    let model = wordless();
    let mut session = model.session().unwrap();
    let pieces = generate(&mut session, &[51, 90, 124][..], 6);
    assert_eq!((pieces.len(), text(&pieces)), (6, String::new()));
    assert_eq!(session.tokens(), [&[51, 90, 124][..], &tokens(&pieces)].concat());
    assert_eq!(pieces[5].finish(), Some(Finish::MaxTokens));
}

#[test]
fn text_needs_a_tokenizer() {
    let model = wordless();
    let (mut session, mut sampler) = (model.session().unwrap(), greedy());
    let no_tokenizer = |error: &grok1::Error| matches!(error.downcast_ref(), Some(ModelError::NoTokenizer));
    assert!(no_tokenizer(&model.tokenizer().unwrap_err()));
    assert!(no_tokenizer(&session.generate("text", &mut sampler).next().unwrap().unwrap_err()));
    let mut pieces = session.generate(&[5][..], &mut sampler).stop(["stop"]);
    assert!(no_tokenizer(&pieces.next().unwrap().unwrap_err()));
    assert_eq!((session.tokens(), sampler.draws()), (&[5][..], 0), "nothing was sampled");
}
