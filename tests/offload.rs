//! Models of which a backend has a part and the processor the rest. Here both are the processor, so that results are the same bits.

#[path = "support/models.rs"]
mod models;

use std::sync::Arc;

use grok1::backend::cpu::Cpu;
use grok1::backend::{Observer, Routing};
use grok1::{Control, Entry, Model, ModelOptions, Precision, Session, Threads, WeightStorage, checkpoint};
use models::{any_batch, logits, tiny, tiny_path};

/// Layers on the backend, and how many of them without experts; the model has 4.
const PARTS: [[usize; 2]; 7] = [[0, 0], [1, 0], [3, 0], [4, 1], [4, usize::MAX], [3, 2], [9, 3]];

/// The trained model, of which a backend has a part.
fn split([layers, experts]: [usize; 2]) -> Model {
    let checkpoint = checkpoint::open(tiny_path(), None).unwrap();
    let threads = Arc::new(Threads::new(2).unwrap());
    let config = checkpoint.config.clone();
    let cpu = Cpu::new(config, Precision::Exact, WeightStorage::Mapped, threads);
    let options: ModelOptions = any_batch().batch_rows(32).gpu_layers(layers).experts_on_cpu(experts);
    Model::load_on(cpu, checkpoint, options, &Control::new()).unwrap()
}

/// More than one page and several batches.
fn tokens() -> Vec<u32> {
    (0..70).map(|index| index * 37 % 2048).collect()
}

fn session(model: &Model) -> Session {
    let mut session = model.session().unwrap();
    session.feed(&tokens(), &Control::new()).unwrap();
    session
}

#[test]
fn every_part_gives_the_bits_of_the_whole() {
    let whole = logits(&tiny(any_batch()), &tokens());
    for part in PARTS {
        assert!(logits(&split(part), &tokens()) == whole, "{part:?}");
    }
}

#[test]
fn an_observer_sees_the_layers_of_the_whole() {
    #[derive(Default, PartialEq)]
    struct Seen(Vec<(usize, Vec<f32>)>);
    impl Observer for Seen {
        fn routing(&mut self, layer: usize, routing: &Routing<'_>) {
            self.0.push((layer, routing.gates.to_vec()));
        }

        fn hidden(&mut self, layer: usize, hidden: &[f32]) {
            self.0.push((layer, hidden.to_vec()));
        }
    }
    let observe = |model: Model| {
        let (mut seen, mut session) = (Seen::default(), model.session().unwrap());
        let tokens = tokens();
        model.observe(&mut [Entry::new(&mut session, &tokens[..30])], &Control::new(), &mut seen).unwrap();
        seen
    };
    let whole = observe(tiny(any_batch()));
    assert_eq!(whole.0.len(), 8);
    for part in PARTS {
        assert!(observe(split(part)) == whole, "{part:?}");
    }
}

#[test]
fn a_saved_session_does_not_tell_where_its_keys_and_values_were() {
    let save = |session: &Session| {
        let mut bytes = Vec::new();
        session.save(&mut bytes, None, &Control::new()).unwrap();
        bytes
    };
    let whole = save(&session(&tiny(any_batch())));
    for part in PARTS {
        let model = split(part);
        assert!(save(&session(&model)) == whole, "{part:?}");
        let (restored, _) = model.restore(&mut &*whole, &Default::default(), &Control::new()).unwrap();
        assert!(save(&restored) == whole, "{part:?}");
    }
}

#[test]
fn a_device_tells_what_it_has() {
    let device = split([3, 2]).device().to_owned();
    assert!(device.contains(", 1 of 4 layers and 2 without experts; cpu ("), "{device}");
}
