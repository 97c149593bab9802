//! The best token, and whether the logits can be used at all.

use super::SampleError;

/// Logits looked at before the best so far is remembered.
const BLOCK: usize = 1024;

/// Independent maxima, so that the scan runs at the width of the machine.
const LANES: usize = 16;

/// The token with the highest logit; the lowest id of equal ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peak {
    pub(super) token: u32,
    pub(super) logit: f32,
}

/// Finds the best token of `logits` (`[vocab]`).
///
/// A NaN or +infinity becomes the error `refuse` makes of it; logits that are all -infinity are [`SampleError::Excluded`].
pub(super) fn peak(logits: &[f32], refuse: fn(u32, f32) -> SampleError) -> Result<Peak, SampleError> {
    let mut best = f32::NEG_INFINITY;
    let mut from = 0;
    let mut usable = true;
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        let (max, below_infinity) = scan(block);
        usable &= below_infinity;
        if max > best {
            best = max;
            from = index * BLOCK;
        }
    }
    if !usable && let Some(token) = logits.iter().position(|&logit| !below_infinity(logit)) {
        return Err(refuse(token as u32, logits[token]));
    }
    if best == f32::NEG_INFINITY {
        return Err(SampleError::Excluded);
    }
    let within = logits[from..].iter().position(|&logit| logit == best).unwrap_or_default();
    Ok(Peak { token: (from + within) as u32, logit: best })
}

/// The maximum of a block, and whether all of it is below +infinity.
fn scan(block: &[f32]) -> (f32, bool) {
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut usable = [true; LANES];
    let (wide, rest) = block.as_chunks::<LANES>();
    let mut row = [f32::NEG_INFINITY; LANES];
    row[..rest.len()].copy_from_slice(rest);
    for logits in wide.iter().chain([&row]) {
        for lane in 0..LANES {
            max[lane] = if logits[lane] > max[lane] { logits[lane] } else { max[lane] };
            usable[lane] &= below_infinity(logits[lane]);
        }
    }
    (max.into_iter().fold(f32::NEG_INFINITY, f32::max), usable.into_iter().all(|usable| usable))
}

/// False for NaN, too.
fn below_infinity(logit: f32) -> bool {
    logit < f32::INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(logits: &[f32]) -> Result<Peak, SampleError> {
        peak(logits, |token, value| SampleError::Logit { token, value })
    }

    #[test]
    fn the_best_is_found_wherever_it_stands() {
        for vocab in [1, 15, 16, 17, 1023, 1024, 1025, 3000] {
            for token in [0, vocab / 2, vocab - 1] {
                let mut logits = vec![-1.0; vocab];
                logits[token] = 2.0;
                assert_eq!(best(&logits).unwrap().token as usize, token);
            }
        }
    }

    #[test]
    fn of_equal_logits_the_lowest_id_is_best() {
        let mut logits = vec![-1.0; 3000];
        (logits[700], logits[800], logits[2999]) = (0.0, -0.0, 0.0);
        assert_eq!(best(&logits).unwrap().token, 700);
    }

    #[test]
    fn the_first_unusable_logit_is_named() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut logits = vec![0.0; 3000];
            (logits[1500], logits[2000]) = (bad, bad);
            assert!(matches!(best(&logits), Err(SampleError::Logit { token: 1500, .. })));
        }
    }

    #[test]
    fn infinitely_unlikely_tokens_leave_nothing() {
        assert!(matches!(best(&[f32::NEG_INFINITY; 40]), Err(SampleError::Excluded)));
        assert_eq!(best(&[f32::NEG_INFINITY, f32::MIN]).unwrap().token, 1);
    }
}
