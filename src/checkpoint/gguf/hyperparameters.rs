//! What a file's keys say of the model. Uses `metadata`.
//!
//! Files older than llama.cpp's keys for them have Grok-1's scales and caps. What would make another model of the weights, as
//! Grok-2 does under the same architecture name, is refused by name.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use super::GgufError;
use super::metadata::Metadata;
use crate::config::ModelConfig;

/// The hyperparameters of a model of `vocab` tokens. Their ranges are not checked yet.
pub(super) fn config(metadata: &Metadata, vocab: u64) -> Result<ModelConfig, GgufError> {
    refuse_others(metadata)?;
    let keys = Keys(metadata);
    let grok1 = ModelConfig::grok1();
    let (width, heads) = (keys.size("grok.embedding_length")?, keys.size("grok.attention.head_count")?);
    let head_dim = match keys.optional_size("grok.attention.key_length")? {
        Some(head_dim) => head_dim,
        None => width.checked_div(heads).unwrap_or(0),
    };
    for key in ["grok.attention.value_length", "grok.rope.dimension_count"] {
        if let Some(found) = keys.optional_size(key)?.filter(|&found| found != head_dim) {
            return Err(GgufError::value(key, found, format!("the size of a head, {head_dim}")));
        }
    }
    if let Some(found) = metadata.integer("grok.vocab_size")?.filter(|&found| found != vocab) {
        let expected = format!("{vocab}, the rows of token_embd.weight");
        return Err(GgufError::value("grok.vocab_size", found, expected));
    }
    // Experts of no width of their own have the only one there is.
    let ffn_width = keys.optional_size("grok.expert_feed_forward_length")?.filter(|&width| width > 0);
    // Read because a file may have it damaged, and left at that: llama.cpp never applies it, nor did xAI.
    keys.float("grok.router_logit_softcapping", 0.0)?;
    let cap = |cap: f32| (cap != 0.0).then_some(cap);
    Ok(ModelConfig {
        layers: keys.size("grok.block_count")?,
        width,
        heads,
        kv_heads: keys.size("grok.attention.head_count_kv")?,
        head_dim,
        experts: keys.size("grok.expert_count")?,
        selected_experts: keys.size("grok.expert_used_count")?,
        ffn_width: match ffn_width {
            Some(width) => width,
            None => keys.size("grok.feed_forward_length")?,
        },
        vocab: usize::try_from(vocab).unwrap_or(usize::MAX),
        context: keys.size("grok.context_length")?,
        embedding_scale: keys.float("grok.embedding_scale", grok1.embedding_scale)?,
        output_scale: keys.float("grok.logit_scale", grok1.output_scale)?,
        attention_scale: keys.float("grok.attention.output_scale", grok1.attention_scale)?,
        attention_cap: cap(keys.float("grok.attn_logit_softcapping", grok1.attention_cap.unwrap_or(0.0))?),
        output_cap: cap(keys.float("grok.final_logit_softcapping", 0.0)?),
        norm_epsilon: keys.required_float("grok.attention.layer_norm_rms_epsilon")?,
        rope_base: keys.float("grok.rope.freq_base", grok1.rope_base)?,
        pad: metadata.token("tokenizer.ggml.padding_token_id")?.unwrap_or(grok1.pad),
        bos: metadata.token("tokenizer.ggml.bos_token_id")?.unwrap_or(grok1.bos),
        eos: metadata.token("tokenizer.ggml.eos_token_id")?.unwrap_or(grok1.eos),
        ..grok1
    })
}

/// Refuses files that need what is not built.
fn refuse_others(metadata: &Metadata) -> Result<(), GgufError> {
    let unless = |supported: bool, feature: &dyn Fn() -> String| {
        if supported { Ok(()) } else { Err(GgufError::Unsupported { feature: feature() }) }
    };
    let key = "general.architecture";
    match metadata.text(key)? {
        None => return Err(GgufError::value(key, "missing", "\"grok\"")),
        Some(found) => unless(found == "grok", &|| format!("architecture {found:?}"))?,
    }
    let scaling = metadata.text("grok.rope.scaling.type")?.unwrap_or("linear");
    unless(["none", "linear"].contains(&scaling), &|| format!("rope scaling {scaling:?}"))?;
    for key in ["grok.rope.scaling.factor", "grok.rope.scale_linear"] {
        let factor = metadata.float(key)?.unwrap_or(0.0);
        unless(scaling == "none" || [0.0, 1.0].contains(&factor), &|| format!("rope scaling by {factor}"))?;
    }
    let length = metadata.integer("grok.attention.temperature_length")?.unwrap_or(0);
    unless(length == 0, &|| format!("attention temperature beyond {length} positions"))?;
    let scale = metadata.float("grok.expert_weights_scale")?.unwrap_or(0.0);
    unless([0.0, 1.0].contains(&scale), &|| format!("a scale of {scale} on experts"))
}

struct Keys<'a>(&'a Metadata);

impl Keys<'_> {
    fn optional_size(&self, key: &str) -> Result<Option<usize>, GgufError> {
        // What does not fit is refused with everything else that is too large.
        Ok(self.0.integer(key)?.map(|size| usize::try_from(size).unwrap_or(usize::MAX)))
    }

    fn size(&self, key: &str) -> Result<usize, GgufError> {
        self.optional_size(key)?.ok_or_else(|| GgufError::value(key, "missing", "a whole number"))
    }

    fn float(&self, key: &str, default: f32) -> Result<f32, GgufError> {
        Ok(self.0.float(key)?.unwrap_or(default))
    }

    fn required_float(&self, key: &str) -> Result<f32, GgufError> {
        self.0.float(key)?.ok_or_else(|| GgufError::value(key, "missing", "an f32"))
    }
}
