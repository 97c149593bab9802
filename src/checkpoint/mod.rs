//! Files on disk as named, typed views of weights. Uses the ground only.
//!
//! Whatever the format, opening gives one [`Checkpoint`]: hyperparameters and, for each weight, its type, its shape and where its
//! bytes lie. Opening reads headers, never weights. [`synthetic`] gives one without files.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::ModelConfig;
use crate::source::{FileFolder, FileSource, Folder, Source};
use crate::tensor::DType;
use crate::vocab::Vocabulary;
use crate::weights::{Head, Layer};

mod companions;
mod error;
mod fingerprint;
pub(crate) mod gguf;
#[doc(hidden)] // Public for tests and fuzzing of it alone.
pub mod pickle;
mod protobuf;
mod safetensors;
pub mod sentencepiece;
mod sets;
mod shapes;
mod synthetic;
mod xai;

pub use error::CheckpointError;
pub use gguf::GgufError;
pub use safetensors::SafetensorsError;
pub use synthetic::{Synthetic, SyntheticError, synthetic};

/// Opens the model at `path`: a folder, or a file of the model.
///
/// The folder is xAI's `ckpt-0` or the one that holds it, has safetensors files, or has the files of one GGUF model; the first of
/// these that it is. A file that is one of several (`…-00001-of-00009.gguf`, pieces `….part1of3` of one file,
/// `…-00001-of-00130.safetensors`) stands for all of them, and so does the index `….safetensors.index.json`.
///
/// Reads headers only. `config.json` and `tokenizer.model`, which only GGUF does without, are looked for in the folder and beside it;
/// `tokenizer` is used instead of one that is found. Without one (a `tokenizer.json` is none) there is no vocabulary. No file stays
/// open.
///
/// # Errors
/// [`CheckpointError`] naming the file and, where one is at fault, the tensor.
///
/// # Examples
/// ```
/// let checkpoint = grok1::checkpoint::open("assets/tiny", None)?;
/// assert_eq!(checkpoint.layers.len(), 4);
/// # Ok::<(), grok1::Error>(())
/// ```
pub fn open(path: impl AsRef<Path>, tokenizer: Option<&Path>) -> Result<Checkpoint, CheckpointError> {
    let path = path.as_ref();
    let tokenizer = tokenizer.map(source_of).transpose()?;
    let tokenizer = tokenizer.as_ref().map(|source| source as &dyn Source);
    let metadata = std::fs::metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CheckpointError::NotFound { path: path.display().to_string() },
        _ => CheckpointError::Read { path: path.display().to_string(), source },
    })?;
    if !metadata.is_dir() {
        let name = path.file_name().and_then(OsStr::to_str).ok_or_else(|| {
            let found = "a file whose name is not Unicode";
            CheckpointError::Unrecognised { path: path.display().to_string(), found }
        })?;
        return open_file(&FileFolder::new(path.parent().unwrap_or(Path::new(""))), name, tokenizer);
    }
    let inner = path.join("ckpt-0");
    let (folder, beside) =
        if inner.is_dir() { (inner, path.to_owned()) } else { (path.to_owned(), parent(path)) };
    open_folder(&FileFolder::new(folder), Some(&FileFolder::new(beside)), tokenizer)
}

/// Opens the model whose files are in `folder`, as [`open`] does, for hosts with storage of their own.
///
/// # Errors
/// As [`open`].
pub fn open_folder(
    folder: &dyn Folder,
    beside: Option<&dyn Folder>,
    tokenizer: Option<&dyn Source>,
) -> Result<Checkpoint, CheckpointError> {
    let names = folder.names().map_err(|source| CheckpointError::Read { path: folder.name(), source })?;
    if names.iter().any(|name| xai::is_tensor(name)) {
        return xai::open(folder, &names, beside, tokenizer);
    }
    if let Some(files) = safetensors::Files::of_folder(folder, &names)? {
        return safetensors::open(&files, beside, tokenizer);
    }
    if let Some(files) = gguf::files_of_folder(folder, &names)? {
        return gguf::open(&files, tokenizer);
    }
    Err(CheckpointError::Unrecognised { path: folder.name(), found: "a folder without them" })
}

/// Opens the file `name` in `folder`, or all the files of the model it belongs to, as [`open`] does, for hosts with storage of their
/// own.
///
/// # Errors
/// As [`open`].
///
/// # Examples
/// ```no_run
/// let folder = grok1::FileFolder::new("models");
/// let checkpoint = grok1::checkpoint::open_file(&folder, "grok-1-IQ3_S-00001-of-00009.gguf", None)?;
/// # Ok::<(), grok1::Error>(())
/// ```
pub fn open_file(
    folder: &dyn Folder,
    name: &str,
    tokenizer: Option<&dyn Source>,
) -> Result<Checkpoint, CheckpointError> {
    if let Some(files) = safetensors::Files::of_file(folder, name)? {
        return safetensors::open(&files, None, tokenizer);
    }
    match gguf::files(folder, name)? {
        Some(files) => gguf::open(&files, tokenizer),
        None => Err(CheckpointError::Unrecognised { path: file_in(folder, name), found: "another file" }),
    }
}

