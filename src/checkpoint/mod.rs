//! Files on disk as named, typed views of weights. Uses the ground only.
//!
//! Whatever the format, opening gives one [`Checkpoint`]: hyperparameters and, for each weight, its type, its shape and where its
//! bytes lie. Opening reads headers, never weights.

mod protobuf;
pub mod sentencepiece;

use crate::config::ModelConfig;
use crate::tensor::{DType, Matrix, Vector};
use crate::vocab::Vocabulary;

/// An opened model file or folder: everything but the bytes of the weights.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Where it was found.
    pub location: String,
    /// The file format.
    pub format: Format,
    /// The hyperparameters, checked against the shapes of the tensors.
    pub config: ModelConfig,
    /// What stands before and after the layers.
    pub head: Head,
    /// The decoder layers, in the order they run.
    pub layers: Vec<Layer>,
    /// The tokenizer's vocabulary, if one was found.
    pub vocabulary: Option<Vocabulary>,
    /// Every stored tensor, in file order.
    pub tensors: Vec<TensorInfo>,
}

/// A format of model files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// xAI's release: a folder `ckpt-0` of pickled arrays.
    Xai,
}

/// The embedding, shared with the output projection, and the last norm.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Head {
    /// Embedding rows and output projection.
    pub embedding: Matrix, // [vocab, width], OutIn
    /// Scale of the norm before the output projection.
    pub norm: Vector, // [width]
}

/// One decoder layer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Layer {
    /// Norm before attention.
    pub attention_norm: Vector, // [width]
    /// Query projection; outputs are ordered head by head.
    pub query: Matrix, // width -> heads * head_dim
    /// Key projection.
    pub key: Matrix, // width -> kv_heads * head_dim
    /// Value projection.
    pub value: Matrix, // width -> kv_heads * head_dim
    /// Attention output projection.
    pub output: Matrix, // heads * head_dim -> width
    /// Norm of the attention's output, inside the residual branch.
    pub post_attention_norm: Vector, // [width]
    /// Norm before router and experts.
    pub moe_norm: Vector, // [width]
    /// Router.
    pub router: Matrix, // width -> experts
    /// Expert projections that GELU is applied to.
    pub gate: Vec<Matrix>, // [experts], width -> ffn_width
    /// Expert projections that multiply the activated gate.
    pub up: Vec<Matrix>, // [experts], width -> ffn_width
    /// Expert projections back to the residual stream.
    pub down: Vec<Matrix>, // [experts], ffn_width -> width
    /// Norm of the experts' weighted sum, inside the residual branch.
    pub post_moe_norm: Vector, // [width]
}

/// A stored tensor as a listing shows it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Its name in the model.
    pub name: String,
    /// The file it lies in.
    pub file: String,
    /// Type of its elements.
    pub dtype: DType,
    /// Its shape, slowest axis first.
    pub shape: Vec<u64>,
    /// Bytes of its elements and scales.
    pub bytes: u64,
    /// Shape of the bf16 scales that belong to it.
    pub scales: Option<Vec<u64>>,
}
