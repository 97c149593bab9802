//! Stored tensors: element types, shapes, and where their bytes lie. Uses `source`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::source::{Formula, Source};

/// How the elements of a stored tensor are written.
///
/// Types whose name begins with Q or IQ are those of GGUF: blocks of elements that share scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE single precision, little-endian.
    F32,
    /// IEEE half precision, little-endian.
    F16,
    /// bfloat16, little-endian: the upper half of an f32.
    BF16,
    /// Eight bits with four of exponent and three of mantissa, without infinities; a matrix of them may carry [`Scales`].
    F8E4M3,
    /// Signed bytes; a matrix of them carries [`Scales`].
    I8,
    /// 4 bits and a scale.
    Q4_0,
    /// 4 bits, a scale and a minimum.
    Q4_1,
    /// 5 bits and a scale.
    Q5_0,
    /// 5 bits, a scale and a minimum.
    Q5_1,
    /// 8 bits and a scale.
    Q8_0,
    /// 2 bits in super-blocks.
    Q2K,
    /// 3 bits in super-blocks.
    Q3K,
    /// 4 bits in super-blocks.
    Q4K,
    /// 5 bits in super-blocks.
    Q5K,
    /// 6 bits in super-blocks.
    Q6K,
    /// 4 bits through a table, in small blocks.
    Iq4Nl,
    /// 4 bits through a table, in super-blocks.
    Iq4Xs,
    /// 3.06 bits through a lattice.
    Iq3Xxs,
    /// 3.44 bits through a lattice.
    Iq3S,
    /// 2.06 bits through a lattice.
    Iq2Xxs,
    /// 2.31 bits through a lattice.
    Iq2Xs,
    /// 2.5 bits through a lattice.
    Iq2S,
    /// 1.56 bits through a lattice.
    Iq1S,
    /// 1.75 bits through a lattice.
    Iq1M,
}

impl DType {
    /// Every type, in the order of their declaration.
    pub const ALL: [Self; 24] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F8E4M3,
        Self::I8,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Iq3Xxs,
        Self::Iq3S,
        Self::Iq2Xxs,
        Self::Iq2Xs,
        Self::Iq2S,
        Self::Iq1S,
        Self::Iq1M,
    ];

    /// The type of this [`name`](Self::name), in letters of either case; `None` if there is none.
    ///
    /// ```
    /// # use grok1::DType;
    /// assert_eq!(DType::named("Q4_K"), Some(DType::Q4K));
    /// assert_eq!(DType::named("q4_k_m"), None);
    /// ```
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name().eq_ignore_ascii_case(name))
    }

    /// Name in lower case, elements of a block and bytes of a block.
    const fn table(self) -> (&'static str, u64, u64) {
        match self {
            Self::F32 => ("f32", 1, 4),
            Self::F16 => ("f16", 1, 2),
            Self::BF16 => ("bf16", 1, 2),
            Self::F8E4M3 => ("f8_e4m3", 1, 1),
            Self::I8 => ("i8", 1, 1),
            Self::Q4_0 => ("q4_0", 32, 18),
            Self::Q4_1 => ("q4_1", 32, 20),
            Self::Q5_0 => ("q5_0", 32, 22),
            Self::Q5_1 => ("q5_1", 32, 24),
            Self::Q8_0 => ("q8_0", 32, 34),
            Self::Q2K => ("q2_k", 256, 84),
            Self::Q3K => ("q3_k", 256, 110),
            Self::Q4K => ("q4_k", 256, 144),
            Self::Q5K => ("q5_k", 256, 176),
            Self::Q6K => ("q6_k", 256, 210),
            Self::Iq4Nl => ("iq4_nl", 32, 18),
            Self::Iq4Xs => ("iq4_xs", 256, 136),
            Self::Iq3Xxs => ("iq3_xxs", 256, 98),
            Self::Iq3S => ("iq3_s", 256, 110),
            Self::Iq2Xxs => ("iq2_xxs", 256, 66),
            Self::Iq2Xs => ("iq2_xs", 256, 74),
            Self::Iq2S => ("iq2_s", 256, 82),
            Self::Iq1S => ("iq1_s", 256, 50),
            Self::Iq1M => ("iq1_m", 256, 56),
        }
    }

    /// The name in lower case, as GGUF's tools write it: `f32`, `bf16`, `q4_k`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.table().0
    }

    /// Elements of a block: 1 for plain types.
    #[must_use]
    pub const fn block(self) -> u64 {
        self.table().1
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_bytes(self) -> u64 {
        self.table().2
    }

    /// Bytes of `elements`; `None` if they do not fill whole blocks, or beyond 64 bits.
    #[must_use]
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        elements
            .is_multiple_of(self.block())
            .then(|| (elements / self.block()).checked_mul(self.block_bytes()))?
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

    /// The bytes where they lie; `None` if the source never shows this range.
    ///
    /// # Errors
    /// A file could not be mapped.
    pub fn slice(&self) -> std::io::Result<Option<&[u8]>> {
        self.source.slice(self.range.clone())
    }

    /// Tells the source that the bytes will be looked at soon.
    pub fn read_ahead(&self) {
        self.source.read_ahead(self.range.clone());
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

    /// How a device can make the bytes itself: those of sources that say so, from their beginning on, in whole words.
    #[must_use]
    pub fn formula(&self) -> Option<Formula<'_>> {
        let is_whole = self.range.start == 0 && self.range.end.is_multiple_of(size_of::<u64>() as u64);
        self.source.formula().filter(|formula| is_whole && !formula.masks.is_empty())
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
    /// What its elements are multiplied by, if they are not the weights themselves.
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

/// What the elements of a [`Matrix`] are multiplied by: element `[i, j]` by scale `[i / inputs, j / outputs]`.
///
/// One scale for all, one for each output, row groups and square tiles are all of this kind; at the matrix's edges a scale may have
/// fewer elements.
#[derive(Clone, Debug)]
pub struct Scales {
    /// How scales are written: plain numbers.
    pub dtype: DType,
    /// Which index runs fastest.
    pub layout: Layout,
    /// Consecutive inputs that share a scale; not 0.
    pub inputs: usize,
    /// Consecutive outputs that share a scale; not 0.
    pub outputs: usize,
    /// The scales.
    pub data: Blob, // [ceil(matrix.inputs / inputs), ceil(matrix.outputs / outputs)] in InOut, its transpose in OutIn
}

impl Scales {
    /// How many scales a matrix of this many inputs and outputs has along each.
    #[must_use]
    pub fn counts(&self, inputs: usize, outputs: usize) -> [usize; 2] {
        [inputs.div_ceil(self.inputs.max(1)), outputs.div_ceil(self.outputs.max(1))]
    }
}
