//! What happens to each value by itself, and the sums over a row that go with it.
//!
//! `exp` and `tanh` are good to two units in the last place over the ranges used here; a NaN stays a NaN.

use super::each;
use crate::backend::cpu::simd::{Job, Scalar, Simd};

/// `exp(r) - 1` on one half octave and the power of two that completes it: `exp(x) = power * part + power`.
#[inline(always)]
fn exp_parts<S: Simd>(s: S, x: S::F32) -> (S::F32, S::F32) {
    let x = s.min(s.splat(87.0), s.max(s.splat(-87.0), x));
    let octaves = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two pieces, the first exact in products with small integers.
    let r = s.fma(octaves, s.splat(-0.693_359_4), x);
    let r = s.fma(octaves, s.splat(2.121_944_4e-4), r);
    // Taylor: the eighth term is below 6e-9 for |r| <= ln(2) / 2.
    let mut sum = s.splat(1.0 / 5040.0);
    for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
        sum = s.fma(sum, r, s.splat(term));
    }
    (s.mul(sum, r), s.exp2(octaves))
}

#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let (part, power) = exp_parts(s, x);
    s.fma(power, part, power)
}

/// Through `exp(2x) - 1`, which stays exact near zero.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let y = s.min(s.splat(40.0), s.max(s.splat(-40.0), s.add(x, x)));
    let (part, power) = exp_parts(s, y);
    let e = s.fma(power, part, s.sub(power, s.splat(1.0)));
    s.div(e, s.add(e, s.splat(2.0)))
}

/// GELU in its tanh form, as `x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 x^3))`: the same function without the cancellation.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::F32) -> S::F32 {
    const SLOPE: f32 = -2.0 * 0.797_884_6;
    let cube = s.mul(s.mul(x, x), s.mul(x, s.splat(SLOPE * 0.044_715)));
    let e = exp(s, s.fma(x, s.splat(SLOPE), cube));
    s.div(x, s.add(e, s.splat(1.0)))
}

/// `values = cap * tanh(values * scale / cap)`, or only the scale.
pub(crate) struct SoftCap<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) scale: f32,
    pub(crate) cap: Option<f32>,
}

impl Job for SoftCap<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let p = self.values.as_mut_ptr();
        // SAFETY: `each` stays below the length.
        unsafe {
            match self.cap {
                Some(cap) => each!(simd, self.values.len(), |s, i| {
                    let x = s.mul(s.load_f32(p.add(i).cast()), s.splat(self.scale / cap));
                    s.store_f32(p.add(i).cast(), s.mul(tanh(s, x), s.splat(cap)));
                }),
                None => each!(simd, self.values.len(), |s, i| {
                    let x = s.mul(s.load_f32(p.add(i).cast()), s.splat(self.scale));
                    s.store_f32(p.add(i).cast(), x);
                }),
            }
        }
    }
}

/// `values = exp(values - largest)`; returns the largest and the sum.
pub(crate) struct Softmax<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) result: &'a mut (f32, f32),
}

impl Job for Softmax<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let len = self.values.len();
        let p = self.values.as_mut_ptr();
        let (mut largest, mut sum) = (f32::NEG_INFINITY, 0.0);
        // SAFETY: `each` stays below the length.
        unsafe {
            let mut vector = simd.splat(f32::NEG_INFINITY);
            let whole = len - len % S::LANES;
            for i in (0..whole).step_by(S::LANES) {
                vector = simd.max(vector, simd.load_f32(p.add(i).cast()));
            }
            if whole > 0 {
                largest = simd.largest(vector);
            }
            for i in whole..len {
                largest = Scalar.max(largest, *p.add(i));
            }
            let mut vector = simd.splat(0.0);
            for i in (0..whole).step_by(S::LANES) {
                let x = exp(simd, simd.sub(simd.load_f32(p.add(i).cast()), simd.splat(largest)));
                simd.store_f32(p.add(i).cast(), x);
                vector = simd.add(vector, x);
            }
            if whole > 0 {
                sum = simd.sum(vector);
            }
            for i in whole..len {
                let x = exp(Scalar, *p.add(i) - largest);
                *p.add(i) = x;
                sum += x;
            }
        }
        *self.result = (largest, sum);
    }
}

