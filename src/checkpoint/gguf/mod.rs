//! GGUF, the format of llama.cpp: one file, or several, with hyperparameters, vocabulary and weights. Uses the ground only.
//!
//! Versions 2 and 3, little-endian. Weights stay where they are in the files; what is read are headers.

mod error;
mod files;
mod header;
mod hyperparameters;
mod input;
mod keys;
mod metadata;
mod read;
mod roles;
mod types;
mod vocabulary;
mod write;

pub use self::error::GgufError;
pub(crate) use self::files::is_of_a_set;
pub(super) use self::files::{files, files_of_folder};
pub(crate) use self::keys::{keys, split};
pub(super) use self::read::open;
pub(crate) use self::write::{Entry, Value, header};

/// What a file begins with.
const MAGIC: &[u8] = b"GGUF";
