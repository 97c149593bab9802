//! Products of matrix tiles, with AMX. Uses `avx512`.
//!
//! A tile is 16 rows of 64 bytes. The left operand's rows hold 32 bf16 or 64 bytes of consecutive inputs; the right operand has
//! its inputs down the rows, two bf16 or four bytes of them beside one another for each of its 16 columns; the result is 16 rows
//! of 16 columns. The instructions are written in assembly: the compiler's own are not stable yet.
//!
//! The tiles are part of a thread's state, of 8 KiB, that the system saves and restores while it is in use. [`Tiles`] brings it
//! into use and clears it when it goes: nothing stays behind on a thread of the host's.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::marker::PhantomData;

use super::avx512::Avx512;
use super::integers::avx512::Vnni;

/// Proof that the processor has AMX with bf16 and int8 and the AVX-512 that goes with it, and that the system lets us use them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amx {
    floats: Avx512,
    integers: Vnni,
}

/// Rows of a tile, and columns of a result.
pub(crate) const TILE_ROWS: usize = 16;
/// Bytes of a tile.
pub(crate) const TILE: usize = 16 * 64;

impl Amx {
    pub(crate) fn new() -> Option<Self> {
        let (floats, integers) = (Avx512::new()?, Vnni::new()?);
        let known = is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("xsave");
        (known && has_tiles() && permitted()).then_some(Self { floats, integers })
    }

    /// The vectors that come with the tiles.
    pub(crate) fn vectors(self) -> Avx512 {
        self.floats
    }

    /// Runs `job` compiled for all of them, with the tiles in use.
    pub(crate) fn enter_tiles(self, job: impl TileJob) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx512bf16,avx2,fma,f16c")]
        fn inside(tiles: &Tiles, job: impl TileJob) {
            job.run(tiles);
        }
        // SAFETY: nobody else brings tiles into use, and jobs do not enter others.
        let tiles = unsafe { self.tiles() };
        // SAFETY: `self` proves the features.
        unsafe { inside(&tiles, job) }
    }

    /// Brings this thread's tiles into use.
    ///
    /// # Safety
    /// The thread must have no other `Tiles`: the first to go would take the tiles from the rest.
    pub(crate) unsafe fn tiles(self) -> Tiles {
        // SAFETY: `self` proves the instruction and the system's permission; the configuration is 64 bytes.
        unsafe {
            asm!(
                "ldtilecfg [{0}]", in(reg) &raw const CONFIG,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly),
            );
        }
        Tiles { floats: self.floats, integers: self.integers, thread: PhantomData }
    }
}

/// A kernel of tiles with its arguments.
pub(crate) trait TileJob {
    /// Must be `inline(always)`, as everything it calls that uses vectors. What [`Amx`] proves beside the tiles is AVX-512 F, BW, VL,
    /// VBMI, VNNI and BF16.
    fn run(self, tiles: &Tiles);
}

/// Whether the processor has the tiles and both their products, and the system saves them.
fn has_tiles() -> bool {
    const BF16_TILE_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    const CONFIG_AND_DATA: u64 = 1 << 17 | 1 << 18;
    // Leaf 7 exists where AVX2 does.
    let features = __cpuid_count(7, 0).edx;
    // SAFETY: the caller has seen that there is `xsave`, and that the system has enabled it.
    let saved = unsafe { _xgetbv(0) };
    features & BF16_TILE_INT8 == BF16_TILE_INT8 && saved & CONFIG_AND_DATA == CONFIG_AND_DATA
}

/// Asks the system for the right to use the tiles, which is the process's from then on. Linux refuses where a thread's
/// alternate signal stack is too small for them.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: two numbers go in, nothing but an error comes out.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

#[repr(align(64))]
struct Config(#[allow(dead_code, reason = "read by the processor")] [u8; 64]);

/// Eight tiles of 16 rows of 64 bytes.
static CONFIG: Config = {
    let mut bytes = [0; 64];
    bytes[0] = 1; // Palette.
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = TILE_ROWS as u8;
        tile += 1;
    }
    Config(bytes)
};

/// This thread's tiles, in use until the value is dropped. To be held for the length of a kernel: bringing them into use takes
/// some ten nanoseconds, and holding them makes each change of threads dearer.
pub(crate) struct Tiles {
    pub(crate) floats: Avx512,
    pub(crate) integers: Vnni,
    thread: PhantomData<*const ()>,
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a value exists only where the instructions do.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, nomem),
            );
        }
    }
}

