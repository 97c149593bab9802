//! Where bytes come from: files, folders, or whatever a host has. Uses nothing.
//!
//! No descriptor of ours stays open: a checkpoint of 770 files must open under `ulimit -n 256`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, Metadata};
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

    /// The bytes where they lie, for as long as the source lives; `None` if the source never shows this range.
    ///
    /// Once it has shown them it does not fail for the same range.
    fn slice(&self, range: Range<u64>) -> io::Result<Option<&[u8]>>;

    /// These bytes will be looked at soon, where [`slice`](Self::slice) shows them: a source that has to fetch them may begin, and must not
    /// wait for them.
    fn read_ahead(&self, _range: Range<u64>) {}

    /// How a device can make the same bytes itself, if it can.
    fn formula(&self) -> Option<Formula<'_>> {
        None
    }
}

/// Bytes that depend on nothing but their place, eight at a time: those of the word `i` are `mix(key, i) & random | fixed`, lowest
/// first, with the masks `i % masks.len()`.
#[derive(Clone, Copy, Debug)]
pub struct Formula<'a> {
    /// Tells sources of the same masks apart.
    pub key: u64,
    /// Bits that are random, and those that are set.
    pub masks: &'a [[u64; 2]],
}

impl Formula<'_> {
    /// The number at `index` of a sequence: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    #[must_use]
    #[inline(always)]
    pub const fn mix(key: u64, index: u64) -> u64 {
        let z = key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
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
    /// One that was opened by someone else.
    file: Option<File>,
    len: u64,
    map: OnceLock<Mmap>,
}

impl FileSource {
    /// The file at `path`, whose length is fixed now.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let metadata = std::fs::metadata(&path)?;
        Self::with(path, None, &metadata)
    }

    /// A file that is open already, for programs that may open none; called `name` in messages. It stays open.
    pub fn from_file(name: impl Into<PathBuf>, file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Self::with(name.into(), Some(file), &metadata)
    }

    fn with(path: PathBuf, file: Option<File>, metadata: &Metadata) -> io::Result<Self> {
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self { path, file, len: metadata.len(), map: OnceLock::new() })
    }

    fn file(&self) -> io::Result<File> {
        self.file.as_ref().map_or_else(|| File::open(&self.path), File::try_clone)
    }

    fn map(&self) -> io::Result<Mmap> {
        let file = self.file()?;
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
        read_exact_at(&self.file()?, offset, out)
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

    #[cfg(unix)]
    fn read_ahead(&self, range: Range<u64>) {
        let Some(map) = self.map.get() else { return };
        if let Ok(bytes) = part(map, range.clone()) {
            // A hint: without it, pages are read when they are touched.
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start as usize, bytes.len());
        }
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

/// Several sources, one after the other, as if they were one: a file that was cut for transport.
///
/// What lies within one of them is shown where it lies; what crosses from one into the next can only be read.
pub struct JoinedSource {
    name: String,
    parts: Vec<(Range<u64>, Arc<dyn Source>)>,
    len: u64,
}

impl JoinedSource {
    /// `sources` in their order; an error if together they are longer than 64 bits can say.
    pub fn new(sources: impl IntoIterator<Item = Arc<dyn Source>>) -> io::Result<Self> {
        let mut parts = Vec::new();
        let mut len = 0_u64;
        for source in sources {
            let end = len.checked_add(source.len()).ok_or(io::ErrorKind::FileTooLarge)?;
            parts.push((len..end, source));
            len = end;
        }
        let name = match &*parts {
            [] => "nothing".to_owned(),
            [(_, only)] => only.name(),
            [(_, first), rest @ ..] => format!("{} and {} more", first.name(), rest.len()),
        };
        Ok(Self { name, parts, len })
    }

    /// The parts of `range`, which must exist: sources and ranges of them.
    fn parts(&self, range: Range<u64>) -> io::Result<impl Iterator<Item = (&dyn Source, Range<u64>)>> {
        if range.start > range.end || range.end > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let first = self.parts.partition_point(|(place, _)| place.end <= range.start);
        let parts = self.parts[first..].iter().take_while(move |(place, _)| place.start < range.end);
        Ok(parts.map(move |(place, source)| {
            let (start, end) = (range.start.max(place.start), range.end.min(place.end));
            (&**source, start - place.start..end - place.start)
        }))
    }
}

impl Source for JoinedSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut rest = out;
        for (source, range) in self.parts(offset..end)? {
            let (part, after) = rest.split_at_mut((range.end - range.start) as usize);
            source.read_at(range.start, part)?;
            rest = after;
        }
        Ok(())
    }

    fn slice(&self, range: Range<u64>) -> io::Result<Option<&[u8]>> {
        let mut parts = self.parts(range)?;
        match (parts.next(), parts.next()) {
            (None, _) => Ok(Some(&[])),
            (Some((source, range)), None) => source.slice(range),
            (Some(_), Some(_)) => Ok(None),
        }
    }

    fn read_ahead(&self, range: Range<u64>) {
        self.parts(range).into_iter().flatten().for_each(|(source, range)| source.read_ahead(range));
    }
}

impl fmt::Debug for JoinedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinedSource")
            .field("name", &self.name)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Sources by name, bytes in memory or others: tests, fuzzing, and hosts with a store of their own.
#[derive(Clone, Default)]
pub struct MemoryFolder(BTreeMap<String, Arc<dyn Source>>);

impl MemoryFolder {
    /// Adds or replaces `name`.
    pub fn insert(&mut self, name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) {
        let name = name.into();
        self.insert_source(name.clone(), Arc::new(MemorySource::new(name, bytes)));
    }

    /// Adds or replaces `name` with bytes that lie elsewhere.
    pub fn insert_source(&mut self, name: impl Into<String>, source: Arc<dyn Source>) {
        self.0.insert(name.into(), source);
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
        Ok(Arc::clone(self.0.get(name).ok_or(io::ErrorKind::NotFound)?))
    }
}

impl fmt::Debug for MemoryFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(parts: &[&str]) -> JoinedSource {
        let source = |part: &&str| -> Arc<dyn Source> { Arc::new(MemorySource::new(*part, part.as_bytes())) };
        JoinedSource::new(parts.iter().map(source)).unwrap()
    }

    #[test]
    fn joined_sources_read_as_if_they_were_one() {
        let whole = "abcdefghij";
        let joined = joined(&["abc", "", "d", "efghij"]);
        assert_eq!(joined.len(), 10);
        for start in 0..=10 {
            for end in start..=10 {
                let mut out = vec![0; end - start];
                joined.read_at(start as u64, &mut out).unwrap();
                assert_eq!(out, whole.as_bytes()[start..end]);
            }
        }
        assert!(joined.read_at(8, &mut [0; 3]).is_err());
        assert!(joined.read_at(u64::MAX, &mut [0; 3]).is_err());
    }

    #[test]
    fn joined_sources_show_what_lies_within_one_of_them() {
        let joined = joined(&["abc", "", "d", "efghij"]);
        let slice = |range| joined.slice(range).unwrap();
        assert_eq!(slice(0..3), Some(&b"abc"[..]));
        assert_eq!(slice(3..4), Some(&b"d"[..]));
        assert_eq!(slice(5..10), Some(&b"fghij"[..]));
        assert_eq!(slice(10..10), Some(&b""[..]));
        assert_eq!(slice(2..4), None);
        assert!(joined.slice(9..11).is_err());
    }

    #[test]
    fn joined_sources_are_called_after_the_first() {
        assert_eq!(joined(&["a", "b", "c"]).name(), "a and 2 more");
        assert_eq!(joined(&["a"]).name(), "a");
    }
}
