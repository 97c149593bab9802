//! safetensors files as a checkpoint. Uses everything else here.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use super::config::Settings;
use super::files::Files;
use super::roles::Roles;
use super::tensors;
use crate::checkpoint::{Checkpoint, CheckpointError, Format, companions};
use crate::source::{Folder, Source};

/// Opens the model in `files`; `tokenizer.model` may stand with them or `beside` their folder, or be given.
pub(in crate::checkpoint) fn open(
    files: &Files<'_>,
    beside: Option<&dyn Folder>,
    tokenizer: Option<&dyn Source>,
) -> Result<Checkpoint, CheckpointError> {
    let found = companions::config(files.folder, beside, Settings::from_json)?;
    let (weights, tensors) = tensors::read(files)?;
    let assign = |Settings { model, tied, tile }: &Settings, by: &str| {
        Roles::new(model, by, *tile, &files.location, weights).assign(*tied)
    };
    let (settings, (head, layers)) = match found {
        Some((settings, path)) => {
            let weights = assign(&settings, &path)?;
            (settings, weights)
        }
        None => {
            let settings = Settings::grok1();
            let weights = assign(&settings, "Grok-1's release").map_err(|mismatch| {
                CheckpointError::NoConfig { folder: files.folder.name(), mismatch: Box::new(mismatch) }
            })?;
            (settings, weights)
        }
    };
    Ok(Checkpoint {
        location: files.location.clone(),
        format: Format::Safetensors,
        config: settings.model,
        head,
        layers,
        vocabulary: companions::vocabulary(files.folder, beside, tokenizer)?,
        tensors,
        keys: Vec::new(),
    })
}
