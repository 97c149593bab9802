//! Finds stop strings in text that comes in parts. Uses nothing.

/// Strings to look for, and how much of each the text ends with.
#[derive(Clone, Debug, Default)]
pub(super) struct StopStrings {
    strings: Vec<Stop>,
}

/// One of them, as the automaton of Knuth, Morris and Pratt: each byte of the text is looked at once.
#[derive(Clone, Debug)]
struct Stop {
    text: Box<[u8]>,
    /// For each length of a prefix, the next shorter prefix that it ends with.
    shorter: Box<[usize]>, // [text + 1]
    /// How many bytes of `text` the text so far ends with.
    matched: usize,
}

/// Where a stop string was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Which one.
    pub(super) index: usize,
    /// Bytes from its start to the end of the text that was looked at.
    pub(super) from_end: usize,
}

impl StopStrings {
    /// Adds a string, which is not empty.
    pub(super) fn add(&mut self, text: &str) {
        let text: Box<[u8]> = text.as_bytes().into();
        let mut shorter = vec![0; text.len() + 1].into_boxed_slice();
        for end in 1..text.len() {
            shorter[end + 1] = advance(&text, &shorter, shorter[end], text[end]);
        }
        self.strings.push(Stop { text, shorter, matched: 0 });
    }

    pub(super) fn len(&self) -> usize {
        self.strings.len()
    }

    /// Looks at the text that comes next: the string that is complete first, the longest of those that are so at the same place.
    /// That does not depend on how the text is cut into parts.
    pub(super) fn find(&mut self, text: &str) -> Option<Found> {
        for (at, byte) in text.bytes().enumerate() {
            let mut longest: Option<(usize, usize)> = None;
            for (index, stop) in self.strings.iter_mut().enumerate() {
                stop.matched = advance(&stop.text, &stop.shorter, stop.matched, byte);
                if stop.matched == stop.text.len() && longest.is_none_or(|(len, _)| len < stop.matched) {
                    longest = Some((stop.matched, index));
                }
            }
            if let Some((len, index)) = longest {
                return Some(Found { index, from_end: text.len() - (at + 1) + len });
            }
        }
        None
    }

    /// How many bytes at the end of the text may be the start of a stop string.
    pub(super) fn pending(&self) -> usize {
        self.strings.iter().map(|stop| stop.matched).max().unwrap_or(0)
    }

    /// Forgets the text so far.
    pub(super) fn reset(&mut self) {
        for stop in &mut self.strings {
            stop.matched = 0;
        }
    }
}

/// How much of `text` matches after `byte`, when `matched` bytes of it did before.
fn advance(text: &[u8], shorter: &[usize], mut matched: usize, byte: u8) -> usize {
    while text.get(matched) != Some(&byte) {
        if matched == 0 {
            return 0;
        }
        matched = shorter[matched];
    }
    matched + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops(strings: &[&str]) -> StopStrings {
        let mut stops = StopStrings::default();
        strings.iter().for_each(|string| stops.add(string));
        stops
    }

    #[test]
    fn a_string_that_starts_inside_a_failed_match_is_found() {
        assert_eq!(stops(&["aab"]).find("aaab"), Some(Found { index: 0, from_end: 3 }));
        assert_eq!(stops(&["abababc"]).find("xababababc-"), Some(Found { index: 0, from_end: 8 }));
    }

    #[test]
    fn the_string_that_is_complete_first_wins_and_the_longest_of_those() {
        assert_eq!(stops(&["abc", "b"]).find("abc"), Some(Found { index: 1, from_end: 2 }));
        assert_eq!(stops(&["b", "ab", "xab"]).find("ab"), Some(Found { index: 1, from_end: 2 }));
    }

    #[test]
    fn what_may_become_a_stop_string_is_pending_and_no_more() {
        let mut stops = stops(&["\n\nUser:", "<|end|>"]);
        for (text, pending) in
            [("hello", 0), ("\n", 1), ("\n", 2), ("\n", 2), ("User", 6), ("s", 0), ("<|", 2)]
        {
            assert_eq!(stops.find(text), None);
            assert_eq!(stops.pending(), pending, "after {text:?}");
        }
        stops.reset();
        assert_eq!((stops.find("end|>"), stops.pending()), (None, 0));
    }
}
