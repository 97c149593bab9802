//! The tokens that top-k, top-p and min-p leave.

use std::cmp::Reverse;

use crate::candidates::Candidate;
use crate::softmax::{Softmax, weight_of_share};

/// Logits passed over with one comparison if none of them is good enough.
const CHUNK: usize = 32;

/// Candidates gathered before the list is cut back to the best.
const SLACK: usize = 256;

/// Tokens in the order of their ids, and room to rank them in.
#[derive(Debug, Default)]
pub(super) struct Filtered {
    list: Vec<Candidate>,
    ranked: Vec<Candidate>,
}

/// The filters that look at probabilities.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How many tokens at most.
    pub(super) top_k: usize,
    /// Their share of all probability: above 0; 1 is all.
    pub(super) top_p: f32,
    /// Least probability, as a share of the best token's.
    pub(super) min_p: f32,
}

impl Limits {
    /// Whether every token passes.
    pub(super) fn keep_all(self, vocab: usize) -> bool {
        self.top_k >= vocab && self.top_p >= 1.0 && self.min_p <= 0.0
    }

    /// Whether there is a top-p that is a share of all probability, instead of top-k's.
    pub(super) fn is_share_of_all(self) -> bool {
        self.top_k == usize::MAX && self.top_p < 1.0
    }

    /// Whether every token that passes is among the `best`, best first, whatever the logits are that they leave out: none that is better
    /// than the last of them. `all` is the weight of all logits.
    pub(super) fn are_met_by(self, best: &[Candidate], softmax: Softmax, all: u64) -> bool {
        let Some(last) = best.last() else { return false };
        let last_weight = softmax.weight(last.logit) as f64;
        if best.len() >= self.top_k || last_weight < weight_of_share(self.min_p) {
            return true;
        }
        let (mut weight, share) = (0, share(self.top_p, all));
        let end = best.iter().find(|candidate| {
            weight += softmax.weight(candidate.logit);
            weight > share
        });
        // Those that equal the last of the nucleus are in it.
        self.is_share_of_all() && end.is_some_and(|end| end.logit > last.logit)
    }
}

impl Filtered {
    /// The tokens gathered last, in the order of their ids.
    pub(super) fn as_slice(&self) -> &[Candidate] {
        &self.list
    }

    /// Sum of the candidates' weights.
    pub(super) fn total(&self, softmax: Softmax) -> u64 {
        self.list.iter().map(|candidate| softmax.weight(candidate.logit)).sum()
    }

    /// Applies top-k, top-p and min-p to `logits` (`[vocab]`).
    ///
    /// Returns the weight of all logits if it had to be computed.
    pub(super) fn narrow(&mut self, logits: &[f32], softmax: Softmax, limits: Limits) -> Option<u64> {
        let Limits { top_k, top_p, min_p } = limits;
        let least = weight_of_share(min_p);
        let all = (top_k >= logits.len() && top_p < 1.0).then(|| softmax.total(logits));
        // Most tokens are too unlikely for both filters and never become candidates. Top-p is a share of what top-k leaves,
        // so that with top-k there is nothing to exclude beforehand.
        let floor = if top_k < logits.len() {
            f32::NEG_INFINITY
        } else {
            let outside = all.map_or(0.0, |all| (all - share(top_p, all)) as f64 / logits.len() as f64);
            softmax.logit_below(least.max(outside))
        };
        self.gather(logits, floor, top_k);
        self.keep_likely(softmax, limits, all);
        all
    }

    /// The same from the best tokens, best first, that these limits [need](Limits::are_met_by). `all` is the weight of all logits.
    pub(super) fn narrow_best(&mut self, best: &[Candidate], softmax: Softmax, limits: Limits, all: u64) {
        self.list.clear();
        self.list.extend(best.iter().take(limits.top_k));
        self.list.sort_unstable_by_key(|candidate| candidate.token);
        self.keep_likely(softmax, limits, limits.is_share_of_all().then_some(all));
    }

    /// Applies top-p, a share of `all` or else of the list, and min-p.
    fn keep_likely(&mut self, softmax: Softmax, Limits { top_p, min_p, .. }: Limits, all: Option<u64>) {
        if top_p < 1.0 {
            let all = all.unwrap_or_else(|| self.total(softmax));
            self.keep_nucleus(softmax, share(top_p, all));
        }
        if min_p > 0.0 {
            let least = weight_of_share(min_p);
            self.list.retain(|candidate| softmax.weight(candidate.logit) as f64 >= least);
        }
    }

    /// The `count` best of `logits`, best first.
    pub(super) fn best(&mut self, logits: &[f32], count: usize) -> &[Candidate] {
        self.gather(logits, f32::NEG_INFINITY, count);
        self.list.sort_unstable_by_key(|candidate| Reverse(candidate.rank()));
        &self.list
    }

    /// Lists the `limit` best of the tokens whose logit is above `floor`.
    fn gather(&mut self, logits: &[f32], mut floor: f32, limit: usize) {
        self.list.clear();
        for (index, chunk) in logits.chunks(CHUNK).enumerate() {
            if !chunk.iter().fold(false, |any, &logit| any | (logit > floor)) {
                continue;
            }
            for (token, &logit) in (index * CHUNK..).zip(chunk) {
                if logit > floor {
                    self.list.push(Candidate { token: token as u32, logit });
                }
            }
            if self.list.len() >= limit.saturating_mul(2).max(SLACK) {
                // Later tokens must be better than the worst of these: at equal logits their ids are higher.
                floor = self.keep_best(limit).unwrap_or(floor);
            }
        }
        self.keep_best(limit);
    }

    /// Keeps the `count` best, at least one; returns the logit of the worst of them if any had to go.
    fn keep_best(&mut self, count: usize) -> Option<f32> {
        if self.list.len() <= count {
            return None;
        }
        self.ranked.clone_from(&self.list);
        let by_rank = |candidate: &Candidate| Reverse(candidate.rank());
        let (_, worst, _) = self.ranked.select_nth_unstable_by_key(count.saturating_sub(1), by_rank);
        let (worst, rank) = (worst.logit, worst.rank());
        self.list.retain(|candidate| candidate.rank() >= rank);
        Some(worst)
    }

    /// Keeps the fewest best candidates that weigh more than `share`, and those that equal the last of them.
    fn keep_nucleus(&mut self, softmax: Softmax, share: u64) {
        self.ranked.clone_from(&self.list);
        // The last one kept is the last with no more than `share` before it: halve the candidates until it is alone.
        let mut among = &mut self.ranked[..];
        let mut before = 0;
        while among.len() > 1 {
            let middle = among.len() / 2;
            among.select_nth_unstable_by_key(middle, |candidate| Reverse(candidate.rank()));
            let (better, worse) = among.split_at_mut(middle);
            let weight: u64 = better.iter().map(|candidate| softmax.weight(candidate.logit)).sum();
            if before + weight > share {
                among = better;
            } else {
                before += weight;
                among = worse;
            }
        }
        if let [last] = *among {
            self.list.retain(|candidate| candidate.logit >= last.logit);
        }
    }
}

/// `part` of `total`.
fn share(part: f32, total: u64) -> u64 {
    (f64::from(part) * total as f64) as u64
}
