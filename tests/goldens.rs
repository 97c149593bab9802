//! The forward pass against the float64 truth and xAI's own program.

mod support {
    pub(crate) mod oracle;
}

use std::ops::ControlFlow;
use std::path::Path;

use grok1::{Control, Entry, KvType, Model, ModelOptions, Precision, Want};
use support::oracle::{Distance, Tensors, oracle};

fn exact() -> ModelOptions {
    ModelOptions::new().precision(Precision::Exact).kv_type(KvType::F32)
}

fn open(path: impl AsRef<Path>, options: ModelOptions) -> Model {
    Model::open_with(path, options, &Control::new()).unwrap()
}

/// All logits of a prompt, from an empty session.
fn logits(model: &Model, ids: &[u32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let mut sink = |row: usize, logits: &[f32]| {
        assert_eq!(row, rows.len());
        rows.push(logits.to_vec());
        ControlFlow::Continue(())
    };
    let mut session = model.session().unwrap();
    model.run(&mut [Entry::new(&mut session, ids).want(Want::All(&mut sink))], &Control::new()).unwrap();
    rows
}

/// Prompts of a golden file, shortest first.
fn prompts(tensors: &Tensors) -> Vec<String> {
    let mut names: Vec<String> =
        (0..100).map(|n| format!("p{n}")).filter(|name| tensors.has(&format!("{name}.ids"))).collect();
    names.sort_by_key(|name| tensors.shape(&format!("{name}.ids")));
    names
}

/// Distance from the truth over all positions that a golden file has of some prompts.
fn distance(model: &Model, tensors: &Tensors, prompts: &[String]) -> Distance {
    let mut distance = Distance::default();
    for prompt in prompts {
        let rows = logits(model, &tensors.u32(&format!("{prompt}.ids")));
        let truth = tensors.f32(&format!("{prompt}.truth_logits"));
        let places = format!("{prompt}.logit_positions");
        let positions =
            if tensors.has(&places) { tensors.u32(&places) } else { (0..rows.len() as u32).collect() };
        for (position, truth) in positions.iter().zip(truth.chunks_exact(model.config().vocab)) {
            distance.add(&rows[*position as usize], truth);
        }
    }
    distance
}

#[test]
fn exact_logits_of_the_tiny_models_are_the_truths() {
    let Some(oracle) = oracle() else { return };
    for name in ["tiny", "tiny_g2", "tiny_g8"] {
        let tensors = Tensors::open(oracle.join(format!("goldens/{name}.safetensors")));
        let model = open(oracle.join(name), exact());
        let distance = distance(&model, &tensors, &prompts(&tensors));
        eprintln!("{name}: relative RMS {:.1e}, max {:.1e}", distance.relative_rms(), distance.max_abs());
        assert!(distance.relative_rms() <= 2e-5, "{name}: {distance:?}");
        assert!(distance.max_abs() <= 1e-3, "{name}: {distance:?}");
    }
}

#[test]
fn exact_logits_of_random_models_with_odd_shapes_are_the_truths() {
    let Some(oracle) = oracle() else { return };
    for name in ["r1_gqa2_vocab515", "r2_onelayer_odd", "r3_groups8"] {
        let folder = oracle.join("random").join(name);
        let tensors = Tensors::open(folder.join("goldens.safetensors"));
        let model = open(&folder, exact());
        let distance = distance(&model, &tensors, &prompts(&tensors));
        eprintln!("{name}: relative RMS {:.1e}, max {:.1e}", distance.relative_rms(), distance.max_abs());
        assert!(distance.relative_rms() <= 5e-5, "{name}: {distance:?}");
        assert!(distance.max_abs() <= 1e-3, "{name}: {distance:?}");
    }
}

#[test]
fn standard_precision_is_closer_to_the_truth_than_xais_program() {
    let Some(oracle) = oracle() else { return };
    let tensors = Tensors::open(oracle.join("goldens/tiny.safetensors"));
    let model = open(oracle.join("tiny"), ModelOptions::new());
    let all = prompts(&tensors);
    let short = distance(&model, &tensors, &all[..5]);
    let long = distance(&model, &tensors, &all);
    for (distance, rms, kl, top1) in [(short, 0.00395, 0.000_157, 0.976), (long, 0.00449, 0.000_217, 0.988)] {
        eprintln!(
            "relative RMS {:.5}, KL {:.6}, top-1 {:.4}",
            distance.relative_rms(),
            distance.mean_kl(),
            distance.top1()
        );
        assert!(distance.relative_rms() <= rms, "{distance:?}");
        assert!(distance.mean_kl() <= kl, "{distance:?}");
        assert!(distance.top1() >= top1, "{distance:?}");
    }
}
