//! Models that lie partly on a GPU.

use grok1::backend::gpu::{GpuError, Runtime};
use grok1::{Control, ErrorKind, Model, ModelOptions};

use crate::first;
use crate::goldens::distance;
use crate::support::models::{exact, fixtures, standard, tiny, tiny_path};
use crate::support::oracle::Tensors;

/// The truth's results, within the limits of a whole model.
fn assert_exact(model: &Model) {
    let truth = Tensors::open(fixtures().join("tiny.safetensors"));
    let distance = distance(model, &truth, &["p0", "p1"]);
    assert!(distance.relative_rms() <= 2e-5, "{}: {distance:?}", model.device());
}

fn layers<R: Runtime>() {
    for layers in [0, 1, 3] {
        let model = tiny(first::<R>(exact()).gpu_layers(layers));
        assert!(model.device().contains(&format!(", {layers} of 4 layers; cpu (")), "{}", model.device());
        assert_exact(&model);
    }
}

#[test]
fn layers_on_the_processor_give_the_truths_logits() {
    on_each_runtime!(layers);
}

fn experts<R: Runtime>() {
    for [layers, experts] in [[4, usize::MAX], [3, 1]] {
        assert_exact(&tiny(first::<R>(exact()).gpu_layers(layers).experts_on_cpu(experts)));
    }
}

#[test]
fn experts_on_the_processor_give_the_truths_logits() {
    on_each_runtime!(experts);
}

fn automatic<R: Runtime>() {
    let model = tiny(first::<R>(exact()).batch_rows(8));
    assert!(
        [1, 2, 3].iter().any(|n| model.device().contains(&format!(", {n} of 4 layers; cpu ("))),
        "{}",
        model.device()
    );
    assert_exact(&model);
}

#[test]
fn a_gpu_without_room_for_all_layers_takes_those_it_has_room_for() {
    on_each_runtime!(automatic, "STANDIN_MEMORY" = "281400000");
}

fn refused<R: Runtime>() {
    let load = |options: ModelOptions| {
        Model::open_with(tiny_path(), first::<R>(options), &Control::new()).unwrap_err()
    };
    let error = load(standard().gpu_layers(4));
    assert_eq!(error.kind(), ErrorKind::Resource);
    assert!(error.to_string().contains(" bytes for the layers that were asked for, "), "{error}");
    assert!(error.downcast_ref::<GpuError>().unwrap().missing_bytes().unwrap() > 0, "{error}");
}

#[test]
fn layers_that_have_no_room_are_refused_before_they_are_loaded() {
    on_each_runtime!(refused, "STANDIN_MEMORY" = "281400000");
}
