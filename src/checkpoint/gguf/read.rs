//! GGUF files as a checkpoint. Uses everything else here.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::files::Files;
use super::header::{self, Header, Tensor};
use super::roles::{EMBEDDING, Roles, Stored};
use super::{GgufError, hyperparameters, keys, vocabulary};
use crate::checkpoint::{self, Checkpoint, CheckpointError, Format, TensorInfo};
use crate::source::Source;

/// A file and what its header says.
struct Opened<'a> {
    source: &'a Arc<dyn Source>,
    header: Header,
}

impl<'a> Opened<'a> {
    /// File `number` of `count`, from 0.
    fn new(source: &'a Arc<dyn Source>, number: usize, count: usize) -> Result<Self, CheckpointError> {
        let header = header::read(&**source).and_then(|header| {
            check_split(&header, number, count)?;
            Ok(header)
        });
        match header {
            Ok(header) => Ok(Self { source, header }),
            Err(defect) => Err(wrong(source, defect)),
        }
    }

    fn tensors(&self) -> impl Iterator<Item = Stored<'_>> {
        self.header.tensors.iter().map(|tensor| Stored { source: self.source, tensor })
    }
}

/// Opens the model in `files`. `tokenizer` takes the place of the vocabulary in them.
pub(in crate::checkpoint) fn open(
    files: &Files,
    tokenizer: Option<&dyn Source>,
) -> Result<Checkpoint, CheckpointError> {
    let count = files.rest.len().saturating_add(1);
    // gguf-split leaves the keys in the first file.
    let first = Opened::new(&files.first, 0, count)?;
    let rest = files.rest.iter().zip(1..).map(|(source, number)| Opened::new(source, number, count));
    let rest = rest.collect::<Result<Vec<_>, _>>()?;
    let of_first = |defect| wrong(first.source, defect);
    let metadata = &first.header.metadata;

    let mut infos = Vec::new();
    let mut tensors = BTreeMap::new();
    for stored in [&first].into_iter().chain(&rest).flat_map(Opened::tensors) {
        infos.push(info(&stored));
        let (name, source) = (&*stored.tensor.name, stored.source);
        if tensors.insert(name, stored).is_some() {
            return Err(wrong(source, GgufError::Duplicate { what: "tensor", name: name.to_owned() }));
        }
    }
    let key = "split.tensors.count";
    let announced = metadata.integer(key).map_err(of_first)?;
    if let Some(found) = announced.filter(|&found| found != infos.len() as u64) {
        return Err(of_first(GgufError::value(key, found, format!("{}, as many as there are", infos.len()))));
    }

    let Some(embedding) = tensors.get(EMBEDDING) else {
        return Err(of_first(GgufError::NoTensor { tensor: EMBEDDING.to_owned() }));
    };
    let vocab = embedding.tensor.dimensions.get(1).copied().unwrap_or(1);
    let config = hyperparameters::config(metadata, vocab).map_err(of_first)?;
    let config =
        config.validate().map_err(|source| CheckpointError::Config { path: first.source.name(), source })?;
    let vocabulary = match tokenizer {
        Some(tokenizer) => Some(checkpoint::read_tokenizer(tokenizer)?),
        None => vocabulary::vocabulary(metadata, &config).map_err(of_first)?,
    };
    let (head, layers) = Roles::new(&config, first.source, tensors).weights()?;
    Ok(Checkpoint {
        location: first.source.name(),
        format: Format::Gguf,
        config,
        head,
        layers,
        vocabulary,
        tensors: infos,
        keys: keys::kept(metadata, tokenizer.is_some()),
    })
}

/// Whether the file is the one of a set that its name says.
fn check_split(header: &Header, number: usize, count: usize) -> Result<(), GgufError> {
    let alone = [("split.count", count, 1), ("split.no", number, 0)];
    for (key, expected, default) in alone {
        let found = header.metadata.integer(key)?.unwrap_or(default);
        if found != expected as u64 {
            return Err(GgufError::value(key, found, format!("{expected} by the name of the file")));
        }
    }
    Ok(())
}

fn info(stored: &Stored<'_>) -> TensorInfo {
    let Tensor { name, dtype, dimensions, data } = stored.tensor;
    TensorInfo {
        name: name.clone(),
        file: stored.source.name(),
        dtype: *dtype,
        shape: dimensions.iter().rev().copied().collect(),
        bytes: data.end.saturating_sub(data.start),
        scales: None,
    }
}

fn wrong(source: &Arc<dyn Source>, defect: GgufError) -> CheckpointError {
    CheckpointError::Gguf { file: source.name(), source: defect }
}