/// Tiles of an operand in memory: some side by side, for as many steps along the inputs.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) bytes: &'a [u8],
    /// Bytes from a row of a tile to the next.
    pub(crate) row: usize,
    /// Bytes from a tile to the one beside it.
    pub(crate) tile: usize,
    /// Bytes from a tile to the next along the inputs.
    pub(crate) step: usize,
}

impl<'a> Operand<'a> {
    /// Tiles one after the other: `[tiles, steps, TILE]`, of which `bytes` may begin at any.
    #[allow(dead_code, reason = "for attention")]
    pub(crate) fn packed(bytes: &'a [u8], steps: usize) -> Self {
        Self { bytes, row: 64, tile: steps * TILE, step: TILE }
    }

    /// Whether so many tiles exist, each for `steps`.
    fn has(&self, tiles: usize, steps: usize) -> bool {
        let last = |count: usize, stride: usize| count.saturating_sub(1).saturating_mul(stride);
        let end = last(tiles, self.tile)
            .saturating_add(last(steps, self.step))
            .saturating_add(last(TILE_ROWS, self.row))
            .saturating_add(64);
        end <= self.bytes.len()
    }

    fn start(&self, tile: usize) -> *const u8 {
        self.bytes.as_ptr().wrapping_add(tile * self.tile)
    }
}

/// A tile of results.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Sums<T>(pub(crate) [[T; 16]; TILE_ROWS]); // [left's rows, right's columns]

/// What a product does with the results that are there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Replaces them.
    Zero,
    /// Adds to them.
    Load,
}

/// The four results of a product: `[left's tiles, right's tiles]`. A page: tiles that straddle two load slowly.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
pub(crate) struct Block<T>(pub(crate) [Sums<T>; 4]);

/// How many tiles of each operand a product takes: always four results.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The best: each tile is loaded for two multiplications.
    TwoByTwo,
    /// For one tile of columns.
    #[allow(dead_code, reason = "for attention")]
    FourByOne,
    /// For one tile of rows.
    #[allow(dead_code, reason = "for attention")]
    OneByFour,
}

impl Shape {
    /// Tiles of the left and of the right operand.
    const fn tiles(self) -> [usize; 2] {
        match self {
            Self::TwoByTwo => [2, 2],
            Self::FourByOne => [4, 1],
            Self::OneByFour => [1, 4],
        }
    }
}

/// The loop of a product. Tiles 0 to 3 are the results; what is done in a step moves the pointers on.
macro_rules! product {
    ($left:ident, $right:ident, $steps:ident, $sums:ident, $begin:ident,
     { $($operand:tt)* }, $($instruction:expr),* $(,)?) => {{
        macro_rules! with {
            ($first:literal, $second:literal, $third:literal, $fourth:literal) => {
                asm!(
                    $first, $second, $third, $fourth,
                    "2:",
                    $($instruction,)*
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{sums} + {line}], tmm0",
                    "tilestored [{sums} + {line} + 1024], tmm1",
                    "tilestored [{sums} + {line} + 2048], tmm2",
                    "tilestored [{sums} + {line} + 3072], tmm3",
                    $($operand)*
                    left_row = in(reg) $left.row,
                    right_row = in(reg) $right.row,
                    left_step = in(reg) $left.step,
                    right_step = in(reg) $right.step,
                    steps = inout(reg) $steps => _,
                    sums = in(reg) $sums,
                    line = in(reg) 64_usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            };
        }
        match $begin {
            Begin::Zero => with!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"),
            Begin::Load => with!(
                "tileloadd tmm0, [{sums} + {line}]",
                "tileloadd tmm1, [{sums} + {line} + 1024]",
                "tileloadd tmm2, [{sums} + {line} + 2048]",
                "tileloadd tmm3, [{sums} + {line} + 3072]"
            ),
        }
    }};
}

