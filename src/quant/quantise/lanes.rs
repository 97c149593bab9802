//! Runs of elements side by side, one in each lane of a vector, so that no sum crosses lanes. Uses nothing.

/// Runs that are fitted together: a multiple of the lanes of every processor.
pub(super) const LANES: usize = 16;

/// A number for each run.
pub(super) type Lanes = [f32; LANES];

/// Elements of runs: `[i][r]` is element `i` of run `r`.
pub(super) type Runs<const N: usize> = [Lanes; N];

/// Lays runs side by side; missing ones are zeros.
#[inline(always)]
pub(super) fn side_by_side<const N: usize>(runs: &[[f32; N]]) -> Runs<N> {
    let mut out = [[0.0; LANES]; N];
    for (r, run) in runs.iter().enumerate().take(LANES) {
        for i in 0..N {
            out[i][r] = run[i];
        }
    }
    out
}

/// `1 / x`, or zero for an `x` so small that no f16 comes of it.
#[inline(always)]
pub(super) fn inverse(x: f32) -> f32 {
    if x.abs() < 1e-20 { 0.0 } else { 1.0 / x }
}

/// [`inverse`] of each.
#[inline(always)]
pub(super) fn inverses(x: &Lanes) -> Lanes {
    let mut out = [0.0; LANES];
    for r in 0..LANES {
        out[r] = inverse(x[r]);
    }
    out
}
