//! Models in several files that differ by a number in their names. Uses `source`.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use crate::source::Folder;

/// Files whose names differ by a number only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Set<'a> {
    /// What stands before the number.
    head: &'a str,
    /// Digits of the number, at least.
    width: usize,
    /// How many files there are, numbered from 1.
    pub(super) count: usize,
    /// What stands after the number.
    tail: &'a str,
}

impl<'a> Set<'a> {
    /// The set of files, each of its own, with the file `name`: `…-00002-of-00009` and `extension`.
    pub(super) fn split(name: &'a str, extension: &str) -> Option<Self> {
        let (stem, count) = name.strip_suffix(extension)?.rsplit_once("-of-")?;
        let (_, number) = stem.rsplit_once('-')?;
        let set = Self::new(name, stem, number, count)?;
        (number.len() == 5 && count.len() == 5).then_some(Self { width: 5, ..set })
    }

    /// The pieces of one file with the piece `name`: `….part2of3`.
    pub(super) fn cut(name: &'a str) -> Option<Self> {
        let (stem, count) = name.rsplit_once("of")?;
        let (_, number) = stem.rsplit_once(".part")?;
        Self::new(name, stem, number, count)
    }

    /// `stem` is what `name` has up to the end of `number`.
    fn new(name: &'a str, stem: &'a str, number: &str, count: &str) -> Option<Self> {
        let parse = |digits: &str| digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
        let count = parse(count)?;
        (1..=count).contains(&parse(number)?).then_some(())?;
        Some(Self { head: stem.strip_suffix(number)?, width: 1, count, tail: name.strip_prefix(stem)? })
    }

    /// With the digits that its first file has: people write both `part1of12` and `part01of12`.
    pub(super) fn as_written(self, folder: &dyn Folder) -> Self {
        match folder.open(&self.name(1)) {
            Ok(_) => self,
            Err(_) => Self { width: self.count.to_string().len(), ..self },
        }
    }

    /// The name of file `number`, from 1.
    pub(super) fn name(&self, number: usize) -> String {
        let Self { head, width, tail, .. } = self;
        format!("{head}{number:0width$}{tail}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_set_tells_the_names_of_all() {
        let set = Set::split("grok-1-00002-of-00009.gguf", ".gguf").unwrap();
        assert_eq!((set.name(1), set.count), ("grok-1-00001-of-00009.gguf".to_owned(), 9));
        let cut = Set::cut("grok-1.Q2_K.gguf.part2of3").unwrap();
        assert_eq!((cut.name(3), cut.count), ("grok-1.Q2_K.gguf.part3of3".to_owned(), 3));
    }

    #[test]
    fn other_names_are_of_one_file() {
        let names = [
            "grok.gguf",
            "grok-1-of-2.gguf",
            "grok-00000-of-00002.gguf",
            "grok-00003-of-00002.gguf",
            "grok-+0001-of-00002.gguf",
            "grok-00001-of-00002.safetensors",
            "grok.part0of2",
            "grok.part1of",
            "grok.partof2",
            "grok.part1of99999999999999999999",
        ];
        for name in names {
            assert_eq!(Set::split(name, ".gguf").or(Set::cut(name)), None, "{name}");
        }
    }
}
