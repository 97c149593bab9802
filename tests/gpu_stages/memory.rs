//! Memory that a model takes, against the plan.

use std::env;

use grok1::backend::gpu::{GpuError, Runtime};
use grok1::checkpoint::{self, Checkpoint, Synthetic};
use grok1::{Control, Model, ModelOptions};

use crate::first;
use crate::support::models::run_all;

/// What a plan leaves alone.
const MARGIN: usize = 256 << 20;

/// A model with weights of one type, and with other matrices for `up`.
fn model(form: &str, up: &str) -> Checkpoint {
    let make = |form: &str| {
        let sizes = "layers=2,width=256,heads=8,kv_heads=2,head_dim=64,experts=4,ffn=512,vocab=512";
        let options: Synthetic = format!("{sizes},{form}").parse().unwrap();
        checkpoint::synthetic(&options).unwrap()
    };
    let mut checkpoint = make(form);
    checkpoint.config.context = 320;
    for (layer, other) in checkpoint.layers.iter_mut().zip(make(up).layers) {
        layer.up = other.up;
    }
    checkpoint
}

/// The most device memory that was taken so far.
fn peak<R: Runtime>() -> usize {
    let names =
        if R::NAME == "cuda" { ["libcuda.so.1"; 2] } else { ["libgalaxyhip.so.5", "libamdhip64.so.7"] };
    // SAFETY: the stand-in is loaded; the function has this type.
    unsafe {
        let library = names.iter().find_map(|name| libloading::Library::new(*name).ok()).unwrap();
        library.get::<extern "C" fn() -> usize>(c"standin_peak").unwrap()()
    }
}

fn planned<R: Runtime>() {
    let load = |options: &ModelOptions| {
        let [form, up] = ["FORM", "UP"].map(|name| env::var(name).unwrap());
        Model::load(model(&form, &up), options.clone(), &Control::new())
    };
    let options = first::<R>(ModelOptions::new()).batch_rows(96).gpu_layers(2);
    // SAFETY: nobody else reads or writes the environment.
    unsafe { env::set_var("STANDIN_MEMORY", "1000") };
    let error = load(&options).unwrap_err();
    let Some(GpuError::OutOfMemory { bytes: planned, .. }) = error.downcast_ref() else { panic!("{error}") };
    let planned = planned - MARGIN;
    // SAFETY: as above.
    unsafe { env::remove_var("STANDIN_MEMORY") };
    let model = load(&options).unwrap();
    let loaded = peak::<R>();
    let mut session = model.session().unwrap();
    let tokens: Vec<u32> = (0..320).map(|index| index * 37 % 512).collect();
    // Full batches, a few rows, and one.
    for part in [&tokens[..310], &tokens[310..316], &tokens[316..317], &tokens[317..]] {
        run_all(&mut session, part);
    }
    let found = peak::<R>();
    assert!(found <= planned, "{found} bytes were taken, {loaded} before it ran, {planned} are planned");
    assert!(found > planned / 2, "{found} bytes were taken of {planned}");
}

#[test]
fn no_more_memory_is_taken_than_was_planned() {
    if env::var("GROK1_GPU").is_ok() {
        return eprintln!("skipped: real drivers do not tell");
    }
    on_each_runtime!(planned, "FORM" = "type=i8", "UP" = "type=i8");
    on_each_runtime!(planned, "FORM" = "type=q4_k", "UP" = "type=q6_k");
}
