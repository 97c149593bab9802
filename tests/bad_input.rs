//! Whatever a caller or a file gets wrong has one precise error, and everything stays valid.

mod support {
    pub(crate) mod models;
    pub(crate) mod xai;
}

use std::ops::ControlFlow;

use grok1::{
    Control, DType, Entry, Error, ErrorKind, Generation, MemoryFolder, Model, ModelOptions, Outcome, Sampler,
    Session, SessionOptions, Want, checkpoint,
};
use half::bf16;
use support::models::{exact, fixtures, standard, tiny, tiny_path};
use support::xai::{Array, plain, quantised};

use ErrorKind::{Argument, Format};

const CONTEXT_FULL: ErrorKind = ErrorKind::Outcome(Outcome::ContextFull);

/// What goes wrong, how, and what the caller is told.
struct Case<T: ?Sized> {
    name: &'static str,
    error: fn(&mut T) -> Option<Error>,
    kind: ErrorKind,
    message: &'static str,
}

const fn case<T: ?Sized>(
    name: &'static str,
    error: fn(&mut T) -> Option<Error>,
    kind: ErrorKind,
    message: &'static str,
) -> Case<T> {
    Case { name, error, kind, message }
}

/// Tells all cases that are not as they should be at once.
fn assert_cases<T: ?Sized>(cases: &[Case<T>], scene: &mut T, still_valid: fn(&mut T)) {
    let mut wrong = String::new();
    for Case { name, error, kind, message } in cases {
        match error(scene) {
            None => wrong += &format!("\n{name}: no error"),
            Some(error) if (error.kind(), error.chain().as_str()) == (*kind, *message) => {}
            Some(error) => wrong += &format!("\n{name}: {:?} {}", error.kind(), error.chain()),
        }
        still_valid(scene);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn opening_says_what_is_wrong_with_the_path_or_the_option() {
    assert_cases(OPENING, &mut (), |()| {});
}

fn opening(path: &str, options: ModelOptions) -> Option<Error> {
    Model::open_with(path, options, &Control::new()).err()
}

const OPENING: &[Case<()>] = &[
    case("no such model", |()| opening("no/such/model", standard()), Format, "no/such/model does not exist"),
    case(
        "a file",
        |()| opening("Cargo.toml", standard()),
        Format,
        "Cargo.toml is not a checkpoint: found another file, expected a GGUF or safetensors file, or a folder with either or with files tensor00000_000 to tensorNNNNN_000",
    ),
    case(
        "another folder",
        |()| opening("src", standard()),
        Format,
        "src is not a checkpoint: found a folder without them, expected a GGUF or safetensors file, or a folder with either or with files tensor00000_000 to tensorNNNNN_000",
    ),
    case(
        "no such tokenizer",
        |()| opening("assets/tiny", standard().tokenizer("no/such/tokenizer.model")),
        Format,
        "cannot read no/such/tokenizer.model: No such file or directory (os error 2)",
    ),
    case(
        "a folder as tokenizer",
        |()| opening("assets/tiny", standard().tokenizer("src")),
        Format,
        "cannot read src: not a regular file",
    ),
    case(
        "something else as tokenizer",
        |()| opening("assets/tiny", standard().tokenizer("Cargo.toml")),
        Format,
        "Cargo.toml: not a whole SentencePiece model: byte 0 starts field 11 of wire type 3, which does not exist",
    ),
    case(
        "another model's tokenizer",
        |()| {
            let tokenizer = tiny_path().join("tokenizer.model");
            opening("tests/fixtures/goldens/r2_onelayer_odd", standard().tokenizer(tokenizer))
        },
        Format,
        "the tokenizer has 2048 pieces, the model 131 tokens",
    ),
    case(
        "batches of nothing",
        |()| opening("assets/tiny", standard().batch_rows(0)),
        Argument,
        "option batch_rows is 0, expected 1 to 65535",
    ),
];

/// The trained model with some of its files replaced.
fn changed(files: &[(&str, Vec<u8>)]) -> grok1::Result<Model> {
    let mut folder = MemoryFolder::default();
    for path in [tiny_path().join("ckpt-0"), tiny_path()] {
        for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let name = entry.file_name().into_string().unwrap();
                folder.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    for (name, bytes) in files {
        folder.insert(*name, bytes.clone());
    }
    Model::load(checkpoint::open_folder(&folder, None, None)?, standard(), &Control::new())
}

/// A file of f32: `value` at element 3, `others` elsewhere.
fn floats(shape: &[u64], value: f32, others: f32) -> Vec<u8> {
    let mut values = vec![others; shape.iter().product::<u64>() as usize];
    values[3] = value;
    let data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    plain(&Array { dtype: DType::F32, shape: shape.to_vec(), data: Some(data) }).bytes()
}

/// A file of int8 zeros with `value` as the scale of output 3.
fn scaled(inputs: u64, outputs: u64, value: f32) -> Vec<u8> {
    let mut scales = vec![bf16::ONE; outputs as usize];
    scales[3] = bf16::from_f32(value);
    let data = scales.iter().flat_map(|x| x.to_le_bytes()).collect();
    let scales = Array { dtype: DType::BF16, shape: vec![1, outputs], data: Some(data) };
    quantised(&Array::zeros(DType::I8, &[inputs, outputs]), &scales).bytes()
}

/// What the first sampled token of a model is worth.
fn sampling(model: grok1::Result<Model>) -> Option<Error> {
    let (mut session, mut sampler) = (model.unwrap().session().unwrap(), Sampler::new().greedy());
    let error = session.generate("The king", &mut sampler).next()?.err();
    assert_eq!((session.tokens().len(), session.position()), (2, 2), "nothing was sampled");
    error
}

#[test]
fn weights_that_are_no_numbers_are_named_when_loaded_or_sampled() {
    assert_cases(WEIGHTS, &mut (), |()| {});
}

const WEIGHTS: &[Case<()>] = &[
    case(
        "a NaN scale",
        |()| changed(&[("tensor00005_000", scaled(256, 64, f32::NAN))]).err(),
        Format,
        "transformer/decoder_layer_0/multi_head_attention/key: scale 3 is NaN, expected a finite number",
    ),
    case(
        "an infinite scale",
        |()| changed(&[("tensor00007_000", scaled(256, 256, f32::NEG_INFINITY))]).err(),
        Format,
        "transformer/decoder_layer_0/multi_head_attention/query: scale 3 is -inf, expected a finite number",
    ),
    case(
        "a NaN norm",
        |()| changed(&[("tensor00009_000", floats(&[256], f32::NAN, 1.0))]).err(),
        Format,
        "transformer/decoder_layer_0/rms_norm: element 3 is NaN, expected a finite number",
    ),
    case(
        "an infinite last norm",
        |()| changed(&[("tensor00001_000", floats(&[256], f32::INFINITY, 1.0))]).err(),
        Format,
        "language_model/rms_norm: element 3 is inf, expected a finite number",
    ),
    case(
        "a last norm that makes logits overflow",
        |()| sampling(changed(&[("tensor00001_000", floats(&[256], f32::MAX, f32::MAX))])),
        Format,
        "the model's logit of token 0 is NaN",
    ),
    case(
        "a NaN router",
        |()| sampling(changed(&[("tensor00013_000", floats(&[256, 8], f32::NAN, 1.0))])),
        Format,
        "the model's logit of token 0 is NaN",
    ),
    case(
        "a NaN embedding",
        |()| sampling(changed(&[("tensor00000_000", floats(&[2048, 256], f32::NAN, 1.0))])),
        Format,
        "the model's logit of token 0 is NaN",
    ),
];

/// A model, a session of three tokens, and a model of another vocabulary without tokenizer.
struct Scene {
    model: Model,
    session: Session,
    other: Model,
    expected: Vec<f32>,
}

impl Scene {
    fn new() -> Self {
        let model = tiny(exact());
        let mut session = model.session_with(&SessionOptions::new().context(20)).unwrap();
        let expected = session.feed(&[5, 6, 7, 8], &Control::new()).unwrap().to_vec();
        session.truncate(0);
        session.feed(&[5, 6, 7], &Control::new()).unwrap();
        let other = support::models::open(fixtures().join("r2_onelayer_odd"), standard());
        Self { model, session, other, expected }
    }

    /// The session is as it was and goes on as it would have.
    fn assert_valid(&mut self) {
        assert_eq!((self.session.tokens(), self.session.position()), (&[5, 6, 7][..], 3));
        assert!(self.session.logits().is_some());
        assert_eq!(self.session.fork().feed(&[8], &Control::new()).unwrap(), self.expected);
    }

    fn feed(&mut self, tokens: &[u32]) -> Option<Error> {
        self.session.feed(tokens, &Control::new()).err()
    }

    fn sample(&mut self, mut sampler: Sampler) -> Option<Error> {
        self.session.generate("", &mut sampler).next()?.err()
    }

    fn session_with(&self, options: SessionOptions) -> Option<Error> {
        self.model.session_with(&options).err()
    }
}

#[test]
fn a_bad_call_says_what_is_wrong_and_changes_nothing() {
    assert_cases(CALLS, &mut Scene::new(), Scene::assert_valid);
}

const CALLS: &[Case<Scene>] = &[
    case(
        "a token that does not exist",
        |s| s.feed(&[1, 2048]),
        Argument,
        "entry 0: token 2048 is not below the vocabulary's 2048",
    ),
    case("nothing to run", |s| s.feed(&[]), Argument, "entry 0: no tokens to run"),
    case(
        "an empty prompt",
        |s| s.model.session().unwrap().generate("", &mut Sampler::new()).next()?.err(),
        Argument,
        "entry 0: no tokens to run",
    ),
    case(
        "a prompt longer than the context",
        |s| s.feed(&[9; 18]),
        CONTEXT_FULL,
        "entry 0: 18 tokens after 3 do not fit into a context of 20",
    ),
    case(
        "a text longer than the context",
        |s| s.session.generate(&"word ".repeat(30), &mut Sampler::new()).next()?.err(),
        CONTEXT_FULL,
        "entry 0: 32 tokens after 3 do not fit into a context of 20",
    ),
    case(
        "a bad entry beside a good one",
        |s| {
            let mut second = s.model.session().unwrap();
            let mut entries = [Entry::new(&mut s.session, &[8]), Entry::new(&mut second, &[u32::MAX])];
            let error = s.model.run(&mut entries, &Control::new()).err();
            assert_eq!((second.position(), second.tokens()), (0, &[][..]));
            error
        },
        Argument,
        "entry 1: token 4294967295 is not below the vocabulary's 2048",
    ),
    case(
        "another model's session",
        |s| s.other.run(&mut [Entry::new(&mut s.session, &[8])], &Control::new()).err(),
        Argument,
        "entry 0: the session belongs to another model",
    ),
    case(
        "a pushed token that does not exist",
        |s| {
            s.session.push(2048);
            let error = s.feed(&[8]);
            assert_eq!(s.session.tokens(), [5, 6, 7, 2048]);
            s.session.truncate(3);
            error
        },
        Argument,
        "entry 0: token 2048 is not below the vocabulary's 2048",
    ),
    case(
        "a score of a token that does not exist",
        |s| s.session.score(&[2048], &Control::new()).err(),
        Argument,
        "entry 0: token 2048 is not below the vocabulary's 2048",
    ),
    case(
        "a sink that stops",
        |s| {
            let mut sink = |_: usize, _: &[f32]| ControlFlow::Break(());
            let entry = Entry::new(&mut s.session, &[8]).want(Want::Hidden(&mut sink));
            s.model.run(&mut [entry], &Control::new()).err()
        },
        ErrorKind::Outcome(Outcome::Cancelled),
        "cancelled",
    ),
    case(
        "no context",
        |s| s.session_with(SessionOptions::new().context(0)),
        Argument,
        "option context is 0, expected 1 to 2147483648",
    ),
    case(
        "a context beyond counting",
        |s| s.session_with(SessionOptions::new().context(usize::MAX).beyond_trained_length(true)),
        Argument,
        "option context is 18446744073709551615, expected 1 to 2147483648",
    ),
    case(
        "more than the trained length",
        |s| s.session_with(SessionOptions::new().context(513)),
        Argument,
        "a context of 513 exceeds the trained 512; SessionOptions::beyond_trained_length allows it",
    ),
    case(
        "text without tokenizer",
        |s| s.other.session().unwrap().generate("text", &mut Sampler::new()).next()?.err(),
        Argument,
        "the model has no tokenizer; give one with ModelOptions::tokenizer",
    ),
    case(
        "stop strings without tokenizer",
        |s| {
            let mut session = s.other.session().unwrap();
            session.feed(&[5], &Control::new()).unwrap();
            Generation::new().stop(["."]).accept(&mut session, &mut Sampler::new()).err()
        },
        Argument,
        "the model has no tokenizer; give one with ModelOptions::tokenizer",
    ),
    case(
        "an empty stop string",
        |s| s.session.generate("", &mut Sampler::new()).stop(["a", ""]).next()?.err(),
        Argument,
        "stop string 1 is empty",
    ),
    case(
        "sampling before anything was run",
        |s| Generation::new().accept(&mut s.model.session().unwrap(), &mut Sampler::new()).err(),
        Argument,
        "the session has no logits: run it with Want::Last before sampling",
    ),
    case(
        "a temperature that is no number",
        |s| s.sample(Sampler::new().temperature(f32::NAN)),
        Argument,
        "temperature is NaN, expected a finite number, 0 or more",
    ),
    case(
        "a filter that makes NaN",
        |s| s.sample(Sampler::new().filter(|_, logits| logits.fill(f32::NAN))),
        Argument,
        "the logit of token 0 is NaN after bias, penalties and filter",
    ),
    case(
        "a filter that leaves nothing",
        |s| s.sample(Sampler::new().filter(|_, logits| logits.fill(f32::NEG_INFINITY))),
        Argument,
        "every token is excluded",
    ),
    case(
        "no allowed token",
        |s| s.sample(Sampler::new().allowed_tokens([])),
        Argument,
        "every token is excluded",
    ),
    case(
        "a bias of a token that does not exist",
        |s| s.sample(Sampler::new().logit_bias(2048, 1.0)),
        Argument,
        "logit_bias has token 2048, but the vocabulary ends at 2048",
    ),
    case(
        "no saved session",
        |s| s.model.restore(&mut &b"GROK1SES"[..], &SessionOptions::new(), &Control::new()).err(),
        Format,
        "saved session: cannot read: failed to fill whole buffer",
    ),
];

#[test]
fn a_checkpoint_that_a_host_has_changed_is_refused_when_loaded() {
    type Change = fn(&mut grok1::Checkpoint);
    let changes: [(Change, &str); 7] = [
        (|c| c.layers[0].gate.clear(), "found 0 experts, expected 8 experts"),
        (|c| drop(c.layers.pop()), "found 3 layers, expected 4 layers"),
        (|c| c.config.selected_experts = 9, "selected_experts is 9"),
        (|c| c.layers[1].moe_norm.len = 255, "found [255], expected [256]"),
        (
            |c| (c.layers[2].output.inputs, c.layers[2].output.outputs) = (128, 512),
            "found 128 to 512, expected 256 to 256",
        ),
        (
            |c| c.layers[2].output.scales.as_mut().unwrap().inputs = 100,
            "found 512 bytes of bf16 scales, each for 100 inputs of 1 outputs, expected as many as 256 to 256 have",
        ),
        (|c| c.layers[2].output.scales.as_mut().unwrap().outputs = 0, "each for 256 inputs of 0 outputs"),
    ];
    for (change, message) in changes {
        let mut checkpoint = grok1::checkpoint::open("assets/tiny", None).unwrap();
        change(&mut checkpoint);
        let error = Model::load(checkpoint, standard(), &Control::new()).unwrap_err();
        assert_eq!(error.kind(), Format);
        assert!(error.chain().contains(message), "{}", error.chain());
    }
}
