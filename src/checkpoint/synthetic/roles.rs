//! The weights of a random model, under the names that llama.cpp gives them. Uses `pattern` and `source`.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::pattern::Pattern;
use super::source::Random;
use super::{Synthetic, SyntheticError};
use crate::checkpoint::{Checkpoint, Format, TensorInfo};
use crate::config::ModelConfig;
use crate::tensor::{Blob, DType, Layout, Matrix, Scales, Vector};
use crate::weights::{Head, Layer};

/// Bytes of a model: far beyond any, and elements of every type can still be counted.
const MAX_BYTES: u64 = 1 << 60;
const TOO_LARGE: SyntheticError = SyntheticError::TooLarge { max: MAX_BYTES };

/// Row groups of int8 matrices that lead back to the residual stream, as in the release.
const BACK: usize = 8;

/// Root mean square of attention scores: a token then looks at a few others. If it looked at all, tokens would become alike from layer
/// to layer, and choose the same experts.
const SCORES: f32 = 4.0;

/// A kind of matrix.
struct Kind {
    dtype: DType,
    inputs: usize,
    outputs: usize,
    weights: Arc<Pattern>,
    /// Row groups of an int8 matrix, and their scales.
    scales: Option<(usize, Arc<Pattern>)>,
}

/// The kinds of a layer's matrices.
struct Kinds {
    query: Kind,
    key_value: Kind,
    output: Kind,
    router: Kind,
    gate_up: Kind,
    down: Kind,
}

/// Collects the tensors of a model.
struct Builder {
    seed: u64,
    tensors: Vec<TensorInfo>,
    bytes: u64,
    norm: Arc<Pattern>,
}

pub(super) fn checkpoint(options: &Synthetic) -> Result<Checkpoint, SyntheticError> {
    let config = options.config.clone().validate()?;
    let ModelConfig { width, ffn_width, vocab, experts, .. } = config;
    let (query, kv) = (config.query_width(), config.kv_width());
    let norm = Arc::new(Pattern::positive(DType::F32, 1.0));
    let mut builder = Builder { seed: options.seed, tensors: Vec::new(), bytes: 0, norm };

    let head_dtype = options.embedding_dtype();
    if head_dtype == DType::I8 {
        return Err(SyntheticError::Embedding { dtype: head_dtype });
    }
    let head = Head {
        embedding: builder.matrix("token_embd.weight", &Kind::new(head_dtype, [width, vocab], 1, 1.0))?,
        norm: builder.vector("output_norm.weight", width)?,
        output: None,
    };
    let scores = config.attention_scale * (config.head_dim as f32).sqrt();
    let sharp = (SCORES / scores).clamp(0.1, 100.0);
    let kind = |inputs, outputs, groups, gain| Kind::new(options.dtype, [inputs, outputs], groups, gain);
    let kinds = Kinds {
        query: kind(width, query, 1, sharp),
        key_value: kind(width, kv, 1, 1.0),
        output: kind(query, width, BACK, 1.0),
        router: Kind::new(DType::F32, [width, experts], 1, 1.0),
        gate_up: kind(width, ffn_width, 1, 1.0),
        down: kind(ffn_width, width, BACK, 1.0),
    };
    let layers = (0..config.layers).map(|layer| builder.layer(layer, width, experts, &kinds));
    let layers = layers.collect::<Result<_, _>>()?;
    Ok(Checkpoint {
        location: format!("synthetic:{options}"),
        format: Format::Synthetic,
        config,
        head,
        layers,
        vocabulary: None,
        tensors: builder.tensors,
        keys: Vec::new(),
    })
}

impl Kind {
    /// Matrices that keep the size of what they are multiplied with, but for the factor `gain`.
    fn new(dtype: DType, [inputs, outputs]: [usize; 2], groups: usize, gain: f32) -> Self {
        let size = gain / (inputs as f32).sqrt();
        let scales = (dtype == DType::I8).then(|| (groups, Arc::new(Pattern::scales(size))));
        Self { dtype, inputs, outputs, weights: Arc::new(Pattern::weights(dtype, size)), scales }
    }

    /// int8 lies as in the release, everything else as in GGUF.
    fn layout(&self) -> Layout {
        if self.scales.is_some() { Layout::InOut } else { Layout::OutIn }
    }

    fn matrix(&self, name: String, data: Blob, scales: Option<Scales>) -> Matrix {
        let (dtype, layout, inputs, outputs) = (self.dtype, self.layout(), self.inputs, self.outputs);
        Matrix { name, dtype, layout, inputs, outputs, data, scales }
    }

    /// Refuses rows that are not whole blocks, or not as many row groups.
    fn check(&self, tensor: &str) -> Result<(), SyntheticError> {
        let (what, size) = match &self.scales {
            Some((groups, _)) => ("row groups", *groups),
            None => ("blocks", self.dtype.block() as usize),
        };
        if self.inputs.is_multiple_of(size) {
            return Ok(());
        }
        let (tensor, dtype, row) = (tensor.to_owned(), self.dtype, self.inputs);
        Err(SyntheticError::Rows { tensor, dtype, row, what, size })
    }
}

