//! Products of small integers: what kernels over packed weights need of an instruction set, beside [`Simd`](super::Simd).
//!
//! Weights are codes, bytes, 64 at a time; activations are signed integers, 256 at a time, in [`Activations`]. Products of
//! the two and their sums over 4, 8 or 16 neighbours are exact, so they are the same with every instruction set; only the f32 sums
//! of those differ in their order.

#![allow(clippy::needless_range_loop, reason = "index loops over registers read as the arithmetic they are")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
mod scalar;

/// Inputs of one [`Activations`].
pub(crate) const INPUTS: usize = 256;

/// 256 activations of a row as integers with a scale: `x = scale * integer`.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Activations {
    /// Integers in the order that [`Integers::arrange`] gave them.
    pub(crate) integers: [u8; 2 * INPUTS],
    /// The scale of each 16, which where integers have 16 bits is that of 32, in the order [`Integers::ORDER`].
    pub(crate) scales: [f32; 16],
    /// The sum of each 16 activations.
    pub(crate) sums: [f32; 16],
}

impl Default for Activations {
    fn default() -> Self {
        Self { integers: [0; 2 * INPUTS], scales: [0.0; 16], sums: [0.0; 16] }
    }
}

/// An instruction set's products of integers. A value of the type proves that the processor has it.
///
/// Integers of activations are hi * 256 + lo with two signed bytes; where `FAST`, hi is zero and not looked at.
///
/// # Safety
/// A value must exist only where the processor supports the instructions its methods use.
pub(crate) unsafe trait Integers: Copy + Send + Sync {
    /// What codes of numbers in two's complement are more than those: 128 where products take unsigned bytes, 0 where they take signed
    /// ones. Other codes are below 128.
    const BIAS: f32;
    /// Whether `FAST` is.
    const FASTER: bool;
    /// Where of [`Activations::scales`] that of each 16 inputs is.
    const ORDER: [usize; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    /// 64 codes.
    type Codes: Copy;
    /// 16 f32: a number for each 16 of 256 inputs.
    type Sixteen: Copy;
    /// Parts of the sum of one output, as f32.
    type Sum: Copy;

    /// 64 codes from two places.
    fn codes(self, a: &[u8; 32], b: &[u8; 32]) -> Self::Codes;
    /// The low nibbles of `a`, its high ones, the same of `b`.
    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> Self::Codes;
    /// The same 32 codes twice.
    fn twice(self, codes: &[u8; 32]) -> Self::Codes;
    /// The bits that `mask` has of each code shifted right, or left by the negative: 32 by the first number, 32 by the second.
    fn fields(self, codes: Self::Codes, shifts: [i32; 2], mask: u8) -> Self::Codes;
    /// `value` where `bits` has a bit.
    fn select(self, bits: u64, value: u8) -> Self::Codes;
    fn or(self, a: Self::Codes, b: Self::Codes) -> Self::Codes;
    /// Numbers in two's complement as codes, [`BIAS`](Self::BIAS) more than they are.
    fn flip(self, codes: Self::Codes) -> Self::Codes;
    /// Entry `code` of a table, [`BIAS`](Self::BIAS) more than it is; codes are below 16.
    fn lookup(self, table: &[i8; 16], codes: Self::Codes) -> Self::Codes;
    /// Points of four coordinates: bytes with a ninth bit each from `high`, as far as the grid has numbers, name them.
    fn fours<const N: usize>(self, grid: &[[u8; 4]; N], low: &[u8; 16], high: u16) -> Self::Codes;
    /// Points of eight coordinates: bytes name them with upper bits, as many as the grid has numbers, from bit `shifts` of `high` on.
    fn eights<const N: usize>(
        self,
        grid: &[[u8; 8]; N],
        low: [u8; 8],
        high: u32,
        shifts: &[u32; 8],
    ) -> Self::Codes;
    /// Points of eight coordinates: the lower bits of words, as many as the grid has numbers, name them.
    fn eights_of_words<const N: usize>(self, grid: &[[u8; 8]; N], words: &[u8; 16]) -> Self::Codes;
    /// Signs for [`signs`](Self::signs) from the upper seven bits of eight words; the eighth of each makes the number of bits even.
    fn even_of_words(self, words: &[u8; 16]) -> u64;
    /// Codes below 128, negative where `negative` has a bit, [`BIAS`](Self::BIAS) more than they are.
    fn signs(self, codes: Self::Codes, negative: u64) -> Self::Codes;

    fn splat(self, x: f32) -> Self::Sixteen;
    fn load(self, x: &[f32; 16]) -> Self::Sixteen;
    fn mul(self, a: Self::Sixteen, b: Self::Sixteen) -> Self::Sixteen;
    /// `a * b + c`.
    fn fma(self, a: Self::Sixteen, b: Self::Sixteen, c: Self::Sixteen) -> Self::Sixteen;
    /// Numbers in two's complement.
    fn signed(self, x: [u8; 16]) -> Self::Sixteen;
    /// Each byte twice, the lowest first.
    fn unsigned_twice(self, x: u64) -> Self::Sixteen;
    /// Each byte of two numbers twice, the lowest first, times the f16 of each number.
    #[inline(always)]
    fn scaled_twice(self, [a, b]: [u64; 2], factors: &[u8; 4]) -> [Self::Sixteen; 2] {
        let &[c, d, e, f] = factors;
        let [first, second] = [self.half(&[c, d]), self.half(&[e, f])];
        [self.mul(first, self.unsigned_twice(a)), self.mul(second, self.unsigned_twice(b))]
    }
    /// Low nibbles and high ones.
    fn low_and_high(self, x: &[u8; 16]) -> (Self::Sixteen, Self::Sixteen);
    /// An f16, sixteen times.
    fn half(self, x: &[u8; 2]) -> Self::Sixteen;
    /// The f16 at byte `at` of each of eight blocks of `size` bytes, twice. Blocks end four bytes after the f16 or later.
    fn halves(self, blocks: &[u8], at: usize, size: usize) -> Self::Sixteen;

    fn zero(self) -> Self::Sum;
    /// Codes of 256 inputs and their scales, as [`add`](Self::add) takes them.
    #[inline(always)]
    fn lined_up(
        self,
        quarters: [Self::Codes; 4],
        scales: Self::Sixteen,
    ) -> ([Self::Codes; 4], Self::Sixteen) {
        (quarters, scales)
    }
    /// `sum + scales · (products of 256 codes with x) - offsets · (sums of x)`.
    fn add<const FAST: bool>(
        self,
        sum: Self::Sum,
        weights: ([Self::Codes; 4], Self::Sixteen),
        offsets: Self::Sixteen,
        x: &Activations,
    ) -> Self::Sum;
    /// All of each.
    fn totals(self, sums: [Self::Sum; 4]) -> [f32; 4];

    /// Adds the products of inputs `first` to `first + 7` of each row with 64 columns of weights, and `BIAS` times those inputs,
    /// to `sums`, which are in an order of their own. Sums of 32 inputs do not overflow.
    ///
    /// # Safety
    /// 8 rows of 64 weights must be readable at `weights`, `stride` bytes apart.
    unsafe fn eight<const FAST: bool, const R: usize>(
        self,
        weights: *const i8, // [8, stride]
        stride: usize,
        x: [&Activations; R],
        first: usize,
        sums: [&mut [i32; 64]; R],
    );
    /// Those sums in the order of the columns.
    fn in_order(self, sums: &[i32; 64]) -> [i32; 64];

    /// The order in which the integers of activations are kept.
    fn arrange(self, integers: &[i16; INPUTS]) -> [u8; 2 * INPUTS];
    /// Asks for a line of memory, at any address.
    fn prefetch(self, p: *const u8);
}

/// A kernel over packed weights with its arguments.
pub(crate) trait IntegerJob {
    /// Must be `inline(always)`, as everything it calls that uses `simd`.
    fn run<S: Integers>(self, simd: S);
}
