//! Which tensor is which weight. Uses `header`.
//!
//! Names are llama.cpp's, those of its first Grok-1 conversions (March 2024: experts in tensors of their own) and of later ones (the
//! last norm under another name) among them. A tensor that is not taken would make another model, so none may be left.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::GgufError;
use super::header::Tensor;
use crate::checkpoint::CheckpointError;
use crate::config::ModelConfig;
use crate::source::Source;
use crate::tensor::{Blob, Layout, Matrix, Vector};
use crate::weights::{Head, Layer};

/// A row for each token.
pub(super) const EMBEDDING: &str = "token_embd.weight";

/// The output projection; without it, the embedding is that too.
const OUTPUT: &str = "output.weight";

/// A tensor and the file it lies in.
pub(super) struct Stored<'a> {
    pub(super) source: &'a Arc<dyn Source>,
    pub(super) tensor: &'a Tensor,
}

/// The tensors that have not been taken yet, by name.
pub(super) struct Roles<'a> {
    config: &'a ModelConfig,
    /// The file that the hyperparameters are from.
    first: &'a Arc<dyn Source>,
    tensors: BTreeMap<&'a str, Stored<'a>>,
}

impl<'a> Roles<'a> {
    /// The roles of `tensors` in a model with these hyperparameters from the file `first`.
    pub(super) fn new(
        config: &'a ModelConfig,
        first: &'a Arc<dyn Source>,
        tensors: BTreeMap<&'a str, Stored<'a>>,
    ) -> Self {
        Self { config, first, tensors }
    }

    /// The weights by role.
    pub(super) fn weights(mut self) -> Result<(Head, Vec<Layer>), CheckpointError> {
        let ModelConfig { width, vocab, layers, .. } = *self.config;
        let head = Head {
            embedding: self.matrix(EMBEDDING, width, vocab)?,
            norm: self.vector("output_norm.weight", width)?,
            output: match self.tensors.contains_key(OUTPUT) {
                true => Some(self.matrix(OUTPUT, width, vocab)?),
                false => None,
            },
        };
        let layers = (0..layers).map(|number| self.layer(number)).collect::<Result<_, _>>()?;
        match self.tensors.pop_first() {
            None => Ok((head, layers)),
            Some((name, stored)) => Err(stored.wrong(unexpected(name))),
        }
    }

