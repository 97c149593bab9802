//! Arrays in numpy's format, version 1.0 (numpy.lib.format), written row by row.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use grok1::Result;

use crate::error::CommandError;

/// The elements begin at a multiple of this.
const ALIGNMENT: usize = 64;

/// An f32 array under way: under a temporary name, which is gone in the end either way.
pub(crate) struct NpyWriter {
    file: BufWriter<File>,
    row: Vec<u8>,
    temporary: Temporary,
    path: PathBuf,
}

/// A file that is removed unless it was renamed before.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // After renaming there is nothing to remove.
        let _ = fs::remove_file(&self.0);
    }
}

impl NpyWriter {
    /// Begins an array of `shape` that will be called `path`.
    pub(crate) fn create(path: &Path, shape: [usize; 2]) -> Result<Self> {
        // Renaming would put a file in the place of a device.
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(CommandError::NotAFile { name: path.display().to_string() }.into());
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = BufWriter::new(File::create_new(&temporary).map_err(|source| failed(path, source))?);
        let (row, temporary, path) = (Vec::new(), Temporary(temporary), path.to_owned());
        let mut writer = Self { file, row, temporary, path };
        let begun = writer.file.write_all(&header(shape));
        begun.map_err(|source| failed(&writer.path, source))?;
        Ok(writer)
    }

    /// Appends a row.
    pub(crate) fn row(&mut self, values: &[f32]) -> Result<()> {
        self.row.clear();
        self.row.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let written = self.file.write_all(&self.row);
        Ok(written.map_err(|source| failed(&self.path, source))?)
    }

    /// Gives the array its name.
    pub(crate) fn finish(mut self) -> Result<()> {
        let named = self.file.flush().and_then(|()| fs::rename(&self.temporary.0, &self.path));
        Ok(named.map_err(|source| failed(&self.path, source))?)
    }
}

fn failed(path: &Path, source: io::Error) -> CommandError {
    CommandError::Write { name: path.display().to_string(), source }
}

/// Magic, version, length of what follows, and a Python dictionary padded with spaces.
fn header([rows, columns]: [usize; 2]) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let before = b"\x93NUMPY\x01\x00".len() + size_of::<u16>();
    let padded = (before + text.len() + 1).next_multiple_of(ALIGNMENT) - before - 1;
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    text.push('\n');
    // Two numbers of 20 digits at most: far below 64 KiB.
    [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat()
}
