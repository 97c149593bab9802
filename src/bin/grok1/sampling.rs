//! Arguments for the sampler.

use std::hash::{BuildHasher, RandomState};

use grok1::{Result, Sampler};

/// How tokens are chosen. The defaults give readable text from a base model.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct Sampling {
    /// Divide logits by T; below 1 likely tokens become likelier
    #[arg(long, value_name = "T", default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f32,
    /// Keep only the N best tokens; 0 is off
    #[arg(long, value_name = "N", default_value_t = 0)]
    top_k: usize,
    /// Keep only the best tokens that have this share of the probability; 1 is off
    #[arg(long, value_name = "SHARE", default_value_t = 0.95, allow_negative_numbers = true)]
    top_p: f32,
    /// Keep only tokens with this share of the best one's probability; 0 is off
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f32,
    /// Divide positive logits of earlier tokens by this, multiply negative ones; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// Subtract this from the logits of earlier tokens
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Subtract this from the logits of earlier tokens, as many times as they occur
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Let the penalties look at the last N tokens only
    #[arg(long, value_name = "N")]
    penalty_window: Option<usize>,
    /// Take the best token always
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p", "seed"])]
    greedy: bool,
    /// The same seed gives the same text; random by default
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Sampling {
    /// The sampler and its seed.
    pub(crate) fn sampler(&self) -> Result<(Sampler, u64)> {
        // The standard library's hash keys come from the operating system's randomness.
        let seed = self.seed.unwrap_or_else(|| RandomState::new().hash_one(()));
        let sampler = Sampler::new()
            .temperature(if self.greedy { 0.0 } else { self.temperature })
            .top_k(self.top_k)
            .top_p(self.top_p)
            .min_p(self.min_p)
            .repetition_penalty(self.repetition_penalty)
            .presence_penalty(self.presence_penalty)
            .frequency_penalty(self.frequency_penalty)
            .penalty_window(self.penalty_window.unwrap_or(usize::MAX))
            .seed(seed);
        sampler.validate()?;
        Ok((sampler, seed))
    }
}
