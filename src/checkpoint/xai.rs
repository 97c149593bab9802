//! xAI's release: a folder `ckpt-0` with one pickle per tensor and nothing that says what is in it. Uses `pickle`.
//!
//! Meaning comes from the order of the files alone (xai-org/grok-1, `checkpoint.py`): they are the leaves of a Haiku parameter
//! tree whose module paths are sorted *as strings*, so layer 10 stands before layer 2.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::cmp::Ordering;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::pickle::{self, Array, Content};
use super::{Checkpoint, CheckpointError, Format, TensorInfo, companions, file_in};
use crate::config::ModelConfig;
use crate::source::{Folder, Source};
use crate::tensor::{Blob, DType, Layout, Matrix, Scales, Vector};
use crate::weights::{Head, Layer};

/// Modules of a layer in file order, and so in the order [`Expected::layer`] takes them apart.
const MODULES: [&str; 12] = [
    "moe/linear",
    "moe/linear_1",
    "moe/linear_v",
    "multi_head_attention/key",
    "multi_head_attention/linear",
    "multi_head_attention/query",
    "multi_head_attention/value",
    "rms_norm",
    "rms_norm_1",
    "rms_norm_2",
    "rms_norm_3",
    "router",
];

/// Whether `name` is that of a tensor file.
pub(super) fn is_tensor(name: &str) -> bool {
    parse_name(name).is_some()
}

/// Opens the tensors in `folder`, which holds `names`; `config.json` and `tokenizer.model` may stand `beside` it.
pub(super) fn open(
    folder: &dyn Folder,
    names: &[String],
    beside: Option<&dyn Folder>,
    tokenizer: Option<&dyn Source>,
) -> Result<Checkpoint, CheckpointError> {
    let (files, layers) = list(folder, names)?;
    let order = layer_order(layers);
    let paths = ["language_model/in_out_embed".to_owned(), "language_model/rms_norm".to_owned()]
        .into_iter()
        .chain(order.iter().flat_map(|layer| {
            MODULES.iter().map(move |module| format!("transformer/decoder_layer_{layer}/{module}"))
        }));
    let stored = files
        .iter()
        .zip(paths)
        .map(|(file, tensor)| Stored::open(folder, file, tensor))
        .collect::<Result<Vec<_>, _>>()?;

    let (config, (head, layers)) = understand(&stored, &order, folder, beside)?;
    Ok(Checkpoint {
        location: folder.name(),
        format: Format::Xai,
        config,
        head,
        layers,
        vocabulary: companions::vocabulary(folder, beside, tokenizer)?,
        tensors: stored.iter().map(Stored::info).collect(),
        keys: Vec::new(),
    })
}

/// The tensor files in order, and the number of layers they make.
fn list<'a>(folder: &dyn Folder, names: &'a [String]) -> Result<(Vec<&'a str>, usize), CheckpointError> {
    let wrong =
        |found: String, expected: String| CheckpointError::Files { folder: folder.name(), found, expected };
    let mut files: Vec<(usize, &str)> = Vec::new();
    for name in names {
        if let Some((index, shard)) = parse_name(name) {
            if shard != 0 {
                return Err(wrong(name.clone(), "shard 000 only".to_owned()));
            }
            files.push((index, name));
        }
    }
    files.sort();
    for (expected, (index, name)) in files.iter().enumerate() {
        match index.cmp(&expected) {
            Ordering::Equal => {}
            Ordering::Less => return Err(wrong(format!("{name} twice"), "each tensor once".to_owned())),
            Ordering::Greater => {
                let found = format!("{name} but no tensor{expected:05}_000");
                return Err(wrong(found, "no gaps".to_owned()));
            }
        }
    }
    let per_layer = MODULES.len();
    let layers = files.len().checked_sub(2).filter(|rest| rest.is_multiple_of(per_layer));
    match layers.and_then(|rest| rest.checked_div(per_layer)) {
        Some(layers @ 1..) => Ok((files.into_iter().map(|(_, name)| name).collect(), layers)),
        _ => Err(miscounted(folder, files.len())),
    }
}

