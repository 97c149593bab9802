//! Runs that are stopped leave everything as it was.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use grok1::{Cancel, Control, Entry, Model, Pool, Session, Task, Want};

use crate::models::{any_batch, logits, tiny};
use crate::{same_bits, sonnet};

/// A session of 20 tokens and the next 50, with the logits of the last of them.
struct Scene {
    model: Model,
    session: Session,
    tokens: Vec<u32>,
    expected: Vec<f32>,
}

impl Scene {
    fn new(model: Model) -> Self {
        let tokens = sonnet(&model)[..70].to_vec();
        let expected = logits(&model, &tokens).pop().unwrap();
        let mut session = model.session().unwrap();
        session.feed(&tokens[..20], &Control::new()).unwrap();
        Self { model, session, tokens, expected }
    }

    fn go_on(&mut self, control: &Control) -> grok1::Result<Vec<f32>> {
        self.session.feed(&self.tokens[20..], control).map(<[f32]>::to_vec)
    }

    /// The session is as it was, and goes on as if nothing had happened.
    fn assert_untouched(&self) {
        assert_eq!((self.session.position(), self.session.tokens()), (20, &self.tokens[..20]));
        assert!(same_bits(self.session.logits().unwrap(), &logits(&self.model, &self.tokens[..20])[19]));
        let mut fork = self.session.fork();
        let logits = fork.feed(&self.tokens[20..], &Control::new()).unwrap();
        assert!(same_bits(logits, &self.expected));
    }
}

#[test]
fn any_of_several_cancels_stops_a_run() {
    let (request, program) = (Cancel::new(), Cancel::new());
    let control = Control::new().cancel(&request).cancel(&program);
    for cancel in [request, program] {
        assert!(!control.is_cancelled());
        cancel.set();
        assert!(control.is_cancelled());
        cancel.clear();
    }
}

#[test]
fn a_run_stopped_after_any_layer_leaves_the_session_as_it_was() {
    let mut scene = Scene::new(tiny(any_batch().batch_rows(30)));
    let layers = scene.model.config().layers as u64;
    for steps in 1..=2 * layers {
        let (cancel, reports) = (Cancel::new(), AtomicUsize::new(0));
        let control = Control::new().cancel(&cancel).progress({
            let cancel = cancel.clone();
            move |progress| {
                assert_eq!((progress.task, progress.total), (Task::Run, 50 * layers));
                if reports.fetch_add(1, Relaxed) as u64 + 1 == steps {
                    cancel.set();
                }
            }
        });
        assert!(scene.go_on(&control).unwrap_err().is_cancelled());
        scene.assert_untouched();
    }
}

/// Does all parts itself, and sets the flag in the middle of one region.
#[derive(Default)]
struct Interrupting {
    cancel: Cancel,
    /// Regions so far, and the one in which to set the flag.
    region: AtomicUsize,
    at: AtomicUsize,
    /// Whether the flag is taken back before the region ends.
    takes_back: bool,
}

impl Pool for Interrupting {
    fn width(&self) -> usize {
        1
    }

    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        let now = self.region.fetch_add(1, Relaxed) == self.at.load(Relaxed);
        (0..parts / 2).for_each(part);
        if now {
            self.cancel.set();
        }
        (parts / 2..parts).for_each(part);
        if now && self.takes_back {
            self.cancel.clear();
        }
    }
}

/// Stops a run in each of its regions in turn.
fn interrupt(takes_back: bool) {
    let pool = Arc::new(Interrupting { takes_back, at: usize::MAX.into(), ..Interrupting::default() });
    let mut scene = Scene::new(tiny(any_batch().pool(pool.clone())));
    let before = pool.region.load(Relaxed);
    scene.session.fork().feed(&scene.tokens[20..], &Control::new()).unwrap();
    let regions = pool.region.load(Relaxed) - before;
    assert!(regions > 8 * scene.model.config().layers);
    for region in 0..regions {
        pool.at.store(pool.region.load(Relaxed) + region, Relaxed);
        let result = scene.go_on(&Control::new().cancel(&pool.cancel));
        assert!(result.is_err_and(|error| error.is_cancelled()), "region {region}");
        pool.cancel.clear();
        scene.assert_untouched();
    }
}

#[test]
fn a_run_stopped_in_the_middle_of_any_stage_leaves_the_session_as_it_was() {
    interrupt(false);
}

#[test]
fn a_request_that_is_taken_back_too_late_still_stops_the_run() {
    interrupt(true);
}

#[test]
fn a_sink_that_breaks_stops_the_run() {
    let mut scene = Scene::new(tiny(any_batch().batch_rows(16)));
    for rows in [1, 17, 50] {
        let mut seen = 0;
        let mut sink = |_: usize, _: &[f32]| {
            seen += 1;
            if seen == rows { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let entry = Entry::new(&mut scene.session, &scene.tokens[20..]).want(Want::All(&mut sink));
        assert!(scene.model.run(&mut [entry], &Control::new()).unwrap_err().is_cancelled());
        assert_eq!(seen, rows);
        scene.assert_untouched();
    }
}

#[test]
fn a_flag_that_is_set_already_stops_before_anything_is_computed() {
    let mut scene = Scene::new(tiny(any_batch()));
    let cancel = Cancel::new();
    cancel.set();
    let control = Control::new().cancel(&cancel).progress(|_| panic!("nothing is computed"));
    assert!(scene.go_on(&control).unwrap_err().is_cancelled());
    scene.assert_untouched();
}

/// A control whose run stops at its first report until the sender says or does something.
fn held() -> (Control, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let ((entered, is_entered), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
    let channels = std::sync::Mutex::new((entered, released));
    let control = Control::new().progress(move |_| {
        let (entered, released) = &*channels.lock().unwrap();
        // Later reports find nobody there.
        if entered.send(()).is_ok() {
            let _ = released.recv();
        }
    });
    (control, is_entered, release)
}

#[test]
fn another_thread_can_stop_a_run() {
    let mut scene = Scene::new(tiny(any_batch()));
    let cancel = Cancel::new();
    let (control, entered, release) = held();
    let control = control.cancel(&cancel);
    thread::scope(|scope| {
        let run = scope.spawn(|| scene.go_on(&control));
        entered.recv().unwrap();
        cancel.set();
        drop((entered, release));
        assert!(run.join().unwrap().unwrap_err().is_cancelled());
    });
    scene.assert_untouched();
}

#[test]
fn a_call_that_waits_for_another_can_be_stopped_too() {
    let mut scene = Scene::new(tiny(any_batch()));
    let mut other = scene.model.session().unwrap();
    let (holding, entered, release) = held();
    let cancel = Cancel::new();
    let control = Control::new().cancel(&cancel);
    thread::scope(|scope| {
        let first = scope.spawn(|| other.feed(&[5, 6], &holding).map(<[f32]>::len));
        entered.recv().unwrap();
        let waiting = scope.spawn(|| scene.go_on(&control));
        thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        cancel.set();
        assert!(waiting.join().unwrap().unwrap_err().is_cancelled());
        assert!(!first.is_finished());
        drop((entered, release));
        assert_eq!(first.join().unwrap().unwrap(), 2048);
    });
    scene.assert_untouched();
}
