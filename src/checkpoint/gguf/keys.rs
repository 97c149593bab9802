//! The keys of a file to be written. Uses `write`.
//!
//! What a checkpoint is known by is written anew from it; whatever else a GGUF file says of the model goes along as it is.

use super::metadata::Metadata;
use super::write::Value;
use crate::checkpoint::Checkpoint;
use crate::vocab::Vocabulary;

/// Keys that say how a file is written, not which model it is.
const OF_THE_FILE: [&str; 6] = [
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
    "split.count",
    "split.no",
    "split.tensors.count",
];

/// Version of the block formats, as llama.cpp counts.
const QUANTISATION_VERSION: u32 = 2;

/// What stands in front of keys that say how weights were made, which other weights are not.
const OF_THE_WEIGHTS: &str = "quantize.";

/// Keys that [`keys`] writes unless a file has them: what they say is not in a checkpoint.
const DEFAULTS: [&str; 5] = [
    "general.name",
    "general.type",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.pre",
];

/// Large keys, and one that would contradict another: [`keys`] writes what they say in any case.
const NOT_KEPT: [&str; 4] = [
    "grok.expert_feed_forward_length",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.tokens",
];

/// The keys of a file that go along with the model. Those of a vocabulary that another one `replaced` stay behind.
pub(super) fn kept(metadata: &Metadata, replaced: bool) -> Vec<(String, Value)> {
    let stays = |key: &str| {
        OF_THE_FILE.contains(&key)
            || NOT_KEPT.contains(&key)
            || key.starts_with(OF_THE_WEIGHTS)
            || replaced && key.starts_with("tokenizer.")
    };
    metadata.stored().filter(|(key, _)| !stays(key)).map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Keys and values of a file of `file_type` (llama.cpp's `llama_ftype`) with this model.
pub(crate) fn keys(checkpoint: &Checkpoint, file_type: u32) -> Vec<(String, Value)> {
    let config = &checkpoint.config;
    let cap = |cap: Option<f32>| Value::from(cap.unwrap_or(0.0));
    let mut keys = vec![
        ("general.architecture", Value::from("grok")),
        ("general.type", "model".into()),
        ("general.name", "Grok-1".into()),
        ("general.file_type", file_type.into()),
        ("general.quantization_version", QUANTISATION_VERSION.into()),
        ("grok.block_count", Value::size(config.layers)),
        ("grok.context_length", Value::size(config.context)),
        ("grok.embedding_length", Value::size(config.width)),
        ("grok.feed_forward_length", Value::size(config.ffn_width)),
        ("grok.attention.head_count", Value::size(config.heads)),
        ("grok.attention.head_count_kv", Value::size(config.kv_heads)),
        ("grok.attention.key_length", Value::size(config.head_dim)),
        ("grok.attention.value_length", Value::size(config.head_dim)),
        ("grok.attention.layer_norm_rms_epsilon", config.norm_epsilon.into()),
        ("grok.attention.output_scale", config.attention_scale.into()),
        ("grok.attn_logit_softcapping", cap(config.attention_cap)),
        ("grok.final_logit_softcapping", cap(config.output_cap)),
        ("grok.embedding_scale", config.embedding_scale.into()),
        ("grok.logit_scale", config.output_scale.into()),
        ("grok.expert_count", Value::size(config.experts)),
        ("grok.expert_used_count", Value::size(config.selected_experts)),
        ("grok.rope.dimension_count", Value::size(config.head_dim)),
        ("grok.rope.freq_base", config.rope_base.into()),
        ("grok.vocab_size", Value::size(config.vocab)),
        ("tokenizer.ggml.padding_token_id", config.pad.into()),
        ("tokenizer.ggml.bos_token_id", config.bos.into()),
        ("tokenizer.ggml.eos_token_id", config.eos.into()),
    ];
    match &checkpoint.vocabulary {
        Some(vocabulary) => keys.extend(of_vocabulary(vocabulary)),
        None => keys.push(("tokenizer.ggml.model", "no_vocab".into())),
    }
    let mut keys: Vec<_> = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    for (key, value) in &checkpoint.keys {
        match keys.iter_mut().find(|(written, _)| written == key) {
            Some((_, written)) if DEFAULTS.contains(&&**key) => value.clone_into(written),
            Some(_) => {}
            None => keys.push((key.clone(), value.clone())),
        }
    }
    keys
}

fn of_vocabulary(vocabulary: &Vocabulary) -> Vec<(&'static str, Value)> {
    let entries = vocabulary.entries.iter();
    let texts = Value::texts(entries.clone().map(|entry| &*entry.text));
    let scores = Value::floats(entries.clone().map(|entry| entry.score));
    let kinds = Value::ints(entries.map(|entry| entry.kind.number() as i32));
    let mut keys = vec![
        ("tokenizer.ggml.model", Value::from("llama")),
        ("tokenizer.ggml.pre", "default".into()),
        ("tokenizer.ggml.tokens", texts),
        ("tokenizer.ggml.scores", scores),
        ("tokenizer.ggml.token_type", kinds),
        ("tokenizer.ggml.add_space_prefix", vocabulary.add_dummy_prefix.into()),
        // Grok-1 runs without them.
        ("tokenizer.ggml.add_bos_token", false.into()),
        ("tokenizer.ggml.add_eos_token", false.into()),
    ];
    if let Some(unk) = vocabulary.unk {
        keys.push(("tokenizer.ggml.unknown_token_id", unk.into()));
    }
    keys
}

/// The keys that make a file one of a set of `count` with `tensors` tensors in all.
pub(crate) fn split(number: u16, count: u16, tensors: usize) -> Vec<(String, Value)> {
    let tensors = i32::try_from(tensors).unwrap_or(i32::MAX);
    let keys: [(&str, Value); 3] =
        [("split.no", number.into()), ("split.count", count.into()), ("split.tensors.count", tensors.into())];
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
