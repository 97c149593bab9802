//! Which tensor is which weight. Uses `tensors`.
//!
//! Names are those of three ports: hpcai-tech's (whose norms end in `.scale`), keyfan's, which keeps the release's, and SGLang's. A
//! tensor that is not taken would make another model, so none may be left.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::BTreeMap;

use super::SafetensorsError;
use super::tensors::{Stored, Weight};
use crate::checkpoint::CheckpointError;
use crate::config::ModelConfig;
use crate::tensor::{DType, Layout, Matrix, Scales, Vector};
use crate::weights::{Head, Layer};

/// What one weight is called, without what its name ends with.
type Names = &'static [&'static str];

const EMBEDDING: Names = &["model.embed_tokens", "transformer.in_out_embed"];
const LAST_NORM: Names = &["model.norm", "transformer.rms_norm"];
const OUTPUT: Names = &["lm_head"];

/// What stands before the number of a layer.
const LAYER: Names = &["model.layers", "transformer.decoder_layer"];

// Behind the number of a layer.
const ATTENTION_NORM: Names = &["pre_attn_norm", "rms_norm"];
const QUERY: Names = &["attn.q_proj", "self_attn.q_proj", "multi_head_attention.query"];
const KEY: Names = &["attn.k_proj", "self_attn.k_proj", "multi_head_attention.key"];
const VALUE: Names = &["attn.v_proj", "self_attn.v_proj", "multi_head_attention.value"];
const ATTENTION_OUTPUT: Names = &["attn.o_proj", "self_attn.o_proj", "multi_head_attention.linear"];
const POST_ATTENTION_NORM: Names = &["post_attn_norm", "rms_norm_1"];
const MOE_NORM: Names = &["pre_moe_norm", "rms_norm_2"];
const ROUTER: Names = &["moe_block.gate", "block_sparse_moe.gate", "router"];
const POST_MOE_NORM: Names = &["post_moe_norm", "rms_norm_3"];

/// Behind the number of a layer, and before that of an expert.
const EXPERT: Names = &["moe_block.experts", "block_sparse_moe.experts", "moe"];

// Behind the number of an expert.
const GATE: Names = &["linear", "w1"];
const UP: Names = &["linear_v", "w3"];
const DOWN: Names = &["linear_1", "w2"];

/// What the name of a weight ends with.
const ENDINGS: Names = &[".weight", ".scale", ""];

/// The weights that have not been taken yet, by name.
pub(super) struct Roles<'a> {
    config: &'a ModelConfig,
    /// What the hyperparameters are from.
    by: &'a str,
    /// Inputs and outputs of the tiles that fp8 weights have scales for.
    tile: [usize; 2],
    /// What was opened.
    location: &'a str,
    weights: BTreeMap<String, Weight>,
}

impl<'a> Roles<'a> {
    pub(super) fn new(
        config: &'a ModelConfig,
        by: &'a str,
        tile: [usize; 2],
        location: &'a str,
        weights: BTreeMap<String, Weight>,
    ) -> Self {
        Self { config, by, tile, location, weights }
    }

    /// The weights by role. An output projection that is `tied` may be stored, as a copy that is not looked at.
    pub(super) fn assign(mut self, tied: bool) -> Result<(Head, Vec<Layer>), CheckpointError> {
        let ModelConfig { width, vocab, layers, .. } = *self.config;
        let owned = |names: Names| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let head = Head {
            embedding: self.matrix(&owned(EMBEDDING), width, vocab)?,
            norm: self.vector(&owned(LAST_NORM))?,
            output: match tied {
                true => {
                    self.weights.remove(&format!("{}.weight", OUTPUT.concat()));
                    None
                }
                false => Some(self.matrix(&owned(OUTPUT), width, vocab)?),
            },
        };
        let layers = (0..layers).map(|number| self.layer(number)).collect::<Result<_, _>>()?;
        match self.weights.pop_first() {
            None => Ok((head, layers)),
            Some((name, weight)) => Err(weight.stored.wrong(unexpected(name))),
        }
    }

    fn layer(&mut self, number: usize) -> Result<Layer, CheckpointError> {
        let ModelConfig { width, experts, ffn_width, .. } = *self.config;
        let (query, kv) = (self.config.query_width(), self.config.kv_width());
        let names = |parts: Names| join(LAYER, number, parts);
        Ok(Layer {
            attention_norm: self.vector(&names(ATTENTION_NORM))?,
            query: self.matrix(&names(QUERY), width, query)?,
            key: self.matrix(&names(KEY), width, kv)?,
            value: self.matrix(&names(VALUE), width, kv)?,
            output: self.matrix(&names(ATTENTION_OUTPUT), query, width)?,
            post_attention_norm: self.vector(&names(POST_ATTENTION_NORM))?,
            moe_norm: self.vector(&names(MOE_NORM))?,
            router: self.matrix(&names(ROUTER), width, experts)?,
            gate: self.experts(number, GATE, width, ffn_width)?,
            up: self.experts(number, UP, width, ffn_width)?,
            down: self.experts(number, DOWN, ffn_width, width)?,
            post_moe_norm: self.vector(&names(POST_MOE_NORM))?,
        })
    }

