//! Why a model cannot be converted.

use std::fmt;
use std::io;

use crate::error::{Classify, ErrorKind};
use crate::quant::QuantError;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A type or mix that does not exist or that is not written.
    #[error("{found:?} is no type that can be written")]
    Type {
        /// Its name.
        found: String,
    },
    /// An exception for certain tensors that is not one.
    #[error("{found:?} is not of the form pattern=type")]
    Exception {
        /// What was given.
        found: String,
    },
    /// An exception for tensors that do not exist.
    #[error("no matrix has {found:?} in its name")]
    Pattern {
        /// The pattern.
        found: String,
    },
    /// The path names no file.
    #[error("{path} is not a name for a model")]
    Name {
        /// What was given.
        path: String,
    },
    /// The tokenizer is not the model's.
    #[error("the tokenizer has {found} tokens, expected the model's {expected}")]
    Vocabulary {
        /// Its tokens.
        found: usize,
        /// Rows of the embedding.
        expected: usize,
    },
    /// Files would be too many.
    #[error("{found} files, expected at most 65535 that can be numbered")]
    TooManyFiles {
        /// How many.
        found: usize,
    },
    /// The form has no place for something that the model has.
    #[error("{format} cannot hold {what}")]
    Unwritable {
        /// What the model has.
        what: Unwritable,
        /// The form.
        format: &'static str,
    },
    /// Something of that name is there already.
    #[error("{path} exists already")]
    Exists {
        /// What would be written.
        path: String,
    },
    /// The place to work in is somebody else's.
    #[error("{path} is in the way: it is not left over from a conversion")]
    Occupied {
        /// The folder.
        path: String,
    },
    /// Another conversion works on the same output.
    #[error("another conversion is writing to {path}")]
    Busy {
        /// The folder it works in.
        path: String,
    },
    /// There is not enough room.
    #[error("{path} has room for {free} bytes, expected {needed}")]
    Space {
        /// The folder.
        path: String,
        /// Bytes to be written.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A tensor could not be read.
    #[error("cannot read {tensor}")]
    Read {
        /// Its name.
        tensor: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be made, written, read back or renamed.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A weight is infinite or not a number.
    #[error("{tensor}: the weight of output {output} and input {input} is {found}, expected a finite number")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The weight's row.
        output: usize,
        /// Its place in the row.
        input: usize,
        /// Its value.
        found: f32,
    },
    /// A scale of int8 weights is too large for a block, or no number.
    #[error("{tensor}: a scale of output {output} is {found}, expected at most 65504")]
    Scale {
        /// The tensor.
        tensor: String,
        /// The row.
        output: usize,
        /// The scale.
        found: f32,
    },
    /// A weight does not fit into its type.
    #[error("cannot write {tensor}")]
    Quantise {
        /// The tensor.
        tensor: String,
        /// Why.
        #[source]
        source: QuantError,
    },
    /// A file is not what the input makes.
    #[error("{path} differs at byte {offset} from what the input makes")]
    Differs {
        /// The file.
        path: String,
        /// The first difference found.
        offset: u64,
    },
    /// The operating system gave no threads.
    #[error("cannot start threads")]
    Threads {
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a form of model files has no place for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unwritable {
    /// A soft cap of the router's logits.
    RouterCap,
    /// A soft cap of the logits.
    OutputCap,
    /// Gates divided by their sum.
    RenormalisedGates,
}

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RouterCap => "a soft cap of router logits",
            Self::OutputCap => "a soft cap of logits",
            Self::RenormalisedGates => "gates divided by their sum",
        })
    }
}

impl Classify for ConvertError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Type { .. }
            | Self::Exception { .. }
            | Self::Pattern { .. }
            | Self::Name { .. }
            | Self::Vocabulary { .. }
            | Self::TooManyFiles { .. }
            | Self::Unwritable { .. }
            | Self::Exists { .. }
            | Self::Occupied { .. } => ErrorKind::Argument,
            Self::NotFinite { .. } | Self::Scale { .. } | Self::Quantise { .. } | Self::Differs { .. } => {
                ErrorKind::Format
            }
            Self::Read { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => ErrorKind::Format,
            Self::Read { .. }
            | Self::Write { .. }
            | Self::Space { .. }
            | Self::Busy { .. }
            | Self::Threads { .. } => ErrorKind::Resource,
        }
    }
}
