//! The sampler: how it is set up, and how one token is chosen.

use std::fmt;
use std::sync::Arc;

use super::adjust::Adjusted;
use super::filtered::Filtered;
use super::peak::{Peak, peak};
use super::random::random;
use super::settings::Settings;
use super::{Alternative, SampleError, Sampled, draw};
use crate::candidates::{Asked, Candidates};
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
                draw::from_candidates(filtered.as_slice(), softmax, random).map(|drawn| drawn.token)
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

    /// What to ask about the logits instead of having them all; `None` if that is no use.
    pub(crate) fn asks(&self) -> Option<Asked> {
        if self.filter.is_some() { None } else { self.settings.asks() }
    }

    /// Whether [`choose`](Self::choose) does with these what [`sample`](Self::sample) does with the logits that they are of.
    pub(crate) fn is_served_by(&self, candidates: &Candidates) -> bool {
        let (Some(asks), Some(first)) = (self.asks(), candidates.best.first()) else { return false };
        let (asked, limits, is_greedy) =
            (candidates.asked, self.settings.limits(), self.settings.is_greedy());
        // Logits that cannot be sampled from are for `sample` to refuse.
        if first.logit == f32::INFINITY || first.logit.is_nan() || asks.count() > asked.count() {
            return false;
        }
        if is_greedy {
            return true;
        }
        let softmax = Softmax::new(first.logit, self.settings.temperature);
        let all = candidates.total_at_temperature;
        (!limits.is_share_of_all() || asks.temperature() == asked.temperature())
            && (candidates.are_all() || limits.are_met_by(&candidates.best, softmax, all))
    }

    /// Chooses a token by candidates that it [is served by](Self::is_served_by); `None` if there are none.
    pub(crate) fn choose(&mut self, candidates: &Candidates) -> Option<Sampled> {
        let Settings { temperature, seed, .. } = self.settings;
        let mut chosen = *candidates.best.first()?;
        let own = Softmax::new(chosen.logit, 1.0);
        if !self.settings.is_greedy() {
            let softmax = Softmax::new(chosen.logit, temperature);
            let (filtered, limits) = (&mut self.scratch.filtered, self.settings.limits());
            filtered.narrow_best(&candidates.best, softmax, limits, candidates.total_at_temperature);
            let drawn = draw::from_candidates(filtered.as_slice(), softmax, random(seed, self.draws));
            chosen = drawn.unwrap_or(chosen);
            self.draws = self.draws.wrapping_add(1);
        }
        let logprob = |logit| own.log_probability(logit, candidates.total);
        let best = candidates.best.iter().take(self.settings.alternatives);
        Some(Sampled {
            token: chosen.token,
            logprob: self.settings.logprobs.then(|| logprob(chosen.logit)),
            alternatives: best
                .map(|best| Alternative { token: best.token, logprob: logprob(best.logit) })
                .collect(),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings, each with all others, that candidates may serve.
    fn settings() -> impl Iterator<Item = Sampler> {
        let temperatures = [0.0, 0.3, 1.0, 2.5].into_iter();
        let filters = temperatures.flat_map(|temperature| {
            let sampler = Sampler::new().temperature(temperature).seed(7);
            [0, 1, 5, 30, 256, 257].map(|count| sampler.clone().top_k(count))
        });
        let filters =
            filters.flat_map(|sampler| [0.0, 0.3, 0.9, 1.0].map(|share| sampler.clone().top_p(share)));
        let filters = filters.flat_map(|sampler| [0.0, 0.02, 1.0].map(|share| sampler.clone().min_p(share)));
        let reports = [(true, 0), (true, 3), (false, 0), (false, 256), (true, 257)];
        filters.flat_map(move |sampler| {
            reports.map(|(logprobs, count)| sampler.clone().logprobs(logprobs).alternatives(count))
        })
    }

    /// Logits of which a few, many, or all are likely, of which many are equal, some impossible, and few there at all.
    fn rows() -> Vec<Vec<f32>> {
        let row = |vocab: u32, logit: &dyn Fn(u32) -> f32| (0..vocab).map(logit).collect::<Vec<f32>>();
        let noise = |token: u32| (token.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
        vec![
            row(2000, &|token| noise(token).powi(8) * 40.0),
            row(2000, &|token| noise(token) * 3.0),
            row(2000, &|token| (noise(token) * 12.0).trunc() - 6.0),
            row(2000, &|token| if noise(token) > 0.8 { f32::NEG_INFINITY } else { noise(token) * 9.0 }),
            row(300, &|_| -1.5),
            row(30, &|token| noise(token) * 6.0),
            row(400, &|token| if token % 57 == 3 { noise(token) } else { f32::NEG_INFINITY }),
        ]
    }

    fn candidates(asked: Asked, logits: &[f32]) -> Candidates {
        let mut candidates = Candidates { asked, ..Candidates::default() };
        candidates.fill(logits);
        candidates
    }

    #[test]
    fn candidates_that_serve_choose_what_all_logits_do() {
        let rows = rows();
        let (mut served, mut unserved, mut asking) = (0, 0, 0);
        for sampler in settings() {
            let Some(asked) = sampler.asks() else { continue };
            asking += 1;
            for logits in &rows {
                // Others in the batch may have asked for more.
                for asked in [asked, Asked::new(asked.count() + 9, asked.temperature())] {
                    let candidates = candidates(asked, logits);
                    let [mut by_candidates, mut by_logits] = [sampler.clone(), sampler.clone()];
                    if !sampler.is_served_by(&candidates) {
                        unserved += 1;
                        continue;
                    }
                    served += 1;
                    for _ in 0..3 {
                        let found = by_candidates.choose(&candidates).unwrap();
                        assert_eq!(found, by_logits.sample(logits, &[]).unwrap(), "{sampler:?}");
                    }
                    assert_eq!(by_candidates.draws(), by_logits.draws());
                }
            }
        }
        assert!(asking > 700 && unserved > 300 && served > 9 * unserved, "{asking} {served} {unserved}");
    }

    #[test]
    fn what_looks_at_all_logits_asks_for_no_candidates() {
        let greedy = Sampler::new().greedy();
        assert_eq!(greedy.asks(), Some(Asked::new(1, 1.0)));
        for sampler in [
            Sampler::new(),
            Sampler::new().top_k(257),
            greedy.clone().alternatives(257),
            greedy.clone().logit_bias(3, 1.0),
            greedy.clone().allowed_tokens([1, 2]),
            greedy.clone().presence_penalty(0.1),
            greedy.clone().filter(|_, _| {}),
            greedy.top_p(f32::NAN),
        ] {
            assert_eq!(sampler.asks(), None, "{sampler:?}");
        }
    }

    #[test]
    fn candidates_of_another_question_or_of_logits_that_are_no_use_do_not_serve() {
        let nucleus = Sampler::new().temperature(0.5).top_p(0.8);
        let logits = [1.0, 9.0, 3.0];
        assert!(nucleus.is_served_by(&candidates(nucleus.asks().unwrap(), &logits)));
        assert!(!nucleus.is_served_by(&candidates(Asked::new(256, 0.6), &logits)));
        assert!(!nucleus.is_served_by(&candidates(Asked::new(255, 0.5), &logits)));
        for logits in [[0.0, f32::NAN], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
            assert!(!nucleus.is_served_by(&candidates(nucleus.asks().unwrap(), &logits)));
        }
    }
}
