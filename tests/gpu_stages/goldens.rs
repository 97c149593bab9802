//! Whole models against the truth's results, within the processor's limits.

use grok1::backend::gpu::Runtime;
use grok1::{Model, Sampler};

use crate::first;
use crate::support::models::{exact, fixtures, logits, open, standard, tiny, tiny_path};
use crate::support::oracle::{Distance, Tensors, oracle};

/// Distance of some prompts' logits from the truth's.
pub(crate) fn distance(model: &Model, truth: &Tensors, prompts: &[&str]) -> Distance {
    let mut distance = Distance::default();
    for prompt in prompts {
        let rows = logits(model, &truth.u32(&format!("{prompt}.ids")));
        let truth = truth.f32(&format!("{prompt}.truth_logits"));
        rows.iter()
            .zip(truth.chunks_exact(model.config().vocab))
            .for_each(|(row, truth)| distance.add(row, truth));
    }
    distance
}

fn exact_logits<R: Runtime>() {
    let trained = (tiny_path(), fixtures().join("tiny.safetensors"), ["p0", "p1", "p2"].as_slice(), 2e-5);
    let odd = fixtures().join("r2_onelayer_odd");
    let random = (odd.clone(), odd.join("goldens.safetensors"), ["p1", "p33"].as_slice(), 5e-5);
    for (path, truth, prompts, relative_rms) in [trained, random] {
        let distance = distance(&open(path, first::<R>(exact())), &Tensors::open(&truth), prompts);
        assert!(distance.relative_rms() <= relative_rms, "{truth:?}: {distance:?}");
        assert!(distance.max_abs() <= 1e-3, "{truth:?}: {distance:?}");
        assert_eq!(distance.top1(), 1.0, "{truth:?}: the best token of every position is the truth's");
    }
}

#[test]
fn exact_logits_are_the_truths() {
    on_each_runtime!(exact_logits);
}

fn standard_logits<R: Runtime>() {
    let truth = Tensors::open(fixtures().join("tiny.safetensors"));
    let distance = distance(&tiny(first::<R>(standard())), &truth, &["p0", "p1", "p2"]);
    assert!(distance.relative_rms() <= 3.95e-3, "{distance:?}");
}

#[test]
fn standard_precision_is_closer_to_the_truth_than_xais_program() {
    on_each_runtime!(standard_logits);
}

/// Those of the files with one layer, blocks of two families.
const FILES: [&str; 2] = ["tiny-L1-Q4_K_M.gguf", "tiny-L1-IQ4_XS.gguf"];

fn logits_of_files<R: Runtime>() {
    let formats = oracle().unwrap().join("formats");
    let goldens = Tensors::open(formats.join("goldens.safetensors"));
    for name in FILES {
        let rows = logits(&open(formats.join(name), first::<R>(exact())), &goldens.u32("ids.p2"));
        let mut distance = Distance::default();
        for (found, truth) in rows[12..].iter().zip(goldens.f32(&format!("{name}.p2")).chunks_exact(2048)) {
            distance.add(found, truth);
        }
        assert!(distance.max_abs() <= 1e-3, "{name}: {distance:?}");
    }
}

#[test]
fn exact_logits_of_gguf_files_are_those_of_their_own_weights() {
    if oracle().is_some() {
        on_each_runtime!(logits_of_files);
    }
}

fn greedy_text<R: Runtime>() {
    let write = |model: Model| {
        let (mut session, mut sampler) = (model.session().unwrap(), Sampler::new().greedy());
        let pieces = session.generate("The king", &mut sampler).max_tokens(12);
        pieces.map(|piece| piece.unwrap().token()).collect::<Vec<u32>>()
    };
    assert_eq!(write(tiny(first::<R>(exact()))), write(tiny(exact())));
}

#[test]
fn greedy_text_is_the_processors() {
    on_each_runtime!(greedy_text);
}
