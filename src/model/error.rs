//! What can go wrong when a model is opened or run. Uses the ground.

use crate::error::{Classify, ErrorKind, Outcome};

/// An error of opening or running a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// An entry without tokens, and none waiting in its session.
    #[error("entry {entry}: no tokens to run")]
    NoTokens {
        /// Index of the entry.
        entry: usize,
    },
    /// A token that the vocabulary does not have.
    #[error("entry {entry}: token {token} is not below the vocabulary's {vocab}")]
    Token {
        /// Index of the entry.
        entry: usize,
        /// The token.
        token: u32,
        /// Number of tokens there are.
        vocab: usize,
    },
    /// A session of another model.
    #[error("entry {entry}: the session belongs to another model")]
    OtherModel {
        /// Index of the entry.
        entry: usize,
    },
    /// More tokens than the context has room for.
    #[error("entry {entry}: {tokens} tokens after {position} do not fit into a context of {context}")]
    ContextFull {
        /// Index of the entry.
        entry: usize,
        /// Tokens that were to be run.
        tokens: usize,
        /// Positions already used.
        position: usize,
        /// Positions there are.
        context: usize,
    },
    /// More KV pages than the model may use.
    #[error(
        "entry {entry}: {needed} KV pages needed, {available} free of {limit}; free or truncate a session, or raise the limit"
    )]
    KvFull {
        /// Index of the entry.
        entry: usize,
        /// Pages that were needed.
        needed: usize,
        /// Pages that were free.
        available: usize,
        /// Pages the model may use.
        limit: usize,
    },
    /// A session was asked for more positions than the model was trained for.
    #[error(
        "a context of {asked} exceeds the trained {trained}; SessionOptions::beyond_trained_length allows it"
    )]
    BeyondTrained {
        /// Positions asked for.
        asked: usize,
        /// Positions the model was trained for.
        trained: usize,
    },
    /// A callback of a run called into the model that was running.
    #[error("the model cannot be run from within its own run")]
    Reentrant,
    /// A text function of a model without a tokenizer.
    #[error("the model has no tokenizer; give one with ModelOptions::tokenizer")]
    NoTokenizer,
    /// The tokenizer and the model do not belong together.
    #[error("the tokenizer has {tokenizer} pieces, the model {model} tokens")]
    Vocabulary {
        /// Pieces of the tokenizer.
        tokenizer: usize,
        /// Tokens of the model.
        model: usize,
    },
    /// Text that names no device.
    #[error("{found:?} is no device: expected cpu, cpu:0, cuda:0, hip:0 (or another number) or auto")]
    Device {
        /// The text.
        found: String,
    },
    /// A NUMA node that there is not, or that this process may use no processor of.
    #[error("no NUMA node {node} with processors that this process may use")]
    Node {
        /// The system's number of it.
        node: usize,
    },
    /// An option that cannot be.
    #[error("option {option} is {found}, expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        found: usize,
        /// What is allowed.
        expected: &'static str,
    },
}

impl ModelError {
    /// The index of the entry that is at fault, if one is.
    #[must_use]
    pub fn entry(&self) -> Option<usize> {
        match *self {
            Self::NoTokens { entry }
            | Self::Token { entry, .. }
            | Self::OtherModel { entry }
            | Self::ContextFull { entry, .. }
            | Self::KvFull { entry, .. } => Some(entry),
            _ => None,
        }
    }
}

impl Classify for ModelError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::ContextFull { .. } => ErrorKind::Outcome(Outcome::ContextFull),
            Self::KvFull { .. } => ErrorKind::Outcome(Outcome::KvFull),
            Self::Vocabulary { .. } => ErrorKind::Format,
            _ => ErrorKind::Argument,
        }
    }
}
