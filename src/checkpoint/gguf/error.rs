//! Why a GGUF file cannot be used.

use std::io;

use super::input::{MAX_HEADER, MAX_NAME};
use super::metadata::MAX_DEPTH;
use crate::error::{Classify, ErrorKind};

/// What is wrong with a GGUF file. `offset` is a place in the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The source could not be read.
    #[error("byte {offset}: reading failed")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file ends too early, or a length in it is a lie.
    #[error("byte {offset}: {wanted} bytes should follow, but the file ends at byte {len}")]
    PastEnd {
        /// Where they should start.
        offset: u64,
        /// How many.
        wanted: u64,
        /// Length of the file.
        len: u64,
    },
    /// More keys, texts or tensors than a model has.
    #[error("byte {offset}: the header goes on beyond {MAX_HEADER} bytes")]
    HeaderTooLong {
        /// Where the part of it starts that is too much.
        offset: u64,
    },
    /// Another kind of file.
    #[error("begins with {found:?}, expected \"GGUF\"")]
    Magic {
        /// Its first four bytes.
        found: String,
    },
    /// A version that is not read.
    #[error("version {found}, expected 2 or 3")]
    Version {
        /// The version.
        found: u32,
    },
    /// A file for big-endian machines.
    #[error("numbers are big-endian, expected little-endian")]
    BigEndian,
    /// A key or the name of a tensor is absurdly long.
    #[error("byte {offset}: a name of {found} bytes, expected at most {MAX_NAME}")]
    NameTooLong {
        /// Where.
        offset: u64,
        /// Its length.
        found: u64,
    },
    /// A key or the name of a tensor is no text.
    #[error("byte {offset}: the name {found} is not UTF-8")]
    Name {
        /// Where.
        offset: u64,
        /// The bytes, escaped.
        found: String,
    },
    /// A key or a tensor that is there more than once.
    #[error("{what} {name:?} stands there twice")]
    Duplicate {
        /// `key` or `tensor`.
        what: &'static str,
        /// Which one.
        name: String,
    },
    /// A value of a type that does not exist.
    #[error("byte {offset}: the value of {key:?} has type {found}, expected 0 to 12")]
    ValueType {
        /// Where.
        offset: u64,
        /// The key.
        key: String,
        /// The type.
        found: u32,
    },
    /// Arrays in arrays in arrays.
    #[error("byte {offset}: the value of {key:?} has arrays nested more than {MAX_DEPTH} deep")]
    Depth {
        /// Where.
        offset: u64,
        /// The key.
        key: String,
    },
    /// A key is missing, or has a value that cannot be.
    #[error("{key} is {found}, expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A tensor has another type, shape or place than it should.
    #[error("tensor {tensor:?}: found {found}, expected {expected}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// A tensor is missing.
    #[error("there is no tensor {tensor:?}")]
    NoTensor {
        /// Its name.
        tensor: String,
    },
    /// A tensor that the model would have no use for.
    #[error("tensor {tensor:?} has no place in the model")]
    UnknownTensor {
        /// Its name.
        tensor: String,
    },
    /// A file of a model in several files is missing.
    #[error("its part {part} is missing")]
    NoPart {
        /// The file's name.
        part: String,
    },
    /// The model needs something that is not built.
    #[error("{feature} is not supported")]
    Unsupported {
        /// What it needs.
        feature: String,
    },
}

impl GgufError {
    pub(super) fn value(key: &str, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::Value { key: key.to_owned(), found: found.to_string(), expected: expected.into() }
    }

    pub(super) fn tensor(name: &str, found: String, expected: impl Into<String>) -> Self {
        Self::Tensor { tensor: name.to_owned(), found, expected: expected.into() }
    }
}

impl Classify for GgufError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } => ErrorKind::Resource,
            _ => ErrorKind::Format,
        }
    }
}
