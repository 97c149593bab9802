//! What can go wrong while weights become resident or a batch gets its room. Uses the ground.

use crate::error::{Classify, ErrorKind};
use crate::tensor::{DType, Layout};

/// An error of a backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The backend has no code for such weights.
    #[error("{tensor}: {dtype} weights {} are not supported by this backend", layout_name(*.layout))]
    Unsupported {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// Its layout.
        layout: Layout,
    },
    /// Stored bytes that do not fit the shape.
    #[error("{tensor}: {found} bytes, expected {expected}")]
    Size {
        /// The tensor.
        tensor: String,
        /// Bytes stored.
        found: u64,
        /// Bytes its shape needs.
        expected: u64,
    },
    /// A matrix that is not the one of the model's sizes.
    #[error("{tensor}: {} inputs and {} outputs, expected {} and {}", found[0], found[1], expected[0], expected[1])]
    Shape {
        /// The tensor.
        tensor: String,
        /// Inputs and outputs.
        found: [usize; 2],
        /// Those of the backend's configuration.
        expected: [usize; 2],
    },
    /// Rows of a matrix that are not whole blocks.
    #[error("{tensor}: rows of {row} elements are not whole blocks of {dtype}")]
    Blocks {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// Elements of a row.
        row: usize,
    },
    /// A NaN or an infinity among scales or norms.
    #[error("{tensor}: {what} {index} is {found}, expected a finite number")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// `scale` or `element`.
        what: &'static str,
        /// Which one.
        index: usize,
        /// Its value.
        found: f32,
    },
    /// The bytes of a weight could not be read.
    #[error("{tensor}: cannot read weights")]
    Read {
        /// The tensor.
        tensor: String,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Memory ran out.
    #[error("out of memory: {bytes} bytes for {what}")]
    Memory {
        /// What they were for.
        what: &'static str,
        /// How many were asked for.
        bytes: usize,
    },
    /// A page that was never allocated.
    #[error("KV page {page} does not exist")]
    Page {
        /// Its number.
        page: u32,
    },
    /// Rows, sequences and pages of a batch do not fit together.
    #[error("rows, sequences and pages of a batch do not fit together")]
    Batch,
    /// A pool returned before all parts of a region were done.
    #[error("the thread pool did {done} parts of {parts}")]
    Pool {
        /// Parts that were done.
        done: usize,
        /// Parts there were.
        parts: usize,
    },
    /// The operating system gave no threads.
    #[error("cannot start threads")]
    Threads(#[source] std::io::Error),
}

fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::InOut => "stored [inputs, outputs]",
        Layout::OutIn => "stored [outputs, inputs]",
    }
}

impl Classify for BackendError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unsupported { .. }
            | Self::Size { .. }
            | Self::Shape { .. }
            | Self::Blocks { .. }
            | Self::NotFinite { .. } => ErrorKind::Format,
            Self::Read { .. } | Self::Memory { .. } | Self::Threads(_) => ErrorKind::Resource,
            Self::Page { .. } | Self::Batch | Self::Pool { .. } => ErrorKind::Bug,
        }
    }
}
