//! The folder that a conversion works in: files that are not whole yet, and a journal of what is done. Uses `output`.
//!
//! Nothing that opens as a model is there before the model is whole: the start of each file stays empty until all tensors are
//! written, and files get their places last. The journal names a tensor only when its bytes are on the disk, so work that was
//! interrupted, by a power failure even, goes on behind the last of them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::ConvertError;
use super::journal::{Content, Journal};
use super::output::{self, Output};
use super::pipeline::Sink;
use super::rows::Int8Fidelity;
use super::space;

/// Where an output will stand.
pub(super) struct Place {
    parent: PathBuf,
    name: String,
}

impl Place {
    pub(super) fn new(path: &Path) -> Result<Self, ConvertError> {
        let unfit = || ConvertError::Name { path: path.display().to_string() };
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(unfit)?.to_owned();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(Self { parent, name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The folder of the files of `output` when they are whole.
    pub(super) fn folder(&self, output: &Output) -> PathBuf {
        if output.is_folder { self.parent.join(&self.name) } else { self.parent.clone() }
    }

    /// What is moved to `parent` in the end: a folder, or each file.
    fn items<'a>(&'a self, output: &'a Output) -> Vec<&'a str> {
        match output.is_folder {
            true => vec![&self.name],
            false => output.files.iter().map(|file| &*file.name).collect(),
        }
    }
}

/// Work that has begun.
pub(super) struct Work<'a> {
    place: &'a Place,
    output: &'a Output,
    /// The folder to work in, and that of the files of tensors.
    folder: PathBuf,
    data: PathBuf,
    journal: Journal,
    /// None when they are whole.
    files: Vec<DataFile>,
    content: Content,
}

impl<'a> Work<'a> {
    /// Begins to write `output`, or goes on with it. `input` tells inputs apart.
    pub(super) fn begin(place: &'a Place, output: &'a Output, input: u128) -> Result<Self, ConvertError> {
        let folder = place.parent.join(format!("{}.partial", place.name));
        let data = if output.is_folder { folder.join(&place.name) } else { folder.clone() };
        let items = place.items(output);
        let is_there = |path: PathBuf| fs::exists(path).unwrap_or(true);
        let in_the_way = items.iter().map(|item| place.parent.join(item)).find(|path| is_there(path.clone()));
        let exists = |path: &PathBuf| ConvertError::Exists { path: path.display().to_string() };
        if let Some(path) = in_the_way.as_ref().filter(|_| !is_there(folder.clone())) {
            return Err(exists(path));
        }

        let id = identity(output, input);
        let (journal, content) = Journal::open(&folder)?;
        let is_new = content.is_none();
        let content = content.filter(|content| content.id == id);
        let mut work =
            Self { place, output, folder, data, journal, files: Vec::new(), content: Content::new(id) };
        if let Some(content) = content {
            let moved = |item: &&str| is_there(place.parent.join(item)) || is_there(work.folder.join(item));
            if content.is_whole && items.iter().all(moved) {
                return Ok(Self { content, ..work });
            }
            if !content.is_whole && work.has_files() {
                work.content = content;
            }
        }
        if let Some(path) = in_the_way {
            // What a conversion leaves that ends, killed, behind its last file.
            if is_new {
                work.remove()?;
            }
            return Err(exists(&path));
        }
        if work.content.done.is_empty() {
            work.journal.restart(&work.folder, &work.content.id)?;
        }
        let needed = work.missing_bytes();
        let free = space::free(&work.folder).map_err(|source| write_error(&work.folder, source))?;
        if let Some(free) = free.filter(|&free| free < needed) {
            let path = place.parent.display().to_string();
            if work.content.done.is_empty() {
                work.remove()?;
            }
            return Err(ConvertError::Space { path, needed, free });
        }
        work.open_files()?;
        Ok(work)
    }

    /// The tensors that were done earlier.
    pub(super) fn done(&self) -> &BTreeMap<usize, Int8Fidelity> {
        &self.content.done
    }

    /// Bytes of the tensors that are not done.
    fn missing_bytes(&self) -> u64 {
        let tensors = self.output.tensors.iter().enumerate();
        tensors
            .filter(|(number, _)| !self.done().contains_key(number))
            .map(|(_, tensor)| tensor.bytes())
            .sum()
    }

    /// Whether the files that were begun are still there.
    fn has_files(&self) -> bool {
        self.output.files.iter().all(|file| {
            fs::metadata(self.data.join(&file.name)).is_ok_and(|metadata| metadata.len() == file.len)
        })
    }

    fn open_files(&mut self) -> Result<(), ConvertError> {
        fs::create_dir_all(&self.data).map_err(|source| write_error(&self.data, source))?;
        for file in &self.output.files {
            let path = self.data.join(&file.name);
            let opened = DataFile::open(&path, file.len).map_err(|source| write_error(&path, source))?;
            self.files.push(opened);
        }
        Ok(())
    }

    /// Where bytes are put, and where tensors are noted as done.
    pub(super) fn parts(&mut self) -> (Files<'_>, Committer<'_>) {
        let committer = Committer { output: self.output, files: &self.files, journal: &mut self.journal };
        (Files(&self.files), committer)
    }

    /// Makes the files whole and moves them to their place, all tensors being done.
    pub(super) fn finish(mut self) -> Result<(), ConvertError> {
        if !self.content.is_whole {
            for (name, content) in &self.output.companions {
                let path = self.data.join(name);
                let written = File::create(&path).and_then(|mut file| {
                    io::Write::write_all(&mut file, content)?;
                    file.sync_all()
                });
                written.map_err(|source| write_error(&path, source))?;
            }
            for (file, out) in self.output.files.iter().zip(&self.files) {
                let written = out.write_at(0, &file.header).and_then(|()| out.file.sync_all());
                written.map_err(|source| write_error(&out.path, source))?;
            }
            sync_folder(&self.data)?;
            self.journal.note_whole()?;
        }
        for item in self.place.items(self.output) {
            let (from, to) = (self.folder.join(item), self.place.parent.join(item));
            if fs::exists(&from).map_err(|source| write_error(&from, source))? {
                fs::rename(&from, &to).map_err(|source| write_error(&to, source))?;
            }
        }
        sync_folder(&self.place.parent)?;
        self.remove()
    }

    /// Removes the folder, which has nothing of value left.
    fn remove(self) -> Result<(), ConvertError> {
        let Self { folder, journal, files, .. } = self;
        // Some systems remove only what nobody has open.
        drop((journal, files));
        fs::remove_dir_all(&folder).map_err(|source| write_error(&folder, source))
    }
}

/// Notes what is done.
pub(super) struct Committer<'a> {
    output: &'a Output,
    files: &'a [DataFile],
    journal: &'a mut Journal,
}

impl Committer<'_> {
    /// Notes tensors as done once their bytes are on the disk.
    pub(super) fn commit(&mut self, tensors: &[(usize, Int8Fidelity)]) -> Result<(), ConvertError> {
        let mut files: Vec<_> = tensors.iter().map(|(number, _)| self.output.tensors[*number].file).collect();
        files.dedup();
        for file in files {
            let DataFile { file, path, .. } = &self.files[file];
            file.sync_data().map_err(|source| write_error(path, source))?;
        }
        self.journal.note(tensors)
    }
}

