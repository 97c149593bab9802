//! Writes GGUF files, well-formed or not.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use grok1::{DType, ModelConfig, PieceKind, Vocabulary};

/// Numbers of value types.
pub(crate) const U32: u32 = 4;
pub(crate) const I32: u32 = 5;
pub(crate) const F32: u32 = 6;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;

/// A value: its type and its bytes.
#[derive(Clone)]
pub(crate) struct Value(pub(crate) u32, pub(crate) Vec<u8>);

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self(U32, number.to_le_bytes().to_vec())
    }
}

impl From<f32> for Value {
    fn from(number: f32) -> Self {
        Self(F32, number.to_le_bytes().to_vec())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self(7, vec![truth.into()])
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(STRING, string(text.as_bytes()))
    }
}

/// A string with its length.
pub(crate) fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// An array that says it has `count` elements.
pub(crate) fn array(kind: u32, count: u64, elements: &[u8]) -> Value {
    Value(ARRAY, [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat())
}

pub(crate) fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    let texts: Vec<_> = texts.into_iter().map(|text| string(text.as_bytes())).collect();
    array(STRING, texts.len() as u64, &texts.concat())
}

pub(crate) fn floats(floats: impl IntoIterator<Item = f32>) -> Value {
    let floats: Vec<_> = floats.into_iter().map(f32::to_le_bytes).collect();
    array(F32, floats.len() as u64, floats.as_flattened())
}

pub(crate) fn ints(ints: impl IntoIterator<Item = i32>) -> Value {
    let ints: Vec<_> = ints.into_iter().map(i32::to_le_bytes).collect();
    array(I32, ints.len() as u64, ints.as_flattened())
}

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Fastest first.
    pub(crate) dimensions: Vec<u64>,
    /// GGML's number of the type.
    pub(crate) kind: u32,
    /// Its place in the data, if not behind the one before it.
    pub(crate) offset: Option<u64>,
    pub(crate) data: Data,
}

#[derive(Clone)]
pub(crate) enum Data {
    Bytes(Vec<u8>),
    Zeros(u64),
}

impl Tensor {
    pub(crate) fn f32(name: impl Into<String>, dimensions: &[usize], values: &[f32]) -> Self {
        let bytes: Vec<_> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dimensions = dimensions.iter().map(|&size| size as u64).collect();
        Self { name: name.into(), dimensions, kind: 0, offset: None, data: Data::Bytes(bytes) }
    }

    fn bytes(&self) -> u64 {
        match &self.data {
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Zeros(count) => *count,
        }
    }
}

/// A file to write.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) version: u32,
    pub(crate) keys: Vec<(String, Value)>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) alignment: u64,
    /// What the header says instead of the true numbers of tensors and of keys.
    pub(crate) counts: [Option<u64>; 2],
}

impl Gguf {
    pub(crate) fn new() -> Self {
        Self { version: 3, keys: Vec::new(), tensors: Vec::new(), alignment: 32, counts: [None; 2] }
    }

