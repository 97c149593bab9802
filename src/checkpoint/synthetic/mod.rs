//! Models of random weights, of any dimensions and type, made while they are read. Uses `quant`.
//!
//! For benchmarks and tests without 318 GB of files: nothing is stored anywhere but in the memory of the backend that loads it.
//! [`spec`](self::spec) is the text form, `roles` the weights of a model, `pattern` what their bytes look like.

mod pattern;
mod roles;
mod source;
mod spec;

use super::Checkpoint;
use crate::config::{ConfigError, ModelConfig};
use crate::error::{Classify, ErrorKind};
use crate::tensor::DType;

/// Which random model: Grok-1 in the types of its release, unless something else is asked for.
///
/// Also read from text, in any order: `layers=2,type=q4_k,seed=7`. The keys are `layers`, `width`, `heads`, `kv_heads`, `head_dim`,
/// `experts`, `selected`, `ffn`, `vocab` and `context` for the sizes, `type` for the matrices of the layers, `head_type` for the
/// embedding, and `seed`. `Display` writes all of them.
///
/// ```
/// use grok1::{DType, checkpoint::Synthetic};
///
/// let small: Synthetic = "layers=2,type=q4_k,seed=7".parse()?;
/// assert_eq!(small, Synthetic::new().layers(2).dtype(DType::Q4K).seed(7));
/// # Ok::<(), grok1::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Synthetic {
    config: ModelConfig,
    dtype: DType,
    head_dtype: Option<DType>,
    seed: u64,
}

impl Synthetic {
    /// Grok-1 as published: 64 layers of int8 with row-group scales, an f32 embedding; seed 0.
    #[must_use]
    pub fn new() -> Self {
        Self { config: ModelConfig::grok1(), dtype: DType::I8, head_dtype: None, seed: 0 }
    }

    /// All hyperparameters; those of [`ModelConfig::grok1`] by default.
    #[must_use]
    pub fn config(mut self, config: ModelConfig) -> Self {
        self.config = config;
        self
    }

    /// The number of layers, 64 by default.
    #[must_use]
    pub fn layers(mut self, layers: usize) -> Self {
        self.config.layers = layers;
        self
    }

    /// The type of the matrices of attention and experts, [`DType::I8`] by default. Norms and router are f32.
    ///
    /// [`DType::I8`] lies as in xAI's release: `[inputs, outputs]` with bf16 scales, of 8 row groups in the projections back to the
    /// residual stream and of 1 in the others. The other types lie `[outputs, inputs]`.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// The type of the embedding, which is the output projection too. By default that of the other matrices, but f32 beside
    /// [`DType::I8`], as in xAI's release.
    #[must_use]
    pub fn head_dtype(mut self, dtype: DType) -> Self {
        self.head_dtype = Some(dtype);
        self
    }

    /// Other seeds give other weights.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The type of the embedding.
    fn embedding_dtype(&self) -> DType {
        let default = if self.dtype == DType::I8 { DType::F32 } else { self.dtype };
        self.head_dtype.unwrap_or(default)
    }
}

impl Default for Synthetic {
    fn default() -> Self {
        Self::new()
    }
}

/// A model of random weights, without a vocabulary. Takes milliseconds at any size: weights are made when they are read.
///
/// The same options give the same bytes on every machine. Weights have about the size that keeps activations as they are, so that
/// logits are finite and all experts are used; text of such a model is noise.
///
/// # Errors
/// [`SyntheticError`]: sizes out of range, rows that are not whole blocks of their type.
///
/// # Examples
/// ```
/// use grok1::{DType, checkpoint};
///
/// let grok1 = checkpoint::synthetic(&checkpoint::Synthetic::new())?;
/// assert_eq!(grok1.bytes() / 1_000_000, 318_239);
/// # Ok::<(), grok1::Error>(())
/// ```
pub fn synthetic(options: &Synthetic) -> Result<Checkpoint, SyntheticError> {
    roles::checkpoint(options)
}

/// Why there is no such random model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyntheticError {
    /// A part of the text that is not `key=value`.
    #[error("{found:?} is not key=value")]
    Entry {
        /// The part.
        found: String,
    },
    /// A key that there is not.
    #[error("there is no {key:?}; keys are {expected}")]
    Key {
        /// The key.
        key: String,
        /// Those there are.
        expected: String,
    },
    /// A key given twice.
    #[error("{key} is given twice")]
    Twice {
        /// The key.
        key: String,
    },
    /// A value that cannot be that of its key.
    #[error("{key} is {found:?}, expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// Hyperparameters that no model can have.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Rows of a matrix that are not whole blocks or row groups.
    #[error("{tensor}: {row} inputs are not whole {what} of {size}, which {dtype} needs")]
    Rows {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
        /// Inputs of the matrix.
        row: usize,
        /// `blocks` or `row groups`.
        what: &'static str,
        /// Elements of a block, or number of row groups.
        size: usize,
    },
    /// A type that no backend takes in the embedding's place.
    #[error("the embedding cannot be {dtype}")]
    Embedding {
        /// The type.
        dtype: DType,
    },
    /// More bytes than can be counted with care.
    #[error("the model would have more than {max} bytes")]
    TooLarge {
        /// The most that there may be.
        max: u64,
    },
}

impl Classify for SyntheticError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Argument
    }
}
