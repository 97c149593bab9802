//! Logits of every position.

use grok1::Model;

use crate::models::{exact, logits, open, open_scalar, standard};
use crate::oracle::{Distance, Tensors, json, oracle};
use crate::{Golden, random, trained};

/// Distance from the truth over all positions that it has of some prompts.
fn distance(model: &Model, golden: &Golden, prompts: &[String]) -> Distance {
    let mut distance = Distance::default();
    for prompt in prompts {
        let rows = logits(model, &golden.truth.u32(&format!("{prompt}.ids")));
        let truth = golden.truth.f32(&format!("{prompt}.truth_logits"));
        let places = format!("{prompt}.logit_positions");
        let positions = if golden.truth.has(&places) {
            golden.truth.u32(&places)
        } else {
            (0..rows.len() as u32).collect()
        };
        for (position, truth) in positions.iter().zip(truth.chunks_exact(model.config().vocab)) {
            distance.add(&rows[*position as usize], truth);
        }
    }
    distance
}

/// All positions of some prompts are as close to the truth as f32 can be asked to be.
fn assert_exact(model: &Model, golden: &Golden, prompts: &[String], relative_rms: f64) {
    let distance = distance(model, golden, prompts);
    let (name, device) = (&golden.name, model.device());
    eprintln!(
        "{name}, {device}: relative RMS {:.1e}, max {:.1e}",
        distance.relative_rms(),
        distance.max_abs()
    );
    assert!(distance.relative_rms() <= relative_rms, "{name}, {device}: {distance:?}");
    assert!(distance.max_abs() <= 1e-3, "{name}, {device}: {distance:?}");
    assert_eq!(distance.top1(), 1.0, "{name}, {device}: the best token of every position is the truth's");
}

#[test]
fn exact_logits_of_the_trained_model_are_the_truths() {
    for golden in trained() {
        assert_exact(&open(&golden.model, exact()), &golden, &golden.prompts(), 2e-5);
    }
}

#[test]
fn exact_logits_of_random_models_with_odd_shapes_are_the_truths() {
    for golden in random() {
        assert_exact(&open(&golden.model, exact()), &golden, &golden.prompts(), 5e-5);
    }
}

#[test]
fn the_defining_backend_meets_the_same_limits() {
    for golden in trained() {
        let prompts = golden.prompts();
        let short = prompts.iter().filter(|name| golden.truth.shape(&format!("{name}.ids"))[0] <= 64);
        assert_exact(&open_scalar(&golden.model), &golden, &short.cloned().collect::<Vec<_>>(), 2e-5);
    }
    for golden in random() {
        assert_exact(&open_scalar(&golden.model), &golden, &golden.prompts(), 5e-5);
    }
}

#[test]
fn layers_run_in_the_order_of_their_names_as_strings() {
    let Some(oracle) = oracle() else { return };
    let folder = oracle.join("eleven-layers");
    let golden = json(folder.join("golden.json"));
    let tokens: Vec<u32> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    let truth: Vec<Vec<f32>> = serde_json::from_value(golden["logits_f32"].clone()).unwrap();
    let rows = logits(&open(&folder, exact()), &tokens);
    let mut distance = Distance::default();
    rows.iter().zip(&truth).for_each(|(row, truth)| distance.add(row, truth));
    eprintln!("eleven layers: relative RMS {:.1e}, max {:.1e}", distance.relative_rms(), distance.max_abs());
    assert!(distance.max_abs() <= 1e-4, "{distance:?}");
}

#[test]
fn standard_precision_is_closer_to_the_truth_than_xais_program() {
    // (prompts up to this length, relative RMS, mean KL, top-1) of that program, op by op and compiled.
    const REFERENCE: [(usize, f64, f64, f64); 2] =
        [(128, 0.00395, 0.000_157, 0.976), (usize::MAX, 0.00395, 0.000_217, 0.988)];
    for golden in trained() {
        let model = open(&golden.model, standard());
        for (longest, rms, kl, top1) in REFERENCE {
            let mut prompts = golden.prompts();
            prompts.retain(|name| golden.truth.shape(&format!("{name}.ids"))[0] <= longest);
            let distance = distance(&model, &golden, &prompts);
            let (found_rms, found_kl, found_top1) =
                (distance.relative_rms(), distance.mean_kl(), distance.top1());
            eprintln!(
                "{}: relative RMS {found_rms:.5}, KL {found_kl:.6}, top-1 {found_top1:.4}",
                golden.name
            );
            assert!(found_rms <= rms, "{}: {distance:?}", golden.name);
            assert!(found_kl <= kl, "{}: {distance:?}", golden.name);
            assert!(found_top1 >= top1, "{}: {distance:?}", golden.name);
        }
    }
}

#[test]
fn exact_logits_of_other_formats_are_those_of_their_own_weights() {
    let Some(oracle) = oracle() else { return };
    let formats = oracle.join("formats");
    let goldens = Tensors::open(formats.join("goldens.safetensors"));
    let ids = goldens.u32("ids.p2");
    let mut models = 0;
    for entry in std::fs::read_dir(&formats).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !goldens.has(&format!("{name}.p2")) {
            continue;
        }
        let rows = logits(&open(&path, exact()), &ids);
        let mut distance = Distance::default();
        for (found, truth) in rows[12..].iter().zip(goldens.f32(&format!("{name}.p2")).chunks_exact(2048)) {
            distance.add(found, truth);
        }
        eprintln!("{name}: max {:.1e}, relative RMS {:.1e}", distance.max_abs(), distance.relative_rms());
        assert!(distance.max_abs() <= 1e-3, "{name}: {distance:?}");
        models += 1;
    }
    assert_eq!(models, 8, "seven GGUF files and a safetensors folder");
}
