//! What each form costs in perplexity, on text that the trained model has not seen. `scripts/perplexity.py` makes the table of all
//! windows that the documentation of `convert` has.

use std::collections::HashMap;

use grok1::{Model, log_probability};

use crate::models::{open, run_all, standard, tiny_path};
use crate::oracle::{Tensors, oracle};
use crate::scratch::Scratch;
use crate::{recipe, tiny, to_gguf};

/// Windows of 512 tokens that are scored, of 40.
const WINDOWS: usize = 6;

/// Mean negative log-likelihood of every token behind the first of each window.
fn nll(model: &Model, windows: &[u32]) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for window in windows.chunks_exact(512).take(WINDOWS) {
        let rows = run_all(&mut model.session().unwrap(), &window[..511]);
        for (row, &token) in rows.iter().zip(&window[1..]) {
            sum -= f64::from(log_probability(row, token));
            count += 1;
        }
    }
    sum / f64::from(count)
}

#[test]
fn fewer_bits_cost_more_perplexity() {
    let Some(oracle) = oracle() else { return };
    let windows = Tensors::open(oracle.join("goldens/perplexity.safetensors")).u32("ids");
    let (scratch, tiny) = (Scratch::new("perplexity"), tiny());
    let truth = nll(&open(tiny_path(), standard()), &windows);
    let mut costs = HashMap::new();
    // With the most that each may cost: about twice what it does.
    let forms = [
        ("bf16", 0.001),
        ("q8_0", 0.001),
        ("q6_k", 0.005),
        ("q5_k", 0.01),
        ("q4_k", 0.015),
        ("iq4_xs", 0.015),
        ("q4_0", 0.015),
        ("q4_k_m", 0.01),
        ("q3_k", 0.08),
        ("q3_k_m", 0.025),
        ("q2_k", 0.06),
        ("q2_k_pure", 0.3),
    ];
    for (name, limit) in forms {
        let path = scratch.path(&format!("{name}.gguf"));
        to_gguf(&tiny, recipe(name), &path);
        let cost = nll(&open(&path, standard()), &windows) - truth;
        eprintln!("{name}: {cost:+.4}");
        assert!(cost <= limit, "{name}: {cost}");
        costs.insert(name, cost);
    }
    for (better, worse) in [
        ("q8_0", "q5_k"),
        ("q6_k", "q4_k"),
        ("q5_k", "q3_k"),
        ("q4_k", "q3_k"),
        ("q4_k_m", "q3_k_m"),
        ("q3_k_m", "q3_k"),
        ("q3_k_m", "q2_k"),
        ("q2_k", "q2_k_pure"),
        ("q3_k", "q2_k_pure"),
    ] {
        assert!(costs[better] < costs[worse], "{better} {}, {worse} {}", costs[better], costs[worse]);
    }
}
