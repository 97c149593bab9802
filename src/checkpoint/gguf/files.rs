//! Which files make up a model, found by the name of any one of them. Uses `source`.
//!
//! A model comes as one file, as a set that gguf-split made (`grok-00002-of-00009.gguf`, each a GGUF file of its own), or as one
//! file cut into pieces (`grok.gguf.part2of3`).

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{GgufError, MAGIC};
use crate::checkpoint::CheckpointError;
use crate::source::{Folder, JoinedSource, Source};

/// The GGUF files of a model, in order.
pub(in crate::checkpoint) struct Files {
    pub(super) first: Arc<dyn Source>,
    /// What else gguf-split made of it.
    pub(super) rest: Vec<Arc<dyn Source>>,
}

impl Files {
    fn one(file: Arc<dyn Source>) -> Self {
        Self { first: file, rest: Vec::new() }
    }
}

/// The GGUF files of the model that `name` in `folder` is or belongs to; `None` if it is no GGUF file.
pub(in crate::checkpoint) fn files(
    folder: &dyn Folder,
    name: &str,
) -> Result<Option<Files>, CheckpointError> {
    let (set, cut) = match (Set::split(name), Set::cut(name)) {
        (Some(split), _) => (split, false),
        (None, Some(cut)) => (cut.as_written(folder), true),
        (None, None) => {
            let file = open(folder, name, name)?;
            return Ok(is_gguf(&*file)?.then(|| Files::one(file)));
        }
    };
    let part = |number| open(folder, name, &set.name(number));
    let first = part(1)?;
    if !is_gguf(&*first)? {
        return Ok(None);
    }
    let rest = (2..=set.count).map(part).collect::<Result<Vec<_>, _>>()?;
    if !cut {
        return Ok(Some(Files { first, rest }));
    }
    let joined = JoinedSource::new([first].into_iter().chain(rest));
    let joined = joined.map_err(|source| CheckpointError::Read { path: path(folder, name), source })?;
    Ok(Some(Files::one(Arc::new(joined))))
}

/// Files whose names differ by a number only.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Set<'a> {
    /// What stands before the number.
    head: &'a str,
    /// Digits of the number, at least.
    width: usize,
    /// How many files there are, numbered from 1.
    count: usize,
    /// What stands after the number.
    tail: &'a str,
}

impl<'a> Set<'a> {
    /// The set that gguf-split made with the file `name`: `…-00002-of-00009.gguf`.
    fn split(name: &'a str) -> Option<Self> {
        let (stem, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (_, number) = stem.rsplit_once('-')?;
        let set = Self::new(name, stem, number, count)?;
        (number.len() == 5 && count.len() == 5).then_some(Self { width: 5, ..set })
    }

    /// The pieces of one file with the piece `name`: `….part2of3`.
    fn cut(name: &'a str) -> Option<Self> {
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
    fn as_written(self, folder: &dyn Folder) -> Self {
        match folder.open(&self.name(1)) {
            Ok(_) => self,
            Err(_) => Self { width: self.count.to_string().len(), ..self },
        }
    }

    fn name(&self, number: usize) -> String {
        let Self { head, width, tail, .. } = self;
        format!("{head}{number:0width$}{tail}")
    }
}

fn open(folder: &dyn Folder, opened: &str, part: &str) -> Result<Arc<dyn Source>, CheckpointError> {
    folder.open(part).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound && part != opened {
            let source = GgufError::NoPart { part: part.to_owned() };
            return CheckpointError::Gguf { file: path(folder, opened), source };
        }
        CheckpointError::Read { path: path(folder, part), source }
    })
}

fn is_gguf(source: &dyn Source) -> Result<bool, CheckpointError> {
    let mut start = [0; MAGIC.len()];
    if source.len() < start.len() as u64 {
        return Ok(false);
    }
    match source.read_at(0, &mut start) {
        Ok(()) => Ok(start == MAGIC),
        Err(error) => Err(CheckpointError::Read { path: source.name(), source: error }),
    }
}

/// What to call `name` in `folder`.
fn path(folder: &dyn Folder, name: &str) -> String {
    Path::new(&folder.name()).join(name).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_set_tells_the_names_of_all() {
        let set = Set::split("grok-1-00002-of-00009.gguf").unwrap();
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
            assert_eq!(Set::split(name).or(Set::cut(name)), None, "{name}");
        }
    }
}
