//! Softmax in fixed point. Uses nothing.
//!
//! A token weighs `exp((logit - max) / temperature)` in units of 2^-39: the best token weighs 2^39, and one that weighs less
//! than half a unit has no chance. Sums of integers are exact, hence the same in any order, block by block or in a subset;
//! and weights come from IEEE additions and multiplications only, hence the same on every platform (the standard library's
//! `exp` is not).

use std::f64::consts::{LN_2, LOG2_E};

/// log2 of [`ONE`].
pub(crate) const BITS: u64 = 39;

/// Weight of the best token.
const ONE: f64 = (1_u64 << BITS) as f64;

/// Most logits there may be: sums of weights stay below 2^64, and ids far below 2^32.
pub(crate) const MAX_VOCAB: usize = 1 << 24;

/// Independent sums, so that weighing runs at the width of the machine.
const LANES: usize = 8;

/// Taylor coefficients of 2^x, ln(2)^n / n!: the relative error is below 1e-11 for |x| <= 1/2.
pub(crate) const EXP2: [f64; 10] = {
    let mut coefficients = [1.0; 10];
    let mut n = 1;
    while n < coefficients.len() {
        coefficients[n] = coefficients[n - 1] * LN_2 / n as f64;
        n += 1;
    }
    coefficients
};

/// What differences of logits at a temperature are multiplied by to become powers of two.
pub(crate) fn scale(temperature: f32) -> f64 {
    LOG2_E / f64::from(temperature)
}

/// The function from logits to weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Softmax {
    max: f64,
    scale: f64,
}

impl Softmax {
    /// The softmax of logits whose maximum is `max`, all below +infinity, at a temperature above 0.
    pub(crate) fn new(max: f32, temperature: f32) -> Self {
        Self { max: f64::from(max), scale: scale(temperature) }
    }

    /// How many 2^-39ths of the best token's probability this one has.
    #[inline]
    pub(crate) fn weight(self, logit: f32) -> u64 {
        // Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits; adding 2^52 does so for positive numbers.
        const ROUND: f64 = 6_755_399_441_055_744.0;
        const ROUND_POSITIVE: f64 = 4_503_599_627_370_496.0;
        const EXPONENT_BIAS: u64 = 1023;

        let power = (f64::from(logit) - self.max) * self.scale;
        let power = if power > -64.0 { power } else { -64.0 };
        let rounded = power + ROUND;
        let fraction = power - (rounded - ROUND);
        let mut exp2 = EXP2[EXP2.len() - 1];
        for coefficient in EXP2[..EXP2.len() - 1].iter().rev() {
            exp2 = exp2 * fraction + coefficient;
        }
        let exponent = f64::from_bits(rounded.to_bits().wrapping_add(EXPONENT_BIAS + BITS) << 52);
        (exp2 * exponent + ROUND_POSITIVE).to_bits().wrapping_sub(ROUND_POSITIVE.to_bits())
    }

    /// Sum of the weights of `logits`.
    pub(crate) fn total(self, logits: &[f32]) -> u64 {
        let mut totals = [0_u64; LANES];
        let (wide, rest) = logits.as_chunks::<LANES>();
        for logits in wide {
            for lane in 0..LANES {
                totals[lane] = totals[lane].wrapping_add(self.weight(logits[lane]));
            }
        }
        totals.into_iter().chain(rest.iter().map(|&logit| self.weight(logit))).sum()
    }

    /// A logit below those of all tokens that weigh `weight` or more, and not much below.
    pub(crate) fn logit_below(self, weight: f64) -> f32 {
        // One unit for the rounding of weights, a millionth for that of everything else.
        let power = ((weight * 0.999_999 - 1.0).max(0.0) / ONE).log2();
        ((self.max + power / self.scale) as f32).next_down()
    }

    /// Natural logarithm of a token's probability among tokens that weigh `total` together.
    pub(crate) fn log_probability(self, logit: f32, total: u64) -> f32 {
        ((f64::from(logit) - self.max) * self.scale * LN_2 - (total as f64 / ONE).ln()) as f32
    }
}

/// Weight of a token with `share` of the best token's probability.
pub(crate) fn weight_of_share(share: f32) -> f64 {
    f64::from(share) * ONE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_exp() {
        for temperature in [0.01_f32, 0.7, 1.0, 3.0] {
            let softmax = Softmax::new(12.5, temperature);
            for step in 0..40_000 {
                let logit = 12.5 - step as f32 * 1e-3;
                let exact = ((f64::from(logit) - 12.5) / f64::from(temperature)).exp();
                let weight = softmax.weight(logit) as f64 / ONE;
                assert!((weight - exact).abs() < 1e-11 * exact + 1e-12, "{logit} {weight} {exact}");
            }
        }
    }

    #[test]
    fn the_best_weighs_one_and_the_hopeless_nothing() {
        for temperature in [f32::from_bits(1), 1.0, f32::MAX] {
            let softmax = Softmax::new(3.0, temperature);
            assert_eq!(softmax.weight(3.0), 1 << BITS);
            assert_eq!(softmax.weight(f32::NEG_INFINITY), 0);
        }
        assert_eq!(Softmax::new(f32::MAX, f32::from_bits(1)).weight(f32::MIN), 0);
    }

    #[test]
    fn weights_are_known_bits() {
        let softmax = Softmax::new(1.0, 0.7);
        let weights = [0.999, 0.5, 0.0, -3.0, -17.0].map(|logit| softmax.weight(logit));
        assert_eq!(weights, [548_971_019_231, 269_128_370_208, 131_749_547_383, 1_813_372_540, 4]);
    }

    #[test]
    fn the_largest_vocabulary_does_not_overflow() {
        assert!((1_u64 << BITS).checked_mul(MAX_VOCAB as u64).is_some());
    }

    #[test]
    fn the_floor_of_a_weight_lets_every_such_token_through() {
        for (max, temperature) in [(0.0, 1.0), (1e6, 0.01), (-30.0, 5.0)] {
            let softmax = Softmax::new(max, temperature);
            for step in 0..1000 {
                let logit = max - step as f32 * temperature * 0.03;
                assert!(logit > softmax.logit_below(softmax.weight(logit) as f64));
            }
            assert_eq!(softmax.logit_below(0.0), f32::NEG_INFINITY);
        }
    }
}
