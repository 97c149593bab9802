//! Why safetensors files cannot be used.

use std::io;

use super::files::MAX_INDEX;
use super::header::{MAX_HEADER, MAX_NAME};
use crate::error::{Classify, ErrorKind};

/// What is wrong with a safetensors file or its index. Ranges are places in the data behind the header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SafetensorsError {
    /// The source could not be read.
    #[error("byte {offset}: reading failed")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file ends before its header does.
    #[error("{wanted} bytes of header should follow the length, but the file has {len} bytes")]
    PastEnd {
        /// Length of the header.
        wanted: u64,
        /// Length of the file.
        len: u64,
    },
    /// There is no place for the header's length.
    #[error("has {len} bytes, expected the 8 of the header's length")]
    Short {
        /// Length of the file.
        len: u64,
    },
    /// The header is larger than the format allows.
    #[error("a header of {found} bytes, expected at most {MAX_HEADER}")]
    HeaderTooLong {
        /// Its length.
        found: u64,
    },
    /// The header is not what a header is.
    #[error("its header is not valid")]
    Header(#[source] serde_json::Error),
    /// The index is not what an index is.
    #[error("it is not a valid index")]
    Index(#[source] serde_json::Error),
    /// The index is absurdly large.
    #[error("an index of {found} bytes, expected at most {MAX_INDEX}")]
    IndexTooLong {
        /// Its length.
        found: u64,
    },
    /// A tensor's name is absurdly long.
    #[error("a tensor's name of {found} bytes, expected at most {MAX_NAME}")]
    NameTooLong {
        /// Its length.
        found: usize,
    },
    /// A tensor that is there more than once, in a file or in several.
    #[error("tensor {tensor:?} is there twice")]
    Duplicate {
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another type, shape or place than it should.
    #[error("tensor {tensor:?}: found {found}, expected {expected}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// Data that are no tensor's.
    #[error("bytes {start}..{end} of the data are no tensor's")]
    Gap {
        /// The first of them.
        start: u64,
        /// The one behind them.
        end: u64,
    },
    /// A tensor is missing.
    #[error("there is no tensor {tensor:?}, nor one of its other names")]
    NoTensor {
        /// The first of its names.
        tensor: String,
    },
    /// An fp8 tensor says nothing of its scale.
    #[error("there is no tensor \"{tensor}_scale\" or \"{tensor}_scale_inv\" for the fp8 tensor {tensor:?}")]
    NoScale {
        /// The fp8 tensor.
        tensor: String,
    },
    /// A tensor that the model would have no use for.
    #[error("tensor {tensor:?} has no place in the model")]
    UnknownTensor {
        /// Its name.
        tensor: String,
    },
    /// A tensor lies in another file than the index says.
    #[error("tensor {tensor:?} is in {found}, expected {expected} by the index")]
    Elsewhere {
        /// The tensor.
        tensor: String,
        /// The file that has it, or none.
        found: String,
        /// The file that should have it, or none.
        expected: String,
    },
    /// A file of the model is missing.
    #[error("its file {file} is missing")]
    NoFile {
        /// The file's name.
        file: String,
    },
    /// The index names a file elsewhere.
    #[error("names the file {found:?}, expected one in the same folder")]
    Path {
        /// The name.
        found: String,
    },
    /// The model needs something that is not built.
    #[error("{feature} is not supported")]
    Unsupported {
        /// What it needs.
        feature: String,
    },
}

impl SafetensorsError {
    pub(super) fn tensor(name: &str, found: impl ToString, expected: impl ToString) -> Self {
        Self::Tensor { tensor: name.to_owned(), found: found.to_string(), expected: expected.to_string() }
    }
}

impl Classify for SafetensorsError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } => ErrorKind::Resource,
            _ => ErrorKind::Format,
        }
    }
}
