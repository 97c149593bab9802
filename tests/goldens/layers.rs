//! What happens inside: routing, gates and hidden states of every layer, seen through an [`Observer`].

use grok1::backend::{Batch, Observer, Routing};
use grok1::{Control, Entry, Model};

use crate::models::{exact, open, open_scalar};
use crate::oracle::Tensors;
use crate::{Golden, random, trained};

/// Below this distance between the second and the third probability, rounding decides who is second.
const TIE: f32 = 1e-5;

/// Everything that a run of one batch shows, layer after layer.
#[derive(Default)]
struct Seen {
    tokens: Vec<u32>,
    probabilities: Vec<f32>, // [layers, rows, experts]
    experts: Vec<u32>,       // [layers, rows, selected]
    gates: Vec<f32>,         // [layers, rows, selected]
    hidden: Vec<f32>,        // [layers, rows, width]
}

impl Observer for Seen {
    fn batch(&mut self, batch: &Batch<'_>) {
        assert!(self.tokens.is_empty(), "a second batch");
        self.tokens.extend(batch.rows().iter().map(|row| row.token));
    }

    fn routing(&mut self, _layer: usize, routing: &Routing<'_>) {
        self.probabilities.extend(routing.probabilities);
        self.experts.extend(routing.experts);
        self.gates.extend(routing.gates);
    }

    fn hidden(&mut self, _layer: usize, hidden: &[f32]) {
        self.hidden.extend(hidden);
    }
}

fn observe(model: &Model, tokens: &[u32]) -> Seen {
    let (mut seen, mut session) = (Seen::default(), model.session().unwrap());
    model.observe(&mut [Entry::new(&mut session, tokens)], &Control::new(), &mut seen).unwrap();
    assert_eq!(seen.tokens, tokens);
    seen
}

/// Prompts whose inner values the truth has.
fn traced(golden: &Golden) -> Vec<String> {
    let mut prompts = golden.prompts();
    prompts.retain(|prompt| golden.truth.has(&format!("{prompt}.truth_probs")));
    prompts
}

fn assert_routes_like(truth: &Tensors, prompt: &str, seen: &Seen) {
    let values = |name: &str| truth.f32(&format!("{prompt}.truth_{name}"));
    let (probabilities, gates) = (values("probs"), values("gate"));
    let experts = truth.u32(&format!("{prompt}.truth_idx"));
    let [count, selected] = ["probs", "idx"].map(|name| truth.shape(&format!("{prompt}.truth_{name}"))[2]);
    assert_eq!(seen.probabilities.len(), probabilities.len());
    assert_eq!(seen.experts.len(), experts.len());
    let mut ties = 0;
    for (place, probabilities) in probabilities.chunks_exact(count).enumerate() {
        for (found, truth) in seen.probabilities[place * count..].iter().zip(probabilities) {
            assert!((found - truth).abs() <= 1e-5, "{prompt}, {place}: probability {found}, truth {truth}");
        }
        let mut sorted = probabilities.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        if sorted[selected - 1] - sorted[selected] <= TIE {
            ties += 1;
            continue;
        }
        let pairs = place * selected..(place + 1) * selected;
        assert_eq!(seen.experts[pairs.clone()], experts[pairs.clone()], "{prompt}, {place}");
        for (found, truth) in seen.gates[pairs.clone()].iter().zip(&gates[pairs]) {
            assert!((found - truth).abs() <= 1e-5, "{prompt}, {place}: gate {found}, truth {truth}");
        }
    }
    assert!(ties * 100 <= probabilities.len() / count, "{prompt}: {ties} ties");
}

fn assert_hidden_like(truth: &Tensors, prompt: &str, seen: &Seen) {
    let hidden = truth.f32(&format!("{prompt}.truth_hidden"));
    let layers = truth.shape(&format!("{prompt}.truth_hidden"))[0];
    assert_eq!(seen.hidden.len(), hidden.len());
    let per_layer = hidden.len() / layers;
    for (layer, (found, truth)) in
        seen.hidden.chunks_exact(per_layer).zip(hidden.chunks_exact(per_layer)).enumerate()
    {
        let squares =
            |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let error = squares(&mut found.iter().zip(truth).map(|(found, truth)| found - truth));
        let relative = (error / squares(&mut truth.iter().copied())).sqrt();
        assert!(relative <= 5e-6, "{prompt}, layer {layer}: relative RMS {relative:.1e}");
    }
}

fn assert_like_the_truth(model: &Model, golden: &Golden) {
    for prompt in traced(golden) {
        let seen = observe(model, &golden.truth.u32(&format!("{prompt}.ids")));
        assert_routes_like(&golden.truth, &prompt, &seen);
        assert_hidden_like(&golden.truth, &prompt, &seen);
    }
}

#[test]
fn experts_gates_and_hidden_states_of_every_layer_are_the_truths() {
    for golden in trained().into_iter().chain(random()) {
        assert_like_the_truth(&open(&golden.model, exact()), &golden);
    }
}

#[test]
fn the_defining_backend_routes_the_same() {
    for golden in random() {
        assert_like_the_truth(&open_scalar(&golden.model), &golden);
    }
}
