//! Types whose elements stand by themselves: rounded to nearest, ties to even. Uses the parent.

pub(super) use super::super::half_to_f32;

#[inline(always)]
pub(super) fn f32(&[x]: &[f32; 1], out: &mut [u8; 4]) {
    *out = x.to_le_bytes();
}

#[inline(always)]
pub(super) fn f16(&[x]: &[f32; 1], out: &mut [u8; 2]) {
    *out = half(x).to_le_bytes();
}

#[inline(always)]
pub(super) fn bf16(&[x]: &[f32; 1], out: &mut [u8; 2]) {
    let bits = x.to_bits();
    let odd = bits >> 16 & 1;
    *out = (((bits + 0x7fff + odd) >> 16) as u16).to_le_bytes();
}

/// The f16 nearest to `x`, ties to even, or the largest of its sign.
#[inline(always)]
pub(super) fn half(x: f32) -> u16 {
    let sign = x.to_bits() >> 16 & 0x8000;
    let magnitude = x.abs().min(65504.0).to_bits();
    let odd = magnitude >> 13 & 1;
    let normal = (magnitude + 0xfff + odd).wrapping_sub((127 - 15) << 23) >> 13;
    // The last place of numbers from 0.5 on is f16's smallest number.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5_f32.to_bits();
    (sign | if magnitude < (127 - 14) << 23 { subnormal } else { normal }) as u16
}

/// What is read where `x` was to be written as f16.
#[inline(always)]
pub(super) fn stored(x: f32) -> f32 {
    half_to_f32(half(x))
}

/// The same, but away from zero where f16 has fewer digits than elsewhere.
///
/// With a scale rounded down that far, or to zero, the largest elements would be out of reach.
#[inline(always)]
pub(super) fn half_up(x: f32) -> u16 {
    let nearest = half(x);
    let subnormal = nearest & 0x7fff < 0x0400;
    nearest + u16::from(subnormal && half_to_f32(nearest).abs() < x.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers around every f16 and half-way to the next.
    #[test]
    fn every_f32_becomes_the_nearest_f16() {
        for bits in 0..0x7bff_u16 {
            let here = half::f16::from_bits(bits).to_f32();
            let middle = (here + half::f16::from_bits(bits + 1).to_f32()) / 2.0;
            for x in [here, here.next_up(), middle.next_down(), middle, middle.next_up()] {
                for x in [x, -x] {
                    assert_eq!(half(x), half::f16::from_f32(x).to_bits(), "{x:e}");
                }
            }
        }
        assert_eq!(half(f32::MAX), half::f16::MAX.to_bits());
        assert_eq!(half(-65520.0), half::f16::MIN.to_bits());
    }

    #[test]
    fn every_f32_becomes_the_nearest_bf16() {
        for bits in 0..0x7f7f_u16 {
            let here = half::bf16::from_bits(bits).to_f32();
            let middle = f32::from_bits(here.to_bits() + 0x8000);
            for x in [here, here.next_up(), middle.next_down(), middle, middle.next_up()] {
                for x in [x, -x] {
                    let mut found = [0; 2];
                    bf16(&[x], &mut found);
                    assert_eq!(u16::from_le_bytes(found), half::bf16::from_f32(x).to_bits(), "{x:e}");
                }
            }
        }
    }
}
