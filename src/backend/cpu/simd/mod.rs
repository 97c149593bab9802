//! Vectors of f32 and the values that prove a processor has them. Uses `quant`.
//!
//! A kernel is written once, over [`Simd`]. A [`Job`] holds its arguments; [`Isa::run`] enters a function compiled for the
//! instruction set and calls the job there, so everything marked `inline(always)` below it is compiled with those instructions.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod integers;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

pub(crate) use integers::{Activations, INPUTS, IntegerJob, Integers};
pub(crate) use scalar::Scalar;

/// An instruction set's vector of f32. A value of the type proves that the processor has it.
///
/// # Safety
/// A value must exist only where the processor supports the instructions its methods use.
pub(crate) unsafe trait Simd: Copy + Send + Sync {
    /// Values per vector.
    const LANES: usize;
    /// Whether there are 32 vector registers rather than 16.
    const WIDE: bool;
    type F32: Copy;
    /// As many integers of 32 bits.
    type I32: Copy;

    fn splat(self, x: f32) -> Self::F32;

    /// # Safety
    /// `LANES` unaligned f32 must be readable at `p`.
    unsafe fn load_f32(self, p: *const u8) -> Self::F32;

    /// # Safety
    /// `LANES` unaligned bf16 must be readable at `p`.
    unsafe fn load_bf16(self, p: *const u8) -> Self::F32;

    /// # Safety
    /// `LANES` unaligned f16 must be readable at `p`.
    unsafe fn load_f16(self, p: *const u8) -> Self::F32;

    /// # Safety
    /// `LANES` bytes must be readable at `p`.
    unsafe fn load_i8(self, p: *const u8) -> Self::F32;

    /// Unsigned bytes.
    ///
    /// # Safety
    /// `LANES` bytes must be readable at `p`.
    unsafe fn load_u8(self, p: *const u8) -> Self::I32;

    /// # Safety
    /// `LANES` unaligned f32 must be writable at `p`.
    unsafe fn store_f32(self, p: *mut u8, x: Self::F32);

