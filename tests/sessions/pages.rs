//! KV pages: shared by forks, freed with their sessions, limited by the host.

use grok1::backend::{PAGE, page_bytes};
use grok1::{Control, Entry, ErrorKind, KvType, Model, Outcome, Session};

use crate::models::{any_batch, exact, logits, run_all, tiny};
use crate::{assert_same, sonnet};

fn pages(model: &Model) -> u64 {
    model.kv_bytes() / page_bytes(model.config(), model.kv_type()) as u64
}

fn fed(model: &Model, tokens: usize) -> Session {
    let mut session = model.session().unwrap();
    session.feed(&sonnet(model)[..tokens], &Control::new()).unwrap();
    session
}

#[test]
fn a_page_has_the_bytes_of_its_type() {
    let config = tiny(any_batch()).config().clone();
    let values = config.layers * 2 * PAGE * config.kv_heads * config.head_dim;
    assert_eq!(page_bytes(&config, KvType::BF16), values * 2);
    assert_eq!(page_bytes(&config, KvType::F32), values * 4);
}

#[test]
fn pages_are_taken_when_needed_and_freed_with_the_session() {
    let model = tiny(exact());
    let mut session = fed(&model, 64);
    assert_eq!(pages(&model), 1);
    session.feed(&[5], &Control::new()).unwrap();
    assert_eq!(pages(&model), 2);
    session.truncate(64);
    assert_eq!(pages(&model), 1);
    session.truncate(0);
    assert_eq!(pages(&model), 0);
    session.feed(&[5; 200], &Control::new()).unwrap();
    assert_eq!(pages(&model), 4);
    drop(session);
    assert_eq!(pages(&model), 0);
}

#[test]
fn forks_share_pages_until_they_write() {
    let model = tiny(any_batch());
    let tokens = sonnet(&model);
    let original = fed(&model, 150);
    assert_eq!(pages(&model), 3);
    let mut forks: Vec<Session> = (0..10).map(|_| original.fork()).collect();
    assert_eq!(pages(&model), 3);
    let mut entries: Vec<Entry<'_>> =
        forks.iter_mut().map(|fork| Entry::new(fork, &tokens[150..151])).collect();
    model.run(&mut entries, &Control::new()).unwrap();
    assert_eq!(pages(&model), 3 + 10, "each has its own copy of the page it wrote to");
    drop(original);
    assert_eq!(pages(&model), 2 + 10, "the first two are still shared");
    forks.truncate(1);
    assert_same(&run_all(&mut forks[0], &tokens[151..]), &logits(&model, &tokens)[151..], "the last fork");
}

#[test]
fn freed_pages_do_not_remember() {
    let model = tiny(any_batch());
    let tokens = sonnet(&model);
    let expected = logits(&model, &tokens);
    drop(fed(&model, 250));
    assert_same(&logits(&model, &tokens), &expected, "on used pages");
}

#[test]
fn a_full_pool_is_an_error_that_changes_nothing() {
    let page = page_bytes(tiny(any_batch()).config(), KvType::BF16) as u64;
    let model = tiny(any_batch().kv_limit(3 * page + 1));
    let tokens = sonnet(&model);
    let (mut a, mut b) = (fed(&model, 60), fed(&model, 64));
    let before = a.logits().unwrap().to_vec();
    // One page would be left for `a`, but `b` needs two more.
    let mut entries = [Entry::new(&mut a, &tokens[60..70]), Entry::new(&mut b, &tokens[64..130])];
    let error = model.run(&mut entries, &Control::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Outcome(Outcome::KvFull));
    assert_eq!(
        error.to_string(),
        "entry 1: 2 KV pages needed, 0 free of 3; free or truncate a session, or raise the limit"
    );
    assert_eq!(pages(&model), 2);
    assert_eq!((a.position(), a.tokens()), (60, &tokens[..60]));
    assert_eq!((b.position(), b.tokens()), (64, &tokens[..64]));
    assert_eq!(a.logits().unwrap(), before);
    // As the message says: with `b` gone there is room.
    drop(b);
    assert_same(
        &run_all(&mut a, &tokens[60..150]),
        &logits(&tiny(any_batch()), &tokens[..150])[60..],
        "afterwards",
    );
}

#[test]
fn a_fork_that_finds_no_page_to_copy_to_stays_as_it_is() {
    let page = page_bytes(tiny(any_batch()).config(), KvType::BF16) as u64;
    let model = tiny(any_batch().kv_limit(page));
    let original = fed(&model, 10);
    let mut fork = original.fork();
    let error = fork.feed(&[5], &Control::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Outcome(Outcome::KvFull));
    assert_eq!((fork.position(), pages(&model)), (10, 1));
    drop(original);
    fork.feed(&[5], &Control::new()).unwrap();
    assert_eq!((fork.position(), pages(&model)), (11, 1));
}

#[test]
fn pages_that_were_trimmed_can_be_taken_again() {
    let model = tiny(any_batch());
    let mut session = fed(&model, 130);
    let expected = session.feed(&[9], &Control::new()).unwrap().to_vec();
    drop(session);
    model.trim(&Control::new()).unwrap();
    let mut again = fed(&model, 130);
    assert!(again.feed(&[9], &Control::new()).unwrap() == expected);
}
