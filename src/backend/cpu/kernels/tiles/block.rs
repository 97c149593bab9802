//! A block of rows by a piece of weights, while the next piece is unpacked.

use super::matrix::{Staged, Stored, UNITS, Units, Weights};
use super::{PIECE, Side};
use crate::backend::cpu::simd::amx::{Begin, Block, Pair, Step, Streamed, Tiles};

/// Some of a piece's weights to be unpacked, of some type.
pub(super) trait Unit {
    /// Which operand of the products activations are.
    const SIDE: Side;

    /// Unpacks unit `unit` of a piece. What is beyond the inputs becomes zeros; what is beyond the outputs, anything. Must be
    /// `inline(always)`.
    ///
    /// # Safety
    /// The processor must have all that `Amx` proves; callers are compiled with it.
    unsafe fn unpack(stored: &Stored<'_>, unit: usize, tiles: &Tiles, staged: &mut Staged, out: &mut Weights);
}

/// The products of a block.
pub(super) struct Steps<'a> {
    pub(super) weights: &'a Weights,
    pub(super) x: &'a [Pair],
    /// Whether the block has only the rows of one tile. The others are zeros: to leave them out saves time and nothing else.
    pub(super) half: bool,
    /// The sums that are in the tiles and those that take their place; none where the same block goes on.
    pub(super) turn: Option<[&'a mut Block; 2]>,
    pub(super) begin: Begin,
}

/// Units to be unpacked, and where to.
pub(super) struct Next<'a, 'b> {
    pub(super) units: &'a mut Units<'b>,
    pub(super) staged: &'a mut Staged,
    pub(super) out: &'a mut Weights,
}

/// A function that multiplies a block and unpacks so many units meanwhile.
///
/// # Safety
/// The processor must have all that `Amx` proves.
pub(super) type Run = unsafe fn(&Tiles, Steps<'_>, usize, Next<'_, '_>);

/// How many units are unpacked while a block is multiplied: evenly, but numbers that [`run`] knows.
#[inline(always)]
pub(super) fn due(block: usize, blocks: usize) -> usize {
    let shares = blocks.next_power_of_two().min(PIECE);
    ((block + 1) * shares / blocks - block * shares / blocks) * (UNITS / shares)
}

/// For units of one type.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx512bf16,avx2,fma,f16c")]
pub(super) fn run<U: Unit>(tiles: &Tiles, steps: Steps<'_>, due: usize, next: Next<'_, '_>) {
    let x = steps.x;
    // All the same, but for the compiler, which knows the numbers in most of them.
    match (x.first_chunk::<PIECE>(), steps.half, due) {
        (Some(x), false, 0) => each::<U>(tiles, Steps { x, half: false, ..steps }, 0, next),
        (Some(x), false, 8) => each::<U>(tiles, Steps { x, half: false, ..steps }, 8, next),
        (Some(x), false, 16) => each::<U>(tiles, Steps { x, half: false, ..steps }, 16, next),
        _ => each::<U>(tiles, steps, due, next),
    }
}

#[inline(always)]
fn each<U: Unit>(tiles: &Tiles, steps: Steps<'_>, due: usize, next: Next<'_, '_>) {
    let Steps { weights, x, half, mut turn, begin } = steps;
    let Next { units, staged, out } = next;
    for (index, (weights, x)) in weights.as_chunks().0.iter().zip(x).enumerate() {
        let step = match U::SIDE {
            Side::Left => Step { streamed: Streamed::Left, left: x, right: weights },
            Side::Right => Step { streamed: Streamed::Right, left: weights, right: x },
        };
        if let Some([ended, sums]) = turn.take() {
            tiles.turn(ended, begin, sums, step);
        } else if half {
            tiles.half(step);
        } else {
            tiles.step(step);
        }
        for _ in due * index / steps.x.len()..due * (index + 1) / steps.x.len() {
            // SAFETY: callers have the features.
            unsafe { units.one::<U>(tiles, staged, out) };
        }
    }
    if steps.x.is_empty() {
        for _ in 0..due {
            // SAFETY: callers have the features.
            unsafe { units.one::<U>(tiles, staged, out) };
        }
    }
}
