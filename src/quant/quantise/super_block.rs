//! Scales and minima that are integers times an f16 which the runs of a super-block share. Uses `fit`.

use super::codebook::{Codebook, Integers, round};
use super::fit::{self, OffsetStarts, ScaleStarts};
use super::lanes::{LANES, Lanes, Runs, inverses};
use super::plain::{half, half_to_f32, half_up};

/// Numbers of runs as products.
pub(super) struct Products {
    /// The same for all runs of a super-block, and an f16.
    unit: Lanes,
    /// What it is multiplied by.
    integer: Lanes,
}

impl Products {
    /// With a unit for each `RUNS` numbers of which the one of largest magnitude is `limit` times it, and integers of zero.
    #[inline(always)]
    fn new<const RUNS: usize>(numbers: &Lanes, limit: f32) -> Self {
        let mut unit = [0.0; LANES];
        for (unit, numbers) in unit.chunks_mut(RUNS).zip(numbers.chunks(RUNS)) {
            let mut extreme = 0.0_f32;
            for x in numbers {
                extreme = if x.abs() > extreme.abs() { *x } else { extreme };
            }
            unit.fill(half_to_f32(half_up(extreme / limit)));
        }
        Self { unit, integer: [0.0; LANES] }
    }

    /// Of a super-block, the bits of the unit and, for each run, the integer as a byte and the product.
    #[inline(always)]
    pub(super) fn of_block<const RUNS: usize>(&self, block: usize) -> (u16, [u8; RUNS], [f32; RUNS]) {
        let (mut integers, mut products) = ([0; RUNS], [0.0; RUNS]);
        for run in 0..RUNS {
            let r = block * RUNS + run;
            integers[run] = (self.integer[r] as i8).cast_unsigned();
            products[run] = self.unit[r] * self.integer[r];
        }
        (half(self.unit[block * RUNS]), integers, products)
    }
}

/// Scales with integers from `LEAST` up to its opposite less one.
#[inline(always)]
pub(super) fn scales<B: Codebook, const LEAST: i8, const RUNS: usize, const N: usize>(
    x: &Runs<N>,
    starts: &ScaleStarts,
) -> Products {
    let least = f32::from(LEAST);
    let wanted = fit::scales::<B, N>(x, starts);
    let mut scales = Products::new::<RUNS>(&wanted, least);
    let per_unit = inverses(&scales.unit);
    for r in 0..LANES {
        scales.integer[r] = round((wanted[r] * per_unit[r]).clamp(least, -least - 1.0));
    }
    scales
}

/// Scales and minima, `x = scale * code - min`, with integers up to `MOST`.
#[inline(always)]
pub(super) fn scales_and_mins<const TOTAL: u8, const MOST: u8, const RUNS: usize, const N: usize>(
    x: &Runs<N>,
    starts: &OffsetStarts,
) -> (Products, Products) {
    let most = f32::from(MOST);
    let (wanted, offset) = fit::scales_and_offsets::<TOTAL, true, N>(x, starts);
    let mut scales = Products::new::<RUNS>(&wanted, most);
    let mut mins = Products::new::<RUNS>(&offset, -most);
    let (per_scale, per_min) = (inverses(&scales.unit), inverses(&mins.unit));
    let mut best = [f32::INFINITY; LANES];
    // The nearest scale and its neighbours, each with the minimum that is best for it.
    for step in [0.0, -1.0, 1.0] {
        let (mut steps, mut scale) = ([0.0; LANES], [0.0; LANES]);
        for r in 0..LANES {
            steps[r] = round((wanted[r] * per_scale[r]).clamp(0.0, most) + step).clamp(0.0, most);
            scale[r] = scales.unit[r] * steps[r];
        }
        let refitted = fit::offsets::<TOTAL, N>(x, &scale, &offset);
        let (mut min_steps, mut min) = ([0.0; LANES], [0.0; LANES]);
        for r in 0..LANES {
            min_steps[r] = round((-refitted[r] * per_min[r]).clamp(0.0, most));
            min[r] = mins.unit[r] * min_steps[r];
        }
        let (factor, mut error) = (inverses(&scale), [0.0; LANES]);
        for row in x {
            for r in 0..LANES {
                let code = Integers::<0, TOTAL>::nearest((row[r] + min[r]) * factor[r]);
                let e = row[r] - (scale[r] * code - min[r]);
                error[r] += e * e;
            }
        }
        for r in 0..LANES {
            (scales.integer[r], mins.integer[r], best[r]) = if error[r] < best[r] {
                (steps[r], min_steps[r], error[r])
            } else {
                (scales.integer[r], mins.integer[r], best[r])
            };
        }
    }
    (scales, mins)
}
