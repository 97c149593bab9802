//! From scores to the weights of values: scale, soft cap and exponential in one pass. Uses `simd` and `kernels`.
//!
//! A soft cap bounds the scores, so their exponentials are taken as they are: 30 either way is far from the ends of f32, and
//! neither the largest score nor anything that depends on it has to be known first. Only scores without a small cap need that.

use crate::backend::PAGE;
use crate::backend::cpu::kernels::elementwise::{exp, tanh};
use crate::backend::cpu::simd::{MAX_LANES, Simd};
use crate::config::ModelConfig;

/// Caps up to this are bounds: exponentials of such scores, and sums of as many as there are positions, are normal numbers.
const LARGEST_BOUND: f32 = 60.0;

/// Coefficients of `tanh(y) / y` in `y^2`, for `|y| <= 1`: minimax, 5e-8 off at most.
const TANH: [f32; 7] =
    [0.999_999_94, -0.333_328_4, 0.133_252_04, -0.053_457_02, 0.020_289_967, -0.006_203_367, 0.001_041_018_5];

/// Coefficients of `2^r`, for `|r| <= 1/2`: minimax, 8e-8 off at most.
const EXP2: [f32; 6] =
    [1.000_000_1, 0.693_146_94, 0.240_221_2, 0.055_507_135, 0.009_675_541, 0.001_327_646_6];

/// How scores become weights.
#[derive(Clone, Copy)]
pub(super) struct Weighing {
    scale: f32,
    cap: Option<f32>,
}

/// The weights of one vector's positions so far, relative to the exponential of `reference`.
pub(super) struct Total {
    pub(super) reference: f32,
    /// Sums of the weights, lane by lane.
    pub(super) sums: [f32; MAX_LANES],
}

impl Weighing {
    pub(super) fn new(config: &ModelConfig) -> Self {
        Self { scale: config.attention_scale, cap: config.attention_cap }
    }

    /// The cap, if the exponentials of all scores may be taken relative to that of zero.
    pub(super) fn bound(&self) -> Option<f32> {
        self.cap.filter(|&cap| cap <= LARGEST_BOUND)
    }

    /// Totals of nothing.
    pub(super) fn total(&self) -> Total {
        let reference = if self.bound().is_some() { 0.0 } else { f32::NEG_INFINITY };
        Total { reference, sums: [0.0; MAX_LANES] }
    }

    /// Turns the scores of a page's first `seen` positions into weights, and those behind them into zeros. Returns what earlier
    /// weights have to be multiplied by.
    ///
    /// # Safety
    /// `PAGE` scores must be writable at `scores`.
    #[inline(always)]
    pub(super) unsafe fn page<S: Simd>(&self, s: S, scores: *mut f32, seen: usize, total: &mut Total) -> f32 {
        // SAFETY: the caller's.
        unsafe {
            // Whatever lies there must not count.
            clear(scores, seen);
            if seen == 0 {
                return 1.0;
            }
            let factor = match self.bound() {
                Some(cap) => {
                    self.bounded(s, cap, scores);
                    1.0
                }
                None => self.unbounded(s, scores, seen, total),
            };
            clear(scores, seen);
            factor
        }
    }

    /// The weights of a page's scores, which [`bound`](Self::bound) has a cap for.
    ///
    /// # Safety
    /// As [`page`](Self::page).
    #[inline(always)]
    unsafe fn bounded<S: Simd>(&self, s: S, cap: f32, scores: *mut f32) {
        // SAFETY: the caller's.
        unsafe {
            let mut farthest = s.splat(0.0);
            for i in (0..PAGE).step_by(S::LANES) {
                farthest = self.farther(s, s.load_f32(scores.add(i).cast()), farthest);
            }
            let near = self.near(s, cap, farthest);
            for i in (0..PAGE).step_by(S::LANES) {
                let p = scores.add(i).cast();
                s.store_f32(p, self.weight(s, cap, near, s.load_f32(p)));
            }
        }
    }

    /// The larger of `farthest` and the square of a score.
    #[inline(always)]
    pub(super) fn farther<S: Simd>(&self, s: S, score: S::F32, farthest: S::F32) -> S::F32 {
        s.max(farthest, s.mul(score, score))
    }

