//! What can be wrong with logits, settings or a saved sampler.

use crate::error::{Classify, ErrorKind};

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// No logits at all, or more than any vocabulary has.
    #[error("{found} logits, expected 1 to {max}")]
    Length {
        /// Logits given.
        found: usize,
        /// Most that are accepted.
        max: usize,
    },
    /// The model computed NaN or +infinity. (-infinity is fine: it excludes the token.)
    #[error("the model's logit of token {token} is {value}")]
    Logit {
        /// The first such token.
        token: u32,
        /// Its logit.
        value: f32,
    },
    /// The model's logits were fine, but bias, penalties or the host's filter made one NaN or +infinity.
    #[error("the logit of token {token} is {value} after bias, penalties and filter")]
    Adjusted {
        /// The first such token.
        token: u32,
        /// Its logit.
        value: f32,
    },
    /// Model, mask, bias and filter together leave no token.
    #[error("every token is excluded")]
    Excluded,
    /// A token that is not in the vocabulary.
    #[error("{place} has token {token}, but the vocabulary ends at {vocab}")]
    Token {
        /// The setting it stands in, or the history.
        place: &'static str,
        /// The token.
        token: u32,
        /// Number of logits.
        vocab: usize,
    },
    /// A setting outside its range.
    #[error("{setting} is {found}, expected {expected}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: f32,
        /// What is allowed.
        expected: &'static str,
    },
    /// The bytes of a saved sampler cannot be read.
    #[error("saved sampler is {problem}")]
    State {
        /// What is wrong with them.
        problem: &'static str,
    },
}

impl Classify for SampleError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Logit { .. } | Self::State { .. } => ErrorKind::Format,
            Self::Length { .. }
            | Self::Adjusted { .. }
            | Self::Excluded
            | Self::Token { .. }
            | Self::Setting { .. } => ErrorKind::Argument,
        }
    }
}
