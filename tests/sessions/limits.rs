//! The end of the context.

use grok1::{Control, ErrorKind, Finish, ModelError, Outcome, Prompt, Sampler, SessionOptions};

use crate::models::{any_batch, logits, tiny};
use crate::{same_bits, sonnet};

#[test]
fn a_full_context_is_an_error_before_anything_is_changed() {
    let model = tiny(any_batch());
    let tokens = sonnet(&model);
    let mut session = model.session_with(&SessionOptions::new().context(100)).unwrap();
    session.feed(&tokens[..90], &Control::new()).unwrap();
    let error = session.feed(&tokens[90..101], &Control::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Outcome(Outcome::ContextFull));
    assert_eq!(error.to_string(), "entry 0: 11 tokens after 90 do not fit into a context of 100");
    assert_eq!((session.position(), session.tokens()), (90, &tokens[..90]));
    let logits_of_100 = session.feed(&tokens[90..100], &Control::new()).unwrap();
    assert!(same_bits(logits_of_100, &logits(&model, &tokens[..100])[99]));
    assert!(session.feed(&tokens[..1], &Control::new()).is_err());
    session.truncate(99);
    assert!(session.feed(&tokens[..1], &Control::new()).is_ok());
}

#[test]
fn more_than_the_trained_length_must_be_asked_for() {
    let model = tiny(any_batch());
    assert_eq!(model.session().unwrap().context(), model.config().context);
    let options = SessionOptions::new().context(600);
    let error = model.session_with(&options).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(ModelError::BeyondTrained { asked: 600, trained: 512 })));
    let mut session = model.session_with(&options.beyond_trained_length(true)).unwrap();
    session.feed(&[7; 600], &Control::new()).unwrap();
    assert_eq!(session.position(), 600);
}

#[test]
fn a_generation_ends_with_the_context_and_uses_all_of_it() {
    let model = tiny(any_batch());
    let tokens = &sonnet(&model)[..30];
    let mut session = model.session_with(&SessionOptions::new().context(40)).unwrap();
    let mut sampler = Sampler::new().greedy();
    let pieces: Vec<_> = session.generate(tokens, &mut sampler).map(Result::unwrap).collect();
    // Ten more are run, and the last of them predicts one that has no place.
    assert_eq!(pieces.len(), 11);
    assert_eq!(pieces[10].finish(), Some(Finish::ContextFull));
    assert!(pieces[..10].iter().all(|piece| piece.finish().is_none()));
    assert_eq!((session.position(), session.tokens().len()), (40, 41));
    let error = session.generate(Prompt::Tokens(&[]), &mut sampler).next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Outcome(Outcome::ContextFull));
    // Room can be made.
    session.truncate(35);
    assert!(session.feed(&[7], &Control::new()).is_ok());
}