/// Index and shard of `tensorNNNNN_SSS`.
fn parse_name(name: &str) -> Option<(usize, usize)> {
    let (index, shard) = name.strip_prefix("tensor")?.split_once('_')?;
    let number = |digits: &str, count| {
        (digits.len() == count && digits.bytes().all(|digit| digit.is_ascii_digit()))
            .then(|| digits.parse().ok())
            .flatten()
    };
    Some((number(index, 5)?, number(shard, 3)?))
}

/// The layers in the order of their files: sorted as strings.
fn layer_order(layers: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..layers).collect();
    order.sort_by_cached_key(usize::to_string);
    order
}

/// Hyperparameters and views: Grok-1's if every shape is Grok-1's, else those of `config.json`.
fn understand(
    stored: &[Stored],
    order: &[usize],
    folder: &dyn Folder,
    beside: Option<&dyn Folder>,
) -> Result<(ModelConfig, (Head, Vec<Layer>)), CheckpointError> {
    let grok1 = ModelConfig::grok1();
    let mismatch = match (Expected { config: &grok1, by: "Grok-1's release" }).model(stored, order, folder) {
        Ok(views) => return Ok((grok1, views)),
        Err(mismatch) => Box::new(mismatch),
    };
    let Some((config, by)) = companions::config(folder, beside, ModelConfig::from_json)? else {
        return Err(CheckpointError::NoConfig { folder: folder.name(), mismatch });
    };
    let views = (Expected { config: &config, by: &by }).model(stored, order, folder)?;
    Ok((config, views))
}

/// A tensor file whose headers are read.
struct Stored {
    file: String,
    tensor: String,
    source: Arc<dyn Source>,
    content: Content,
}

impl Stored {
    fn open(folder: &dyn Folder, file: &str, tensor: String) -> Result<Self, CheckpointError> {
        let source = folder
            .open(file)
            .map_err(|source| CheckpointError::Read { path: file_in(folder, file), source })?;
        let file = source.name();
        match pickle::read(&*source) {
            Ok(content) => Ok(Self { file, tensor, source, content }),
            Err(source) => Err(CheckpointError::Pickle { file, tensor, source }),
        }
    }

    fn info(&self) -> TensorInfo {
        let (array, scales) = match &self.content {
            Content::Plain(array) => (array, None),
            Content::Quantised { weight, scales } => (weight, Some(scales)),
        };
        let bytes = |range: &Range<u64>| range.end.saturating_sub(range.start);
        TensorInfo {
            name: self.tensor.clone(),
            file: self.file.clone(),
            dtype: array.dtype,
            shape: array.shape.clone(),
            bytes: bytes(&array.payload).saturating_add(scales.map_or(0, |scales| bytes(&scales.payload))),
            scales: scales.map(|scales| scales.shape.clone()),
        }
    }

    fn blob(&self, array: &Array) -> Result<Blob, CheckpointError> {
        Blob::new(Arc::clone(&self.source), array.payload.clone()).ok_or_else(|| self.shrunk())
    }

    /// Ranges are checked when the headers are read; only a source that has shrunk since gets here.
    fn shrunk(&self) -> CheckpointError {
        CheckpointError::Read { path: self.file.clone(), source: io::ErrorKind::UnexpectedEof.into() }
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::Plain(array) => write!(f, "{} {:?}", array.dtype, array.shape),
            Content::Quantised { weight, scales } => write!(
                f,
                "{} {:?} with {} scales {:?}",
                weight.dtype, weight.shape, scales.dtype, scales.shape
            ),
        }
    }
}

/// What the tensors have to be, and who says so.
struct Expected<'a> {
    config: &'a ModelConfig,
    by: &'a str,
}

