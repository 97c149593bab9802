//! IQ1, IQ2 and IQ3: super-blocks of 256 elements in points of a lattice, with signs and small scales. Uses `grids`.

use super::{grids, part, plain, scale, spread};

/// A super-block with its points and signs looked up: element `i` is `scales[i / 16] * codes[i]`.
pub(crate) struct Codes {
    /// Two's complement.
    pub(crate) codes: [u8; 256],
    pub(crate) scales: [f32; 16],
}

impl Codes {
    /// From the scale of each 16 elements and each 8 codes.
    #[inline(always)]
    fn new(scale: impl Fn(usize) -> f32, eight: impl Fn(usize) -> [u8; 8]) -> Self {
        let mut all = Self { codes: [0; 256], scales: [0.0; 16] };
        for (i, out) in all.scales.iter_mut().enumerate() {
            *out = scale(i);
        }
        for (i, out) in all.codes.as_chunks_mut().0.iter_mut().enumerate() {
            *out = eight(i);
        }
        all
    }

    #[inline(always)]
    pub(super) fn write(&self, out: &mut [f32; 256]) {
        for i in 0..256 {
            out[i] = self.scales[i / 16] * f32::from(self.codes[i].cast_signed());
        }
    }
}

/// Nibble `i` of some bytes, low ones first.
#[inline(always)]
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (i % 2 * 4) & 15
}

/// Word `i` of some bytes.
#[inline(always)]
fn word(bytes: &[u8], i: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])
}

/// Double word `i` of some bytes.
#[inline(always)]
fn double_word(bytes: &[u8], i: usize) -> u32 {
    u32::from(word(bytes, 2 * i)) | u32::from(word(bytes, 2 * i + 1)) << 16
}

