//! Where bytes come from: files, folders, or whatever a host has. Uses nothing.
//!
//! No descriptor stays open: a checkpoint of 770 files must open under `ulimit -n 256`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;

/// A sequence of bytes of known length that can be read at any place, from any thread.
pub trait Source: Send + Sync {
    /// What to call it in messages: a path, usually.
    fn name(&self) -> String;

    /// Number of bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` from `offset`; an error if not all of it exists.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// The bytes where they lie, for as long as the source lives; `None` if this kind of source never shows them.
    ///
    /// Once it has shown them it does not fail for the same range.
    fn slice(&self, range: Range<u64>) -> io::Result<Option<&[u8]>>;
}

/// A set of named [`Source`]s.
pub trait Folder: Send + Sync {
    /// What to call it in messages.
    fn name(&self) -> String;

    /// The names in it, sorted.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens one of them; an error of kind [`io::ErrorKind::NotFound`] if it is not there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn Source>>;
}

/// A file of the file system, mapped on first use.
///
/// The mapping is read-only and shared. A file that another process *shrinks* while it is mapped raises `SIGBUS` when the lost
/// part is touched, as with every mapped file; load with [`WeightStorage::Owned`](crate::WeightStorage::Owned) where that can happen.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    len: u64,
    map: OnceLock<Mmap>,
}

impl FileSource {
    /// The file at `path`, whose length is fixed now.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let metadata = std::fs::metadata(&path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self { path, len: metadata.len(), map: OnceLock::new() })
    }

    fn map(&self) -> io::Result<Mmap> {
        let file = File::open(&self.path)?;
        // SAFETY: the mapping is read-only and private to this value. The file may be changed by others; every reader of
        // weights treats the bytes as untrusted numbers, and shrinking is documented above.
        let map = unsafe { Mmap::map(&file) }?;
        if (map.len() as u64) < self.len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(map) }
    }
}

impl Source for FileSource {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact_at(&File::open(&self.path)?, offset, out)
    }

    fn slice(&self, range: Range<u64>) -> io::Result<Option<&[u8]>> {
        let map = match self.map.get() {
            Some(map) => map,
            None => {
                let map = self.map()?;
                self.map.get_or_init(|| map)
            }
        };
        part(map, range).map(Some)
    }
}

/// A range of bytes in memory.
fn part(bytes: &[u8], range: Range<u64>) -> io::Result<&[u8]> {
    let index = |at: u64| usize::try_from(at).map_err(|_| io::ErrorKind::UnexpectedEof);
    let found = bytes.get(index(range.start)?..index(range.end)?);
    found.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(out)
}

/// A folder of the file system.
#[derive(Clone, Debug)]
pub struct FileFolder(PathBuf);

impl FileFolder {
    /// The folder at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Folder for FileFolder {
    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            // Names that are not Unicode are none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Source>> {
        Ok(Arc::new(FileSource::open(self.0.join(name))?))
    }
}

/// Bytes in memory.
#[derive(Clone, Debug)]
pub struct MemorySource {
    name: String,
    bytes: Arc<[u8]>,
}

impl MemorySource {
    /// `bytes`, called `name` in messages.
    #[must_use]
    pub fn new(name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

impl Source for MemorySource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part(&self.bytes, offset..end)?);
        Ok(())
    }

    fn slice(&self, range: Range<u64>) -> io::Result<Option<&[u8]>> {
        part(&self.bytes, range).map(Some)
    }
}

/// Sources in memory by name: tests, fuzzing, and hosts with a store of their own.
#[derive(Clone, Debug, Default)]
pub struct MemoryFolder(BTreeMap<String, Arc<[u8]>>);

impl MemoryFolder {
    /// Adds or replaces `name`.
    pub fn insert(&mut self, name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) {
        self.0.insert(name.into(), bytes.into());
    }

    /// Removes `name`.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }
}

impl Folder for MemoryFolder {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Source>> {
        let bytes = self.0.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemorySource::new(name, Arc::clone(bytes))))
    }
}
