//! Randomness without state: a number for each (seed, index), by Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random
//! numbers: as easy as 1, 2, 3", 2011).

/// The random number of draw `index` under `seed`; all 64 bits are uniform.
pub(super) fn random(seed: u64, index: u64) -> u64 {
    let [low, high, ..] =
        philox([index as u32, (index >> 32) as u32, 0, 0], [seed as u32, (seed >> 32) as u32]);
    u64::from(high) << 32 | u64::from(low)
}

/// Ten rounds over a 128-bit counter with a 64-bit key.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [a, b, c, d] = counter;
        let ac = [wide(a, 0xD251_1F53), wide(c, 0xCD9E_8D57)];
        counter = [ac[1].0 ^ b ^ key[0], ac[1].1, ac[0].0 ^ d ^ key[1], ac[0].1];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// High and low half of a product.
fn wide(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_draw_is_the_first_two_words_of_its_counter() {
        assert_eq!(random(0, 0), 0xe169_c58d_6627_e8d5);
        assert_ne!(random(0, 1), random(1, 0));
        assert_ne!(random(0, 1 << 32), random(1 << 32, 0));
    }
}