    /// Stores values that [`round_bf16`](Self::round_bf16) has rounded.
    ///
    /// # Safety
    /// `LANES` unaligned bf16 must be writable at `p`.
    unsafe fn store_bf16(self, p: *mut u8, x: Self::F32);

    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`.
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a` where `a > b`, else `b`: a NaN in `b` stays.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a` where `a < b`, else `b`: a NaN in `b` stays.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// To the nearest integer.
    fn round(self, x: Self::F32) -> Self::F32;
    /// Two to the power of an integer in -126..=127.
    fn exp2(self, x: Self::F32) -> Self::F32;
    /// To the nearest bf16, ties to even; a NaN stays one.
    fn round_bf16(self, x: Self::F32) -> Self::F32;
    /// The bits that `mask` has too.
    fn and(self, x: Self::I32, mask: u32) -> Self::I32;
    fn or(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `x << N`.
    fn left<const N: u32>(self, x: Self::I32) -> Self::I32;
    /// `x >> N`, zeros coming in.
    fn right<const N: u32>(self, x: Self::I32) -> Self::I32;
    /// The same number, for small ones.
    fn convert(self, x: Self::I32) -> Self::F32;
    /// Entry `index` of a table; indices are below 16.
    fn lookup(self, table: &[f32; 16], index: Self::I32) -> Self::F32;
    /// Sum of all lanes, in an order of its own but always the same.
    fn sum(self, x: Self::F32) -> f32;
    /// Largest lane; meaningless with NaNs.
    fn largest(self, x: Self::F32) -> f32;

    /// `x * 2^n` for an integer `n` and a result that is neither too large nor too small for normal numbers.
    #[inline(always)]
    fn scale_exp2(self, x: Self::F32, n: Self::F32) -> Self::F32 {
        self.mul(x, self.exp2(n))
    }

    /// Whether some lane is larger than `limit`; meaningless with NaNs.
    #[inline(always)]
    fn any_above(self, x: Self::F32, limit: f32) -> bool {
        self.largest(x) > limit
    }

    /// `LANES` pairs of bf16: the first of each, and the second.
    ///
    /// # Safety
    /// `LANES` unaligned pairs must be readable at `p`.
    #[inline(always)]
    unsafe fn load_pairs(self, p: *const u8) -> [Self::F32; 2] {
        let mut halves = [[0_u16; MAX_LANES]; 2];
        // SAFETY: the caller's; MAX_LANES are enough for a vector.
        unsafe {
            for i in 0..Self::LANES {
                for (half, to) in halves.iter_mut().enumerate() {
                    to[i] = p.cast::<u16>().add(2 * i + half).read_unaligned();
                }
            }
            halves.map(|half| self.load_bf16(half.as_ptr().cast()))
        }
    }

    /// Transposes a square of 32-bit numbers: the rows of `from` lie `stride` bytes apart, those of `to` follow one another.
    ///
    /// # Safety
    /// `LANES` rows of `LANES` unaligned numbers must be readable at `from`, as many writable at `to`.
    #[inline(always)]
    unsafe fn transpose(self, from: *const u8, stride: usize, to: *mut u8) {
        for i in 0..Self::LANES {
            for j in 0..Self::LANES {
                // SAFETY: the caller's.
                unsafe {
                    let number = from.add(i * stride).cast::<u32>().add(j).read_unaligned();
                    to.cast::<u32>().add(j * Self::LANES + i).write_unaligned(number);
                }
            }
        }
    }

    /// Asks for the line at `p`, which need not exist, to be brought near.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}
}

/// Lanes of the widest vector.
pub(crate) const MAX_LANES: usize = 16;

/// A kernel with its arguments.
pub(crate) trait Job {
    /// Must be `inline(always)`, as everything it calls that uses `simd`.
    fn run<S: Simd>(self, simd: S);
}

/// The instruction set kernels run with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Isa {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    /// Vectors as in `Avx512`, and tiles.
    #[cfg(target_arch = "x86_64")]
    Amx(amx::Amx),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
}

impl Isa {
    /// All that this processor has, best first.
    pub(crate) fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(amx::Amx::new().map(Self::Amx));
            all.extend(avx512::Avx512::new().map(Self::Avx512));
            all.extend(avx2::Avx2::new().map(Self::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(neon::Neon::new().map(Self::Neon));
        all.push(Self::Scalar(Scalar));
        all
    }

    /// The best that this processor has.
    pub(crate) fn best() -> Self {
        Self::available().first().copied().unwrap_or(Self::Scalar(Scalar))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => "amx",
        }
    }

    pub(crate) fn run(self, job: impl Job) {
        match self {
            Self::Scalar(simd) => job.run(simd),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.enter(job),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.enter(job),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => simd.enter(job),
            #[cfg(target_arch = "x86_64")]
            Self::Amx(simd) => simd.vectors().enter(job),
        }
    }

    /// Whether it has products of integers that are worth the name.
    pub(crate) fn has_integers(self) -> bool {
        #[cfg(target_arch = "aarch64")]
        if let Self::Neon(simd) = self {
            return simd.dot().is_some();
        }
        true
    }

    pub(crate) fn integers(self, job: impl IntegerJob) {
        match self {
            Self::Scalar(simd) => job.run(simd),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.enter_integers(job),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.enter_integers(job),
            #[cfg(target_arch = "x86_64")]
            Self::Amx(simd) => simd.vectors().enter_integers(job),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => match simd.dot() {
                Some(dot) => dot.enter(job),
                None => job.run(Scalar),
            },
        }
    }

    /// Proof of tiles.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn amx(self) -> Option<amx::Amx> {
        match self {
            Self::Amx(amx) => Some(amx),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies every operation of `S` to some values and returns the results lane by lane.
    struct Every<'a> {
        input: &'a [f32; 16],
        output: &'a mut Vec<[f32; 16]>,
    }

    impl Job for Every<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let bf16 = self.input.map(half::bf16::from_f32);
            let bytes: [i8; 16] = std::array::from_fn(|i| (i as i8 - 8) * 15 - 8);
            let halves = self.input.map(half::f16::from_f32);
            let table = self.input.map(|x| x * 0.5);
            type Op<'a, S> = &'a dyn Fn(usize) -> <S as Simd>::F32;
            // SAFETY: `i` runs in steps of LANES below 16, so every load and store stays inside an array of 16.
            unsafe {
                let x = |i: usize| s.load_f32(self.input.as_ptr().add(i).cast());
                let y = |i: usize| s.add(s.mul(x(i), s.splat(-0.75)), s.splat(0.5));
                let integers = |i: usize| s.load_u8(bytes.as_ptr().add(i).cast());
                let ops: [Op<S>; 15] = [
                    &x,
                    &|i| s.load_bf16(bf16.as_ptr().add(i).cast()),
                    &|i| s.load_i8(bytes.as_ptr().add(i).cast()),
                    &|i| s.load_f16(halves.as_ptr().add(i).cast()),
                    &|i| s.convert(s.or(s.left::<5>(integers(i)), s.right::<3>(s.and(integers(i), 0xb9)))),
                    &|i| s.lookup(&table, s.and(integers(i), 15)),
                    &|i| s.sub(x(i), y(i)),
                    &|i| s.div(x(i), y(i)),
                    &|i| s.fma(x(i), s.splat(2.0), y(i)),
                    &|i| s.max(x(i), y(i)),
                    &|i| s.min(x(i), y(i)),
                    &|i| s.round(x(i)),
                    &|i| s.exp2(s.round(s.max(s.splat(-100.0), s.min(s.splat(100.0), x(i))))),
                    &|i| s.round_bf16(x(i)),
                    &|i| {
                        let mut out = [half::bf16::ZERO; 16];
                        s.store_bf16(out.as_mut_ptr().cast(), s.round_bf16(x(i)));
                        s.load_bf16(out.as_ptr().cast())
                    },
                ];
                for op in ops {
                    let mut out = [0.0; 16];
                    for i in (0..16).step_by(S::LANES) {
                        s.store_f32(out.as_mut_ptr().add(i).cast(), op(i));
                    }
                    self.output.push(out);
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_computes_what_the_scalar_one_does() {
        let inputs = [
            [
                0.0, -0.0, 1.0, -1.5, 2.5, 3.5, 1e-30, -1e30, 0.1, 7.0, 1e20, -3.25, 88.0, -80.0, 0.3333333,
                1e-3,
            ],
            [
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::MAX,
                f32::MIN,
                f32::from_bits(0x7fff_ffff),
                f32::from_bits(0x3f80_8000),
                f32::from_bits(0x3f81_8000),
                1.0e-45,
                -1.0,
                5.0,
                6.0,
                7.5,
                8.5,
                -9.5,
                0.25,
            ],
        ];
        for input in &inputs {
            let mut expected = Vec::new();
            Isa::Scalar(Scalar).run(Every { input, output: &mut expected });
            for isa in Isa::available() {
                let mut found = Vec::new();
                isa.run(Every { input, output: &mut found });
                for (op, (expected, found)) in expected.iter().zip(&found).enumerate() {
                    for (lane, (e, f)) in expected.iter().zip(found).enumerate() {
                        let same = e.to_bits() == f.to_bits() || (e.is_nan() && f.is_nan());
                        assert!(
                            same || (e - f).abs() <= e.abs() * 1e-6,
                            "{} operation {op} lane {lane}: {f} instead of {e}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }

    struct Reduce<'a>(&'a [f32; 16], &'a mut (f32, f32));

    impl Job for Reduce<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let (mut sum, mut largest) = (0.0, f32::MIN);
            for i in (0..16).step_by(S::LANES) {
                // SAFETY: `i + LANES <= 16`.
                let x = unsafe { s.load_f32(self.0.as_ptr().add(i).cast()) };
                sum += s.sum(x);
                largest = s.largest(x).max(largest);
            }
            *self.1 = (sum, largest);
        }
    }

    #[test]
    fn reductions_use_every_lane_once() {
        let input = std::array::from_fn(|i| (1 << i) as f32);
        for isa in Isa::available() {
            let mut found = (0.0, 0.0);
            isa.run(Reduce(&input, &mut found));
            assert_eq!(found, (65535.0, 32768.0), "{}", isa.name());
        }
    }
}
