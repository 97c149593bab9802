//! The best tokens of a row of logits and what all of them weigh: often all that a sampler needs to know. Uses `softmax`.

use std::cmp::Reverse;

use crate::softmax::Softmax;

/// Most tokens that can be asked for.
pub const MAX_CANDIDATES: usize = 256;

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: u32,
    /// Its logit.
    pub logit: f32,
}

impl Candidate {
    /// Higher is better: by logit, equal ones by id. NaN is above everything, so that whoever looks at the best sees it.
    pub(crate) fn rank(self) -> u64 {
        // Adding 0 makes -0 equal to 0. Floats then order like their bits, negative ones after flipping them.
        let bits = (self.logit + 0.0).to_bits();
        let ordered = match bits >> 31 {
            _ if self.logit.is_nan() => u32::MAX,
            0 => bits | 1 << 31,
            _ => !bits,
        };
        u64::from(ordered) << 32 | u64::from(!self.token)
    }

    /// What has this rank; `None` for a logit of -infinity, and for ranks below that of any logit.
    #[cfg(any(test, feature = "cuda", feature = "hip"))]
    pub(crate) fn of_rank(rank: u64) -> Option<Self> {
        const LOWEST: u32 = !f32::NEG_INFINITY.to_bits();
        let ordered = (rank >> 32) as u32;
        let bits = if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered };
        (ordered > LOWEST).then_some(Self { token: !(rank as u32), logit: f32::from_bits(bits) })
    }
}

/// What is asked about a row of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    count: usize,
    temperature: f32,
}

impl Asked {
    /// The `count` best tokens, 1 to [`MAX_CANDIDATES`] or as many as these allow, and totals at a temperature above 0 besides 1.
    #[must_use]
    pub fn new(count: usize, temperature: f32) -> Self {
        Self { count: count.clamp(1, MAX_CANDIDATES), temperature }
    }

    /// How many tokens.
    #[must_use]
    pub fn count(self) -> usize {
        self.count
    }

    /// The temperature of [`Candidates::total_at_temperature`].
    #[must_use]
    pub fn temperature(self) -> f32 {
        self.temperature
    }
}

impl Default for Asked {
    fn default() -> Self {
        Self::new(1, 1.0)
    }
}

/// What is known of a row of logits instead of all of them.
///
/// Totals are sums over the whole row of `exp((logit - largest) / temperature)`, each rounded to a multiple of 2^-39 and counted in
/// these, so that the logarithm of the sum of all exponentials is `largest / temperature + ln(total / 2^39)`. They are exact: a device
/// has to come to what [`fill`](Self::fill) does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidates {
    /// What was asked.
    pub asked: Asked,
    /// The best tokens: higher logits first, of equal ones lower ids, NaNs before everything. Fewer than asked for if all others have
    /// -infinity, which is never among them.
    pub best: Vec<Candidate>,
    /// At temperature 1.
    pub total: u64,
    /// At the temperature asked for.
    pub total_at_temperature: u64,
}

impl Candidates {
    /// What is asked, of `logits` (`[vocab]`): the definition.
    pub fn fill(&mut self, logits: &[f32]) {
        let by_rank = |candidate: &Candidate| Reverse(candidate.rank());
        let Asked { count, temperature } = self.asked;
        let all = (0..).zip(logits).map(|(token, &logit)| Candidate { token, logit });
        self.best.clear();
        self.best.extend(all.filter(|candidate| candidate.logit != f32::NEG_INFINITY));
        if self.best.len() > count {
            self.best.select_nth_unstable_by_key(count, by_rank);
            self.best.truncate(count);
        }
        self.best.sort_unstable_by_key(by_rank);
        let largest = self.best.first().map_or(f32::NEG_INFINITY, |best| best.logit);
        self.total = Softmax::new(largest, 1.0).total(logits);
        self.total_at_temperature = match temperature {
            1.0 => self.total,
            _ => Softmax::new(largest, temperature).total(logits),
        };
    }

    /// Whether there are no others but those of -infinity.
    pub(crate) fn are_all(&self) -> bool {
        self.best.len() < self.asked.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_says_whose_it_is() {
        for logit in [f32::MIN, -3.5, f32::MIN_POSITIVE, 0.0, 7.25, f32::INFINITY] {
            for token in [0, 7, u32::MAX] {
                let candidate = Candidate { token, logit };
                assert_eq!(Candidate::of_rank(candidate.rank()), Some(candidate));
            }
        }
        let of = |logit| Candidate::of_rank(Candidate { token: 1, logit }.rank());
        assert!(of(-f32::NAN).unwrap().logit.is_nan());
        assert_eq!([of(f32::NEG_INFINITY), Candidate::of_rank(0)], [None; 2]);
    }

    #[test]
    fn the_best_are_ordered_by_logit_and_then_by_id() {
        let of = |count, logits: &[f32]| {
            let mut candidates = Candidates { asked: Asked::new(count, 1.0), ..Candidates::default() };
            candidates.fill(logits);
            candidates.best.iter().map(|candidate| candidate.token).collect::<Vec<_>>()
        };
        let logits = [1.0, -0.0, 3.0, 0.0, f32::NEG_INFINITY, 3.0];
        assert_eq!(of(2, &logits), [2, 5]);
        assert_eq!(of(4, &logits), [2, 5, 0, 1]);
        assert_eq!(of(256, &logits), [2, 5, 0, 1, 3]);
        assert_eq!(of(3, &[1.0, f32::INFINITY, f32::NAN, -f32::NAN]), [2, 3, 1]);
        assert!(of(3, &[f32::NEG_INFINITY; 5]).is_empty());
    }

    #[test]
    fn totals_are_those_of_the_softmax() {
        let logits: Vec<f32> = (0..300).map(|token| (token * 37 % 101) as f32 * 0.1).collect();
        let mut candidates = Candidates { asked: Asked::new(3, 0.5), ..Candidates::default() };
        candidates.fill(&logits);
        for (total, temperature) in [(candidates.total, 1.0), (candidates.total_at_temperature, 0.5)] {
            let sum: f64 = logits.iter().map(|&logit| ((f64::from(logit) - 10.0) / temperature).exp()).sum();
            assert!((total as f64 / (1_u64 << 39) as f64 / sum - 1.0).abs() < 1e-9);
        }
        candidates.fill(&[0.0, f32::NAN]);
        assert_eq!([candidates.total, candidates.total_at_temperature], [0, 0]);
    }
}