/// The files of tensors, open.
pub(super) struct Files<'a>(&'a [DataFile]);

impl Sink for Files<'_> {
    fn put(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        let file = &self.0[file];
        file.write_at(offset, bytes).map_err(|source| write_error(&file.path, source))
    }
}

struct DataFile {
    path: PathBuf,
    file: File,
    /// Held while the position is where somebody writes.
    #[cfg(not(unix))]
    turn: std::sync::Mutex<()>,
}

impl DataFile {
    fn open(path: &Path, len: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.set_len(len)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            #[cfg(not(unix))]
            turn: std::sync::Mutex::default(),
        })
    }

    #[cfg(unix)]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, offset)
    }

    #[cfg(not(unix))]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        use std::io::{Seek, SeekFrom, Write};
        let _turn = self.turn.lock();
        (&self.file).seek(SeekFrom::Start(offset))?;
        (&self.file).write_all(bytes)
    }
}

/// A number for what is written of which input.
fn identity(output: &Output, input: u128) -> String {
    let mut hash = Xxh3::new();
    // Another version may quantise in another way.
    hash.update(env!("CARGO_PKG_VERSION").as_bytes());
    hash.update(&input.to_le_bytes());
    for output::File { name, header, len } in &output.files {
        hash.update(name.as_bytes());
        hash.update(header);
        hash.update(&len.to_le_bytes());
    }
    for (name, content) in &output.companions {
        hash.update(name.as_bytes());
        hash.update(content);
    }
    format!("{:032x}", hash.digest128())
}

/// Makes names in a folder last.
fn sync_folder(folder: &Path) -> Result<(), ConvertError> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| write_error(folder, source))?;
    }
    Ok(())
}

pub(super) fn write_error(path: &Path, source: io::Error) -> ConvertError {
    ConvertError::Write { path: path.display().to_string(), source }
}
