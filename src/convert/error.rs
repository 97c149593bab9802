//! Why a model cannot be converted.

use std::fmt;
use std::io;
use std::path::Path;

use crate::error::{Classify, ErrorKind};
use crate::quant::QuantError;
use crate::tensor::DType;

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
    /// The name is that of one file of a set, which the output would not be.
    #[error("{name} names a file of a set: leave out the numbers")]
    OfASet {
        /// The name.
        name: String,
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
    /// Another conversion to the same output was interrupted; its work would be lost.
    #[error(
        "{path} is left over from another conversion, which was interrupted: repeat that one, or remove it"
    )]
    Leftover {
        /// The folder it worked in.
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
    /// A tensor or a file could not be read.
    #[error("cannot read {name}")]
    Read {
        /// Its name.
        name: String,
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
    /// A weight is too large for its type.
    #[error(
        "{tensor}: the weight of output {output} and input {input} is {found}, expected at most {limit} in {dtype}"
    )]
    TooLarge {
        /// The tensor.
        tensor: String,
        /// The weight's row.
        output: usize,
        /// Its place in the row.
        input: usize,
        /// Its value.
        found: f32,
        /// The type.
        dtype: DType,
        /// The largest magnitude that the type has.
        limit: f32,
    },
    /// The bytes of a tensor are not its elements.
    #[error("cannot convert {tensor}")]
    Elements {
        /// The tensor.
        tensor: String,
        /// Why.
        #[source]
        source: QuantError,
    },
    /// The rows of a tensor are not whole blocks of its type.
    #[error("{tensor}: rows of {row} weights, expected whole blocks of {dtype}")]
    Rows {
        /// The tensor.
        tensor: String,
        /// Weights of a row.
        row: u64,
        /// The type.
        dtype: DType,
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
    /// Attention scores without a soft cap: other programs divide by the one that they read.
    NoAttentionCap,
}

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RouterCap => "a soft cap of router logits",
            Self::OutputCap => "a soft cap of logits",
            Self::RenormalisedGates => "gates divided by their sum",
            Self::NoAttentionCap => "attention without a soft cap",
        })
    }
}

impl ConvertError {
    pub(super) fn exists(path: &Path) -> Self {
        Self::Exists { path: path.display().to_string() }
    }

    /// What `source` says of weights of `tensor` that begin with output `first`, in rows of `inputs`.
    pub(super) fn of_weights(tensor: &str, first: usize, inputs: usize, source: QuantError) -> Self {
        let tensor = tensor.to_owned();
        match source {
            QuantError::TooLarge { dtype, index, found, limit } => {
                let (output, input) = (first + index / inputs, index % inputs);
                Self::TooLarge { tensor, output, input, found, dtype, limit }
            }
            source => Self::Elements { tensor, source },
        }
    }
}

impl Classify for ConvertError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Type { .. }
            | Self::Exception { .. }
            | Self::Pattern { .. }
            | Self::Name { .. }
            | Self::OfASet { .. }
            | Self::Vocabulary { .. }
            | Self::TooManyFiles { .. }
            | Self::Unwritable { .. }
            | Self::Exists { .. }
            | Self::Occupied { .. }
            | Self::Leftover { .. } => ErrorKind::Argument,
            Self::NotFinite { .. }
            | Self::Scale { .. }
            | Self::TooLarge { .. }
            | Self::Elements { .. }
            | Self::Rows { .. }
            | Self::Differs { .. } => ErrorKind::Format,
            Self::Read { source, .. } => match source.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => ErrorKind::Format,
                _ => ErrorKind::Resource,
            },
            Self::Write { .. } | Self::Space { .. } | Self::Busy { .. } | Self::Threads { .. } => {
                ErrorKind::Resource
            }
        }
    }
}
