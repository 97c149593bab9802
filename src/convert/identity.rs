//! Which work this is: what is made of which input. Uses `output`.

use std::collections::BTreeSet;
use std::fs;
use std::time::UNIX_EPOCH;

use xxhash_rust::xxh3::Xxh3;

use super::output::{File, Output};
use crate::checkpoint::Checkpoint;
use crate::control::Control;
use crate::error::Result;

/// A number for the work of making `output` of `checkpoint` with this version.
///
/// Inputs are told apart by their fingerprint and, where they are files, by when these were last changed.
pub(super) fn identity(output: &Output, checkpoint: &Checkpoint, control: &Control) -> Result<String> {
    let mut hash = Xxh3::new();
    // Another version may quantise in another way.
    hash.update(env!("CARGO_PKG_VERSION").as_bytes());
    hash.update(&checkpoint.fingerprint(control)?.to_le_bytes());
    for file in checkpoint.tensors.iter().map(|tensor| &tensor.file).collect::<BTreeSet<_>>() {
        let Ok(metadata) = fs::metadata(file) else { continue };
        let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        hash.update(&metadata.len().to_le_bytes());
        hash.update(&changed.map_or(0, |time| time.as_nanos()).to_le_bytes());
    }
    for File { name, header, len } in &output.files {
        hash.update(name.as_bytes());
        hash.update(header);
        hash.update(&len.to_le_bytes());
    }
    for (name, content) in &output.companions {
        hash.update(name.as_bytes());
        hash.update(content);
    }
    Ok(format!("{:032x}", hash.digest128()))
}
