//! The folder that a conversion works in: files that are not whole yet, and a journal of what is done. Uses `output`.
//!
//! Nothing that opens as a model is there before the model is whole: the start of each file stays empty until all tensors are
//! written, and files get their places last. The journal names a tensor only when its bytes are on the disk, so work that was
//! interrupted, by a power failure even, goes on behind the last of them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

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

    /// What is moved to its place in the end, a folder or each file: from where in `data`, and where to.
    fn items(&self, output: &Output, data: &Path) -> Vec<(PathBuf, PathBuf)> {
        match output.is_folder {
            true => vec![(data.to_owned(), self.folder(output))],
            false => {
                let files = output.files.iter();
                files.map(|file| (data.join(&file.name), self.parent.join(&file.name))).collect()
            }
        }
    }
}

/// Work that has begun.
pub(super) struct Work<'a> {
    output: &'a Output,
    /// The folder of the output.
    parent: &'a Path,
    /// The folder to work in, and the one of the files in it.
    folder: PathBuf,
    data: PathBuf,
    items: Vec<(PathBuf, PathBuf)>,
    journal: Journal,
    content: Content,
}

/// What is there of a conversion whose files are whole.
enum Moves {
    /// All of it, here or at its place.
    Complete,
    /// Something was taken away.
    Missing,
    /// Something else stands at its place.
    InTheWay(PathBuf),
}

impl<'a> Work<'a> {
    /// Begins to write `output`, or goes on with it. `id` tells apart what is made of which input.
    pub(super) fn begin(place: &'a Place, output: &'a Output, id: String) -> Result<Self, ConvertError> {
        let folder = place.parent.join(format!("{}.partial", place.name));
        let data = folder.join("files");
        let items = place.items(output, &data);
        if !exists(&folder)? {
            refuse_replacing(&items)?;
        }
        let (journal, content) = Journal::open(&folder)?;
        let is_new = content.is_none();
        let parent = &*place.parent;
        let mut work = Self { output, parent, folder, data, items, journal, content: Content::new(id) };
        match content {
            Some(content) if content.id != work.content.id && content.has_begun() => {
                return Err(ConvertError::Leftover { path: work.folder.display().to_string() });
            }
            Some(content) if content.id == work.content.id && content.is_whole => match work.moves()? {
                Moves::Complete => return Ok(Self { content, ..work }),
                Moves::InTheWay(path) => return Err(ConvertError::exists(&path)),
                Moves::Missing => {}
            },
            Some(content) if content.id == work.content.id && work.has_files() => work.content = content,
            _ => {}
        }
        if let Err(in_the_way) = refuse_replacing(&work.items) {
            // What is left of a conversion that was killed when it had ended.
            if is_new {
                work.remove()?;
            }
            return Err(in_the_way);
        }
        work.make_room()
    }

    /// Sees to it that there are files, and that they have room.
    fn make_room(mut self) -> Result<Self, ConvertError> {
        if self.done().is_empty() {
            remove_folder(&self.data)?;
            self.journal.restart(&self.content.id)?;
        }
        let needed = self.missing().iter().map(|&number| self.output.tensors[number].bytes()).sum();
        let free = space::free(&self.folder).map_err(|source| write_error(&self.folder, source))?;
        if let Some(free) = free.filter(|&free| free < needed) {
            let path = self.parent.display().to_string();
            if self.done().is_empty() {
                self.remove()?;
            }
            return Err(ConvertError::Space { path, needed, free });
        }
        fs::create_dir_all(&self.data).map_err(|source| write_error(&self.data, source))?;
        for file in &self.output.files {
            let path = self.data.join(&file.name);
            let made = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            made.and_then(|made| made.set_len(file.len)).map_err(|source| write_error(&path, source))?;
        }
        sync_folder(&self.data)?;
        sync_folder(&self.folder)?;
        Ok(self)
    }

    /// The tensors that were done earlier.
    pub(super) fn done(&self) -> &BTreeMap<usize, Int8Fidelity> {
        &self.content.done
    }

    /// The tensors that are still to be made.
    pub(super) fn missing(&self) -> Vec<usize> {
        let count = if self.content.is_whole { 0 } else { self.output.tensors.len() };
        (0..count).filter(|number| !self.done().contains_key(number)).collect()
    }

    /// Whether the files that were begun are still there.
    fn has_files(&self) -> bool {
        self.output.files.iter().all(|file| has_len(&self.data.join(&file.name), file.len))
    }

    /// What is there of files that are whole.
    fn moves(&self) -> Result<Moves, ConvertError> {
        for (from, to) in &self.items {
            match (exists(from)?, exists(to)?) {
                (true, false) => {}
                (true, true) if is_same(from, to) => {}
                (false, true) if self.is_ours(to) => {}
                (false, false) => return Ok(Moves::Missing),
                (_, true) => return Ok(Moves::InTheWay(to.clone())),
            }
        }
        Ok(Moves::Complete)
    }

    /// Whether what stands at a place has the lengths and headers of what belongs there.
    fn is_ours(&self, to: &Path) -> bool {
        let place =
            |file: &output::File| if self.output.is_folder { to.join(&file.name) } else { to.to_owned() };
        let files = self.output.files.iter();
        let mut own = files.filter(|file| self.output.is_folder || to.ends_with(&file.name));
        own.all(|file| has_len(&place(file), file.len) && begins_with(&place(file), &file.header))
    }

