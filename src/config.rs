//! Every hyperparameter of a model, validated once. Uses `error`.

use serde::Deserialize;

use crate::error::{Classify, ErrorKind};

/// The hyperparameters of a model of Grok-1's family.
///
/// Values come from a file's metadata or from `config.json` ([`from_json`](Self::from_json)) and have been through
/// [`validate`](Self::validate) before anything is computed with them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; query head `h` attends with key/value head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Values per head; the attention's inner width is `heads * head_dim` and need not equal `width`.
    pub head_dim: usize,
    /// Experts per layer.
    pub experts: usize,
    /// Experts that each token uses.
    pub selected_experts: usize,
    /// Hidden width of one expert.
    pub ffn_width: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Positions the model was trained for.
    pub context: usize,
    /// Multiplies embedding rows.
    pub embedding_scale: f32,
    /// Multiplies logits.
    pub output_scale: f32,
    /// Multiplies attention scores (xAI's `attn_output_multiplier`).
    pub attention_scale: f32,
    /// Attention scores become `cap * tanh(score / cap)` after the scale.
    pub attention_cap: Option<f32>,
    /// The same for router logits; the reference has none.
    pub router_cap: Option<f32>,
    /// The same for logits after the scale; Grok-1 has none.
    pub output_cap: Option<f32>,
    /// Whether the selected gates are divided by their sum; the reference does not.
    pub renormalise_gates: bool,
    /// Added to the mean square inside each RMS norm.
    pub norm_epsilon: f32,
    /// Base of the rotary embedding.
    pub rope_base: f32,
    /// Padding token.
    pub pad: u32,
    /// Begin-of-sequence token; never added by itself.
    pub bos: u32,
    /// End-of-sequence token.
    pub eos: u32,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, a missing or a mistyped entry.
    #[error("config is not valid")]
    Json(#[from] serde_json::Error),
    /// A value outside what the model can have.
    #[error("config: {field} is {found}, expected {expected}")]
    Value {
        /// The entry.
        field: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The model needs something that is not built.
    #[error("config: {feature} is not supported")]
    Unsupported {
        /// What it needs.
        feature: String,
    },
}

impl Classify for ConfigError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Format
    }
}

/// `config.json` as it stands beside checkpoints in xAI's format: the field names of xAI's own `TransformerConfig`.
#[derive(Deserialize)]
struct Json {
    emb_size: usize,
    key_size: usize,
    num_q_heads: usize,
    num_kv_heads: usize,
    num_layers: usize,
    vocab_size: usize,
    sequence_len: usize,
    widening_factor: Option<f64>,
    ffn_size: Option<usize>,
    attn_output_multiplier: f32,
    embedding_multiplier_scale: f32,
    output_multiplier_scale: f32,
    #[serde(default = "eight")]
    num_experts: usize,
    #[serde(default = "two")]
    num_selected_experts: usize,
    #[serde(default)]
    pad_token: u32,
    #[serde(default = "one")]
    bos_token: u32,
    #[serde(default = "two_u32")]
    eos_token: u32,
    rms_norm_eps: Option<f32>,
    rope_base: Option<f32>,
    rope_layout: Option<String>,
    attn_logit_softcap: Option<f32>,
    router_logit_softcap: Option<f32>,
    final_logit_softcap: Option<f32>,
    #[serde(default)]
    router_renormalise: bool,
    activation: Option<String>,
    #[serde(default = "yes")]
    tie_embeddings: bool,
}

fn eight() -> usize {
    8
}
fn two() -> usize {
    2
}
fn one() -> u32 {
    1
}
fn two_u32() -> u32 {
    2
}
fn yes() -> bool {
    true
}

impl ModelConfig {
    /// Grok-1 as published: 314 B parameters, 64 layers (xai-org/grok-1, `run.py`).
    #[must_use]
    pub fn grok1() -> Self {
        Self {
            layers: 64,
            width: 6144,
            heads: 48,
            kv_heads: 8,
            head_dim: 128,
            experts: 8,
            selected_experts: 2,
            ffn_width: 32768,
            vocab: 131_072,
            context: 8192,
            embedding_scale: 78.383_67,
            output_scale: 0.577_350_26,
            attention_scale: 0.088_388_346,
            attention_cap: Some(30.0),
            router_cap: None,
            output_cap: None,
            renormalise_gates: false,
            norm_epsilon: 1e-5,
            rope_base: 10_000.0,
            pad: 0,
            bos: 1,
            eos: 2,
        }
    }