impl Expected<'_> {
    fn model(
        &self,
        stored: &[Stored],
        order: &[usize],
        folder: &dyn Folder,
    ) -> Result<(Head, Vec<Layer>), CheckpointError> {
        let config = self.config;
        let [embedding, norm, rest @ ..] = stored else {
            return Err(miscounted(folder, stored.len()));
        };
        if order.len() != config.layers {
            return Err(CheckpointError::Files {
                folder: folder.name(),
                found: format!("{} layers in {} tensor files", order.len(), stored.len()),
                expected: format!("{} layers according to {}", config.layers, self.by),
            });
        }
        let head = Head {
            embedding: self.embedding(embedding, config.vocab, config.width)?,
            norm: self.vector(norm, config.width)?,
            output: None,
        };
        let (files, _) = rest.as_chunks();
        let mut layers = order
            .iter()
            .zip(files)
            .map(|(&number, files)| self.layer(files).map(|layer| (number, layer)))
            .collect::<Result<Vec<_>, _>>()?;
        layers.sort_by_key(|&(number, _)| number);
        Ok((head, layers.into_iter().map(|(_, layer)| layer).collect()))
    }

    fn layer(&self, files: &[Stored; MODULES.len()]) -> Result<Layer, CheckpointError> {
        let [gate, down, up, key, output, query, value, norm, norm_1, norm_2, norm_3, router] = files;
        let config = self.config;
        let (width, ffn_width) = (config.width, config.ffn_width);
        Ok(Layer {
            attention_norm: self.vector(norm, width)?,
            query: self.matrix(query, width, config.query_width())?,
            key: self.matrix(key, width, config.kv_width())?,
            value: self.matrix(value, width, config.kv_width())?,
            output: self.matrix(output, config.query_width(), width)?,
            post_attention_norm: self.vector(norm_1, width)?,
            moe_norm: self.vector(norm_2, width)?,
            router: self.router(router, width, config.experts)?,
            gate: self.experts(gate, width, ffn_width)?,
            up: self.experts(up, width, ffn_width)?,
            down: self.experts(down, ffn_width, width)?,
            post_moe_norm: self.vector(norm_3, width)?,
        })
    }

    fn vector(&self, stored: &Stored, len: usize) -> Result<Vector, CheckpointError> {
        let data = self.plain(stored, &[len as u64])?;
        Ok(Vector { name: stored.tensor.clone(), dtype: DType::F32, len, data })
    }

    fn embedding(&self, stored: &Stored, vocab: usize, width: usize) -> Result<Matrix, CheckpointError> {
        Ok(Matrix {
            name: stored.tensor.clone(),
            dtype: DType::F32,
            layout: Layout::OutIn,
            inputs: width,
            outputs: vocab,
            data: self.plain(stored, &[vocab as u64, width as u64])?,
            scales: None,
        })
    }

    fn router(&self, stored: &Stored, width: usize, experts: usize) -> Result<Matrix, CheckpointError> {
        Ok(Matrix {
            name: stored.tensor.clone(),
            dtype: DType::F32,
            layout: Layout::InOut,
            inputs: width,
            outputs: experts,
            data: self.plain(stored, &[width as u64, experts as u64])?,
            scales: None,
        })
    }

    fn matrix(&self, stored: &Stored, inputs: usize, outputs: usize) -> Result<Matrix, CheckpointError> {
        let (data, scales) = self.quantised(stored, &[], inputs, outputs)?;
        Ok(Matrix {
            name: stored.tensor.clone(),
            dtype: DType::I8,
            layout: Layout::InOut,
            inputs,
            outputs,
            data,
            scales: Some(scales),
        })
    }

    /// The matrices of all experts, which one file holds one after the other.
    fn experts(
        &self,
        stored: &Stored,
        inputs: usize,
        outputs: usize,
    ) -> Result<Vec<Matrix>, CheckpointError> {
        let experts = self.config.experts as u64;
        let (data, scales) = self.quantised(stored, &[experts], inputs, outputs)?;
        let whole = (data.len(), scales.data.len());
        (0..experts)
            .map(|expert| {
                let part = |blob: &Blob, bytes: u64| {
                    let size = bytes.checked_div(experts)?;
                    let start = expert.checked_mul(size)?;
                    blob.part(start..start.checked_add(size)?)
                };
                let parts = part(&data, whole.0).zip(part(&scales.data, whole.1));
                let (data, scales_data) = parts.ok_or_else(|| stored.shrunk())?;
                Ok(Matrix {
                    name: format!("{}[{expert}]", stored.tensor),
                    dtype: DType::I8,
                    layout: Layout::InOut,
                    inputs,
                    outputs,
                    data,
                    scales: Some(Scales { data: scales_data, ..scales }),
                })
            })
            .collect()
    }

    /// The bytes of an f32 array of exactly this shape.
    fn plain(&self, stored: &Stored, shape: &[u64]) -> Result<Blob, CheckpointError> {
        match &stored.content {
            Content::Plain(array) if array.dtype == DType::F32 && array.shape == shape => stored.blob(array),
            _ => Err(self.wrong(stored, format!("f32 {shape:?}"))),
        }
    }

    /// Weights and scales of int8 matrices: `[batch.., inputs, outputs]` and `[batch.., groups, outputs]`.
    fn quantised(
        &self,
        stored: &Stored,
        batch: &[u64],
        inputs: usize,
        outputs: usize,
    ) -> Result<(Blob, Scales), CheckpointError> {
        let shape = |rows: u64| [batch, &[rows, outputs as u64]].concat();
        if let Content::Quantised { weight, scales } = &stored.content
            && weight.dtype == DType::I8
            && weight.shape == shape(inputs as u64)
            && scales.dtype == DType::BF16
            && let Some(&groups) = scales.shape.get(batch.len())
            && scales.shape == shape(groups)
            && let Ok(groups) = usize::try_from(groups)
            && inputs.is_multiple_of(groups)
            && let Some(inputs) = inputs.checked_div(groups)
        {
            let data = stored.blob(scales)?;
            let scales = Scales { dtype: DType::BF16, layout: Layout::InOut, inputs, outputs: 1, data };
            return Ok((stored.blob(weight)?, scales));
        }
        let batch: String = batch.iter().map(|axis| format!("{axis}, ")).collect();
        let weight = format!("i8 [{batch}{inputs}, {outputs}]");
        let scales = format!("bf16 scales [{batch}G, {outputs}]");
        Err(self.wrong(stored, format!("{weight} with {scales}, G dividing {inputs},")))
    }

    fn wrong(&self, stored: &Stored, expected: String) -> CheckpointError {
        CheckpointError::Tensor {
            file: stored.file.clone(),
            tensor: stored.tensor.clone(),
            found: stored.to_string(),
            expected: format!("{expected} according to {}", self.by),
        }
    }
}

