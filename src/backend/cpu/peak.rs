//! How fast the processor computes at best, for measurements. Uses `simd`.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use super::Cpu;
use super::simd::{Job, Simd};
use crate::threads::Pool;

/// A kind of arithmetic that kernels use, and how fast it is at best.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Peak {
    /// What is multiplied: `f32`; `bf16 from L2`, which is tiles of which half come from the second-level cache, as the products of
    /// many rows read them; `bf16`, which is tiles from the first-level cache.
    pub name: &'static str,
    /// Products and sums per second, each counted as one operation, of all threads together.
    pub operations: f64,
}

/// Parts of a region for each thread, so that one that comes late does not count much.
const PARTS: usize = 8;
/// Steps of a part: some hundred microseconds.
const STEPS: usize = 1 << 15;
/// Regions, of which the fastest counts.
const REGIONS: usize = 4;
/// Sums that do not wait for each other: more than a unit has in flight, and few enough for 16 registers.
const SUMS: usize = 12;

impl Cpu {
    /// Measures what this backend's instruction set and threads do at best; takes some milliseconds. The fastest kind comes last.
    #[must_use]
    pub fn peaks(&self) -> Vec<Peak> {
        let lanes = AtomicU32::new(0);
        let seconds = fastest(&*self.pool, &|_| {
            let mut found = 0;
            self.isa.run(MultiplyAdd { lanes: &mut found });
            lanes.store(found, Relaxed);
        });
        let all = |operations: usize| (operations * PARTS * self.pool.width()) as f64;
        let floats = all(2 * SUMS * STEPS * lanes.into_inner() as usize) / seconds;
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "there are no tiles"))]
        let mut peaks = vec![Peak { name: "f32", operations: floats }];
        #[cfg(target_arch = "x86_64")]
        if let (Some(amx), true) = (self.isa.amx(), self.rounds()) {
            let pieces = tiles::pieces();
            for (name, right) in [("bf16 from L2", &pieces[..]), ("bf16", &pieces[..1])] {
                let product = tiles::Product { left: &pieces[0], right };
                let seconds = fastest(&*self.pool, &|_| amx.enter_tiles(product));
                peaks.push(Peak { name, operations: all(tiles::OPERATIONS) / seconds });
            }
        }
        peaks
    }
}

/// Seconds that the fastest of several regions took.
fn fastest(pool: &dyn Pool, part: &(dyn Fn(usize) + Sync)) -> f64 {
    let times = (0..REGIONS).map(|_| {
        let start = Instant::now();
        pool.run(PARTS * pool.width(), part);
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

/// Nothing but multiply-adds.
struct MultiplyAdd<'a> {
    lanes: &'a mut u32,
}

impl Job for MultiplyAdd<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let [factor, term] = black_box([0.5, 1.0]).map(|x| simd.splat(x));
        let mut sums = [simd.splat(0.0); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = simd.fma(*sum, factor, term);
            }
        }
        let sum = sums.into_iter().map(|sum| simd.sum(sum)).sum::<f32>();
        black_box(sum);
        *self.lanes = S::LANES as u32;
    }
}

/// Products of tiles.
#[cfg(target_arch = "x86_64")]
mod tiles {
    use std::hint::black_box;

    use crate::backend::cpu::simd::amx::{
        Begin, Block, Pair, Step, Streamed, Sums, TILE_ROWS, TileJob, Tiles,
    };

    /// Steps of a piece, which is a third of a first-level cache.
    const PIECE: usize = 8;
    /// Pieces of an operand that leaves room for others in a second-level cache: 512 KiB.
    const PIECES: usize = 32;
    /// Steps of a part: some hundred microseconds.
    const STEPS: usize = 1 << 12;
    /// Products and sums of a part: a step is two tiles by two, of 32 inputs.
    pub(super) const OPERATIONS: usize = 2 * STEPS * (2 * TILE_ROWS) * (2 * TILE_ROWS) * 32;

    /// Tiles of an operand. Pages: tiles that straddle two load slowly.
    #[derive(Clone)]
    #[repr(C, align(4096))]
    pub(super) struct Piece([Pair; PIECE]);

    /// An operand whose numbers are all the same, somewhat less than one.
    pub(super) fn pieces() -> Vec<Piece> {
        vec![Piece([[0x3f; size_of::<Pair>()]; PIECE]); PIECES]
    }

    /// Nothing but steps: a piece that stays in the first-level cache by all pieces of the other operand, again and again.
    #[derive(Clone, Copy)]
    pub(super) struct Product<'a> {
        pub(super) left: &'a Piece,
        pub(super) right: &'a [Piece],
    }

    impl TileJob for Product<'_> {
        #[inline(always)]
        fn run(self, tiles: &Tiles) {
            let mut sums = Block([Sums([[0.0; 16]; TILE_ROWS]); 4]);
            tiles.begin(Begin::Zero, &sums);
            for _ in 0..STEPS / PIECE / self.right.len() {
                for piece in self.right {
                    for (left, right) in self.left.0.iter().zip(&piece.0) {
                        tiles.step(Step { streamed: Streamed::Right, left, right });
                    }
                }
            }
            tiles.end(&mut sums);
            black_box(&sums);
        }
    }
}
