//! Products of matrix tiles, with AMX. Uses `avx512`.
//!
//! A tile is 16 rows of 64 bytes. The left operand's rows hold 32 bf16 of consecutive inputs; the right operand has
//! its inputs down the rows, two bf16 of them beside one another for each of its 16 columns; the result is 16 rows of 16 columns. The instructions are written in assembly: the compiler's own are not stable yet.
//!
//! The tiles are part of a thread's state, of 8 KiB, that the system saves and restores while it is in use. [`Tiles`] brings it
//! into use and clears it when it goes: nothing stays behind on a thread of the host's.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::marker::PhantomData;

use super::avx512::Avx512;
use super::integers::avx512::Vnni;

/// Proof that the processor has AMX with bf16 and the AVX-512 that goes with it, and that the system lets us use them.
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

/// Whether the processor has the tiles and their products of bf16, and the system saves them.
fn has_tiles() -> bool {
    const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
    const CONFIG_AND_DATA: u64 = 1 << 17 | 1 << 18;
    // Leaf 7 exists where AVX2 does.
    let features = __cpuid_count(7, 0).edx;
    // SAFETY: the caller has seen that there is `xsave`, and that the system has enabled it.
    let saved = unsafe { _xgetbv(0) };
    features & BF16_AND_TILES == BF16_AND_TILES && saved & CONFIG_AND_DATA == CONFIG_AND_DATA
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
pub(crate) struct Sums(pub(crate) [[f32; 16]; TILE_ROWS]); // [left's rows, right's columns]

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
pub(crate) struct Block(pub(crate) [Sums; 4]);

/// Two tiles, one after the other.
pub(crate) type Pair = [u8; 2 * TILE];

/// Which operand of a step passes the first-level cache by, so that the other one stays there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streamed {
    Left,
    Right,
}

/// What a step multiplies.
#[derive(Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) streamed: Streamed,
    pub(crate) left: &'a Pair,
    pub(crate) right: &'a Pair,
}

/// A step of two tiles by two, each operand loaded by an instruction of its own.
macro_rules! step {
    ($left:ident, $right:ident, $load_left:literal, $load_right:literal) => {
        asm!(
            concat!($load_left, " tmm4, [{left} + {line}]"),
            concat!($load_right, " tmm6, [{right} + {line}]"),
            "tdpbf16ps tmm0, tmm4, tmm6",
            concat!($load_right, " tmm7, [{right} + {line} + 1024]"),
            "tdpbf16ps tmm1, tmm4, tmm7",
            concat!($load_left, " tmm5, [{left} + {line} + 1024]"),
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            left = in(reg) $left.as_ptr(),
            right = in(reg) $right.as_ptr(),
            line = in(reg) 64_usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags, readonly),
        )
    };
}

/// The part of a step that has only the first tile of the streamed operand.
macro_rules! half {
    ($streamed:ident, $other:ident, $first:literal, $second:literal) => {
        asm!(
            "tileloaddt1 tmm4, [{streamed} + {line}]",
            "tileloadd tmm6, [{other} + {line}]",
            $first,
            "tileloadd tmm7, [{other} + {line} + 1024]",
            $second,
            streamed = in(reg) $streamed.as_ptr(),
            other = in(reg) $other.as_ptr(),
            line = in(reg) 64_usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags, readonly),
        )
    };
}

