//! Types whose elements stand by themselves: rounded to nearest, ties to even. Uses nothing.

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

/// The f16 nearest to `x`, which is below 65520 in magnitude.
#[inline(always)]
pub(super) fn half(x: f32) -> u16 {
    let sign = x.to_bits() >> 16 & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let odd = magnitude >> 13 & 1;
    let normal = (magnitude + 0xfff + odd).wrapping_sub((127 - 15) << 23) >> 13;
    // The last place of numbers from 0.5 on is f16's smallest number.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5_f32.to_bits();
    (sign | if magnitude < (127 - 14) << 23 { subnormal } else { normal }) as u16
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
        assert_eq!(half(65520_f32.next_down()), half::f16::MAX.to_bits());
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