/// A product of [`Tiles`] by one instruction.
macro_rules! products {
    ($(#[$doc:meta])* $name:ident, $number:ty, $multiply:literal) => {
        $(#[$doc])*
        pub(crate) fn $name(
            &self,
            shape: Shape,
            left: Operand<'_>,
            right: Operand<'_>,
            steps: usize,
            begin: Begin,
            sums: &mut Block<$number>,
        ) {
            let [lefts, rights] = shape.tiles();
            assert!(steps > 0 && left.has(lefts, steps) && right.has(rights, steps));
            let sums = sums.0.as_mut_ptr();
            // SAFETY: `self` is there, so the tiles are configured; `has` checked every row that a step loads, and the results are
            // four tiles. The last step moves the pointers on without reading there.
            unsafe {
                match shape {
                    Shape::TwoByTwo => product!(
                        left, right, steps, sums, begin,
                        {
                            l0 = inout(reg) left.start(0) => _,
                            l1 = inout(reg) left.start(1) => _,
                            r0 = inout(reg) right.start(0) => _,
                            r1 = inout(reg) right.start(1) => _,
                        },
                        "tileloadd tmm4, [{l0} + {left_row}]",
                        "tileloadd tmm6, [{r0} + {right_row}]",
                        concat!($multiply, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm7, [{r1} + {right_row}]",
                        concat!($multiply, " tmm1, tmm4, tmm7"),
                        "tileloadd tmm5, [{l1} + {left_row}]",
                        concat!($multiply, " tmm2, tmm5, tmm6"),
                        concat!($multiply, " tmm3, tmm5, tmm7"),
                        "add {l0}, {left_step}",
                        "add {l1}, {left_step}",
                        "add {r0}, {right_step}",
                        "add {r1}, {right_step}",
                    ),
                    Shape::FourByOne => product!(
                        left, right, steps, sums, begin,
                        {
                            l0 = inout(reg) left.start(0) => _,
                            l1 = inout(reg) left.start(1) => _,
                            l2 = inout(reg) left.start(2) => _,
                            l3 = inout(reg) left.start(3) => _,
                            r0 = inout(reg) right.start(0) => _,
                        },
                        "tileloadd tmm6, [{r0} + {right_row}]",
                        "tileloadd tmm4, [{l0} + {left_row}]",
                        concat!($multiply, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm5, [{l1} + {left_row}]",
                        concat!($multiply, " tmm1, tmm5, tmm6"),
                        "tileloadd tmm7, [{l2} + {left_row}]",
                        concat!($multiply, " tmm2, tmm7, tmm6"),
                        "tileloadd tmm4, [{l3} + {left_row}]",
                        concat!($multiply, " tmm3, tmm4, tmm6"),
                        "add {l0}, {left_step}",
                        "add {l1}, {left_step}",
                        "add {l2}, {left_step}",
                        "add {l3}, {left_step}",
                        "add {r0}, {right_step}",
                    ),
                    Shape::OneByFour => product!(
                        left, right, steps, sums, begin,
                        {
                            l0 = inout(reg) left.start(0) => _,
                            r0 = inout(reg) right.start(0) => _,
                            r1 = inout(reg) right.start(1) => _,
                            r2 = inout(reg) right.start(2) => _,
                            r3 = inout(reg) right.start(3) => _,
                        },
                        "tileloadd tmm6, [{l0} + {left_row}]",
                        "tileloadd tmm4, [{r0} + {right_row}]",
                        concat!($multiply, " tmm0, tmm6, tmm4"),
                        "tileloadd tmm5, [{r1} + {right_row}]",
                        concat!($multiply, " tmm1, tmm6, tmm5"),
                        "tileloadd tmm7, [{r2} + {right_row}]",
                        concat!($multiply, " tmm2, tmm6, tmm7"),
                        "tileloadd tmm4, [{r3} + {right_row}]",
                        concat!($multiply, " tmm3, tmm6, tmm4"),
                        "add {l0}, {left_step}",
                        "add {r0}, {right_step}",
                        "add {r1}, {right_step}",
                        "add {r2}, {right_step}",
                        "add {r3}, {right_step}",
                    ),
                }
            }
        }
    };
}

impl Tiles {
    products!(
        /// `sums = left · right` of bf16, 32 inputs a step. Denormal numbers count as zero; sums are rounded twice a step.
        bf16, f32, "tdpbf16ps"
    );
    products!(
        #[allow(dead_code, reason = "for activations of 8 bits")]
        /// `sums = left · right` of signed bytes, 64 inputs a step; sums wrap around.
        i8,
        i32,
        "tdpbssd"
    );
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// Operands of three steps with odd strides, and what the products of their tiles should be.
    fn check<T: Copy + Into<f64>>(
        size: usize,
        element: impl Fn(usize) -> T,
        bytes: impl Fn(T) -> Vec<u8>,
        product: impl Fn(&Tiles, Shape, Operand<'_>, Operand<'_>, Begin) -> Vec<[[f64; 16]; 16]>,
    ) {
        const STEPS: usize = 3;
        let Some(amx) = Amx::new() else { return eprintln!("skipped: no AMX") };
        // SAFETY: the test has no others.
        let tiles = unsafe { amx.tiles() };
        let group = 4 / size; // Inputs beside one another on the right.
        let inputs = STEPS * 64 / size;
        for shape in [Shape::TwoByTwo, Shape::FourByOne, Shape::OneByFour] {
            let [lefts, rights] = shape.tiles();
            // [16 * lefts, inputs] and [inputs, 16 * rights].
            let a: Vec<T> = (0..16 * lefts * inputs).map(&element).collect();
            let b: Vec<T> = (0..inputs * 16 * rights).map(|i| element(i * 3 + 1)).collect();
            // The left one as it lies, with some bytes behind each row.
            let row = inputs * size + 8;
            let mut left = vec![0; 16 * lefts * row - 8];
            for (i, &x) in a.iter().enumerate() {
                left[i / inputs * row + i % inputs * size..][..size].copy_from_slice(&bytes(x));
            }
            let mut right = vec![0; rights * STEPS * TILE];
            for (i, &x) in b.iter().enumerate() {
                let (input, column) = (i / (16 * rights), i % (16 * rights));
                let (step, rest) = (input / (16 * group), input % (16 * group));
                let at = (column / 16 * STEPS + step) * TILE
                    + rest / group * 64
                    + column % 16 * 4
                    + rest % group * size;
                right[at..][..size].copy_from_slice(&bytes(x));
            }
            let left = Operand { bytes: &left, row, tile: 16 * row, step: 64 };
            let right = Operand::packed(&right, STEPS);
            for (begin, before) in [(Begin::Zero, 0.0), (Begin::Load, 1.0)] {
                let found = product(&tiles, shape, left, right, begin);
                for (tile, found) in found.iter().enumerate() {
                    for (i, j) in (0..16).flat_map(|i| (0..16).map(move |j| (i, j))) {
                        let (row, column) = (tile / rights * 16 + i, tile % rights * 16 + j);
                        let products = (0..inputs)
                            .map(|k| a[row * inputs + k].into() * b[k * 16 * rights + column].into());
                        assert_eq!(found[i][j], products.sum::<f64>() + before);
                    }
                }
            }
        }
    }

    fn widen<T: Copy + Into<f64>>(sums: &Block<T>) -> Vec<[[f64; 16]; 16]> {
        sums.0.iter().map(|sums| sums.0.map(|row| row.map(Into::into))).collect()
    }

    #[test]
    fn tiles_of_bf16_give_the_products_of_their_matrices() {
        // Sums of few bits: exact in any order.
        let element = |i: usize| bf16::from_f32((i * 29 % 13) as f32 - 6.0);
        check(
            2,
            element,
            |x| x.to_le_bytes().to_vec(),
            |tiles, shape, left, right, begin| {
                let mut sums = Block([Sums([[1.0; 16]; 16]); 4]);
                tiles.bf16(shape, left, right, 3, begin, &mut sums);
                widen(&sums)
            },
        );
    }

    #[test]
    fn tiles_of_bytes_give_the_products_of_their_matrices() {
        let element = |i: usize| (i * 89 % 251) as u8 as i8;
        check(
            1,
            element,
            |x| x.to_le_bytes().to_vec(),
            |tiles, shape, left, right, begin| {
                let mut sums = Block([Sums([[1; 16]; 16]); 4]);
                tiles.i8(shape, left, right, 3, begin, &mut sums);
                widen(&sums)
            },
        );
    }

    #[test]
    fn operands_that_end_too_early_are_refused() {
        let bytes = [0; 2 * TILE];
        assert!(Operand::packed(&bytes, 2).has(1, 2));
        assert!(!Operand::packed(&bytes, 2).has(1, 3));
        assert!(!Operand::packed(&bytes, 2).has(2, 2));
        assert!(!Operand { bytes: &bytes, row: usize::MAX, tile: 0, step: 0 }.has(1, 1));
    }

    #[test]
    fn tiles_leave_nothing_behind() {
        let Some(amx) = Amx::new() else { return eprintln!("skipped: no AMX") };
        let config = || {
            let mut config = Config([0xff; 64]);
            // SAFETY: the processor has tiles, and the place is 64 bytes.
            unsafe { asm!("sttilecfg [{0}]", in(reg) &raw mut config, options(nostack)) };
            config.0
        };
        // SAFETY: the test has no others.
        let tiles = unsafe { amx.tiles() };
        assert_eq!(config(), CONFIG.0);
        drop(tiles);
        assert_eq!(config(), [0; 64]);
    }
}