/// The first step of a product that takes the place of another, whose results are stored one by one.
macro_rules! turn {
    (zero, $($rest:tt)*) => {
        turn!("tilezero tmm0 # {sums}", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", $($rest)*)
    };
    (load, $($rest:tt)*) => {
        turn!(
            "tileloadd tmm0, [{sums} + {line}]",
            "tileloadd tmm1, [{sums} + {line} + 1024]",
            "tileloadd tmm2, [{sums} + {line} + 2048]",
            "tileloadd tmm3, [{sums} + {line} + 3072]",
            $($rest)*
        )
    };
    (
        $first:literal, $second:literal, $third:literal, $fourth:literal,
        $ended:ident, $sums:ident, $left:ident, $right:ident, $load_left:literal, $load_right:literal
    ) => {
        asm!(
            concat!($load_left, " tmm4, [{left} + {line}]"),
            concat!($load_right, " tmm6, [{right} + {line}]"),
            "tilestored [{ended} + {line}], tmm0",
            $first,
            "tdpbf16ps tmm0, tmm4, tmm6",
            concat!($load_right, " tmm7, [{right} + {line} + 1024]"),
            "tilestored [{ended} + {line} + 1024], tmm1",
            $second,
            "tdpbf16ps tmm1, tmm4, tmm7",
            concat!($load_left, " tmm5, [{left} + {line} + 1024]"),
            "tilestored [{ended} + {line} + 2048], tmm2",
            $third,
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tilestored [{ended} + {line} + 3072], tmm3",
            $fourth,
            "tdpbf16ps tmm3, tmm5, tmm7",
            left = in(reg) $left.as_ptr(),
            right = in(reg) $right.as_ptr(),
            ended = in(reg) $ended,
            sums = in(reg) $sums,
            line = in(reg) 64_usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags),
        )
    };
}