/// What to call `name` in `folder`.
fn file_in(folder: &dyn Folder, name: &str) -> String {
    Path::new(&folder.name()).join(name).display().to_string()
}

/// The vocabulary of a `tokenizer.model`.
fn read_tokenizer(source: &dyn Source) -> Result<Vocabulary, CheckpointError> {
    // Grok-1's takes 2.2 MB.
    const MAX: u64 = 64 << 20;
    Ok(sentencepiece::vocabulary(&source.name(), &read_whole(source, MAX)?)?)
}

/// Reads a SentencePiece `tokenizer.model`.
///
/// # Errors
/// [`CheckpointError`]: unreadable, too large to be one, or not one that Grok-1's kind of tokenizer can use.
pub fn tokenizer(path: impl AsRef<Path>) -> Result<Vocabulary, CheckpointError> {
    read_tokenizer(&source_of(path.as_ref())?)
}

/// The file at `path`.
fn source_of(path: &Path) -> Result<FileSource, CheckpointError> {
    FileSource::open(path)
        .map_err(|source| CheckpointError::Read { path: path.display().to_string(), source })
}

/// All bytes of a small file.
fn read_whole(source: &dyn Source, max: u64) -> Result<Vec<u8>, CheckpointError> {
    let path = source.name();
    if source.len() > max {
        return Err(CheckpointError::TooLarge { path, found: source.len(), max });
    }
    let mut bytes = vec![0; usize::try_from(source.len()).unwrap_or(0)];
    match source.read_at(0, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(source) => Err(CheckpointError::Read { path, source }),
    }
}

/// The folder that holds `path`, by its name where it has one: a linked `ckpt-0` has its companions beside the link.
fn parent(path: &Path) -> PathBuf {
    match (path.file_name(), path.parent()) {
        (Some(_), Some(parent)) if parent.as_os_str().is_empty() => ".".into(),
        (Some(_), Some(parent)) => parent.to_owned(),
        _ => path.join(".."),
    }
}

/// An opened model file or folder: everything but the bytes of the weights.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Where it was found.
    pub location: String,
    /// The file format.
    pub format: Format,
    /// The hyperparameters, checked against the shapes of the tensors.
    pub config: ModelConfig,
    /// What stands before and after the layers.
    pub head: Head,
    /// The decoder layers, in the order they run.
    pub layers: Vec<Layer>,
    /// The tokenizer's vocabulary, if one was found.
    pub vocabulary: Option<Vocabulary>,
    /// Every stored weight, in file order.
    pub tensors: Vec<TensorInfo>,
    /// What else a GGUF file says of the model: goes along when it is converted.
    pub(crate) keys: Vec<(String, gguf::Value)>,
}

/// A format of model files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// xAI's release: a folder `ckpt-0` of pickled arrays.
    Xai,
    /// llama.cpp's: a file, or several.
    Gguf,
    /// Hugging Face's: a file, or several, and `config.json`.
    Safetensors,
    /// No files: [`synthetic`] weights.
    Synthetic,
}

impl Format {
    /// The name in lower case: `xai`, `gguf`, `safetensors`, `synthetic`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xai => "xai",
            Self::Gguf => "gguf",
            Self::Safetensors => "safetensors",
            Self::Synthetic => "synthetic",
        }
    }
}

/// A stored tensor as a listing shows it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Its name in the model.
    pub name: String,
    /// The file it lies in.
    pub file: String,
    /// Type of its elements.
    pub dtype: DType,
    /// Its shape, slowest axis first.
    pub shape: Vec<u64>,
    /// Bytes of its elements and scales.
    pub bytes: u64,
    /// Shape of the scales that belong to it.
    pub scales: Option<Vec<u64>>,
}

impl Checkpoint {
    /// Bytes of all weights.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.head.bytes() + self.layers.iter().map(Layer::bytes).sum::<u64>()
    }

    /// Bytes of weights that one token reads: everything but the experts it is not sent to; one row of an embedding that is not the
    /// output projection as well.
    #[must_use]
    pub fn bytes_per_token(&self) -> u64 {
        let selected = self.config.selected_experts;
        let layers = self.layers.iter().map(|layer| layer.bytes_per_token(selected));
        self.head.bytes_per_token() + layers.sum::<u64>()
    }
}
