//! Which files make up a model, found by the name of any one of them or by their folder. Uses `source`.
//!
//! A model comes as one file, as a set that gguf-split made (`grok-00002-of-00009.gguf`, each a GGUF file of its own), or as one
//! file cut into pieces (`grok.gguf.part2of3`).

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::{GgufError, MAGIC};
use crate::checkpoint::sets::Set;
use crate::checkpoint::{CheckpointError, file_in};
use crate::source::{Folder, JoinedSource, Source};

/// What the names of files end with.
const SUFFIX: &str = ".gguf";

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

/// Whether a file of this name is taken for one of several.
pub(crate) fn is_of_a_set(name: &str) -> bool {
    Set::split(name, SUFFIX).or_else(|| Set::cut(name)).is_some()
}

/// The GGUF files of the model that `name` in `folder` is or belongs to; `None` if it is no GGUF file.
pub(in crate::checkpoint) fn files(
    folder: &dyn Folder,
    name: &str,
) -> Result<Option<Files>, CheckpointError> {
    let (set, cut) = match (Set::split(name, SUFFIX), Set::cut(name)) {
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
    let joined = joined.map_err(|source| CheckpointError::Read { path: file_in(folder, name), source })?;
    Ok(Some(Files::one(Arc::new(joined))))
}

/// The GGUF files of the only model in a folder that holds `names`; `None` if there is none.
pub(in crate::checkpoint) fn files_of_folder(
    folder: &dyn Folder,
    names: &[String],
) -> Result<Option<Files>, CheckpointError> {
    // A file of each model; those of one set differ by nothing else.
    let mut models = BTreeMap::new();
    for name in names.iter().filter(|name| name.contains(SUFFIX)) {
        let set = Set::split(name, SUFFIX).or(Set::cut(name));
        if set.is_some() || name.ends_with(SUFFIX) {
            models.entry((set, set.is_none().then_some(name))).or_insert(name);
        }
    }
    match (models.pop_first(), models.pop_first()) {
        (None, _) => Ok(None),
        (Some((_, name)), None) => files(folder, name),
        (Some((_, first)), Some((_, second))) => Err(CheckpointError::Files {
            folder: folder.name(),
            found: format!("{first} and {second}"),
            expected: "one model, or the path of one".to_owned(),
        }),
    }
}

fn open(folder: &dyn Folder, opened: &str, part: &str) -> Result<Arc<dyn Source>, CheckpointError> {
    folder.open(part).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound && part != opened {
            let source = GgufError::NoPart { part: part.to_owned() };
            return CheckpointError::Gguf { file: file_in(folder, opened), source };
        }
        CheckpointError::Read { path: file_in(folder, part), source }
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
