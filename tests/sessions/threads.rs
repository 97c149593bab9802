//! Threads, the host's and the model's.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use grok1::backend::cpu::Cpu;
use grok1::{
    Control, Device, Entry, ErrorKind, Generation, Model, Pool, Sampler, Session, Want, WeightStorage,
};

use crate::models::{exact, logits, standard, tiny, tiny_on, tiny_path};
use crate::oracle::Distance;
use crate::{assert_same, precisions, sonnet};

#[test]
fn what_a_host_stores_crosses_threads_and_borrows_nothing() {
    fn owned<T: Send + 'static>() {}
    fn shared<T: Send + Sync + Clone + 'static>() {}
    owned::<Session>();
    owned::<Generation>();
    shared::<Model>();
    shared::<Sampler>();
    shared::<Control>();
}

#[test]
fn a_session_keeps_its_model_alive() {
    let session = tiny(standard()).session().unwrap();
    let mut session = thread::spawn(move || session).join().unwrap();
    session.feed(&[5], &Control::new()).unwrap();
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for options in precisions() {
        let one = tiny(options.clone().threads(1));
        let tokens = sonnet(&one);
        let expected = logits(&one, &tokens);
        for width in [2, 3] {
            let model = tiny(options.clone().threads(width));
            assert_same(&logits(&model, &tokens), &expected, &format!("{width} threads"));
        }
    }
}

/// The simplest pool: threads that live as long as one region.
struct Scoped(usize);

impl Pool for Scoped {
    fn width(&self) -> usize {
        self.0
    }

    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Relaxed);
                if index >= parts {
                    break;
                }
                part(index);
            }
        };
        thread::scope(|scope| {
            (1..self.0).for_each(|_| _ = scope.spawn(work));
            work();
        });
    }
}

#[test]
fn a_pool_that_the_host_lends_gives_the_same_bits() {
    let own = tiny(standard().threads(2));
    let lent = tiny(standard().pool(Arc::new(Scoped(2))));
    assert_eq!(lent.device(), own.device());
    let tokens = &sonnet(&own)[..80];
    assert_same(&logits(&lent, tokens), &logits(&own, tokens), "a lent pool");
}

#[test]
#[cfg(target_os = "linux")]
fn a_numa_node_gives_the_same_bits() {
    let model = tiny(standard().threads(2));
    let tokens = &sonnet(&model)[..80];
    if !std::fs::exists("/sys/devices/system/node/node0/cpulist").unwrap_or(false) {
        return eprintln!("skipped: no NUMA nodes");
    }
    let options = standard().device(Device::Node(0)).weights(WeightStorage::Owned).threads(2);
    let node = tiny(options);
    assert!(node.device().starts_with("cpu:0 ("), "{}", node.device());
    assert_same(&logits(&node, tokens), &logits(&model, tokens), "a NUMA node");
}

