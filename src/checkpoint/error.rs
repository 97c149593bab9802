//! Why a checkpoint cannot be opened.

use std::io;

use super::gguf::GgufError;
use super::pickle::PickleError;
use super::safetensors::SafetensorsError;
use super::sentencepiece::SentencePieceError;
use crate::config::ConfigError;
use crate::error::{Classify, ErrorKind};

/// Why a checkpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// There is nothing of that name.
    #[error("{path} does not exist")]
    NotFound {
        /// What was to be opened.
        path: String,
    },
    /// It exists but is no model.
    #[error(
        "{path} is not a checkpoint: found {found}, expected a GGUF or safetensors file, or a folder with either or with files tensor00000_000 to tensorNNNNN_000"
    )]
    Unrecognised {
        /// What was to be opened.
        path: String,
        /// What it is.
        found: &'static str,
    },
    /// A file or folder could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file or folder.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A small file has an absurd size.
    #[error("{path} has {found} bytes, expected at most {max}")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        found: u64,
        /// The largest size that is read.
        max: u64,
    },
    /// Files of weights are missing or too many.
    #[error("{folder}: found {found}, expected {expected}")]
    Files {
        /// The folder of the tensor files.
        folder: String,
        /// What is there.
        found: String,
        /// What should be.
        expected: String,
    },
    /// A tensor file is damaged or something else.
    #[error("cannot understand {file} ({tensor})")]
    Pickle {
        /// The file.
        file: String,
        /// The tensor that belongs there.
        tensor: String,
        /// What is wrong with it.
        #[source]
        source: PickleError,
    },
    /// A GGUF file is damaged, something else, or needs what is not built.
    #[error("cannot use {file}")]
    Gguf {
        /// The file.
        file: String,
        /// What is wrong with it.
        #[source]
        source: GgufError,
    },
    /// A safetensors file or its index is damaged, something else, or needs what is not built.
    #[error("cannot use {file}")]
    Safetensors {
        /// The file.
        file: String,
        /// What is wrong with it.
        #[source]
        source: SafetensorsError,
    },
    /// A tensor has another type or shape than the hyperparameters ask for.
    #[error("{file} ({tensor}): found {found}, expected {expected}")]
    Tensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its type and shape.
        found: String,
        /// What they should be, and by whose word.
        expected: String,
    },
    /// A model of another size than Grok-1 comes without its hyperparameters.
    #[error("{folder} has no config.json, in it or beside it, and is not Grok-1")]
    NoConfig {
        /// The folder of the tensor files.
        folder: String,
        /// How it differs from Grok-1.
        #[source]
        mismatch: Box<CheckpointError>,
    },
    /// `config.json` cannot be used.
    #[error("cannot use {path}")]
    Config {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: ConfigError,
    },
    /// `tokenizer.model` cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] SentencePieceError),
}

impl Classify for CheckpointError {
    fn kind(&self) -> ErrorKind {
        use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
        match self {
            Self::Read { source, .. } => match source.kind() {
                NotFound | InvalidInput | InvalidData | UnexpectedEof => ErrorKind::Format,
                _ => ErrorKind::Resource,
            },
            Self::Pickle { source, .. } => source.kind(),
            Self::Gguf { source, .. } => source.kind(),
            Self::Safetensors { source, .. } => source.kind(),
            Self::Config { source, .. } => source.kind(),
            Self::Tokenizer(error) => error.kind(),
            _ => ErrorKind::Format,
        }
    }
}
