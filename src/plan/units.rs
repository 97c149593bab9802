//! Sizes in text. Uses nothing.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use super::DeviceError;

/// Bytes of a GB.
pub(super) const GB: u64 = 1_000_000_000;

/// Units in lower case, and their bytes.
const UNITS: [(&str, u64); 7] = [
    ("tib", 1 << 40),
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("tb", 1_000_000_000_000),
    ("gb", GB),
    ("mb", 1_000_000),
    ("b", 1),
];

/// Bytes: `192GB`, `1.5 TiB`. MB, GB and TB are powers of 1000; MiB, GiB and TiB of 1024; letters of either case. A fraction of a byte
/// is dropped.
///
/// # Errors
/// [`DeviceError::Size`]: no number with a unit, zero, or beyond 64 bits.
pub fn size(text: &str) -> Result<u64, DeviceError> {
    let expected = "a size such as 80GB or 1.5TiB";
    parse(text).ok_or_else(|| DeviceError::Size { found: text.to_owned(), expected })
}

/// Bytes per second: a [`size`] and `/s`.
///
/// # Errors
/// As [`size`].
pub fn rate(text: &str) -> Result<u64, DeviceError> {
    let expected = "a bandwidth such as 800GB/s or 2.5TB/s";
    let bytes = text.trim_end().strip_suffix("/s").and_then(parse);
    bytes.ok_or_else(|| DeviceError::Size { found: text.to_owned(), expected })
}

fn parse(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let (number, unit) =
        UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?.trim_end(), unit)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // In integers: what is written is what is meant, and twelve digits are as fine as bytes of a TB.
    let digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 12 {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let number = whole.parse::<u64>().ok().map(u128::from)?.checked_mul(scale)?;
    let number = number.checked_add(fraction.parse().ok()?)?;
    let bytes = number.checked_mul(u128::from(*unit))?.checked_div(scale)?;
    u64::try_from(bytes).ok().filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1000_or_of_1024() {
        for (text, bytes) in [
            ("1B", 1),
            ("80GB", 80 * GB),
            ("80 gib", 80 << 30),
            (" 1.5TiB ", 3 << 39),
            ("0.5TB", 500 * GB),
            ("141.0GB", 141 * GB),
            ("3MiB", 3 << 20),
            ("0.1MB", 100_000),
            ("18446744073709551615B", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert_eq!(rate("3.35TB/s"), Ok(3_350 * GB));
        assert_eq!(rate("800 GB/s"), Ok(800 * GB));
    }

    #[test]
    fn numbers_without_units_and_absurd_ones_are_refused() {
        for text in [
            "",
            "80",
            "GB",
            "80G",
            "-1GB",
            "1e3GB",
            ".5GB",
            "0GB",
            "0.1B",
            "1.GB",
            "18446744073709551616B",
            "20000000TB",
            "1.0000000000001GB",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
        for text in ["", "800GB", "800/s", "800 GBps"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