/// Products of bf16: 32 inputs a step. Denormal numbers count as zero; sums are rounded twice a step.
///
/// All but the last are parts of products, whose results stay in tiles 0 to 3 meanwhile. Compiled code does not touch tiles, so
/// other work fits between them: the unit that multiplies goes on with what it has, and falls asleep, for half a microsecond,
/// where that takes longer than some hundred nanoseconds.
impl Tiles {
    /// Begins a product of two tiles by two.
    pub(crate) fn begin(&self, begin: Begin, sums: &Block) {
        // SAFETY: `self` is there, so the tiles are configured; the results are four tiles.
        unsafe {
            match begin {
                Begin::Zero => asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, preserves_flags, nomem),
                ),
                Begin::Load => asm!(
                    "tileloadd tmm0, [{sums} + {line}]",
                    "tileloadd tmm1, [{sums} + {line} + 1024]",
                    "tileloadd tmm2, [{sums} + {line} + 2048]",
                    "tileloadd tmm3, [{sums} + {line} + 3072]",
                    sums = in(reg) sums,
                    line = in(reg) 64_usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, preserves_flags, readonly),
                ),
            }
        }
    }

    /// Adds the product of two tiles on the left with two on the right.
    #[inline(always)]
    pub(crate) fn step(&self, Step { streamed, left, right }: Step<'_>) {
        // SAFETY: `self` is there, so the tiles are configured; each operand is two tiles.
        unsafe {
            match streamed {
                Streamed::Left => step!(left, right, "tileloaddt1", "tileloadd"),
                Streamed::Right => step!(left, right, "tileloadd", "tileloaddt1"),
            }
        }
    }

    /// The same without the second tile of the streamed operand, whose results are left as they are.
    #[inline(always)]
    pub(crate) fn half(&self, Step { streamed, left, right }: Step<'_>) {
        // SAFETY: `self` is there, so the tiles are configured; each operand is two tiles.
        unsafe {
            match streamed {
                Streamed::Left => {
                    half!(left, right, "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7")
                }
                Streamed::Right => {
                    half!(right, left, "tdpbf16ps tmm0, tmm6, tmm4", "tdpbf16ps tmm2, tmm7, tmm4")
                }
            }
        }
    }

    /// [`end`](Self::end), [`begin`](Self::begin) and [`step`](Self::step) in one, a tile at a time: while a result is still being
    /// computed, the tiles of those that are stored already go on with the next product.
    #[inline(always)]
    pub(crate) fn turn(&self, ended: &mut Block, begin: Begin, sums: &Block, step: Step<'_>) {
        let Step { streamed, left, right } = step;
        // SAFETY: `self` is there, so the tiles are configured; each operand is two tiles, results are four.
        unsafe {
            match (begin, streamed) {
                (Begin::Zero, Streamed::Left) => {
                    turn!(zero, ended, sums, left, right, "tileloaddt1", "tileloadd");
                }
                (Begin::Zero, Streamed::Right) => {
                    turn!(zero, ended, sums, left, right, "tileloadd", "tileloaddt1");
                }
                (Begin::Load, Streamed::Left) => {
                    turn!(load, ended, sums, left, right, "tileloaddt1", "tileloadd");
                }
                (Begin::Load, Streamed::Right) => {
                    turn!(load, ended, sums, left, right, "tileloadd", "tileloaddt1");
                }
            }
        }
    }

    /// Ends the product.
    #[inline(always)]
    pub(crate) fn end(&self, sums: &mut Block) {
        // SAFETY: `self` is there, so the tiles are configured; the results are four tiles.
        unsafe {
            asm!(
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 1024], tmm1",
                "tilestored [{sums} + {line} + 2048], tmm2",
                "tilestored [{sums} + {line} + 3072], tmm3",
                sums = in(reg) sums,
                line = in(reg) 64_usize,
                options(nostack, preserves_flags),
            );
        }
    }

    /// `sums = left · right` of a tile by four.
    pub(crate) fn one_by_four(&self, left: Operand<'_>, right: Operand<'_>, steps: usize, sums: &mut Block) {
        assert!(steps > 0 && left.has(1, steps) && right.has(4, steps));
        // SAFETY: `self` is there, so the tiles are configured; `has` checked every row that a step loads, and the results are
        // four tiles. The last step moves the pointers on without reading there.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm6, [{l0} + {left_row}]",
                "tileloadd tmm4, [{r0} + {right_row}]",
                "tdpbf16ps tmm0, tmm6, tmm4",
                "tileloadd tmm5, [{r1} + {right_row}]",
                "tdpbf16ps tmm1, tmm6, tmm5",
                "tileloadd tmm7, [{r2} + {right_row}]",
                "tdpbf16ps tmm2, tmm6, tmm7",
                "tileloadd tmm4, [{r3} + {right_row}]",
                "tdpbf16ps tmm3, tmm6, tmm4",
                "add {l0}, {left_step}",
                "add {r0}, {right_step}",
                "add {r1}, {right_step}",
                "add {r2}, {right_step}",
                "add {r3}, {right_step}",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 1024], tmm1",
                "tilestored [{sums} + {line} + 2048], tmm2",
                "tilestored [{sums} + {line} + 3072], tmm3",
                l0 = inout(reg) left.start(0) => _,
                r0 = inout(reg) right.start(0) => _,
                r1 = inout(reg) right.start(1) => _,
                r2 = inout(reg) right.start(2) => _,
                r3 = inout(reg) right.start(3) => _,
                left_row = in(reg) left.row,
                right_row = in(reg) right.row,
                left_step = in(reg) left.step,
                right_step = in(reg) right.step,
                steps = inout(reg) steps => _,
                sums = in(reg) sums,
                line = in(reg) 64_usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    const STEPS: usize = 3;
    const INPUTS: usize = STEPS * 32;

    /// Elements whose sums have few bits, so that they are exact in any order.
    fn elements(count: usize, factor: usize) -> Vec<bf16> {
        (0..count).map(|i| bf16::from_f32((i * factor % 13) as f32 - 6.0)).collect()
    }

    /// A left operand, `[16 * tiles, INPUTS]`, as rows of so many bytes.
    fn left(elements: &[bf16], row: usize) -> Vec<u8> {
        let mut bytes = vec![0; elements.len() / INPUTS * row];
        for (i, x) in elements.iter().enumerate() {
            bytes[i / INPUTS * row + i % INPUTS * 2..][..2].copy_from_slice(&x.to_le_bytes());
        }
        bytes
    }

    /// A right operand, `[INPUTS, 16 * tiles]`, as `[tiles, STEPS, TILE]`.
    fn right(elements: &[bf16], tiles: usize) -> Vec<u8> {
        let mut bytes = vec![0; tiles * STEPS * TILE];
        for (i, x) in elements.iter().enumerate() {
            let (input, column) = (i / (16 * tiles), i % (16 * tiles));
            let (tile, step, pair) = (column / 16, input / 32, input % 32 / 2);
            let at = (tile * STEPS + step) * TILE + pair * 64 + column % 16 * 4 + input % 2 * 2;
            bytes[at..][..2].copy_from_slice(&x.to_le_bytes());
        }
        bytes
    }

    /// Compares results with the products of the matrices, added to `before`.
    fn check(found: &Block, a: &[bf16], b: &[bf16], before: f32) {
        let rights = b.len() / INPUTS / 16;
        for (tile, found) in found.0.iter().enumerate() {
            for (i, j) in (0..16).flat_map(|i| (0..16).map(move |j| (i, j))) {
                let (row, column) = (tile / rights * 16 + i, tile % rights * 16 + j);
                let products =
                    (0..INPUTS).map(|k| a[row * INPUTS + k].to_f32() * b[k * 16 * rights + column].to_f32());
                assert_eq!(found.0[i][j], products.sum::<f32>() + before);
            }
        }
    }

    #[test]
    fn a_tile_by_four_gives_the_product_of_their_matrices() {
        let Some(amx) = Amx::new() else { return eprintln!("skipped: no AMX") };
        // SAFETY: the test has no others.
        let tiles = unsafe { amx.tiles() };
        let (a, b) = (elements(16 * INPUTS, 29), elements(INPUTS * 64, 31));
        // With some bytes behind each row.
        let row = 2 * INPUTS + 8;
        let (left, right) = (left(&a, row), right(&b, 4));
        let left = Operand { bytes: &left, row, tile: 16 * row, step: 64 };
        let mut sums = Block([Sums([[1.0; 16]; 16]); 4]);
        tiles.one_by_four(left, Operand::packed(&right, STEPS), STEPS, &mut sums);
        check(&sums, &a, &b, 0.0);
    }

    #[test]
    fn steps_of_two_tiles_by_two_add_up_to_the_product_of_their_matrices() {
        let Some(amx) = Amx::new() else { return eprintln!("skipped: no AMX") };
        // SAFETY: the test has no others.
        let tiles = unsafe { amx.tiles() };
        let (a, b) = (elements(32 * INPUTS, 29), elements(INPUTS * 32, 31));
        let (left, right) = (left(&a, 2 * INPUTS), right(&b, 2));
        let pair =
            |tile: &dyn Fn(usize) -> Vec<u8>| -> Pair { [tile(0), tile(1)].concat().try_into().unwrap() };
        for (begin, before) in [(Begin::Zero, 0.0), (Begin::Load, 1.0)] {
            for streamed in [Streamed::Left, Streamed::Right] {
                let pairs: Vec<[Pair; 2]> = (0..STEPS)
                    .map(|step| {
                        let rows = |tile: usize| {
                            let row =
                                |i: usize| left[(tile * 16 + i) * 2 * INPUTS + step * 64..][..64].to_vec();
                            (0..16).flat_map(row).collect()
                        };
                        let columns = |tile: usize| right[(tile * STEPS + step) * TILE..][..TILE].to_vec();
                        [pair(&rows), pair(&columns)]
                    })
                    .collect();
                let steps = || pairs.iter().map(|[left, right]| Step { streamed, left, right });
                let [mut first, mut second] = [Block([Sums([[1.0; 16]; 16]); 4]); 2];
                tiles.begin(begin, &first);
                steps().for_each(|step| tiles.step(step));
                for (index, step) in steps().enumerate() {
                    if index == 0 {
                        tiles.turn(&mut first, begin, &second, step);
                    } else {
                        tiles.step(step);
                    }
                }
                tiles.end(&mut second);
                check(&first, &a, &b, before);
                check(&second, &a, &b, before);
                let mut halves = Block([Sums([[1.0; 16]; 16]); 4]);
                tiles.begin(begin, &halves);
                steps().for_each(|step| tiles.half(step));
                tiles.end(&mut halves);
                let there = if streamed == Streamed::Left { [0, 1] } else { [0, 2] };
                for (tile, (found, whole)) in halves.0.iter().zip(&second.0).enumerate() {
                    let expected = if there.contains(&tile) { whole.0 } else { [[before; 16]; 16] };
                    assert_eq!(found.0, expected);
                }
            }
        }
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
