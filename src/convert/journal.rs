//! What a conversion has done, in a file that survives it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::ConvertError;
use super::rows::Int8Fidelity;
use super::work::write_error;

/// The file's name.
const NAME: &str = "journal";

/// What it begins with, before the number of the work that it belongs to.
const START: &str = "grok1 conversion ";

/// Its last line when all files are whole.
const WHOLE: &str = "whole";

/// A journal that nobody else writes.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
}

/// What a journal says.
#[derive(Debug, PartialEq)]
pub(super) struct Content {
    /// The work that it belongs to.
    pub(super) id: String,
    /// Tensors whose bytes are on the disk.
    pub(super) done: BTreeMap<usize, Int8Fidelity>,
    /// Whether all files are whole.
    pub(super) is_whole: bool,
}

impl Content {
    /// Nothing is done.
    pub(super) fn new(id: String) -> Self {
        Self { id, done: BTreeMap::new(), is_whole: false }
    }

    /// Whether there is anything that would be lost without it.
    pub(super) fn has_begun(&self) -> bool {
        self.is_whole || !self.done.is_empty()
    }

    /// `None` if the text is of no journal. A line that was cut off counts as not written.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let mut content = Self::new(lines.next()?.strip_prefix(START)?.to_owned());
        for line in lines {
            match line {
                WHOLE => content.is_whole = true,
                tensor => content.done.extend(Self::tensor(tensor)),
            }
        }
        Some(content)
    }

    fn tensor(line: &str) -> Option<(usize, Int8Fidelity)> {
        let mut numbers = line.split(' ');
        let number = numbers.next()?.parse().ok()?;
        let (blocks, inexact) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        let worst = f32::from_bits(numbers.next()?.parse().ok()?);
        Some((number, Int8Fidelity { blocks, inexact, worst }))
    }
}

impl Journal {
    /// The journal in `folder`, which is made if it is not there, and what it says if it says anything.
    pub(super) fn open(folder: &Path) -> Result<(Self, Option<Content>), ConvertError> {
        let name = || folder.display().to_string();
        fs::create_dir_all(folder).map_err(|source| write_error(folder, source))?;
        let path = folder.join(NAME);
        let mut entries = fs::read_dir(folder).map_err(|source| write_error(folder, source))?;
        if !path.exists() && entries.next().is_some() {
            return Err(ConvertError::Occupied { path: name() });
        }
        let write_error = |source| write_error(&path, source);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(write_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ConvertError::Busy { path: name() }),
            // Not every file system has locks; then nobody keeps two conversions apart.
            Err(TryLockError::Error(source)) if source.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(source)) => return Err(write_error(source)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(write_error)?;
        let content = Content::parse(&String::from_utf8_lossy(&bytes));
        // One that was cut off within its first line has nothing to say yet.
        let is_ours =
            content.is_some() || START.as_bytes().starts_with(&bytes) || bytes.starts_with(START.as_bytes());
        if !is_ours {
            return Err(ConvertError::Occupied { path: name() });
        }
        // What is written next must not go on with a line that was cut off.
        let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last as u64 + 1);
        file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(write_error)?;
        Ok((Self { file, path }, content))
    }

    /// Forgets everything and begins the work `id`.
    pub(super) fn restart(&mut self, id: &str) -> Result<(), ConvertError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|source| write_error(&self.path, source))?;
        self.append(&format!("{START}{id}\n"))
    }

    /// Notes tensors as done.
    pub(super) fn note(&mut self, tensors: &[(usize, Int8Fidelity)]) -> Result<(), ConvertError> {
        let line = |(number, fidelity): &(usize, Int8Fidelity)| {
            let Int8Fidelity { blocks, inexact, worst } = fidelity;
            format!("{number} {blocks} {inexact} {}\n", worst.to_bits())
        };
        self.append(&tensors.iter().map(line).collect::<String>())
    }

    /// Notes that all files are whole.
    pub(super) fn note_whole(&mut self) -> Result<(), ConvertError> {
        self.append(&format!("{WHOLE}\n"))
    }

    fn append(&mut self, lines: &str) -> Result<(), ConvertError> {
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|source| write_error(&self.path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_off_was_not_written() {
        let content = Content::parse("grok1 conversion 5\n3 0 0 0\n12 7 1 1065353216\n4 0 0 0").unwrap();
        let fidelity = Int8Fidelity { blocks: 7, inexact: 1, worst: 1.0 };
        assert_eq!(content.id, "5");
        assert_eq!(content.done, BTreeMap::from([(3, Int8Fidelity::default()), (12, fidelity)]));
        assert!(!content.is_whole);
        assert!(Content::parse("grok1 conversion 5\nwhole\n").unwrap().is_whole);
        assert_eq!(Content::parse("grok1 conversi"), None);
    }
}
