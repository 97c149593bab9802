//! What can go wrong with a session beyond running it. Uses the ground.

use crate::error::{Classify, ErrorKind};

/// An error of generating from, saving or restoring a session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Nothing to sample from.
    #[error("the session has no logits: run it with Want::Last before sampling")]
    NoLogits,
    /// A saved session could not be written or read.
    #[error("saved session: cannot {action}")]
    Io {
        /// `write` or `read`.
        action: &'static str,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are no saved session, or one of another version.
    #[error("saved session: {field} is {found}, expected {expected}")]
    Field {
        /// Which part of the file.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// The session was saved from another model.
    #[error("saved session: of model {found:032x}, this one is {expected:032x}")]
    OtherModel {
        /// Fingerprint in the file.
        found: u128,
        /// Fingerprint of the model.
        expected: u128,
    },
    /// The bytes were changed on the way.
    #[error("saved session: checksum is {found:016x}, expected {expected:016x}")]
    Checksum {
        /// Of what was read.
        found: u64,
        /// In the file.
        expected: u64,
    },
}

impl Classify for SessionError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoLogits => ErrorKind::Argument,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                ErrorKind::Format
            }
            Self::Io { .. } => ErrorKind::Resource,
            _ => ErrorKind::Format,
        }
    }
}
