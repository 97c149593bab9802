//! What changes logits before probabilities are looked at: bias, allowed tokens, penalties.

use std::collections::BTreeMap;

use super::SampleError;
use super::settings::Settings;

/// A changed copy of the logits, and what counting tokens needs.
#[derive(Debug, Default)]
pub(super) struct Adjusted {
    logits: Vec<f32>, // [vocab]
    counts: Vec<u32>, // [vocab], all 0 between calls
    seen: Vec<u32>,
}

impl Adjusted {
    /// A copy of `logits` (`[vocab]`) with bias, mask and penalties applied, in this order.
    pub(super) fn apply(
        &mut self,
        logits: &[f32],
        history: &[u32],
        settings: &Settings,
    ) -> Result<&mut [f32], SampleError> {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        bias(&mut self.logits, &settings.logit_bias)?;
        if let Some(allowed) = &settings.allowed_tokens {
            mask(&mut self.logits, allowed)?;
        }
        if settings.penalises() {
            self.penalise(history, settings)?;
        }
        Ok(&mut self.logits)
    }

    /// Makes the tokens of the window less likely (or more, if the penalties say so).
    fn penalise(&mut self, history: &[u32], settings: &Settings) -> Result<(), SampleError> {
        let window = &history[history.len().saturating_sub(settings.penalty_window)..];
        let vocab = self.logits.len();
        for &token in window {
            contain("history", token, vocab)?;
        }
        self.counts.resize(vocab, 0);
        for &token in window {
            let count = &mut self.counts[token as usize];
            if *count == 0 {
                self.seen.push(token);
            }
            *count += 1;
        }
        for token in self.seen.drain(..) {
            let count = std::mem::take(&mut self.counts[token as usize]);
            let logit = &mut self.logits[token as usize];
            if *logit > 0.0 {
                *logit /= settings.repetition_penalty;
            } else {
                *logit *= settings.repetition_penalty;
            }
            *logit -= count as f32 * settings.frequency_penalty + settings.presence_penalty;
        }
        Ok(())
    }
}

/// Adds `bias` to its tokens.
fn bias(logits: &mut [f32], bias: &BTreeMap<u32, f32>) -> Result<(), SampleError> {
    for (&token, &bias) in bias {
        contain("logit_bias", token, logits.len())?;
        logits[token as usize] += bias;
    }
    Ok(())
}

/// Excludes every token but `allowed` (ascending).
fn mask(logits: &mut [f32], allowed: &[u32]) -> Result<(), SampleError> {
    if let Some(&last) = allowed.last() {
        contain("allowed_tokens", last, logits.len())?;
    }
    let mut from = 0;
    for &token in allowed {
        logits[from..token as usize].fill(f32::NEG_INFINITY);
        from = token as usize + 1;
    }
    logits[from..].fill(f32::NEG_INFINITY);
    Ok(())
}

/// Refuses a token that has no logit.
fn contain(place: &'static str, token: u32, vocab: usize) -> Result<(), SampleError> {
    if (token as usize) < vocab { Ok(()) } else { Err(SampleError::Token { place, token, vocab }) }
}
