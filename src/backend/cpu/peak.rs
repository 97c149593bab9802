//! How fast the processor computes at best, for measurements. Uses `simd`.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use super::Cpu;
use super::simd::{Job, Simd};
use crate::threads::Pool;

/// A kind of arithmetic that kernels use, and how fast it is without any memory.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Peak {
    /// What is multiplied: `f32`.
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
        let operations = 2 * SUMS * STEPS * PARTS * self.pool.width() * lanes.into_inner() as usize;
        vec![Peak { name: "f32", operations: operations as f64 / seconds }]
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