#[test]
fn a_numa_node_that_there_is_not_is_refused_whoever_lends_threads() {
    let options = standard().device(Device::Node(9999));
    for options in [options.clone(), options.pool(Arc::new(Scoped(2)))] {
        let error = Model::open_with(tiny_path(), options, &Control::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert!(error.to_string().contains("NUMA node 9999"), "{error}");
    }
}

#[test]
fn every_instruction_set_computes_the_same_within_rounding() {
    let expected = tiny(exact());
    let tokens = sonnet(&expected);
    let expected = logits(&expected, &tokens);
    for isa in Cpu::instruction_sets() {
        let model = tiny_on(isa, 512);
        assert!(model.device().contains(isa), "{}", model.device());
        let mut distance = Distance::default();
        logits(&model, &tokens).iter().zip(&expected).for_each(|(a, b)| distance.add(a, b));
        assert!(distance.max_abs() < 1e-4, "{isa}: {distance:?}");
    }
}

#[test]
fn threads_that_share_a_model_each_get_their_own_text() {
    let model = tiny(standard());
    let prompts =
        ["The king", "ROMEO.", "And God said", "To be", "In the beginning", "Exit", "My lord", "Now"];
    let write = |prompt: &str| {
        let (mut session, mut sampler) = (model.session().unwrap(), Sampler::new().temperature(0.8).seed(3));
        let pieces = session.generate(prompt, &mut sampler).max_tokens(24);
        pieces.map(|piece| piece.unwrap().text().to_owned()).collect::<String>()
    };
    let alone = prompts.map(write);
    let together = thread::scope(|scope| {
        let threads = prompts.map(|prompt| scope.spawn(move || write(prompt)));
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(together, alone);
    assert_ne!(alone[0], alone[1]);
}

#[test]
fn a_model_can_be_asked_about_itself_while_it_runs() {
    let model = tiny(standard());
    let asked = Arc::new(AtomicUsize::new(0));
    let control = Control::new().progress({
        let (model, asked) = (model.clone(), Arc::clone(&asked));
        move |_| {
            assert!(model.device().starts_with("cpu"));
            assert!(model.kv_bytes() > 0);
            drop(model.session().unwrap());
            asked.fetch_add(1, Relaxed);
        }
    });
    let mut session = model.session().unwrap();
    model.run(&mut [Entry::new(&mut session, &[5, 6])], &control).unwrap();
    assert_eq!(asked.load(Relaxed), model.config().layers);
}

#[test]
fn running_a_model_from_within_its_own_run_is_an_error_and_no_deadlock() {
    let model = tiny(standard());
    let (mut session, mut other) = (model.session().unwrap(), model.session().unwrap());
    let mut error = None;
    let mut sink = |_: usize, _: &[f32]| {
        error = other.feed(&[7], &Control::new()).err();
        ControlFlow::Continue(())
    };
    let entry = Entry::new(&mut session, &[5, 6]).want(Want::All(&mut sink));
    model.run(&mut [entry], &Control::new()).unwrap();
    assert_eq!(error.unwrap().to_string(), "the model cannot be run from within its own run");
    assert_eq!((session.position(), other.position()), (2, 0));
    other.feed(&[7], &Control::new()).unwrap();
}

#[test]
fn a_pool_that_repeats_parts_changes_nothing_and_one_that_forgets_them_is_an_error() {
    struct Twice;
    impl Pool for Twice {
        fn width(&self) -> usize {
            2
        }
        fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| (0..parts).for_each(|_| part(0)));
                }
            });
        }
    }
    struct Lazy;
    impl Pool for Lazy {
        fn width(&self) -> usize {
            1
        }
        fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
            (1..parts).for_each(part);
        }
    }
    let expected = tiny(standard()).session().unwrap().feed(&[5, 6, 7], &Control::new()).unwrap().to_vec();
    let twice = tiny(standard().pool(Arc::new(Twice)));
    assert!(twice.session().unwrap().feed(&[5, 6, 7], &Control::new()).unwrap() == expected);
    let lazy = tiny(standard().pool(Arc::new(Lazy)));
    let error = lazy.session().unwrap().feed(&[5, 6, 7], &Control::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bug);
    assert!(error.to_string().starts_with("the thread pool did "), "{error}");
}

#[test]
fn a_panicking_callback_leaves_the_session_as_it_was() {
    let model = tiny(standard());
    let mut session = model.session().unwrap();
    session.feed(&[5, 6], &Control::new()).unwrap();
    let held = model.kv_bytes();
    let mut sink = |_: usize, _: &[f32]| -> ControlFlow<()> { panic!("a sink's own") };
    let tokens = [7; 100];
    let entry = Entry::new(&mut session, &tokens).want(Want::All(&mut sink));
    let run = std::panic::AssertUnwindSafe(|| model.run(&mut [entry], &Control::new()));
    assert!(std::panic::catch_unwind(run).is_err());
    assert_eq!((session.tokens(), session.position()), (&[5, 6][..], 2));
    assert_eq!(model.kv_bytes(), held);
    let mut fresh = model.session().unwrap();
    let expected = fresh.feed(&[5, 6, 7], &Control::new()).unwrap().to_vec();
    assert!(session.feed(&[7], &Control::new()).unwrap() == expected);
}
