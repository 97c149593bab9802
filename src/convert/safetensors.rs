//! A model as a Hugging Face folder of bf16 safetensors. Uses `roles` and `checkpoint`.
//!
//! Names and `config.json` are those of hpcai-tech/grok-1, which vLLM reads too. Norms and routers stay f32.

use serde_json::{Map, Value, json};

use super::output::{self, File, Output, Tensor};
use super::roles::{self, Role, Weight};
use super::{ConvertError, Unwritable};
use crate::checkpoint::{Checkpoint, sentencepiece};
use crate::config::ModelConfig;
use crate::tensor::DType;

/// What errors call the form.
const FORMAT: &str = "safetensors";

/// The files of `checkpoint`, each of at most `max` bytes of tensors.
pub(super) fn output(checkpoint: &Checkpoint, max: Option<u64>) -> Result<Output, ConvertError> {
    let config = &checkpoint.config;
    output::refuse_unwritable(config, FORMAT)?;
    if config.output_cap.is_some() {
        return Err(ConvertError::Unwritable { what: Unwritable::OutputCap, format: FORMAT });
    }
    let mut tensors = Vec::new();
    for Weight { role, layer, matrices } in roles::weights(checkpoint) {
        let dtype = if role.stays_f32() { DType::F32 } else { DType::BF16 };
        let of_experts = matches!(role, Role::Gate | Role::Up | Role::Down);
        for (expert, matrix) in matrices.into_iter().enumerate() {
            let name = tensor_name(role, layer, of_experts.then_some(expert));
            let [inputs, outputs] = [matrix.inputs as u64, matrix.outputs as u64];
            let shape = if role.is_norm() { vec![inputs] } else { vec![outputs, inputs] };
            tensors.push(Tensor::new(name, dtype, shape, vec![matrix])?);
        }
    }

    let ranges = output::cut(tensors.iter().map(Tensor::bytes), max);
    let count = ranges.len();
    let mut files = Vec::with_capacity(count);
    let mut weight_map = Map::new();
    for (number, range) in (1..).zip(ranges) {
        let own = tensors.get_mut(range).unwrap_or_default();
        // The larger elements first: the data of each tensor is then aligned to its own.
        own.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.block_bytes()));
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
        let header = header(own);
        let mut len = header.len() as u64;
        for tensor in own {
            (tensor.file, tensor.start) = (files.len(), len);
            len += tensor.bytes();
            weight_map.insert(tensor.name.clone(), json!(name));
        }
        files.push(File { name, header, len });
    }

    let mut companions =
        vec![("config.json", pretty(&config_json(config, checkpoint.head.output.is_none())))];
    if count > 1 {
        let total: u64 = tensors.iter().map(Tensor::bytes).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        companions.push(("model.safetensors.index.json", pretty(&index)));
    }
    if let Some(vocabulary) = &checkpoint.vocabulary {
        companions.push(("tokenizer.model", sentencepiece::to_bytes(vocabulary)));
    }
    Ok(Output { files, tensors, companions, is_folder: true })
}

/// Length, JSON and padding: what stands in front of the data of a safetensors file.
fn header(tensors: &[Tensor]) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.bytes();
        let dtype = if tensor.dtype == DType::F32 { "F32" } else { "BF16" };
        let entry = json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end] });
        entries.insert(tensor.name.clone(), entry);
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json].concat()
}

fn pretty(json: &Value) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}

fn config_json(config: &ModelConfig, tied: bool) -> Value {
    json!({
        "architectures": ["Grok1ModelForCausalLM"],
        "model_type": "grok-1",
        "torch_dtype": "bfloat16",
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "intermediate_size": config.ffn_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "num_experts": config.experts,
        "num_experts_per_tok": config.selected_experts,
        "max_position_embeddings": config.context,
        "attn_output_multiplier": shortest(config.attention_scale),
        "embedding_multiplier_scale": shortest(config.embedding_scale),
        "output_multiplier_scale": shortest(config.output_scale),
        "max_attn_value": shortest(config.attention_cap.unwrap_or(0.0)),
        "rms_norm_eps": shortest(config.norm_epsilon),
        "rope_theta": shortest(config.rope_base),
        "hidden_act": "gelu_pytorch_tanh",
        "pad_token_id": config.pad,
        "bos_token_id": config.bos,
        "eos_token_id": config.eos,
        "tie_word_embeddings": tied,
    })
}

/// The f64 with the fewest digits that is this f32: what a person would have written.
fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(number.into())
}

fn tensor_name(role: Role, layer: Option<usize>, expert: Option<usize>) -> String {
    let expert = expert.unwrap_or(0);
    let name = match role {
        Role::Embedding => "embed_tokens.weight",
        Role::AttentionNorm => "pre_attn_norm.scale",
        Role::Query => "attn.q_proj.weight",
        Role::Key => "attn.k_proj.weight",
        Role::Value => "attn.v_proj.weight",
        Role::AttentionOutput => "attn.o_proj.weight",
        Role::PostAttentionNorm => "post_attn_norm.scale",
        Role::MoeNorm => "pre_moe_norm.scale",
        Role::Router => "moe_block.gate.weight",
        Role::Gate => &format!("moe_block.experts.{expert}.linear.weight"),
        Role::Up => &format!("moe_block.experts.{expert}.linear_v.weight"),
        Role::Down => &format!("moe_block.experts.{expert}.linear_1.weight"),
        Role::PostMoeNorm => "post_moe_norm.scale",
        Role::FinalNorm => "norm.scale",
        Role::Output => return "lm_head.weight".to_owned(),
    };
    match layer {
        Some(layer) => format!("model.layers.{layer}.{name}"),
        None => format!("model.{name}"),
    }
}