    fn layer(&mut self, number: usize) -> Result<Layer, CheckpointError> {
        let ModelConfig { width, ffn_width, experts, .. } = *self.config;
        let query_width = self.config.query_width();
        let name = |role: &str| format!("blk.{number}.{role}.weight");
        let [query, key, value] = self.projections(number)?;
        let last_norm = match name("layer_output_norm") {
            usual if self.tensors.contains_key(&*usual) => usual,
            usual => {
                let other = name("post_ffw_norm");
                if self.tensors.contains_key(&*other) { other } else { usual }
            }
        };
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm"), width)?,
            query,
            key,
            value,
            output: self.matrix(&name("attn_output"), query_width, width)?,
            post_attention_norm: self.vector(&name("attn_output_norm"), width)?,
            moe_norm: self.vector(&name("ffn_norm"), width)?,
            router: self.matrix(&name("ffn_gate_inp"), width, experts)?,
            gate: self.experts(number, "ffn_gate", width, ffn_width)?,
            up: self.experts(number, "ffn_up", width, ffn_width)?,
            down: self.experts(number, "ffn_down", ffn_width, width)?,
            post_moe_norm: self.vector(&last_norm, width)?,
        })
    }

    /// Query, key and value, each a tensor or all three one after the other in one.
    fn projections(&mut self, layer: usize) -> Result<[Matrix; 3], CheckpointError> {
        let (width, query, kv) = (self.config.width, self.config.query_width(), self.config.kv_width());
        let name = |role: &str| format!("blk.{layer}.{role}.weight");
        let fused = name("attn_qkv");
        if !self.tensors.contains_key(&*fused) {
            return Ok([
                self.matrix(&name("attn_q"), width, query)?,
                self.matrix(&name("attn_k"), width, kv)?,
                self.matrix(&name("attn_v"), width, kv)?,
            ]);
        }
        let values = query.saturating_add(kv);
        let stored = self.take(&fused, &[width, values.saturating_add(kv)])?;
        let part = |role, start, outputs| stored.rows(format!("{fused}[{role}]"), start, width, outputs);
        Ok([part("query", 0, query)?, part("key", query, kv)?, part("value", values, kv)?])
    }

    /// The matrices of all experts: one after the other in one tensor, or each in its own.
    fn experts(
        &mut self,
        layer: usize,
        role: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Vec<Matrix>, CheckpointError> {
        let experts = self.config.experts;
        let alone = |expert: usize| format!("blk.{layer}.{role}.{expert}.weight");
        if self.tensors.contains_key(&*alone(0)) {
            return (0..experts).map(|expert| self.matrix(&alone(expert), inputs, outputs)).collect();
        }
        let merged = format!("blk.{layer}.{role}_exps.weight");
        let stored = self.take(&merged, &[inputs, outputs, experts])?;
        let rows = |expert: usize| expert.saturating_mul(outputs);
        let matrix = |expert| stored.rows(format!("{merged}[{expert}]"), rows(expert), inputs, outputs);
        (0..experts).map(matrix).collect()
    }

    fn matrix(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Matrix, CheckpointError> {
        self.take(name, &[inputs, outputs])?.rows(name.to_owned(), 0, inputs, outputs)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vector, CheckpointError> {
        let stored = self.take(name, &[len])?;
        let data = stored.blob(stored.tensor.data.clone())?;
        Ok(Vector { name: name.to_owned(), dtype: stored.tensor.dtype, len, data })
    }

    /// The tensor `name`, which must have these dimensions, fastest first.
    fn take(&mut self, name: &str, dimensions: &[usize]) -> Result<Stored<'a>, CheckpointError> {
        let Some(stored) = self.tensors.remove(name) else {
            let source = GgufError::NoTensor { tensor: name.to_owned() };
            return Err(CheckpointError::Gguf { file: self.first.name(), source });
        };
        // Dimensions of 1 may stand at the end or not.
        let ones = std::iter::repeat(1);
        let found = stored.tensor.dimensions.iter().copied().chain(ones.clone());
        let expected = dimensions.iter().map(|&size| size as u64).chain(ones);
        let most = dimensions.len().max(stored.tensor.dimensions.len());
        if found.zip(expected).take(most).all(|(found, expected)| found == expected) {
            return Ok(stored);
        }
        let found = format!("dimensions {:?}", stored.tensor.dimensions);
        Err(stored.wrong(GgufError::tensor(name, found, format!("{dimensions:?} by the file's keys"))))
    }
}

impl Stored<'_> {
    /// Rows from `start` on as a matrix, each of `inputs` elements.
    fn rows(
        &self,
        name: String,
        start: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<Matrix, CheckpointError> {
        let Tensor { dtype, data, .. } = self.tensor;
        let end_of = |rows: usize| {
            let bytes = dtype.bytes_of(inputs as u64)?.checked_mul(rows as u64)?;
            data.start.checked_add(bytes)
        };
        let range = end_of(start).zip(start.checked_add(outputs).and_then(end_of));
        let (start, end) = range.ok_or_else(|| self.shrunk())?;
        let data = self.blob(start..end)?;
        Ok(Matrix { name, dtype: *dtype, layout: Layout::OutIn, inputs, outputs, data, scales: None })
    }

    fn blob(&self, range: Range<u64>) -> Result<Blob, CheckpointError> {
        Blob::new(Arc::clone(self.source), range).ok_or_else(|| self.shrunk())
    }

    /// Ranges are checked when the headers are read; only a source that has shrunk since gets here.
    fn shrunk(&self) -> CheckpointError {
        CheckpointError::Read { path: self.source.name(), source: io::ErrorKind::UnexpectedEof.into() }
    }

    fn wrong(&self, source: GgufError) -> CheckpointError {
        CheckpointError::Gguf { file: self.source.name(), source }
    }
}

/// Why a tensor that is left over makes another model.
fn unexpected(name: &str) -> GgufError {
    let role = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map_or(name, |(_, role)| role);
    let feature = match role {
        "ffn_gate.weight" | "ffn_up.weight" | "ffn_down.weight" => "a dense feed-forward beside the experts",
        _ => return GgufError::UnknownTensor { tensor: name.to_owned() },
    };
    GgufError::Unsupported { feature: format!("{feature} ({name})") }
}
