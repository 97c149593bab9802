//! One random number makes one token, each by its weight.

use crate::candidates::Candidate;
use crate::softmax::Softmax;

/// Logits that are passed over at once when the drawn token is not among them.
const BLOCK: usize = 1024;

/// Draws from all of `logits` (`[vocab]`); gives their total weight, too.
///
/// `totals` is scratch. `None` only if no token weighs anything.
pub(super) fn from_all(
    logits: &[f32],
    softmax: Softmax,
    random: u64,
    totals: &mut Vec<u64>, // [vocab / BLOCK, rounded up]
) -> Option<(u32, u64)> {
    totals.clear();
    totals.extend(logits.chunks(BLOCK).map(|block| softmax.total(block)));
    let total = totals.iter().sum();
    let (block, left) = land(totals.iter().copied(), below(total, random))?;
    let first = block * BLOCK;
    let (within, _) = land(logits[first..].iter().map(|&logit| softmax.weight(logit)), left)?;
    Some(((first + within) as u32, total))
}

/// Draws from `candidates`.
pub(super) fn from_candidates(candidates: &[Candidate], softmax: Softmax, random: u64) -> Option<Candidate> {
    let weights = || candidates.iter().map(|candidate| softmax.weight(candidate.logit));
    let (index, _) = land(weights(), below(weights().sum(), random))?;
    Some(candidates[index])
}

/// Lays `weights` end to end and finds the one that `at` falls into, and how far.
fn land(weights: impl Iterator<Item = u64>, mut at: u64) -> Option<(usize, u64)> {
    for (index, weight) in weights.enumerate() {
        match at.checked_sub(weight) {
            Some(beyond) => at = beyond,
            None => return Some((index, at)),
        }
    }
    None
}

/// Turns 64 random bits into one of `0..total`, all equally likely.
fn below(total: u64, random: u64) -> u64 {
    ((u128::from(total) * u128::from(random)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bits_cover_a_range_evenly() {
        assert_eq!(below(10, 0), 0);
        assert_eq!(below(10, u64::MAX / 2), 4);
        assert_eq!(below(10, u64::MAX), 9);
        assert_eq!(below(u64::MAX, u64::MAX), u64::MAX - 1);
    }

    #[test]
    fn a_number_lands_where_its_weight_is() {
        let at = |number| land([3, 0, 2].into_iter(), number);
        assert_eq!(
            [at(0), at(2), at(3), at(4), at(5)],
            [Some((0, 0)), Some((0, 2)), Some((2, 0)), Some((2, 1)), None]
        );
    }

    #[test]
    fn drawing_from_all_is_drawing_from_a_list_of_all() {
        let logits: Vec<f32> = (0..3000_u32).map(|token| (token * 7919 % 3001) as f32 * 1e-3).collect();
        let list: Vec<_> = (0..).zip(&logits).map(|(token, &logit)| Candidate { token, logit }).collect();
        let softmax = Softmax::new(3.0, 1.0);
        for index in 0..200 {
            let random = crate::sample::random::random(1, index);
            let (token, total) = from_all(&logits, softmax, random, &mut Vec::new()).unwrap();
            assert_eq!(Some(token), from_candidates(&list, softmax, random).map(|drawn| drawn.token));
            assert_eq!(total, softmax.total(&logits));
        }
    }
}
