//! Writes safetensors files and what stands with them, well-formed or not, under the names of each port of Grok-1.
#![allow(dead_code, reason = "each test file uses a part of it")]

use grok1::ModelConfig;
use half::{bf16, f16};
use serde_json::{Value, json};

/// A port of Grok-1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Naming {
    Hpcai,
    Keyfan,
    Sglang,
}

pub(crate) const NAMINGS: [Naming; 3] = [Naming::Hpcai, Naming::Keyfan, Naming::Sglang];

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) data: Vec<u8>,
    /// Its place in the data, if not behind the one before it.
    pub(crate) offsets: Option<[u64; 2]>,
}

impl Tensor {
    pub(crate) fn new(name: impl Into<String>, dtype: &str, shape: &[usize], data: Vec<u8>) -> Self {
        let shape = shape.iter().map(|&size| size as u64).collect();
        Self { name: name.into(), dtype: dtype.to_owned(), shape, data, offsets: None }
    }

    /// Of plain numbers, rounded to their type.
    pub(crate) fn of(name: impl Into<String>, dtype: &str, shape: &[usize], values: &[f32]) -> Self {
        let data = match dtype {
            "F32" => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            "F16" => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            "BF16" => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            other => panic!("{other}"),
        };
        Self::new(name, dtype, shape, data)
    }
}

/// A file to write.
#[derive(Clone, Default)]
pub(crate) struct File {
    pub(crate) tensors: Vec<Tensor>,
    /// What stands in the header instead of its true length.
    pub(crate) length: Option<u64>,
    /// The whole header, instead of that of the tensors.
    pub(crate) header: Option<Vec<u8>>,
}

impl File {
    pub(crate) fn of(tensors: impl IntoIterator<Item = Tensor>) -> Self {
        Self { tensors: tensors.into_iter().collect(), ..Self::default() }
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// Takes a tensor out.
    pub(crate) fn remove(&mut self, name: &str) -> Tensor {
        let place = self.tensors.iter().position(|tensor| tensor.name == name).unwrap();
        self.tensors.remove(place)
    }

    /// By hand, so that names may repeat.
    fn header(&self) -> Vec<u8> {
        let mut end = 0;
        let members = self.tensors.iter().map(|tensor| {
            let start = end;
            end += tensor.data.len() as u64;
            let offsets = tensor.offsets.unwrap_or([start, end]);
            let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets });
            format!(",{}:{entry}", json!(tensor.name))
        });
        format!("{{\"__metadata__\":{{\"format\":\"pt\"}}{}}}", members.collect::<String>()).into_bytes()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header = self.header.clone().unwrap_or_else(|| self.header());
        let length = self.length.unwrap_or(header.len() as u64);
        let data: Vec<_> = self.tensors.iter().flat_map(|tensor| tensor.data.iter().copied()).collect();
        [&length.to_le_bytes(), &*header, &data].concat()
    }
}

/// An index that has the tensors of each file in it.
pub(crate) fn index(files: &[(String, File)]) -> Value {
    let tensors = files.iter().flat_map(|(name, file)| file.tensors.iter().map(move |tensor| (tensor, name)));
    let map: serde_json::Map<_, _> =
        tensors.map(|(tensor, name)| (tensor.name.clone(), json!(name))).collect();
    json!({ "metadata": { "total_size": 0 }, "weight_map": map })
}

