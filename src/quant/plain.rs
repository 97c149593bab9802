//! Types whose elements stand by themselves. Uses nothing.
//!
//! Written without branches, so that loops over them become vector instructions.

#[inline(always)]
pub(super) fn f32(bytes: &[u8; 4], out: &mut [f32; 1]) {
    *out = [f32::from_le_bytes(*bytes)];
}

#[inline(always)]
pub(super) fn f16(bytes: &[u8; 2], out: &mut [f32; 1]) {
    *out = [half_to_f32(u16::from_le_bytes(*bytes))];
}

#[inline(always)]
pub(super) fn bf16(&[low, high]: &[u8; 2], out: &mut [f32; 1]) {
    *out = [f32::from_le_bytes([0, 0, low, high])];
}

#[inline(always)]
pub(super) fn i8(&[byte]: &[u8; 1], out: &mut [f32; 1]) {
    *out = [f32::from(byte.cast_signed())];
}

/// The float whose magnitude is `bits`, with an exponent of f32's width and place but too small by `bias`.
///
/// A subnormal gets the leading one that it lacks, which is then subtracted: a product that normalises it would be slow.
#[inline(always)]
fn rebias(bits: u32, bias: u32) -> u32 {
    let normal = bits + (bias << 23);
    let smallest = (bias + 1) << 23;
    let subnormal = (f32::from_bits(bits + smallest) - f32::from_bits(smallest)).to_bits();
    if bits < 1 << 23 { subnormal } else { normal }
}

/// The f32 of an f16's bits.
#[inline(always)]
pub(crate) fn half_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff) << 13;
    let finite = rebias(magnitude, 127 - 15);
    // Infinities and NaNs have all bits of the exponent set in both types.
    let special = magnitude | 0x7f80_0000;
    f32::from_bits(sign | if magnitude < 31 << 23 { finite } else { special })
}

#[inline(always)]
pub(super) fn f8_e4m3(&[byte]: &[u8; 1], out: &mut [f32; 1]) {
    let sign = u32::from(byte & 0x80) << 24;
    let magnitude = u32::from(byte & 0x7f) << 20;
    let number = rebias(magnitude, 127 - 7);
    *out = [f32::from_bits(sign | if byte & 0x7f == 0x7f { f32::NAN.to_bits() } else { number })];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_the_number_of_its_type() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (half_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{bits:#x}"
            );
        }
    }

    /// By the definition of the OCP's 8-bit floating point specification.
    #[test]
    fn every_f8_e4m3_is_the_number_of_its_type() {
        for byte in 0..=u8::MAX {
            let mut found = [0.0];
            f8_e4m3(&[byte], &mut found);
            let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7) / 8.0);
            let magnitude = match (exponent, byte & 7) {
                (15, 7) => f32::NAN,
                (0, _) => mantissa * 2_f32.powi(-6),
                _ => (1.0 + mantissa) * 2_f32.powi(exponent - 7),
            };
            let expected = if byte < 128 { magnitude } else { -magnitude };
            assert!(
                found[0].to_bits() == expected.to_bits() || found[0].is_nan() && expected.is_nan(),
                "{byte:#x}"
            );
        }
    }
}