    fn experts(
        &mut self,
        layer: usize,
        parts: Names,
        inputs: usize,
        outputs: usize,
    ) -> Result<Vec<Matrix>, CheckpointError> {
        let before = join(LAYER, layer, EXPERT);
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        (0..self.config.experts)
            .map(|expert| self.matrix(&join(&before, expert, parts), inputs, outputs))
            .collect()
    }

    fn matrix(&mut self, names: &[String], inputs: usize, outputs: usize) -> Result<Matrix, CheckpointError> {
        let (name, Weight { stored, scales }) = self.take(names, &[outputs, inputs])?;
        let scales = scales.map(|scales| self.scales(&scales, inputs, outputs)).transpose()?;
        let (dtype, data) = (stored.tensor.dtype, stored.blob()?);
        Ok(Matrix { name, dtype, layout: Layout::OutIn, inputs, outputs, data, scales })
    }

    fn vector(&mut self, names: &[String]) -> Result<Vector, CheckpointError> {
        let len = self.config.width;
        let (name, Weight { stored, scales }) = self.take(names, &[len])?;
        if scales.is_some() {
            let expected = "a norm that is not fp8";
            return Err(stored.wrong(SafetensorsError::tensor(&name, stored.tensor.dtype, expected)));
        }
        Ok(Vector { name, dtype: stored.tensor.dtype, len, data: stored.blob()? })
    }

    /// The scales of a matrix of this shape: one, or one for each output or each tile.
    fn scales(&self, stored: &Stored, inputs: usize, outputs: usize) -> Result<Scales, CheckpointError> {
        let (shape, dtype) = (&*stored.tensor.shape, stored.tensor.dtype);
        let [tile_inputs, tile_outputs] = self.tile;
        let tiles = [outputs.div_ceil(tile_outputs), inputs.div_ceil(tile_inputs)].map(|count| count as u64);
        let shared = match shape {
            [] | [1] | [1, 1] => Some([inputs, outputs]),
            [rows] | [rows, 1] if *rows == outputs as u64 => Some([inputs, 1]),
            _ if shape == tiles => Some([tile_inputs, tile_outputs]),
            _ => None,
        };
        match shared {
            Some([inputs, outputs]) if dtype != DType::F8E4M3 => {
                Ok(Scales { dtype, layout: Layout::OutIn, inputs, outputs, data: stored.blob()? })
            }
            _ => {
                let found = format!("{dtype} {shape:?}");
                let expected = format!("scales of shape [1], [{outputs}, 1] or {tiles:?} that are not fp8");
                Err(stored.wrong(SafetensorsError::tensor(&stored.tensor.name, found, expected)))
            }
        }
    }

    /// The first weight with one of these names, which must have this shape, slowest axis first.
    fn take(&mut self, names: &[String], shape: &[usize]) -> Result<(String, Weight), CheckpointError> {
        let mut endings =
            names.iter().flat_map(|name| ENDINGS.iter().map(move |ending| format!("{name}{ending}")));
        let Some((name, weight)) = endings.find_map(|name| self.weights.remove_entry(&name)) else {
            let tensor = names.first().map(|name| format!("{name}.weight")).unwrap_or_default();
            let source = SafetensorsError::NoTensor { tensor };
            return Err(CheckpointError::Safetensors { file: self.location.to_owned(), source });
        };
        let found = &weight.stored.tensor.shape;
        if found.iter().copied().eq(shape.iter().map(|&size| size as u64)) {
            return Ok((name, weight));
        }
        let expected = format!("{shape:?} according to {}", self.by);
        Err(weight.stored.wrong(SafetensorsError::tensor(&name, format!("shape {found:?}"), expected)))
    }
}

/// Every name of `before`, a number, and every one of `after`, with dots between.
fn join(before: &[&str], number: usize, after: Names) -> Vec<String> {
    let names =
        after.iter().flat_map(|after| before.iter().map(move |before| format!("{before}.{number}.{after}")));
    names.collect()
}

/// Why a tensor that is left over makes another model.
fn unexpected(tensor: String) -> SafetensorsError {
    if tensor.contains(".mlp.") {
        let feature = format!("a dense feed-forward beside the experts ({tensor})");
        return SafetensorsError::Unsupported { feature };
    }
    SafetensorsError::UnknownTensor { tensor }
}
