//! Stdout: it carries what was asked for, at once, and its failures are errors.

use std::io::{self, Write};

use grok1::Result;
use serde::Serialize;

use crate::error::CommandError;

/// Writes to stdout and flushes it.
pub(crate) fn print(bytes: impl AsRef<[u8]>) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes.as_ref()).and_then(|()| out.flush());
    Ok(written.map_err(CommandError::Stdout)?)
}

/// Writes a value as one line of JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value).map_err(|error| CommandError::Stdout(error.into()))?;
    line.push(b'\n');
    print(line)
}
