//! safetensors, the format of Hugging Face: one file or several, with `config.json` beside them. Uses the ground only.
//!
//! Three ports of Grok-1 have published weights, each under names of its own; all of them are read. What they agree on: matrices lie
//! `[outputs, inputs]`, experts are tensors of their own, the output projection is the embedding. A `lm_head.weight` is therefore a
//! copy that is not used, unless `tie_word_embeddings` is false. Weights stay where they are in the files; what is read are headers,
//! the index and the configuration.
//!
//! Fp8 weights ([`DType::F8E4M3`](crate::DType::F8E4M3)) have their scale in `….weight_scale` or `….weight_scale_inv`, by which they
//! are multiplied: one for the tensor, one for each output, or one for each tile. Scales of activations and of the KV cache
//! (`input_scale`, `k_scale`, …) are not used: here both are exact.

mod config;
mod error;
mod files;
mod header;
mod members;
mod read;
mod roles;
mod tensors;

pub use self::error::SafetensorsError;
pub(super) use self::files::Files;
pub(super) use self::read::open;

/// What the names of files end with.
const SUFFIX: &str = ".safetensors";
/// What the name of the file ends with that says which tensor is in which file.
const INDEX_SUFFIX: &str = ".safetensors.index.json";