impl Builder {
    fn layer(
        &mut self,
        number: usize,
        width: usize,
        experts: usize,
        kinds: &Kinds,
    ) -> Result<Layer, SyntheticError> {
        let name = |role: &str| format!("blk.{number}.{role}.weight");
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm"), width)?,
            query: self.matrix(&name("attn_q"), &kinds.query)?,
            key: self.matrix(&name("attn_k"), &kinds.key_value)?,
            value: self.matrix(&name("attn_v"), &kinds.key_value)?,
            output: self.matrix(&name("attn_output"), &kinds.output)?,
            post_attention_norm: self.vector(&name("attn_output_norm"), width)?,
            moe_norm: self.vector(&name("ffn_norm"), width)?,
            router: self.matrix(&name("ffn_gate_inp"), &kinds.router)?,
            gate: self.experts(&name("ffn_gate_exps"), &kinds.gate_up, experts)?,
            up: self.experts(&name("ffn_up_exps"), &kinds.gate_up, experts)?,
            down: self.experts(&name("ffn_down_exps"), &kinds.down, experts)?,
            post_moe_norm: self.vector(&name("layer_output_norm"), width)?,
        })
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vector, SyntheticError> {
        let pattern = Arc::clone(&self.norm);
        let shape = vec![len as u64];
        let data = self.blob(name, DType::F32, &shape, &pattern)?;
        self.list(name, DType::F32, shape, data.len(), None);
        Ok(Vector { name: name.to_owned(), dtype: DType::F32, len, data })
    }

    fn matrix(&mut self, name: &str, kind: &Kind) -> Result<Matrix, SyntheticError> {
        let (data, scales) = self.stored(name, kind, &[])?;
        Ok(kind.matrix(name.to_owned(), data, scales))
    }

    /// The matrices of all experts, which one tensor holds one after the other.
    fn experts(&mut self, name: &str, kind: &Kind, experts: usize) -> Result<Vec<Matrix>, SyntheticError> {
        let (data, scales) = self.stored(name, kind, &[experts as u64])?;
        let part = |blob: &Blob, expert: usize| {
            let size = blob.len() / experts as u64;
            let start = size * expert as u64;
            blob.part(start..start + size).ok_or(TOO_LARGE)
        };
        let matrix = |expert| {
            let scales = match scales.clone() {
                Some(whole) => Some(Scales { data: part(&whole.data, expert)?, ..whole }),
                None => None,
            };
            Ok(kind.matrix(format!("{name}[{expert}]"), part(&data, expert)?, scales))
        };
        (0..experts).map(matrix).collect()
    }

    /// A tensor of a matrix, or of several in a `batch`: its elements and scales.
    fn stored(
        &mut self,
        name: &str,
        kind: &Kind,
        batch: &[u64],
    ) -> Result<(Blob, Option<Scales>), SyntheticError> {
        kind.check(name)?;
        let (inputs, outputs) = (kind.inputs as u64, kind.outputs as u64);
        let axes = match kind.layout() {
            Layout::InOut => [inputs, outputs],
            Layout::OutIn => [outputs, inputs],
        };
        let shape = [batch, &axes].concat();
        let data = self.blob(name, kind.dtype, &shape, &kind.weights)?;
        let Some((groups, pattern)) = &kind.scales else {
            self.list(name, kind.dtype, shape, data.len(), None);
            return Ok((data, None));
        };
        let scales_shape = [batch, &[*groups as u64, outputs]].concat();
        let scales = self.blob(&format!("{name} scales"), DType::BF16, &scales_shape, pattern)?;
        self.list(name, kind.dtype, shape, data.len() + scales.len(), Some(scales_shape));
        let inputs = kind.inputs / groups;
        let scales = Scales { dtype: DType::BF16, layout: Layout::InOut, inputs, outputs: 1, data: scales };
        Ok((data, Some(scales)))
    }

    /// Random elements, which depend on the seed and the name.
    fn blob(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[u64],
        pattern: &Arc<Pattern>,
    ) -> Result<Blob, SyntheticError> {
        let elements = shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size));
        let len = elements.and_then(|elements| dtype.bytes_of(elements)).ok_or(TOO_LARGE)?;
        let bytes = self.bytes.checked_add(len);
        self.bytes = bytes.filter(|&bytes| bytes <= MAX_BYTES).ok_or(TOO_LARGE)?;
        let key = xxh3_64_with_seed(name.as_bytes(), self.seed);
        let source = Random { len, key, pattern: Arc::clone(pattern) };
        Blob::new(Arc::new(source), 0..len).ok_or(TOO_LARGE)
    }

    fn list(&mut self, name: &str, dtype: DType, shape: Vec<u64>, bytes: u64, scales: Option<Vec<u64>>) {
        let (name, file) = (name.to_owned(), "synthetic".to_owned());
        self.tensors.push(TensorInfo { name, file, dtype, shape, bytes, scales });
    }
}
