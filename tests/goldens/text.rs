//! What the model says: greedy continuations and the perplexity of held-out text.

use grok1::{Control, Model, ModelOptions, Sampler};
use serde_json::Value;

use crate::models::{exact, fixtures, open, standard, tiny_path};
use crate::oracle::{Tensors, json, oracle};

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap()
}

/// `continuation` is the truth's up to its first step whose two best logits are closer than `tolerance`.
fn assert_continues(model: &Model, prompt: &[u32], golden: &Value, tolerance: f64) {
    let (truth, margins) = (list::<u32>(&golden["truth_greedy"]), list::<f64>(&golden["truth_margins"]));
    let sure = margins.iter().position(|&margin| margin < tolerance).unwrap_or(truth.len());
    let mut session = model.session().unwrap();
    let mut sampler = Sampler::new().greedy();
    let pieces = session.generate(prompt, &mut sampler).max_tokens(sure).ignore_end_of_text(true);
    let found: Vec<u32> = pieces.map(|piece| piece.unwrap().token()).collect();
    assert_eq!(found, truth[..sure], "{}", golden["key"]);
}

fn assert_all_continue(options: ModelOptions, tolerance: f64) {
    let mut cases = vec![(tiny_path(), fixtures().join("tiny.json"))];
    if let Some(oracle) = oracle() {
        for name in ["tiny", "tiny_g2"] {
            cases.push((oracle.join(name), oracle.join(format!("goldens/{name}.json"))));
        }
    }
    for (path, goldens) in cases {
        let model = open(path, options.clone());
        for golden in json(goldens)["prompts"].as_array().unwrap() {
            assert_continues(&model, &list(&golden["ids"]), golden, tolerance);
        }
    }
}

#[test]
fn exact_greedy_text_is_the_truths() {
    assert_all_continue(exact(), 1e-3);
}

#[test]
fn standard_greedy_text_is_the_truths_until_its_first_close_choice() {
    assert_all_continue(standard(), 0.06);
}

#[test]
fn greedy_text_of_random_models_is_the_truths() {
    let Some(oracle) = oracle() else { return };
    for name in ["r1_gqa2_vocab515", "r2_onelayer_odd", "r3_groups8"] {
        let folder = oracle.join("random").join(name);
        let greedy = &json(folder.join("goldens.json"))["greedy"];
        let golden = serde_json::json!({
            "key": name, "truth_greedy": greedy["truth"], "truth_margins": greedy["truth_margins"],
        });
        assert_continues(&open(&folder, exact()), &list(&greedy["prompt"]), &golden, 1e-3);
    }
}

/// Mean loss per token of a file's windows, the model's and the truth's.
fn losses(model: &Model, windows: &Tensors) -> [f64; 2] {
    let (ids, truth) = (windows.u32("ids"), windows.f32("truth_nll"));
    let mut loss = 0.0;
    for window in ids.chunks_exact(windows.shape("ids")[1]) {
        let scores = model.session().unwrap().score(window, &Control::new()).unwrap();
        assert!(scores[0].is_none(), "nothing comes before the first token");
        loss -= scores[1..].iter().map(|score| f64::from(score.unwrap())).sum::<f64>();
    }
    let count = truth.len() as f64;
    [loss / count, truth.iter().copied().map(f64::from).sum::<f64>() / count]
}

fn assert_perplexity(options: ModelOptions, tolerance: f64) {
    let root = oracle().map_or_else(fixtures, |oracle| oracle.join("goldens"));
    let [found, truth] =
        losses(&open(tiny_path(), options), &Tensors::open(root.join("perplexity.safetensors")));
    eprintln!("loss per token {found:.6}, truth {truth:.6}, off by {:.1e}", found - truth);
    assert!((found - truth).abs() <= tolerance, "loss per token {found}, truth {truth}");
}

#[test]
fn exact_perplexity_of_held_out_text_is_the_truths() {
    assert_perplexity(exact(), 1e-4);
}

#[test]
fn standard_perplexity_of_held_out_text_is_nearly_the_truths() {
    assert_perplexity(standard(), 1e-3);
}
