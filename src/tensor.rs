//! Stored tensors: element types, shapes, and where their bytes lie. Uses `source`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::source::Source;

/// How the elements of a stored tensor are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE single precision, little-endian.
    F32,
    /// bfloat16, little-endian: the upper half of an f32.
    BF16,
    /// Signed bytes; a matrix of them carries bf16 [`Scales`].
    I8,
}

impl DType {
    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::BF16 => 2,
            Self::I8 => 1,
        }
    }

    /// The name in lower case: `f32`, `bf16`, `i8`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::I8 => "i8",
        }
    }

    /// Bytes of `elements`, or `None` beyond 64 bits.
    #[must_use]
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        elements.checked_mul(self.size())
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A range of a [`Source`] that is known to lie inside it. Cloning adds one reference.
#[derive(Clone)]
pub struct Blob {
    source: Arc<dyn Source>,
    range: Range<u64>,
}

impl Blob {
    /// Bytes `range` of `source`; `None` if they do not all exist.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, range: Range<u64>) -> Option<Self> {
        (range.start <= range.end && range.end <= source.len()).then_some(Self { source, range })
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The bytes where they lie; `None` if the source never shows them.
    ///
    /// # Errors
    /// A file could not be mapped.
    pub fn slice(&self) -> std::io::Result<Option<&[u8]>> {
        self.source.slice(self.range.clone())
    }

    /// Copies `out.len()` bytes from `offset` within the blob.
    ///
    /// # Errors
    /// They do not all exist, or the source could not be read.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let start = self.range.start.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(out.len() as u64));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.range.end => self.source.read_at(start, out),
            _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// A part of the blob; `None` if it does not lie inside.
    #[must_use]
    pub fn part(&self, range: Range<u64>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (start <= end && end <= self.range.end)
            .then(|| Self { source: Arc::clone(&self.source), range: start..end })
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({:?} of {})", self.range, self.source.name())
    }
}

/// A stored vector of f32: a norm's scale.
#[derive(Clone, Debug)]
pub struct Vector {
    /// Name in the file.
    pub name: String,
    /// How elements are written.
    pub dtype: DType,
    /// Number of elements.
    pub len: usize,
    /// The elements.
    pub data: Blob, // [len]
}

/// A stored weight matrix of `inputs` x `outputs`.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Name in the file.
    pub name: String,
    /// How elements are written.
    pub dtype: DType,
    /// Which index runs fastest.
    pub layout: Layout,
    /// Length of the contracted axis.
    pub inputs: usize,
    /// Length of the result.
    pub outputs: usize,
    /// The elements.
    pub data: Blob, // [inputs, outputs] or [outputs, inputs]
    /// Scales of an [`DType::I8`] matrix.
    pub scales: Option<Scales>,
}

impl Matrix {
    /// Bytes of elements and scales.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.data.len() + self.scales.as_ref().map_or(0, |scales| scales.data.len())
    }
}

/// Which index of a [`Matrix`] runs fastest in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// `[inputs, outputs]`: the outputs of one input lie together (xAI's checkpoint).
    InOut,
    /// `[outputs, inputs]`: the inputs of one output lie together (GGUF, PyTorch, embedding tables).
    OutIn,
}

/// Scales of an int8 matrix: input row `i` of output `j` is multiplied by `scales[i / (inputs / groups), j]`.
#[derive(Clone, Debug)]
pub struct Scales {
    /// Number of row groups; divides `inputs`.
    pub groups: usize,
    /// bf16, little-endian.
    pub data: Blob, // [groups, outputs]
}