/// `out = gelu(gate) * up`, rounded to bf16 if asked.
pub(crate) struct GeluMul<'a> {
    pub(crate) gate: &'a mut [f32], // in: gate, out: result
    pub(crate) up: &'a [f32],
    pub(crate) round: bool,
}

impl Job for GeluMul<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert_eq!(self.gate.len(), self.up.len());
        let (gate, up) = (self.gate.as_mut_ptr(), self.up.as_ptr());
        // SAFETY: `each` stays below the common length.
        unsafe {
            each!(simd, self.up.len(), |s, i| {
                let x = s.mul(gelu(s, s.load_f32(gate.add(i).cast())), s.load_f32(up.add(i).cast()));
                let x = if self.round { s.round_bf16(x) } else { x };
                s.store_f32(gate.add(i).cast(), x);
            });
        }
    }
}

/// `out = scale * (x / sqrt(mean(x^2) + epsilon))`, added to what is there or rounded to bf16 if asked.
pub(crate) struct RmsNorm<'a> {
    pub(crate) x: &'a [f32],     // [width]
    pub(crate) scale: &'a [f32], // [width]
    pub(crate) epsilon: f32,
    pub(crate) out: &'a mut [f32], // [width]
    pub(crate) then: Then,
}

/// What becomes of a normalised row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Store,
    StoreRounded,
    Add,
}

impl Job for RmsNorm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let len = self.x.len();
        assert!(self.scale.len() == len && self.out.len() == len);
        let (x, scale, out) = (self.x.as_ptr(), self.scale.as_ptr(), self.out.as_mut_ptr());
        // SAFETY: `each` stays below the common length.
        unsafe {
            // Four sums: one would wait for itself.
            let mut squares = [simd.splat(0.0); 4];
            let whole = len - len % (4 * S::LANES);
            for i in (0..whole).step_by(4 * S::LANES) {
                for (v, sum) in squares.iter_mut().enumerate() {
                    let x = simd.load_f32(x.add(i + v * S::LANES).cast());
                    *sum = simd.fma(x, x, *sum);
                }
            }
            let [a, b, c, d] = squares;
            let mut sum = simd.sum(simd.add(simd.add(a, b), simd.add(c, d)));
            for i in whole..len {
                sum += *x.add(i) * *x.add(i);
            }
            let factor = 1.0 / (sum / len as f32 + self.epsilon).sqrt();
            each!(simd, len, |s, i| {
                let x = s.mul(s.load_f32(x.add(i).cast()), s.splat(factor));
                let y = s.mul(s.load_f32(scale.add(i).cast()), x);
                let y = match self.then {
                    Then::Store => y,
                    Then::StoreRounded => s.round_bf16(y),
                    Then::Add => s.add(s.load_f32(out.add(i).cast()), y),
                };
                s.store_f32(out.add(i).cast(), y);
            });
        }
    }
}

/// `out = factor * x`, or `out += factor * x`.
pub(crate) struct Scale<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) factor: f32,
    pub(crate) out: &'a mut [f32],
    pub(crate) add: bool,
}

impl Job for Scale<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert_eq!(self.x.len(), self.out.len());
        let (x, out) = (self.x.as_ptr(), self.out.as_mut_ptr());
        // SAFETY: `each` stays below the common length.
        unsafe {
            each!(simd, self.x.len(), |s, i| {
                let before = if self.add { s.load_f32(out.add(i).cast()) } else { s.splat(0.0) };
                let y = s.fma(s.load_f32(x.add(i).cast()), s.splat(self.factor), before);
                s.store_f32(out.add(i).cast(), y);
            });
        }
    }
}

/// Turns each head of a row; element `j` pairs with `j + head_dim / 2`. Rounded to bf16 if asked.
pub(crate) struct Rotate<'a> {
    pub(crate) heads: &'a mut [f32], // [heads, head_dim]
    pub(crate) cos: &'a [f32],       // [head_dim / 2]
    pub(crate) sin: &'a [f32],       // [head_dim / 2]
    pub(crate) round: bool,
}

