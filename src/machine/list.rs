//! Lists of numbers as Linux writes them. Uses nothing.

use std::ops::RangeInclusive;

/// What follows `name` in a file of lines like `/proc/self/status`.
pub(super) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

/// Numbers in ranges: `0-3,8`. Nothing of a list that is not one, or has larger numbers than any machine's.
pub(super) fn list(text: &str) -> Option<Vec<RangeInclusive<usize>>> {
    const MAX: usize = 1 << 16;
    let ranges = text.trim().split(',').filter(|range| !range.is_empty()).map(|range| {
        let (start, end) = range.split_once('-').unwrap_or((range, range));
        let range = start.parse().ok()?..=end.parse().ok()?;
        (*range.end() < MAX).then_some(range)
    });
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["a", "1-", "-1", "1,,x", "0-99999999999", "0-65536"] {
            assert_eq!(list(text), None, "{text:?}");
        }
        assert_eq!(list(" 0-1,7\n"), Some(vec![0..=1, 7..=7]));
        assert_eq!(list("\n"), Some(Vec::new()));
    }
}