    /// Whether scores up to this square are well within the cap, as they usually are. A page of one vector is looked at as a whole:
    /// what its weights are does not depend on other vectors.
    #[inline(always)]
    pub(super) fn near<S: Simd>(&self, s: S, cap: f32, farthest: S::F32) -> bool {
        let slope = self.scale / cap;
        !s.any_above(farthest, 1.0 / (slope * slope))
    }

    /// `exp(cap * tanh(score * scale / cap))`.
    #[inline(always)]
    pub(super) fn weight<S: Simd>(&self, s: S, cap: f32, near: bool, score: S::F32) -> S::F32 {
        let slope = self.scale / cap;
        let octaves = cap * std::f32::consts::LOG2_E;
        let y = s.mul(score, s.splat(slope));
        let exponent = if near {
            s.mul(s.mul(score, s.splat(slope * octaves)), polynomial(s, s.mul(y, y), &TANH))
        } else {
            s.mul(tanh(s, y), s.splat(octaves))
        };
        exp2(s, exponent)
    }

    /// The same, or without a cap, relative to the largest score so far.
    ///
    /// # Safety
    /// As [`page`](Self::page).
    #[inline(always)]
    unsafe fn unbounded<S: Simd>(&self, s: S, scores: *mut f32, seen: usize, total: &mut Total) -> f32 {
        let mut largest = total.reference;
        // SAFETY: the caller's; `seen` is at most a page.
        unsafe {
            for i in (0..PAGE).step_by(S::LANES) {
                let p = scores.add(i).cast();
                let x = s.mul(s.load_f32(p), s.splat(self.scale));
                let x = match self.cap {
                    Some(cap) => s.mul(tanh(s, s.mul(x, s.splat(1.0 / cap))), s.splat(cap)),
                    None => x,
                };
                s.store_f32(p, x);
            }
            for i in 0..seen {
                let x = *scores.add(i);
                largest = if x > largest { x } else { largest };
            }
            for i in (0..PAGE).step_by(S::LANES) {
                let p = scores.add(i).cast();
                s.store_f32(p, exp(s, s.sub(s.load_f32(p), s.splat(largest))));
            }
        }
        let factor = (total.reference - largest).exp();
        total.reference = largest;
        total.sums.iter_mut().for_each(|sum| *sum *= factor);
        factor
    }
}

impl Total {
    /// Adds the weights of a page.
    ///
    /// # Safety
    /// `PAGE` weights must be readable at `weights`.
    #[inline(always)]
    pub(super) unsafe fn add<S: Simd>(&mut self, s: S, weights: *const f32) {
        // SAFETY: a vector fits; the rest is the caller's.
        unsafe {
            let mut sums = s.load_f32(self.sums.as_ptr().cast());
            for i in (0..PAGE).step_by(S::LANES) {
                sums = s.add(sums, s.load_f32(weights.add(i).cast()));
            }
            s.store_f32(self.sums.as_mut_ptr().cast(), sums);
        }
    }

    /// The sum of all weights.
    #[inline(always)]
    pub(super) fn sum<S: Simd>(&self, s: S) -> f32 {
        // SAFETY: a vector fits.
        s.sum(unsafe { s.load_f32(self.sums.as_ptr().cast()) })
    }
}

/// Zeros from position `seen` on.
///
/// # Safety
/// As [`Weighing::page`].
#[inline(always)]
unsafe fn clear(scores: *mut f32, seen: usize) {
    if seen < PAGE {
        // SAFETY: the caller's.
        unsafe { scores.add(seen).write_bytes(0, PAGE - seen) };
    }
}

#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::F32, coefficients: &[f32; N]) -> S::F32 {
    let mut sum = s.splat(coefficients[N - 1]);
    for &coefficient in coefficients[..N - 1].iter().rev() {
        sum = s.fma(sum, x, s.splat(coefficient));
    }
    sum
}

/// `2^x`, for `|x| <= 126`.
#[inline(always)]
fn exp2<S: Simd>(s: S, x: S::F32) -> S::F32 {
    // Numbers of this size are whole: adding it rounds.
    let shift = s.splat(12_582_912.0);
    let whole = s.sub(s.add(x, shift), shift);
    s.scale_exp2(polynomial(s, s.sub(x, whole), &EXP2), whole)
}