fn miscounted(folder: &dyn Folder, files: usize) -> CheckpointError {
    CheckpointError::Files {
        folder: folder.name(),
        found: format!("{files} tensor files up to tensor{:05}_000", files.saturating_sub(1)),
        expected: format!("2 and {} for each layer", MODULES.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_stored_in_the_order_of_their_numbers_as_strings() {
        assert_eq!(layer_order(11), [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]);
        let order = layer_order(64);
        let file = |layer| 2 + 12 * order.iter().position(|&other| other == layer).unwrap();
        // Files of slot 0 as the specification of the release lists them.
        let published =
            [(0, 2), (1, 14), (10, 26), (19, 134), (2, 146), (20, 158), (3, 278), (63, 722), (7, 734)];
        for (layer, expected) in published {
            assert_eq!(file(layer), expected, "layer {layer}");
        }
        assert_eq!((file(8), file(9)), (746, 758));
    }

    #[test]
    fn only_names_of_five_and_three_digits_are_tensors() {
        assert_eq!(parse_name("tensor00769_000"), Some((769, 0)));
        assert_eq!(parse_name("tensor00001_007"), Some((1, 7)));
        for other in
            ["tensor1_000", "tensor000001_000", "tensor00001_00", "tensor+0001_000", "tensor00001_000.tmp"]
        {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
