//! What stands with weights or beside their folder: `config.json` and `tokenizer.model`. Uses `sentencepiece`.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io;
use std::sync::Arc;

use super::{CheckpointError, file_in, read_tokenizer, read_whole};
use crate::config::ConfigError;
use crate::source::{Folder, Source};
use crate::vocab::Vocabulary;

/// A `config.json` takes about a kilobyte.
const MAX_CONFIG: u64 = 1 << 20;

/// What `parse` reads in `config.json`, and where that is, if there is one.
pub(super) fn config<T>(
    folder: &dyn Folder,
    beside: Option<&dyn Folder>,
    parse: impl Fn(&str) -> Result<T, ConfigError>,
) -> Result<Option<(T, String)>, CheckpointError> {
    let Some(file) = find("config.json", folder, beside)? else { return Ok(None) };
    let path = file.name();
    let text = String::from_utf8(read_whole(&*file, MAX_CONFIG)?).map_err(|error| CheckpointError::Read {
        path: path.clone(),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    })?;
    match parse(&text) {
        Ok(config) => Ok(Some((config, path))),
        Err(source) => Err(CheckpointError::Config { path, source }),
    }
}

/// The vocabulary of the tokenizer that was given, or of the one found.
pub(super) fn vocabulary(
    folder: &dyn Folder,
    beside: Option<&dyn Folder>,
    tokenizer: Option<&dyn Source>,
) -> Result<Option<Vocabulary>, CheckpointError> {
    let found = match tokenizer {
        Some(_) => None,
        None => find("tokenizer.model", folder, beside)?,
    };
    tokenizer.or(found.as_deref()).map(read_tokenizer).transpose()
}

/// `name` in the first of the folders that has it.
fn find(
    name: &str,
    folder: &dyn Folder,
    beside: Option<&dyn Folder>,
) -> Result<Option<Arc<dyn Source>>, CheckpointError> {
    for place in [Some(folder), beside].into_iter().flatten() {
        match place.open(name) {
            Ok(source) => return Ok(Some(source)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(CheckpointError::Read { path: file_in(place, name), source }),
        }
    }
    Ok(None)
}
