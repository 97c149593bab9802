//! The scale and offset of a run that give the least squared error. Uses `codebook` and `lanes`.
//!
//! For given codes they are a closed form; for a given scale and offset the best codes are the nearest. A search rounds and fits once
//! from each of a few starts, then once more from the best of them. Starts are the eight that together lower the mean error of
//! Gaussian runs most, found one after the other among hundreds, all of which would lower it by two percent more at most.

use super::codebook::{Codebook, Integers};
use super::lanes::{LANES, Lanes, Runs, inverse, inverses};

/// What the element of largest magnitude is tried as.
pub(super) type ScaleStarts = [f32; 8];

/// What the least and the largest element are tried as.
pub(super) type OffsetStarts = [(f32, f32); 8];

/// Scales: `x = scale * number`.
#[inline(always)]
pub(super) fn scales<B: Codebook, const N: usize>(x: &Runs<N>, starts: &ScaleStarts) -> Lanes {
    let mut extreme = [0.0_f32; LANES];
    for row in x {
        for r in 0..LANES {
            extreme[r] = if row[r].abs() > extreme[r].abs() { row[r] } else { extreme[r] };
        }
    }
    let unit = inverses(&extreme);
    let (mut scale, mut best) = ([0.0; LANES], [0.0; LANES]);
    for turn in 0..=starts.len() {
        let mut factor = [0.0; LANES];
        match starts.get(turn) {
            Some(start) => {
                for r in 0..LANES {
                    factor[r] = start * unit[r];
                }
            }
            None => factor = inverses(&scale),
        }
        let (mut xq, mut qq) = ([0.0; LANES], [0.0; LANES]);
        for row in x {
            for r in 0..LANES {
                let q = B::nearest(row[r] * factor[r]);
                xq[r] += row[r] * q;
                qq[r] += q * q;
            }
        }
        for r in 0..LANES {
            let fit = xq[r] / qq[r];
            // What it takes off the squared error; not a number, hence not more, if all codes are zero.
            let gain = xq[r] * fit;
            (scale[r], best[r]) = if gain > best[r] { (fit, gain) } else { (scale[r], best[r]) };
        }
    }
    scale
}

/// Scales and offsets: `x = scale * code + offset`, with codes below `TOTAL`. No offset is above zero if `MINS`.
#[inline(always)]
pub(super) fn scales_and_offsets<const TOTAL: u8, const MINS: bool, const N: usize>(
    x: &Runs<N>,
    starts: &OffsetStarts,
) -> (Lanes, Lanes) {
    let count = N as f32;
    let (mut least, mut largest, mut mean) = (x[0], x[0], [0.0; LANES]);
    for row in x {
        for r in 0..LANES {
            least[r] = if row[r] < least[r] { row[r] } else { least[r] };
            largest[r] = if row[r] > largest[r] { row[r] } else { largest[r] };
            mean[r] += row[r];
        }
    }
    let mut unit = [0.0; LANES];
    for r in 0..LANES {
        mean[r] /= count;
        least[r] = if MINS && least[r] > 0.0 { 0.0 } else { least[r] };
        unit[r] = inverse(largest[r] - least[r]);
    }
    // About the mean, sums of products are covariances.
    let mut centred = *x;
    for row in &mut centred {
        for r in 0..LANES {
            row[r] -= mean[r];
        }
    }
    // With codes of zero the best offset is the mean. Gains are relative to that.
    let (mut scale, mut offset, mut best) = ([0.0; LANES], mean, [0.0; LANES]);
    for r in 0..LANES {
        if MINS && mean[r] > 0.0 {
            (offset[r], best[r]) = (0.0, -count * mean[r] * mean[r]);
        }
    }
    for turn in 0..=starts.len() {
        let (mut factor, mut shift) = ([0.0; LANES], [0.0; LANES]);
        match starts.get(turn) {
            Some((first, last)) => {
                for r in 0..LANES {
                    factor[r] = (last - first) * unit[r];
                    shift[r] = first + (mean[r] - least[r]) * factor[r];
                }
            }
            None => {
                factor = inverses(&scale);
                for r in 0..LANES {
                    shift[r] = (mean[r] - offset[r]) * factor[r];
                }
            }
        }
        let (mut xq, mut q, mut qq) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for row in &centred {
            for r in 0..LANES {
                let code = Integers::<0, TOTAL>::nearest(row[r] * factor[r] + shift[r]);
                xq[r] += row[r] * code;
                q[r] += code;
                qq[r] += code * code;
            }
        }
        for r in 0..LANES {
            let variance = qq[r] - q[r] * q[r] / count;
            let mut fit = if variance > 0.0 { xq[r] / variance } else { 0.0 };
            let mut at = mean[r] - fit * q[r] / count;
            let mut gain = xq[r] * fit;
            if MINS && at > 0.0 {
                let xq = xq[r] + mean[r] * q[r];
                (fit, at) = (xq / qq[r], 0.0);
                gain = xq * fit - count * mean[r] * mean[r];
            }
            (scale[r], offset[r], best[r]) =
                if gain > best[r] { (fit, at, gain) } else { (scale[r], offset[r], best[r]) };
        }
    }
    (scale, offset)
}

/// Offsets for scales that are no longer those they were found with.
#[inline(always)]
pub(super) fn offsets<const TOTAL: u8, const N: usize>(x: &Runs<N>, scale: &Lanes, offset: &Lanes) -> Lanes {
    let (factor, mut out) = (inverses(scale), [0.0; LANES]);
    for row in x {
        for r in 0..LANES {
            let code = Integers::<0, TOTAL>::nearest((row[r] - offset[r]) * factor[r]);
            out[r] += row[r] - scale[r] * code;
        }
    }
    for r in 0..LANES {
        out[r] /= N as f32;
    }
    out
}