    /// Adds or replaces a key.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) {
        match self.keys.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value.into(),
            None => self.keys.push((key.to_owned(), value.into())),
        }
    }

    pub(crate) fn unset(&mut self, key: &str) {
        let before = self.keys.len();
        self.keys.retain(|(known, _)| known != key);
        assert_eq!(self.keys.len() + 1, before, "{key}");
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// Takes a tensor out.
    pub(crate) fn remove(&mut self, name: &str) -> Tensor {
        let place = self.tensors.iter().position(|tensor| tensor.name == name).unwrap();
        self.tensors.remove(place)
    }

    /// The header with the padding behind it, and where each tensor starts.
    fn header(&self) -> (Vec<u8>, Vec<u64>) {
        let [tensors, keys] = self.counts;
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, Value(kind, bytes)) in &self.keys {
            out.extend(string(key.as_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        }
        let mut starts = Vec::new();
        let mut end = 0;
        for tensor in &self.tensors {
            let offset = tensor.offset.unwrap_or(end);
            out.extend(string(tensor.name.as_bytes()));
            out.extend((tensor.dimensions.len() as u32).to_le_bytes());
            out.extend(tensor.dimensions.iter().flat_map(|size| size.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            starts.push(end);
            end = (end + tensor.bytes()).next_multiple_of(self.alignment);
        }
        out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
        (out, starts)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (mut out, starts) = self.header();
        let data = out.len();
        for (tensor, start) in self.tensors.iter().zip(starts) {
            out.resize(data + start as usize, 0);
            match &tensor.data {
                Data::Bytes(bytes) => out.extend(bytes),
                Data::Zeros(count) => out.resize(out.len() + *count as usize, 0),
            }
        }
        out
    }

    /// Writes the file with holes for its zeros.
    pub(crate) fn write_sparse(&self, path: &Path) -> std::io::Result<()> {
        let (header, starts) = self.header();
        let mut file = File::create(path)?;
        file.write_all(&header)?;
        let mut end = header.len() as u64;
        for (tensor, start) in self.tensors.iter().zip(starts) {
            let start = header.len() as u64 + start;
            if let Data::Bytes(bytes) = &tensor.data {
                file.seek(SeekFrom::Start(start))?;
                file.write_all(bytes)?;
            }
            end = start + tensor.bytes();
        }
        file.set_len(end)
    }

    /// What gguf-split makes of it: `count` files of about as many tensors each, the keys in the first.
    pub(crate) fn split(&self, count: usize) -> Vec<Self> {
        let each = self.tensors.len().div_ceil(count);
        let files = (0..count).map(|number| {
            let mut file = Self { version: self.version, alignment: self.alignment, ..Self::new() };
            if number == 0 {
                file.keys.clone_from(&self.keys);
            }
            file.set("split.no", Value(2, (number as u16).to_le_bytes().to_vec()));
            file.set("split.count", Value(2, (count as u16).to_le_bytes().to_vec()));
            file.set("split.tensors.count", Value(I32, (self.tensors.len() as u32).to_le_bytes().to_vec()));
            file.tensors = self.tensors.iter().skip(number * each).take(each).cloned().collect();
            file
        });
        files.collect()
    }

    /// With a vocabulary for its tokenizer.
    pub(crate) fn with_vocabulary(mut self, vocabulary: &Vocabulary) -> Self {
        let entries = &vocabulary.entries;
        let kind = |kind| match kind {
            PieceKind::Normal => 1,
            PieceKind::Unknown => 2,
            PieceKind::Control => 3,
            PieceKind::UserDefined => 4,
            PieceKind::Unused => 5,
            PieceKind::Byte => 6,
            other => panic!("GGUF has no {other:?}"),
        };
        self.set("tokenizer.ggml.model", "llama");
        self.set("tokenizer.ggml.tokens", texts(entries.iter().map(|entry| &*entry.text)));
        self.set("tokenizer.ggml.scores", floats(entries.iter().map(|entry| entry.score)));
        self.set("tokenizer.ggml.token_type", ints(entries.iter().map(|entry| kind(entry.kind))));
        self.set("tokenizer.ggml.add_space_prefix", vocabulary.add_dummy_prefix);
        let ids = [
            ("unknown", vocabulary.unk),
            ("bos", vocabulary.bos),
            ("eos", vocabulary.eos),
            ("padding", vocabulary.pad),
        ];
        for (name, id) in ids {
            self.set(&format!("tokenizer.ggml.{name}_token_id"), id.unwrap());
        }
        self
    }
}

/// The keys of a model without a vocabulary, as llama.cpp's converter writes them.
pub(crate) fn keys(config: &ModelConfig) -> Gguf {
    let mut file = Gguf::new();
    file.set("general.architecture", "grok");
    let sizes = [
        ("block_count", config.layers),
        ("context_length", config.context),
        ("embedding_length", config.width),
        ("feed_forward_length", config.ffn_width),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
        ("expert_count", config.experts),
        ("expert_used_count", config.selected_experts),
        ("vocab_size", config.vocab),
    ];
    for (key, size) in sizes {
        file.set(&format!("grok.{key}"), size as u32);
    }
    let numbers = [
        ("rope.freq_base", config.rope_base),
        ("attention.layer_norm_rms_epsilon", config.norm_epsilon),
        ("embedding_scale", config.embedding_scale),
        ("logit_scale", config.output_scale),
        ("attention.output_scale", config.attention_scale),
        ("attn_logit_softcapping", config.attention_cap.unwrap_or(0.0)),
        ("router_logit_softcapping", 30.0),
    ];
    for (key, number) in numbers {
        file.set(&format!("grok.{key}"), number);
    }
    file
}

/// Names and dimensions, fastest first, of all tensors of a model, in the order of the roles.
pub(crate) fn tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let ModelConfig { width, vocab, experts, ffn_width, .. } = *config;
    let (query, kv) = (config.query_width(), config.kv_width());
    let outside = [("token_embd", vec![width, vocab]), ("output_norm", vec![width])];
    let inside = [
        ("attn_norm", vec![width]),
        ("attn_q", vec![width, query]),
        ("attn_k", vec![width, kv]),
        ("attn_v", vec![width, kv]),
        ("attn_output", vec![query, width]),
        ("attn_output_norm", vec![width]),
        ("ffn_norm", vec![width]),
        ("ffn_gate_inp", vec![width, experts]),
        ("ffn_gate_exps", vec![width, ffn_width, experts]),
        ("ffn_up_exps", vec![width, ffn_width, experts]),
        ("ffn_down_exps", vec![ffn_width, width, experts]),
        ("layer_output_norm", vec![width]),
    ];
    let mut all = outside.map(|(name, dimensions)| (format!("{name}.weight"), dimensions)).to_vec();
    for layer in 0..config.layers {
        let names = inside.iter().map(|(name, dims)| (format!("blk.{layer}.{name}.weight"), dims.clone()));
        all.extend(names);
    }
    all
}

/// A tensor of `dtype` full of zeros, which take no room.
pub(crate) fn zeros(name: String, dimensions: &[usize], dtype: DType) -> Tensor {
    let elements: usize = dimensions.iter().product();
    let kind = match dtype {
        DType::F32 => 0,
        DType::Q8_0 => 8,
        other => panic!("{other}"),
    };
    let data = Data::Zeros(dtype.bytes_of(elements as u64).unwrap());
    Tensor { data, kind, ..Tensor::f32(name, dimensions, &[]) }
}
