//! What the command reads besides models.

use std::io::{self, Read};
use std::path::Path;

use grok1::Result;

use crate::error::CommandError;

/// All of a file.
pub(crate) fn file(path: &Path) -> Result<Vec<u8>> {
    let read = std::fs::read(path);
    Ok(read.map_err(|source| CommandError::Read { name: path.display().to_string(), source })?)
}

/// All of stdin.
pub(crate) fn stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(|source| CommandError::Read { name: "stdin".to_owned(), source })?;
    Ok(bytes)
}
