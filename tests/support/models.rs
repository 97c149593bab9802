//! The models that tests run, and the ways they open them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use grok1::backend::cpu::Cpu;
use grok1::backend::scalar::Scalar;
use grok1::{
    Control, Entry, KvType, Model, ModelOptions, Precision, Session, Threads, Want, WeightStorage, checkpoint,
};

/// The project's folder, as Cargo tells it to the tests that it runs; whoever runs them elsewhere tells it likewise.
fn project() -> PathBuf {
    let told = std::env::var_os("CARGO_MANIFEST_DIR");
    told.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// The trained model in the project.
pub(crate) fn tiny_path() -> PathBuf {
    project().join("assets/tiny")
}

/// The project's own part of the reference results.
pub(crate) fn fixtures() -> PathBuf {
    project().join("tests/fixtures/goldens")
}

/// f32 throughout.
pub(crate) fn exact() -> ModelOptions {
    ModelOptions::new().precision(Precision::Exact).kv_type(KvType::F32)
}

/// The default but for rounding: a row has the same bits whatever is computed with it.
pub(crate) fn any_batch() -> ModelOptions {
    ModelOptions::new().precision(Precision::Exact)
}

/// The default.
pub(crate) fn standard() -> ModelOptions {
    ModelOptions::new()
}

pub(crate) fn open(path: impl AsRef<Path>, options: ModelOptions) -> Model {
    Model::open_with(path, options, &Control::new()).unwrap()
}

pub(crate) fn tiny(options: ModelOptions) -> Model {
    open(tiny_path(), options)
}

/// The model at `path` on the backend that defines the results, in f32.
pub(crate) fn open_scalar(path: impl AsRef<Path>) -> Model {
    let checkpoint = checkpoint::open(path, None).unwrap();
    let backend = Scalar::new(checkpoint.config.clone(), Precision::Exact);
    Model::load_on(backend, checkpoint, exact(), &Control::new()).unwrap()
}

/// The trained model with one instruction set of the processor's, in f32.
pub(crate) fn tiny_on(instruction_set: &str, batch_rows: usize) -> Model {
    let checkpoint = checkpoint::open(tiny_path(), None).unwrap();
    let threads = Arc::new(Threads::new(2).unwrap());
    let cpu = Cpu::new(checkpoint.config.clone(), Precision::Exact, WeightStorage::Mapped, threads)
        .with_instruction_set(instruction_set);
    Model::load_on(cpu, checkpoint, exact().batch_rows(batch_rows), &Control::new()).unwrap()
}

/// Runs `tokens` and collects the logits of each.
pub(crate) fn run_all(session: &mut Session, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let mut sink = |row: usize, logits: &[f32]| {
        assert_eq!(row, rows.len());
        rows.push(logits.to_vec());
        ControlFlow::Continue(())
    };
    let model = session.model().clone();
    model.run(&mut [Entry::new(session, tokens).want(Want::All(&mut sink))], &Control::new()).unwrap();
    rows
}

/// The logits of each of `tokens` in a session of their own.
pub(crate) fn logits(model: &Model, tokens: &[u32]) -> Vec<Vec<f32>> {
    run_all(&mut model.session().unwrap(), tokens)
}
