//! Everything about a sampler that is a number.

use std::collections::BTreeMap;

use super::SampleError;
use super::filtered::Limits;
use crate::candidates::{Asked, MAX_CANDIDATES};

/// What the sampler's builder sets; checked as a whole by [`validate`](Self::validate).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) temperature: f32,
    /// `usize::MAX` is off, so that less always means fewer.
    pub(super) top_k: usize,
    pub(super) top_p: f32,
    pub(super) min_p: f32,
    pub(super) repetition_penalty: f32,
    pub(super) presence_penalty: f32,
    pub(super) frequency_penalty: f32,
    pub(super) penalty_window: usize,
    pub(super) logit_bias: BTreeMap<u32, f32>,
    /// Ascending, each once.
    pub(super) allowed_tokens: Option<Vec<u32>>,
    pub(super) seed: u64,
    pub(super) logprobs: bool,
    pub(super) alternatives: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: usize::MAX,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: usize::MAX,
            logit_bias: BTreeMap::new(),
            allowed_tokens: None,
            seed: 0,
            logprobs: true,
            alternatives: 0,
        }
    }
}

impl Settings {
    /// Whether the best token is taken and nothing is drawn.
    pub(super) fn is_greedy(&self) -> bool {
        self.temperature == 0.0 || self.top_p == 0.0
    }

    /// Whether any penalty changes anything.
    pub(super) fn penalises(&self) -> bool {
        self.penalty_window > 0
            && (self.repetition_penalty != 1.0
                || self.presence_penalty != 0.0
                || self.frequency_penalty != 0.0)
    }

    /// Whether logits are changed before probabilities are looked at.
    pub(super) fn adjusts(&self) -> bool {
        self.penalises() || !self.logit_bias.is_empty() || self.allowed_tokens.is_some()
    }

    /// What the best tokens and totals have to be of, so that they often suffice; `None` if only all logits do.
    pub(super) fn asks(&self) -> Option<Asked> {
        let limits = self.limits();
        let (count, temperature) = if self.is_greedy() {
            (1, 1.0)
        } else if self.top_k <= MAX_CANDIDATES {
            (self.top_k, 1.0)
        } else if self.top_k == usize::MAX && !limits.keep_all(usize::MAX) {
            (MAX_CANDIDATES, if limits.is_share_of_all() { self.temperature } else { 1.0 })
        } else {
            return None;
        };
        let count = count.max(self.alternatives);
        let suffices = !self.adjusts() && count <= MAX_CANDIDATES && self.validate().is_ok();
        suffices.then(|| Asked::new(count, temperature))
    }

    /// The filters that look at probabilities.
    pub(super) fn limits(&self) -> Limits {
        Limits { top_k: self.top_k, top_p: self.top_p, min_p: self.min_p }
    }

    /// Refuses the first setting outside its range.
    pub(super) fn validate(&self) -> Result<(), SampleError> {
        let share = |value| (0.0..=1.0).contains(&value);
        let checks = [
            (
                "temperature",
                self.temperature,
                self.temperature.is_finite() && self.temperature >= 0.0,
                "a finite number, 0 or more",
            ),
            ("top_p", self.top_p, share(self.top_p), "a number from 0 to 1"),
            ("min_p", self.min_p, share(self.min_p), "a number from 0 to 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
                "a finite number above 0",
            ),
            ("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), "a finite number"),
            (
                "frequency_penalty",
                self.frequency_penalty,
                self.frequency_penalty.is_finite(),
                "a finite number",
            ),
        ];
        let bias = self
            .logit_bias
            .values()
            .map(|&bias| ("logit_bias", bias, bias < f32::INFINITY, "a number below +infinity"));
        for (setting, found, valid, expected) in checks.into_iter().chain(bias) {
            if !valid {
                return Err(SampleError::Setting { setting, found, expected });
            }
        }
        Ok(())
    }
}
