//! The one error type of the public API.
//!
//! Each room has its own `thiserror` enum that says precisely what happened; [`Error`] carries one of them together with the
//! [`ErrorKind`] a caller acts on. Uses nothing.

use std::error::Error as StdError;
use std::fmt;

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, precise enough to act on ([`Error::kind`]) and to show to a person (`Display` and the chain of
/// [`source`](StdError::source)s, see [`Error::chain`]).
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    cause: Box<dyn StdError + Send + Sync + 'static>,
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller passed something wrong; nothing was changed.
    Argument,
    /// A file is missing, truncated, hostile or of another model.
    Format,
    /// Memory, a device or the operating system refused.
    Resource,
    /// Normal work ended in a way the caller handles.
    Outcome(Outcome),
    /// A defect of this library.
    Bug,
}

/// Ends of normal work that are reported as errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// [`Cancel`](crate::Cancel) was set, or a callback asked to stop.
    Cancelled,
    /// The tokens do not fit into the session's context.
    ContextFull,
    /// The model's KV pages are all in use; free or truncate a session and try again.
    KvFull,
}

/// An error of a room that knows its [`ErrorKind`].
pub trait Classify: StdError + Send + Sync + 'static {
    /// The kind a caller acts on.
    fn kind(&self) -> ErrorKind;
}

impl Error {
    /// An error of `kind` caused by `cause`.
    ///
    /// For implementers of [`Backend`](crate::backend::Backend) and of
    /// [`Source`](crate::Source); errors of this crate are made by the crate.
    pub fn new(kind: ErrorKind, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { inner: Box::new(Inner { kind, cause: cause.into() }) }
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Whether this is [`Outcome::Cancelled`].
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.kind == ErrorKind::Outcome(Outcome::Cancelled)
    }

    /// The error and all its causes in one line, `": "` between them.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            line.push_str(": ");
            line.push_str(&cause.to_string());
            next = cause.source();
        }
        line
    }

    /// The precise error of type `E`, if that is the cause.
    #[must_use]
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.inner.cause.downcast_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.cause.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {:?})", self.inner.kind, self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.cause.source()
    }
}

impl<E: Classify> From<E> for Error {
    fn from(cause: E) -> Self {
        Self::new(cause.kind(), cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    impl Classify for Outer {
        fn kind(&self) -> ErrorKind {
            ErrorKind::Resource
        }
    }

    #[test]
    fn an_error_tells_its_kind_its_cause_and_the_whole_chain() {
        let error = Error::from(Outer(std::io::Error::other("inner")));
        assert_eq!(error.kind(), ErrorKind::Resource);
        assert_eq!(error.to_string(), "outer");
        assert_eq!(error.chain(), "outer: inner");
        assert!(error.downcast_ref::<Outer>().is_some());
    }

    #[test]
    fn an_error_is_one_word_and_crosses_threads() {
        fn portable<T: Send + Sync + 'static>() {}
        portable::<Error>();
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
