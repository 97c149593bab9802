//! Q4_0 to Q8_0. Uses `plain` and the parent.

use super::super::half_to_f32;
use super::plain::half;
use super::{inverse, shifted};

/// Codes of eight bits are so fine that a search for a better scale than the largest element's would gain nothing.
#[inline(always)]
pub(super) fn q8_0(values: &[f32; 32], out: &mut [u8; 34]) {
    let mut largest = 0.0;
    for x in values {
        largest = if x.abs() > largest { x.abs() } else { largest };
    }
    let scale = half(largest / 127.0);
    // What is read back is the stored scale, so that is what the codes are of.
    let factor = inverse(half_to_f32(scale));
    out[..2].copy_from_slice(&scale.to_le_bytes());
    for i in 0..32 {
        out[2 + i] = shifted((values[i] * factor).clamp(-127.0, 127.0)) as u8;
    }
}