    /// Reads a `config.json` with the field names of xAI's program.
    ///
    /// Entries that only its training and sharding need (`mesh`, `row_groups`) are ignored; `ffn_size` may be left to
    /// `widening_factor` and xAI's rounding rule.
    ///
    /// # Errors
    /// [`ConfigError`] naming the entry.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let json: Json = serde_json::from_str(text)?;
        refuse_unless(json.tie_embeddings, || "an untied output head".to_owned())?;
        if let Some(layout) = &json.rope_layout {
            refuse_unless(layout == "half-split", || format!("rope layout {layout:?}"))?;
        }
        if let Some(activation) = &json.activation {
            refuse_unless(activation == "gelu_tanh", || format!("activation {activation:?}"))?;
        }
        let ffn_width = match (json.ffn_size, json.widening_factor) {
            (Some(size), _) => size,
            (None, Some(factor)) => ffn_width(json.emb_size, factor),
            (None, None) => {
                return Err(ConfigError::Value {
                    field: "ffn_size",
                    found: "missing".to_owned(),
                    expected: "ffn_size or widening_factor",
                });
            }
        };
        let grok1 = Self::grok1();
        // Zero means none, as in GGUF.
        let cap = |given: Option<f32>, default| given.map_or(default, |cap| (cap != 0.0).then_some(cap));
        Self {
            layers: json.num_layers,
            width: json.emb_size,
            heads: json.num_q_heads,
            kv_heads: json.num_kv_heads,
            head_dim: json.key_size,
            experts: json.num_experts,
            selected_experts: json.num_selected_experts,
            ffn_width,
            vocab: json.vocab_size,
            context: json.sequence_len,
            embedding_scale: json.embedding_multiplier_scale,
            output_scale: json.output_multiplier_scale,
            attention_scale: json.attn_output_multiplier,
            attention_cap: cap(json.attn_logit_softcap, grok1.attention_cap),
            router_cap: cap(json.router_logit_softcap, grok1.router_cap),
            output_cap: cap(json.final_logit_softcap, grok1.output_cap),
            renormalise_gates: json.router_renormalise,
            norm_epsilon: json.rms_norm_eps.unwrap_or(grok1.norm_epsilon),
            rope_base: json.rope_base.unwrap_or(grok1.rope_base),
            pad: json.pad_token,
            bos: json.bos_token,
            eos: json.eos_token,
        }
        .validate()
    }

    /// Checks that a model with these values can exist and that products of its sizes stay far from overflow.
    ///
    /// # Errors
    /// [`ConfigError::Value`] naming the first field that is out of range.
    pub fn validate(self) -> Result<Self, ConfigError> {
        const MAX: usize = 1 << 24;
        let sizes = [
            ("layers", self.layers, 1 << 12),
            ("width", self.width, MAX),
            ("heads", self.heads, 1 << 12),
            ("kv_heads", self.kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 10),
            ("experts", self.experts, 1 << 8),
            ("selected_experts", self.selected_experts, self.experts),
            ("ffn_width", self.ffn_width, MAX),
            ("vocab", self.vocab, MAX),
            ("context", self.context, MAX),
        ];
        for (field, found, max) in sizes {
            if found == 0 || found > max {
                return Err(value(field, found, "a positive size in range"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(value("heads", self.heads, "a multiple of kv_heads"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(value("head_dim", self.head_dim, "an even number"));
        }
        let positive = [
            ("embedding_scale", Some(self.embedding_scale)),
            ("output_scale", Some(self.output_scale)),
            ("attention_scale", Some(self.attention_scale)),
            ("attention_cap", self.attention_cap),
            ("router_cap", self.router_cap),
            ("output_cap", self.output_cap),
            ("norm_epsilon", Some(self.norm_epsilon)),
            ("rope_base", Some(self.rope_base)),
        ];
        for (field, found) in positive {
            if let Some(found) = found.filter(|&found| !(found.is_finite() && found > 0.0)) {
                return Err(value(field, found, "a positive finite number"));
            }
        }
        Ok(self)
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all keys (or values) of one position in one layer.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// Hidden width of an expert by xAI's rule: two thirds of the widened model width, rounded up to a multiple of 8.
fn ffn_width(width: usize, factor: f64) -> usize {
    // A float-to-integer cast saturates; absurd results are refused by `validate`.
    let widened = (factor * width as f64) as usize;
    (widened.saturating_mul(2) / 3).min(usize::MAX - 8).next_multiple_of(8)
}

fn refuse_unless(supported: bool, feature: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if supported { Ok(()) } else { Err(ConfigError::Unsupported { feature: feature() }) }
}

fn value(field: &'static str, found: impl ToString, expected: &'static str) -> ConfigError {
    ConfigError::Value { field, found: found.to_string(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xais_rounding_rule_gives_the_published_width() {
        assert_eq!(ffn_width(6144, 8.0), 32768);
        assert_eq!(ffn_width(64, 8.0), 344);
    }

    #[test]
    fn grok1_is_valid() {
        assert_eq!(ModelConfig::grok1().validate().unwrap(), ModelConfig::grok1());
    }

    #[test]
    fn a_bad_value_is_named() {
        let bad = ModelConfig { head_dim: 3, ..ModelConfig::grok1() };
        assert_eq!(bad.validate().unwrap_err().to_string(), "config: head_dim is 3, expected an even number");
        let bad = ModelConfig { output_scale: f32::NAN, ..ModelConfig::grok1() };
        assert_eq!(
            bad.validate().unwrap_err().to_string(),
            "config: output_scale is NaN, expected a positive finite number"
        );
    }
}