/// Eight signs of which seven bits are kept: the last makes the number of negative ones even.
#[inline(always)]
fn even_signs(seven: u32) -> u8 {
    let seven = seven & 127;
    // Bit `n` of the constant is the parity of `n`: processors without a count of bits read this too.
    let odd = 0x6996 >> ((seven ^ seven >> 4) & 15) & 1;
    (seven | odd << 7) as u8
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Coordinates, negative where `signs` has a bit.
#[inline(always)]
fn signed(point: [u8; 8], signs: u8) -> [u8; 8] {
    // Bytewise complement plus one; coordinates are above zero, so nothing is carried.
    let negative = spread(signs) >> 7 & ONES;
    ((u64::from_le_bytes(point) ^ (negative * 0xff)) + negative).to_le_bytes()
}

/// Two points of four coordinates.
#[inline(always)]
fn pair([a, b, c, d]: [u8; 4], [e, f, g, h]: [u8; 4]) -> [u8; 8] {
    [a, b, c, d, e, f, g, h]
}

#[inline(always)]
pub(crate) fn iq3_xxs(block: &[u8; 98]) -> Codes {
    let d = scale::<0, _>(block);
    let points: [u8; 64] = part::<2, _, _>(block);
    let scales: [u8; 32] = part::<66, _, _>(block);
    Codes::new(
        |i| d * (0.5 + (double_word(&scales, i / 2) >> 28) as f32) * 0.5,
        |i| {
            let [a, b] = [points[2 * i], points[2 * i + 1]].map(|point| grids::IQ3_XXS[usize::from(point)]);
            signed(pair(a, b), even_signs(double_word(&scales, i / 4) >> (i % 4 * 7)))
        },
    )
}

#[inline(always)]
pub(crate) fn iq3_s(block: &[u8; 110]) -> Codes {
    let d = scale::<0, _>(block);
    let points: [u8; 64] = part::<2, _, _>(block);
    let high: [u8; 8] = part::<66, _, _>(block);
    let signs: [u8; 32] = part::<74, _, _>(block);
    let scales: [u8; 4] = part::<106, _, _>(block);
    Codes::new(
        |i| d * f32::from(1 + 2 * nibble(&scales, i / 2)),
        |i| {
            let [a, b] = [2 * i, 2 * i + 1].map(|i| {
                let bit = usize::from(high[i / 8] >> (i % 8) & 1);
                grids::IQ3_S[usize::from(points[i]) | bit << 8]
            });
            signed(pair(a, b), signs[i])
        },
    )
}

#[inline(always)]
pub(crate) fn iq2_xxs(block: &[u8; 66]) -> Codes {
    let d = scale::<0, _>(block);
    // For each 32 elements four points of a byte each, then their signs and scale.
    let codes: [u8; 64] = part::<2, _, _>(block);
    Codes::new(
        |i| d * (0.5 + (double_word(&codes, i / 2 * 2 + 1) >> 28) as f32) * 0.25,
        |i| {
            let (run, point) = (i / 4, i % 4);
            let signs = even_signs(double_word(&codes, 2 * run + 1) >> (point * 7));
            signed(grids::IQ2_XXS[usize::from(codes[8 * run + point])], signs)
        },
    )
}

#[inline(always)]
pub(crate) fn iq2_xs(block: &[u8; 74]) -> Codes {
    let d = scale::<0, _>(block);
    let codes: [u8; 64] = part::<2, _, _>(block);
    let scales: [u8; 8] = part::<66, _, _>(block);
    Codes::new(
        |i| d * (0.5 + f32::from(nibble(&scales, i))) * 0.25,
        |i| {
            let code = word(&codes, i);
            signed(grids::IQ2_XS[usize::from(code & 511)], even_signs(u32::from(code >> 9)))
        },
    )
}

#[inline(always)]
pub(crate) fn iq2_s(block: &[u8; 82]) -> Codes {
    let d = scale::<0, _>(block);
    let points: [u8; 32] = part::<2, _, _>(block);
    let signs: [u8; 32] = part::<34, _, _>(block);
    let high: [u8; 8] = part::<66, _, _>(block);
    let scales: [u8; 8] = part::<74, _, _>(block);
    Codes::new(
        |i| d * (0.5 + f32::from(nibble(&scales, i))) * 0.25,
        |i| {
            let bits = usize::from(high[i / 4] >> (i % 4 * 2) & 3);
            signed(grids::IQ2_S[usize::from(points[i]) | bits << 8], signs[i])
        },
    )
}

/// IQ1's scales are taken by an eighth, so that the shift of its points by an eighth up or down is a whole number.
const EIGHTH: f32 = 0.125;

/// Eight times the coordinates of a point of IQ1, and one more or less.
#[inline(always)]
fn shifted(point: usize, down: bool) -> [u8; 8] {
    // The grid holds eight times one more than the coordinates; 128 keeps the bytewise difference from borrowing.
    let up = if down { 0 } else { 2 * ONES };
    let codes = u64::from_le_bytes(grids::IQ1[point & 2047]) + up;
    (((codes | (0x80 * ONES)) - 9 * ONES) ^ (0x80 * ONES)).to_le_bytes()
}

#[inline(always)]
pub(crate) fn iq1_s(block: &[u8; 50]) -> Codes {
    let d = scale::<0, _>(block) * EIGHTH;
    let points: [u8; 32] = part::<2, _, _>(block);
    let high: [u8; 16] = part::<34, _, _>(block);
    Codes::new(
        |i| d * f32::from(2 * (word(&high, i / 2) >> 12 & 7) + 1),
        |i| {
            let high = word(&high, i / 4);
            let bits = usize::from(high >> (i % 4 * 3) & 7);
            shifted(usize::from(points[i]) | bits << 8, high & 0x8000 != 0)
        },
    )
}

#[inline(always)]
pub(crate) fn iq1_m(block: &[u8; 56]) -> Codes {
    let points: [u8; 32] = part::<0, _, _>(block);
    let high: [u8; 16] = part::<32, _, _>(block);
    let scales: [u8; 8] = part::<48, _, _>(block);
    // The f16 is spread over the upper nibbles of the words that hold the small scales.
    let mut d = 0;
    for i in 0..4 {
        d |= word(&scales, i) >> 12 << (4 * i);
    }
    let d = plain::half_to_f32(d) * EIGHTH;
    Codes::new(
        |i| d * f32::from(2 * (word(&scales, i / 4) >> (i % 4 * 3) & 7) + 1),
        |i| {
            let high = nibble(&high, i);
            shifted(usize::from(points[i]) | usize::from(high & 7) << 8, high & 8 != 0)
        },
    )
}
