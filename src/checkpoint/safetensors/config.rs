//! `config.json` as the ports of Grok-1 write it. Uses `config` of the ground.
//!
//! Names differ from port to port; of several names of one entry the first counts. What is missing is as in Grok-1, whose scales
//! some files leave to the program, and so is what the program decides: GELU is the tanh form, whichever of its names stands there.
//!
//! A cap on the router's logits is applied if the file asks for it (`router_logit_softcapping`), as the programs do that read it; xAI's
//! has none, nor do the files of the first two ports. Gates are divided by their sum only if the file says so.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::{ConfigError, ModelConfig};

/// What a `config.json` says.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) model: ModelConfig,
    /// Whether the output projection is the embedding.
    pub(super) tied: bool,
    /// Inputs and outputs of the tiles that fp8 weights have scales for, if they have them for tiles.
    pub(super) tile: [usize; 2],
}

#[derive(Deserialize)]
struct Json {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    num_hidden_layers: usize,
    hidden_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    num_experts: Option<usize>,
    num_local_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    intermediate_size: usize,
    moe_intermediate_size: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: Option<usize>,
    embedding_multiplier_scale: Option<f32>,
    output_multiplier_scale: Option<f32>,
    attn_output_multiplier: Option<f32>,
    max_attn_value: Option<f32>,
    attn_logit_softcapping: Option<f32>,
    router_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    moe_router_renormalize: Option<bool>,
    moe_renormalize: Option<bool>,
    rms_norm_eps: Option<f32>,
    rope_theta: Option<f32>,
    hidden_act: Option<String>,
    pad_token_id: Option<u32>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    tie_word_embeddings: Option<bool>,
    quantization_config: Option<Quantisation>,
    // What would make another model.
    rope_scaling: Option<IgnoredAny>,
    rope_parameters: Option<IgnoredAny>,
    rope_type: Option<String>,
    sliding_window: Option<i64>,
    sliding_window_size: Option<i64>,
    attn_temperature_len: Option<i64>,
    residual_moe: Option<bool>,
}

#[derive(Deserialize)]
struct Quantisation {
    weight_block_size: Option<[usize; 2]>, // outputs, inputs
}

/// Names of the activation that Grok-1 has; the first is that of the exact GELU too, which differs in the fourth digit.
const GELU: [&str; 3] = ["gelu", "gelu_new", "gelu_pytorch_tanh"];

/// Outputs and inputs of a tile where the file does not say: DeepSeek's, whose `weight_scale_inv` they come with.
const TILE: [usize; 2] = [128, 128];

impl Settings {
    /// Those of Grok-1, for weights that come without a file.
    pub(super) fn grok1() -> Self {
        Self { model: ModelConfig::grok1(), tied: true, tile: TILE }
    }

    /// Reads a `config.json`.
    pub(super) fn from_json(text: &str) -> Result<Self, ConfigError> {
        let json: Json = serde_json::from_str(text)?;
        json.refuse_others()?;
        let grok1 = ModelConfig::grok1();
        let cap = |cap: Option<f32>| cap.filter(|&cap| cap != 0.0);
        let tile = json.quantization_config.as_ref().and_then(|quantisation| quantisation.weight_block_size);
        let [outputs, inputs] = tile.unwrap_or(TILE);
        if outputs == 0 || inputs == 0 {
            return Err(value("weight_block_size", format!("[{outputs}, {inputs}]"), "positive sizes"));
        }
        let Some(experts) = json.num_experts.or(json.num_local_experts) else {
            return Err(value("num_experts", "missing".to_owned(), "num_experts or num_local_experts"));
        };
        let model = ModelConfig {
            layers: json.num_hidden_layers,
            width: json.hidden_size,
            heads: json.num_attention_heads,
            kv_heads: json.num_key_value_heads.unwrap_or(json.num_attention_heads),
            // No heads are refused with everything else that is out of range.
            head_dim: json
                .head_dim
                .or(json.hidden_size.checked_div(json.num_attention_heads))
                .unwrap_or(grok1.head_dim),
            experts,
            selected_experts: json.num_experts_per_tok.unwrap_or(grok1.selected_experts),
            ffn_width: json.moe_intermediate_size.unwrap_or(json.intermediate_size),
            vocab: json.vocab_size,
            context: json.max_position_embeddings.unwrap_or(grok1.context),
            embedding_scale: json.embedding_multiplier_scale.unwrap_or(grok1.embedding_scale),
            output_scale: json.output_multiplier_scale.unwrap_or(grok1.output_scale),
            attention_scale: json.attn_output_multiplier.unwrap_or(grok1.attention_scale),
            attention_cap: cap(json.max_attn_value.or(json.attn_logit_softcapping).or(grok1.attention_cap)),
            router_cap: cap(json.router_logit_softcapping),
            output_cap: cap(json.final_logit_softcapping),
            renormalise_gates: json
                .moe_router_renormalize
                .or(json.moe_renormalize)
                .unwrap_or(grok1.renormalise_gates),
            norm_epsilon: json.rms_norm_eps.unwrap_or(grok1.norm_epsilon),
            rope_base: json.rope_theta.unwrap_or(grok1.rope_base),
            pad: json.pad_token_id.unwrap_or(grok1.pad),
            bos: json.bos_token_id.unwrap_or(grok1.bos),
            eos: json.eos_token_id.unwrap_or(grok1.eos),
        };
        let tied = json.tie_word_embeddings.unwrap_or(true);
        Ok(Self { model: model.validate()?, tied, tile: [inputs, outputs] })
    }
}

impl Json {
    /// Refuses files that need what is not built.
    fn refuse_others(&self) -> Result<(), ConfigError> {
        let unless = |supported: bool, feature: &dyn Fn() -> String| {
            if supported { Ok(()) } else { Err(ConfigError::Unsupported { feature: feature() }) }
        };
        let is_grok = |name: &str| name.to_lowercase().starts_with("grok");
        if let Some(name) = self.architectures.as_ref().and_then(|names| names.first()) {
            unless(is_grok(name), &|| format!("architecture {name:?}"))?;
        } else if let Some(name) = &self.model_type {
            unless(is_grok(name), &|| format!("model type {name:?}"))?;
        }
        let residual = self.residual_moe.unwrap_or(false);
        unless(!residual, &|| "a dense feed-forward beside the experts (residual_moe)".to_owned())?;
        let activation = self.hidden_act.as_deref().unwrap_or("gelu");
        unless(GELU.contains(&activation), &|| format!("activation {activation:?}"))?;
        let rope = self.rope_type.as_deref().unwrap_or("default");
        unless(["default", "none"].contains(&rope), &|| format!("rope type {rope:?}"))?;
        unless(self.rope_scaling.is_none(), &|| "rope_scaling".to_owned())?;
        unless(self.rope_parameters.is_none(), &|| "rope_parameters".to_owned())?;
        let window = self.sliding_window.max(self.sliding_window_size).unwrap_or(0);
        unless(window <= 0, &|| format!("a sliding window of {window} positions"))?;
        let length = self.attn_temperature_len.unwrap_or(0);
        unless(length <= 0, &|| format!("attention temperature beyond {length} positions"))
    }
}

fn value(field: &'static str, found: String, expected: &'static str) -> ConfigError {
    ConfigError::Value { field, found, expected }
}