/// `config.json` as a port writes it.
pub(crate) fn config(config: &ModelConfig, naming: Naming) -> Value {
    let mut json = json!({
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "intermediate_size": config.ffn_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "attn_output_multiplier": config.attention_scale,
        "embedding_multiplier_scale": config.embedding_scale,
        "output_multiplier_scale": config.output_scale,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_epsilon,
        "num_experts_per_tok": config.selected_experts,
        "pad_token_id": config.pad,
        "bos_token_id": config.bos,
        "eos_token_id": config.eos,
        "torch_dtype": "bfloat16",
        "use_cache": true,
    });
    let own = match naming {
        Naming::Hpcai => json!({
            "architectures": ["Grok1ModelForCausalLM"],
            "num_experts": config.experts,
            "max_attn_value": config.attention_cap,
            "tie_word_embeddings": true,
            "output_router_logits": false,
        }),
        Naming::Keyfan => json!({
            "architectures": ["GrokForCausalLM"],
            "model_type": "grok",
            "hidden_act": "gelu_new",
            "num_local_experts": config.experts,
            "rope_theta": config.rope_base,
            "sliding_window": null,
        }),
        Naming::Sglang => json!({
            "architectures": ["Grok1ForCausalLM"],
            "model_type": "git",
            "hidden_act": "gelu",
            "num_local_experts": config.experts,
            "attn_logit_softcapping": config.attention_cap,
            "rope_theta": config.rope_base,
            "rope_scaling": null,
        }),
    };
    json.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    json
}

/// Names and shapes, slowest axis first, of all tensors of a model, in the order of the roles, which is the same for each port.
pub(crate) fn tensors(config: &ModelConfig, naming: Naming) -> Vec<(String, Vec<usize>)> {
    let ModelConfig { width, vocab, ffn_width, experts, .. } = *config;
    let (query, kv) = (config.query_width(), config.kv_width());
    let [embedding, last_norm, layer] = match naming {
        Naming::Hpcai => ["model.embed_tokens.weight", "model.norm.scale", "model.layers"],
        Naming::Keyfan => {
            ["transformer.in_out_embed.weight", "transformer.rms_norm.weight", "transformer.decoder_layer"]
        }
        Naming::Sglang => ["model.embed_tokens.weight", "model.norm.weight", "model.layers"],
    };
    let norms = match naming {
        Naming::Hpcai => {
            ["pre_attn_norm.scale", "post_attn_norm.scale", "pre_moe_norm.scale", "post_moe_norm.scale"]
        }
        Naming::Keyfan => ["rms_norm.weight", "rms_norm_1.weight", "rms_norm_2.weight", "rms_norm_3.weight"],
        Naming::Sglang => {
            ["pre_attn_norm.weight", "post_attn_norm.weight", "pre_moe_norm.weight", "post_moe_norm.weight"]
        }
    };
    let (attention, [q, k, v, o]) = match naming {
        Naming::Hpcai => ("attn", ["q_proj", "k_proj", "v_proj", "o_proj"]),
        Naming::Keyfan => ("multi_head_attention", ["query", "key", "value", "linear"]),
        Naming::Sglang => ("self_attn", ["q_proj", "k_proj", "v_proj", "o_proj"]),
    };
    let (router, expert, [gate, up, down]) = match naming {
        Naming::Hpcai => ("moe_block.gate", "moe_block.experts", ["linear", "linear_v", "linear_1"]),
        Naming::Keyfan => ("router", "moe", ["linear", "linear_v", "linear_1"]),
        Naming::Sglang => ("block_sparse_moe.gate", "block_sparse_moe.experts", ["w1", "w3", "w2"]),
    };
    let mut all = vec![(embedding.to_owned(), vec![vocab, width]), (last_norm.to_owned(), vec![width])];
    for number in 0..config.layers {
        let mut add =
            |name: String, shape: &[usize]| all.push((format!("{layer}.{number}.{name}"), shape.to_vec()));
        norms.iter().for_each(|norm| add((*norm).to_owned(), &[width]));
        for (part, shape) in [(q, [query, width]), (k, [kv, width]), (v, [kv, width]), (o, [width, query])] {
            add(format!("{attention}.{part}.weight"), &shape);
        }
        add(format!("{router}.weight"), &[experts, width]);
        for number in 0..experts {
            for (part, shape) in
                [(gate, [ffn_width, width]), (up, [ffn_width, width]), (down, [width, ffn_width])]
            {
                add(format!("{expert}.{number}.{part}.weight"), &shape);
            }
        }
    }
    all
}