    /// Where bytes are put, and where tensors are noted as done.
    pub(super) fn parts(&mut self) -> (Files<'_>, Committer<'_>) {
        let files = Files { output: self.output, data: &self.data };
        let committer = Committer { output: self.output, data: &self.data, journal: &mut self.journal };
        (files, committer)
    }

    /// Makes the files whole and moves them to their place, all tensors being done.
    pub(super) fn finish(mut self) -> Result<(), ConvertError> {
        if !self.content.is_whole {
            for (name, content) in &self.output.companions {
                let path = self.data.join(name);
                let written = File::create(&path).and_then(|mut file| {
                    file.write_all(content)?;
                    file.sync_all()
                });
                written.map_err(|source| write_error(&path, source))?;
            }
            for file in &self.output.files {
                let path = self.data.join(&file.name);
                let written = open_to_write(&path).and_then(|out| {
                    write_at(&out, 0, &file.header)?;
                    out.sync_all()
                });
                written.map_err(|source| write_error(&path, source))?;
            }
            sync_folder(&self.data)?;
            self.journal.note_whole()?;
        }
        for (from, to) in &self.items {
            if exists(from)? {
                move_new(from, to)?;
            }
        }
        sync_folder(self.parent)?;
        self.remove()
    }

    /// Removes the folder, which has nothing of value left.
    fn remove(self) -> Result<(), ConvertError> {
        let Self { folder, data, journal, .. } = self;
        // The journal last: without it nobody could tell whose files these are.
        remove_folder(&data)?;
        // Some systems remove only what nobody has open.
        drop(journal);
        remove_folder(&folder)
    }
}

/// Notes what is done.
pub(super) struct Committer<'a> {
    output: &'a Output,
    data: &'a Path,
    journal: &'a mut Journal,
}

impl Committer<'_> {
    /// Notes tensors as done once their bytes are on the disk.
    pub(super) fn commit(&mut self, tensors: &[(usize, Int8Fidelity)]) -> Result<(), ConvertError> {
        let mut files: Vec<_> = tensors.iter().map(|(number, _)| self.output.tensors[*number].file).collect();
        files.dedup();
        for file in files {
            let path = self.data.join(&self.output.files[file].name);
            let synced = open_to_write(&path).and_then(|file| file.sync_data());
            synced.map_err(|source| write_error(&path, source))?;
        }
        self.journal.note(tensors)
    }
}

/// The files of tensors. None is kept open: there may be more of them than a process may have open.
pub(super) struct Files<'a> {
    output: &'a Output,
    data: &'a Path,
}

impl Sink for Files<'_> {
    fn put(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        let path = self.data.join(&self.output.files[file].name);
        let written = open_to_write(&path).and_then(|file| write_at(&file, offset, bytes));
        written.map_err(|source| write_error(&path, source))
    }
}

fn open_to_write(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

#[cfg(unix)]
fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn write_at(mut file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)
}

fn exists(path: &Path) -> Result<bool, ConvertError> {
    fs::exists(path).map_err(|source| ConvertError::Read { name: path.display().to_string(), source })
}

fn has_len(path: &Path, len: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == len)
}

fn begins_with(path: &Path, start: &[u8]) -> bool {
    let mut found = vec![0; start.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut found)).is_ok_and(|()| found == start)
}

/// Whether both are names of one file.
#[cfg(unix)]
fn is_same(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => one.is_file() && (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_same(_one: &Path, _other: &Path) -> bool {
    false
}

/// An error if anything stands where something will be moved to.
fn refuse_replacing(items: &[(PathBuf, PathBuf)]) -> Result<(), ConvertError> {
    for (_, to) in items {
        if exists(to)? {
            return Err(ConvertError::exists(to));
        }
    }
    Ok(())
}

/// Moves a file or folder to where nothing is.
fn move_new(from: &Path, to: &Path) -> Result<(), ConvertError> {
    let write_error = |source| write_error(to, source);
    // A second name is never given over another file, which renaming would replace.
    if cfg!(unix) && from.is_file() {
        match fs::hard_link(from, to) {
            Ok(()) => return fs::remove_file(from).map_err(write_error),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return match is_same(from, to) {
                    true => fs::remove_file(from).map_err(write_error),
                    false => Err(ConvertError::exists(to)),
                };
            }
            // Not every file system has them.
            Err(_) => {}
        }
    }
    if exists(to)? {
        return Err(ConvertError::exists(to));
    }
    fs::rename(from, to).map_err(write_error)
}

/// Removes a folder and all in it, if it is there.
fn remove_folder(folder: &Path) -> Result<(), ConvertError> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(write_error(folder, source)),
        _ => Ok(()),
    }
}

/// Makes names in a folder last, on file systems that can.
fn sync_folder(folder: &Path) -> Result<(), ConvertError> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(source) if !matches!(source.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Err(write_error(folder, source))
        }
        _ => Ok(()),
    }
}

pub(super) fn write_error(path: &Path, source: io::Error) -> ConvertError {
    ConvertError::Write { path: path.display().to_string(), source }
}
