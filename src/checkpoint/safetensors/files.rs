//! Which files make up a model, and the index that says which tensor is in which. Uses `members`.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use super::members::Members;
use super::{INDEX_SUFFIX, SUFFIX, SafetensorsError};
use crate::checkpoint::sets::Set;
use crate::checkpoint::{CheckpointError, file_in};
use crate::source::{Folder, Source};

/// Bytes an index may have; Grok-1's takes some hundred thousand.
pub(super) const MAX_INDEX: u64 = 32 << 20;

/// The files of a model, each opened once.
pub(in crate::checkpoint) struct Files<'a> {
    /// What was opened.
    pub(super) location: String,
    /// Where they are, and `config.json`.
    pub(super) folder: &'a dyn Folder,
    /// By name, in the order of names.
    pub(super) files: Vec<(String, Arc<dyn Source>)>,
    pub(super) index: Option<Index>,
}

/// Which tensor is in which file.
pub(super) struct Index {
    /// What to call it.
    pub(super) path: String,
    pub(super) files: BTreeMap<String, String>,
}

/// The part of an index that is used.
#[derive(serde::Deserialize)]
struct Json {
    weight_map: Members<String>,
}

impl<'a> Files<'a> {
    /// The model of the file `name`, which may be an index or one of a set; `None` if its name is not that of such a file.
    pub(in crate::checkpoint) fn of_file(
        folder: &'a dyn Folder,
        name: &str,
    ) -> Result<Option<Self>, CheckpointError> {
        let location = file_in(folder, name);
        if name.ends_with(INDEX_SUFFIX) {
            return Self::indexed(folder, name, location).map(Some);
        }
        if !name.ends_with(SUFFIX) {
            return Ok(None);
        }
        let names = match Set::split(name, SUFFIX) {
            Some(set) => (1..=set.count).map(|number| set.name(number)).collect(),
            None => BTreeSet::from([name.to_owned()]),
        };
        Self::open(folder, names, location.clone(), None, &location).map(Some)
    }

    /// The model in a folder that holds `names`: that of its index, or else all files together; `None` if there are none.
    pub(in crate::checkpoint) fn of_folder(
        folder: &'a dyn Folder,
        names: &[String],
    ) -> Result<Option<Self>, CheckpointError> {
        let ending = |suffix| names.iter().filter(move |name| name.ends_with(suffix));
        let location = folder.name();
        match (&*ending(INDEX_SUFFIX).collect::<Vec<_>>(), ending(SUFFIX).count()) {
            ([], 0) => Ok(None),
            ([], _) => {
                let names = ending(SUFFIX).cloned().collect();
                Self::open(folder, names, location.clone(), None, &location).map(Some)
            }
            ([index], _) => Self::indexed(folder, index, location).map(Some),
            ([first, second, ..], _) => Err(CheckpointError::Files {
                folder: location,
                found: format!("{first} and {second}"),
                expected: "one index, or the path of one".to_owned(),
            }),
        }
    }

    fn indexed(folder: &'a dyn Folder, name: &str, location: String) -> Result<Self, CheckpointError> {
        let source = folder
            .open(name)
            .map_err(|source| CheckpointError::Read { path: file_in(folder, name), source })?;
        let path = source.name();
        let index =
            index(&*source).map_err(|source| CheckpointError::Safetensors { file: path.clone(), source })?;
        let names = index.values().cloned().collect();
        let index = Index { path: path.clone(), files: index };
        Self::open(folder, names, location, Some(index), &path)
    }

    /// Opens `names`, which are said by the file `by`.
    fn open(
        folder: &'a dyn Folder,
        names: BTreeSet<String>,
        location: String,
        index: Option<Index>,
        by: &str,
    ) -> Result<Self, CheckpointError> {
        let wrong = |source| CheckpointError::Safetensors { file: by.to_owned(), source };
        if let Some(name) = names.iter().find(|name| is_presharded(name)) {
            let feature = format!("a model cut for tensor parallelism ({name})");
            return Err(wrong(SafetensorsError::Unsupported { feature }));
        }
        let open = |name: String| match folder.open(&name) {
            Ok(source) => Ok((name, source)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && by != file_in(folder, &name) => {
                Err(wrong(SafetensorsError::NoFile { file: name }))
            }
            Err(source) => Err(CheckpointError::Read { path: file_in(folder, &name), source }),
        };
        let files = names.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { location, folder, files, index })
    }
}

/// The files by tensor.
fn index(source: &dyn Source) -> Result<BTreeMap<String, String>, SafetensorsError> {
    let len = source.len();
    if len > MAX_INDEX {
        return Err(SafetensorsError::IndexTooLong { found: len });
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    source.read_at(0, &mut bytes).map_err(|source| SafetensorsError::Read { offset: 0, source })?;
    let Json { weight_map: Members(members) } =
        serde_json::from_slice(&bytes).map_err(SafetensorsError::Index)?;
    let mut files = BTreeMap::new();
    for (tensor, file) in members {
        if !is_plain(&file) {
            return Err(SafetensorsError::Path { found: file });
        }
        if files.insert(tensor.clone(), file).is_some() {
            return Err(SafetensorsError::Duplicate { tensor });
        }
    }
    Ok(files)
}

/// Whether `name` is that of a file in the folder it is looked for in.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let alone = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    alone && !name.contains(['/', '\\'])
}

/// Whether SGLang has cut the model for several devices: `…-TP-003.safetensors`, `…-TP-common.safetensors`.
fn is_presharded(name: &str) -> bool {
    let part = name.strip_suffix(SUFFIX).and_then(|stem| stem.rsplit_once("-TP-")).map(|(_, part)| part);
    part.is_some_and(|part| part == "common" || !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}