impl Job for Rotate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let half = self.cos.len();
        assert_eq!(self.sin.len(), half);
        for head in self.heads.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            let (a, b) = (a.as_mut_ptr(), b.as_mut_ptr());
            // SAFETY: `each` stays below the common length.
            unsafe {
                each!(simd, half, |s, i| {
                    let (cos, sin) = (
                        s.load_f32(self.cos.as_ptr().add(i).cast()),
                        s.load_f32(self.sin.as_ptr().add(i).cast()),
                    );
                    let (x, y) = (s.load_f32(a.add(i).cast()), s.load_f32(b.add(i).cast()));
                    let turned =
                        [(a, s.sub(s.mul(x, cos), s.mul(y, sin))), (b, s.add(s.mul(y, cos), s.mul(x, sin)))];
                    for (to, x) in turned {
                        let x = if self.round { s.round_bf16(x) } else { x };
                        s.store_f32(to.add(i).cast(), x);
                    }
                });
            }
        }
    }
}

/// Rounds every value to bf16.
pub(crate) struct RoundBf16<'a>(pub(crate) &'a mut [f32]);

impl Job for RoundBf16<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let p = self.0.as_mut_ptr();
        // SAFETY: `each` stays below the length.
        unsafe {
            each!(simd, self.0.len(), |s, i| {
                s.store_f32(p.add(i).cast(), s.round_bf16(s.load_f32(p.add(i).cast())));
            });
        }
    }
}

/// Writes f32 values as bf16, rounding.
pub(crate) struct StoreBf16<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) out: &'a mut [u8], // bf16
}

impl Job for StoreBf16<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert_eq!(self.x.len() * 2, self.out.len());
        let (x, out) = (self.x.as_ptr(), self.out.as_mut_ptr());
        // SAFETY: `each` stays below the common length.
        unsafe {
            each!(simd, self.x.len(), |s, i| {
                s.store_bf16(out.add(2 * i), s.round_bf16(s.load_f32(x.add(i).cast())));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::Isa;

    struct Map<'a, const F: usize>(&'a mut [f32]);

    impl<const F: usize> Job for Map<'_, F> {
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let p = self.0.as_mut_ptr();
            // SAFETY: `each` stays below the length.
            unsafe {
                each!(simd, self.0.len(), |s, i| {
                    let x = s.load_f32(p.add(i).cast());
                    let y = match F {
                        0 => exp(s, x),
                        1 => tanh(s, x),
                        _ => gelu(s, x),
                    };
                    s.store_f32(p.add(i).cast(), y);
                });
            }
        }
    }

    fn worst<const F: usize>(range: std::ops::Range<i32>, step: f64, exact: fn(f64) -> f64) -> f64 {
        let inputs: Vec<f32> = range.map(|i| (f64::from(i) * step) as f32).collect();
        let mut worst = 0.0_f64;
        for isa in Isa::available() {
            let mut values = inputs.clone();
            isa.run(Map::<F>(&mut values));
            for (x, y) in inputs.iter().zip(&values) {
                let exact = exact(f64::from(*x));
                worst = worst.max((f64::from(*y) - exact).abs() / exact.abs().max(1e-30));
            }
        }
        worst
    }

    #[test]
    fn exp_and_tanh_are_good_to_a_few_units_in_the_last_place() {
        assert!(worst::<0>(-8600..8600, 0.01, f64::exp) < 2.5e-7);
        assert!(worst::<1>(-20000..20000, 0.001, f64::tanh) < 2.5e-7);
        assert!(worst::<1>(-2000..2000, 1e-7, f64::tanh) < 2.5e-7);
    }

    #[test]
    fn gelu_is_the_tanh_form() {
        let exact = |x: f64| 0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x * x * x)).tanh());
        assert!(worst::<2>(-2000..10000, 1e-3, exact) < 1e-6);
    }

    #[test]
    fn a_nan_stays_a_nan() {
        for isa in Isa::available() {
            let mut values = [f32::NAN; 19];
            isa.run(Map::<0>(&mut values));
            assert!(values.iter().all(|x| x.is_nan()), "exp, {}", isa.name());
            let mut values = [f32::NAN; 19];
            isa.run(Map::<1>(&mut values));
            assert!(values.iter().all(|x| x.is_nan()), "tanh, {}", isa.name());
            let mut values = [f32::NAN; 19];
            isa.run(Map::<2>(&mut values));
            assert!(values.iter().all(|x| x.is_nan()), "gelu, {}", isa.name());
        }
    }
}
