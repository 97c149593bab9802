//! The sampler: how it is set up, and how one token is chosen.

use std::fmt;
use std::sync::Arc;

use super::adjust::Adjusted;
use super::filtered::Filtered;
use super::peak::{Peak, peak};
use super::random::random;
use super::settings::Settings;
use super::{Alternative, SampleError, Sampled, draw};
use crate::softmax::{MAX_VOCAB, Softmax};

/// The host's own filter: the tokens so far and the logits (`[vocab]`) it may change.
type Filter = dyn Fn(&[u32], &mut [f32]) + Send + Sync;

/// Chooses the next token from a model's logits.
///
/// As made by [`new`](Self::new) it draws from the model's own distribution; each method changes one thing. Settings are
/// checked when they are used, or by [`validate`](Self::validate). Steps come in a fixed order, however they were set: logit
/// bias, allowed tokens, penalties, the host's filter, temperature, top-k, top-p, min-p, draw.
///
/// The same logits, history and settings give the same token on every platform. Draws are numbered from 0 and each uses its
/// own random number, made from the seed and that number; what is greedy draws nothing.
///
/// A clone goes on independently from the same state; a filter is shared.
///
/// ```
/// use grok1::Sampler;
///
/// let mut sampler = Sampler::new().temperature(0.7).top_p(0.95).seed(42);
/// let logits = [0.3, 2.5, -1.0, 2.4]; // one per token of the vocabulary
/// let history = [0, 2]; // the tokens so far: what penalties and filters look at
/// let sampled = sampler.sample(&logits, &history)?;
/// assert!(sampled.token == 1 || sampled.token == 3);
/// # Ok::<(), grok1::SampleError>(())
/// ```
#[derive(Clone, Default)]
pub struct Sampler {
    pub(super) settings: Settings,
    pub(super) draws: u64,
    filter: Option<Arc<Filter>>,
    scratch: Scratch,
}

/// Memory that is kept from token to token.
#[derive(Debug, Default)]
struct Scratch {
    adjusted: Adjusted,
    filtered: Filtered,
    totals: Vec<u64>,
}

impl Clone for Scratch {
    /// Starts empty: there is nothing in it to keep.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Sampler {
    /// Draws from the model's own distribution: temperature 1, everything else off, seed 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the best token, the lowest id of equal ones: [`temperature`](Self::temperature) 0.
    #[must_use]
    pub fn greedy(self) -> Self {
        self.temperature(0.0)
    }

    /// Divides logits by `temperature`: below 1 likely tokens become likelier, above 1 less likely. 0 is greedy. Default 1.
    #[must_use]
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.settings.temperature = temperature;
        self
    }

    /// Keeps only the `count` best tokens, of equal ones those with lower ids. 0 is off, the default.
    #[must_use]
    pub fn top_k(mut self, count: usize) -> Self {
        self.settings.top_k = if count == 0 { usize::MAX } else { count };
        self
    }

    /// Keeps only the fewest best tokens whose probabilities sum to more than `share`, and those that are exactly as likely
    /// as the last of them (xAI's rule). From 0, which is greedy, to 1, which is off, the default.
    #[must_use]
    pub fn top_p(mut self, share: f32) -> Self {
        self.settings.top_p = share;
        self
    }

    /// Keeps only tokens with at least `share` of the best token's probability. From 0, which is off, the default, to 1.
    #[must_use]
    pub fn min_p(mut self, share: f32) -> Self {
        self.settings.min_p = share;
        self
    }

    /// Divides positive logits of tokens in the history by `penalty` and multiplies negative ones (CTRL, Keskar et al. 2019).
    /// Above 0; 1 is off, the default.
    #[must_use]
    pub fn repetition_penalty(mut self, penalty: f32) -> Self {
        self.settings.repetition_penalty = penalty;
        self
    }

    /// Subtracts `penalty` from the logits of tokens in the history. Default 0.
    #[must_use]
    pub fn presence_penalty(mut self, penalty: f32) -> Self {
        self.settings.presence_penalty = penalty;
        self
    }

    /// Subtracts `penalty` from the logits of tokens in the history, as many times as they occur. Default 0.
    #[must_use]
    pub fn frequency_penalty(mut self, penalty: f32) -> Self {
        self.settings.frequency_penalty = penalty;
        self
    }

    /// Lets the three penalties look at the last `tokens` tokens of the history only. Default: all of it, prompt included.
    #[must_use]
    pub fn penalty_window(mut self, tokens: usize) -> Self {
        self.settings.penalty_window = tokens;
        self
    }

    /// Adds `bias` to the logit of `token`; -infinity excludes it. For more tokens call it for each; for one token the last
    /// call counts.
    #[must_use]
    pub fn logit_bias(mut self, token: u32, bias: f32) -> Self {
        self.settings.logit_bias.insert(token, bias);
        self
    }

    /// Excludes every token but these, in place of those allowed before.
    #[must_use]
    pub fn allowed_tokens(mut self, tokens: impl IntoIterator<Item = u32>) -> Self {
        let mut tokens: Vec<u32> = tokens.into_iter().collect();
        tokens.sort_unstable();
        tokens.dedup();
        self.settings.allowed_tokens = Some(tokens);
        self
    }

    /// Calls `filter` for each token, after bias, mask and penalties, in place of the filter set before.
    ///
    /// It gets the history and the logits (`[vocab]`) and changes these as it likes; -infinity excludes a token. It is not
    /// part of a saved sampler.
    #[must_use]
    pub fn filter(mut self, filter: impl Fn(&[u32], &mut [f32]) + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(filter));
        self
    }

    /// Makes draws repeatable: the same seed, the same tokens. Default 0; nothing is ever seeded from the clock.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Whether to compute the [log-probability](Sampled::logprob) of the chosen token. Default true; it costs one pass over the
    /// logits, which a server may want to save.
    #[must_use]
    pub fn logprobs(mut self, wanted: bool) -> Self {
        self.settings.logprobs = wanted;
        self
    }

    /// Reports the model's `count` most likely tokens with each token. Default 0.
    #[must_use]
    pub fn alternatives(mut self, count: usize) -> Self {
        self.settings.alternatives = count;
        self
    }

    /// How many tokens were drawn, which is the number of the next draw.
    #[must_use]
    pub fn draws(&self) -> u64 {
        self.draws
    }

    /// Goes on as if `draws` tokens had been drawn: 0 starts over, a [`draws`](Self::draws) noted earlier goes back there.
    pub fn set_draws(&mut self, draws: u64) {
        self.draws = draws;
    }

    /// Checks every setting that can be checked without logits.
    ///
    /// # Errors
    /// [`SampleError::Setting`] for the first one outside its range.
    pub fn validate(&self) -> Result<(), SampleError> {
        self.settings.validate()
    }

    /// Chooses the token that follows `history` from the model's `logits` (`[vocab]`).
    ///
    /// Allocates nothing once its memory has grown to the vocabulary, except the [alternatives](Self::alternatives).
    ///
    /// # Errors
    /// [`SampleError`]; nothing was drawn then.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<Sampled, SampleError> {
        let Scratch { adjusted, filtered, totals } = &mut self.scratch;
        let step = prepare(&self.settings, self.filter.as_deref(), adjusted, logits, history)?;

        // The total weight of all logits under `softmax`, where the draw needs it.
        let mut total = None;
        let softmax = Softmax::new(step.best.logit, self.settings.temperature);
        let mut token = step.best.token; // what is left if greedy
        if !self.settings.is_greedy() {
            let random = random(self.settings.seed, self.draws);
            let limits = self.settings.limits();
            let drawn = if limits.keep_all(logits.len()) {
                draw::from_all(step.logits, softmax, random, totals).map(|(token, all)| {
                    total = Some(all);
                    token
                })
            } else {
                total = filtered.narrow(step.logits, softmax, limits);
                draw::from_candidates(filtered.as_slice(), softmax, random)
            };
            token = drawn.unwrap_or(token);
            self.draws = self.draws.wrapping_add(1);
        }

        let own = Softmax::new(step.own.logit, 1.0);
        let count = self.settings.alternatives;
        let mut logprob = None;
        let mut alternatives = Vec::new();
        if self.settings.logprobs || count > 0 {
            let total = match total {
                Some(total) if !step.changed && softmax == own => total,
                _ => own.total(logits),
            };
            logprob = self.settings.logprobs.then(|| own.log_probability(logits[token as usize], total));
            if count > 0 {
                alternatives.extend(filtered.best(logits, count).iter().map(|candidate| Alternative {
                    token: candidate.token,
                    logprob: own.log_probability(candidate.logit, total),
                }));
            }
        }
        Ok(Sampled { token, logprob, alternatives })
    }

    /// The tokens that [`sample`](Self::sample) would draw from and their probabilities, in the order of their ids. Draws
    /// nothing.
    ///
    /// Greedy, that is one token with probability 1.
    ///
    /// # Errors
    /// Those of [`sample`](Self::sample).
    pub fn distribution(&mut self, logits: &[f32], history: &[u32]) -> Result<Vec<(u32, f64)>, SampleError> {
        let Scratch { adjusted, filtered, .. } = &mut self.scratch;
        let step = prepare(&self.settings, self.filter.as_deref(), adjusted, logits, history)?;
        if self.settings.is_greedy() {
            return Ok(vec![(step.best.token, 1.0)]);
        }
        let softmax = Softmax::new(step.best.logit, self.settings.temperature);
        filtered.narrow(step.logits, softmax, self.settings.limits());
        let total = filtered.total(softmax) as f64;
        let probability = |logit| softmax.weight(logit) as f64 / total;
        Ok(filtered.as_slice().iter().map(|kept| (kept.token, probability(kept.logit))).collect())
    }
}

/// Logits that can be sampled from.
struct Step<'a> {
    /// The model's own best token.
    own: Peak,
    /// The logits after bias, mask, penalties and filter.
    logits: &'a [f32], // [vocab]
    /// Whether these are not the model's own.
    changed: bool,
    /// Their best token.
    best: Peak,
}

/// Checks settings and logits, and changes a copy of these if anything asks for it.
fn prepare<'a>(
    settings: &Settings,
    filter: Option<&Filter>,
    adjusted: &'a mut Adjusted,
    logits: &'a [f32],
    history: &[u32],
) -> Result<Step<'a>, SampleError> {
    settings.validate()?;
    if logits.is_empty() || logits.len() > MAX_VOCAB {
        return Err(SampleError::Length { found: logits.len(), max: MAX_VOCAB });
    }
    let own = peak(logits, |token, value| SampleError::Logit { token, value })?;
    if !settings.adjusts() && filter.is_none() {
        return Ok(Step { own, logits, changed: false, best: own });
    }
    let logits = adjusted.apply(logits, history, settings)?;
    if let Some(filter) = filter {
        filter(history, logits);
    }
    let best = peak(logits, |token, value| SampleError::Adjusted { token, value })?;
    Ok(Step { own, logits, changed: true, best })
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler")
            .field("settings", &self.settings)
            .field("draws", &self.draws)
            .field("filter", &self.filter.is_some())
            .finish_non_exhaustive()
    }
}
