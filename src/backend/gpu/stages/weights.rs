//! Weights on a device. Uses `kernels`, `code` and `backend`.

use super::Gpu;
use super::code::Tiles;
use crate::backend::gpu::kernels::{self, Format, Kernel};
use crate::backend::gpu::{Buffer, Function, Runtime};
use crate::backend::{BackendError, values};
use crate::control::Control;
use crate::error::Result;
use crate::tensor::{Layout, Matrix, Vector};
use crate::weights::{Head as StoredHead, Layer as StoredLayer};

/// A matrix, or one of each expert, one after another.
pub(super) struct Weights<R: Runtime> {
    pub(super) format: Format,
    /// As kernels see the first, whose addresses are those of the buffers.
    pub(super) matrix: kernels::Matrix,
    pub(super) outputs: usize,
    _data: Buffer<R>,           // [matrices][outputs, inputs] or [inputs, outputs]
    _scales: Option<Buffer<R>>, // f32 [matrices][outputs / shared, inputs / shared]
}

/// Heads whose weights have one format: queries come first, then keys, then values.
pub(super) struct Heads<R: Runtime> {
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) tiles: Tiles<R>,
}

/// How gate and up become activated values.
pub(super) enum Activation<R: Runtime> {
    /// In one kernel, where both have one format.
    Fused(Tiles<R>),
    /// Gate and up.
    Apart([Tiles<R>; 2]),
}

/// One layer's weights.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
pub struct Layer<R: Runtime> {
    pub(super) attention_norm: Buffer<R>, // f32 [width]
    pub(super) query_key_value: [Weights<R>; 3],
    pub(super) heads: Vec<Heads<R>>,
    pub(super) output: Weights<R>,
    pub(super) output_tiles: Tiles<R>,
    pub(super) post_attention_norm: Buffer<R>, // f32 [width]
    pub(super) moe_norm: Buffer<R>,            // f32 [width]
    pub(super) router: Buffer<R>,              // f32 [experts, width]
    pub(super) gate: Weights<R>,
    pub(super) up: Weights<R>,
    pub(super) activation: Activation<R>,
    pub(super) down: Weights<R>,
    pub(super) down_tiles: Tiles<R>,
    pub(super) post_moe_norm: Buffer<R>, // f32 [width]
}

/// Embedding, last norm and output projection.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
pub struct Head<R: Runtime> {
    pub(super) embedding: Weights<R>,
    pub(super) embed: Function<R>,
    pub(super) norm: Buffer<R>, // f32 [width]
    /// If it is not the embedding.
    pub(super) output: Option<Weights<R>>,
    pub(super) output_tiles: Tiles<R>,
}

impl<R: Runtime> Gpu<R> {
    /// Matrices of one shape, format and grain of scales.
    fn load(&self, matrices: &[&Matrix], control: &Control) -> Result<Weights<R>> {
        let Some((first, others)) = matrices.split_first() else { return Err(BackendError::Batch.into()) };
        let unsupported = |matrix: &Matrix| {
            let Matrix { name, dtype, layout, .. } = matrix;
            BackendError::Unsupported { tensor: name.clone(), dtype: *dtype, layout: *layout }
        };
        let form = |matrix: &Matrix| {
            let grain = matrix.scales.as_ref().map(|scales| [scales.inputs, scales.outputs]);
            (matrix.dtype, matrix.layout, matrix.inputs, matrix.outputs, grain)
        };
        if let Some(other) = others.iter().find(|other| form(other) != form(first)) {
            return Err(unsupported(other).into());
        }
        let Matrix { dtype, layout, inputs, outputs, .. } = **first;
        let format = Format::new(dtype, layout).ok_or_else(|| unsupported(first))?;
        let size = |size: usize| i32::try_from(size).map_err(|_| unsupported(first));
        let (mut grain, mut factors) = ([1, 1], Vec::new());
        for matrix in matrices {
            values::check_rows(matrix)?;
            values::check_size(&matrix.name, dtype, &matrix.data, inputs * outputs)?;
            if let Some(own) = values::factors(matrix, control)? {
                grain = own.shared();
                factors.extend_from_slice(own.values());
            }
        }
        let scales = (!factors.is_empty()).then(|| self.upload(&factors)).transpose()?;
        let [scale_inputs, scale_outputs] = grain;
        let bytes = first.data.len() as usize;
        let data = self.device.allocate(bytes * matrices.len(), "weights")?;
        for (index, matrix) in matrices.iter().enumerate() {
            self.read_to(&data, index * bytes, &matrix.name, &matrix.data, control)?;
        }
        let matrix = kernels::Matrix {
            data: data.pointer().0,
            scales: scales.as_ref().map_or(0, |scales| scales.pointer().0),
            scale_inputs: size(scale_inputs)?,
            scale_outputs: size(scale_outputs)?,
            inputs: size(inputs)?,
            outputs: size(outputs)?,
        };
        Ok(Weights { format, matrix, outputs, _data: data, _scales: scales })
    }

    fn load_vector(&self, vector: &Vector, control: &Control) -> Result<Buffer<R>> {
        self.upload(&values::vector(vector, control)?)
    }

    pub(super) fn load_layer_weights(&self, layer: &StoredLayer, control: &Control) -> Result<Layer<R>> {
        let one = |matrix: &Matrix| self.load(&[matrix], control);
        let all = |matrices: &[Matrix]| self.load(&matrices.iter().collect::<Vec<_>>(), control);
        let query_key_value = [one(&layer.query)?, one(&layer.key)?, one(&layer.value)?];
        let (output, gate) = (one(&layer.output)?, all(&layer.gate)?);
        let (up, down) = (all(&layer.up)?, all(&layer.down)?);
        let code = &self.code;
        let activation = if gate.format == up.format {
            Activation::Fused(code.tiles(Kernel::GateUp, gate.format)?)
        } else {
            let tiles = |weights: &Weights<R>| code.tiles(Kernel::ExpertLinear, weights.format);
            Activation::Apart([tiles(&gate)?, tiles(&up)?])
        };
        Ok(Layer {
            attention_norm: self.load_vector(&layer.attention_norm, control)?,
            heads: self.heads(&query_key_value)?,
            query_key_value,
            output_tiles: code.tiles(Kernel::Linear, output.format)?,
            output,
            post_attention_norm: self.load_vector(&layer.post_attention_norm, control)?,
            moe_norm: self.load_vector(&layer.moe_norm, control)?,
            router: self.upload(&values::matrix(&layer.router, control)?)?,
            activation,
            gate,
            up,
            down_tiles: code.tiles(Kernel::ExpertLinear, down.format)?,
            down,
            post_moe_norm: self.load_vector(&layer.post_moe_norm, control)?,
        })
    }

    /// The launches that queries, keys and values take.
    fn heads(&self, weights: &[Weights<R>; 3]) -> Result<Vec<Heads<R>>> {
        let counts = [self.config.heads, self.config.kv_heads, self.config.kv_heads];
        let mut launches: Vec<Heads<R>> = Vec::new();
        let (mut first, mut last) = (0, None);
        for (weights, count) in weights.iter().zip(counts) {
            match launches.last_mut().filter(|_| last == Some(weights.format)) {
                Some(launch) => launch.count += count,
                None => {
                    let tiles = self.code.tiles(Kernel::Qkv, weights.format)?;
                    launches.push(Heads { first, count, tiles });
                }
            }
            first += count;
            last = Some(weights.format);
        }
        Ok(launches)
    }

    pub(super) fn load_head_weights(&self, head: &StoredHead, control: &Control) -> Result<Head<R>> {
        let embedding = &head.embedding;
        if embedding.layout != Layout::OutIn {
            let Matrix { name, dtype, layout, .. } = embedding;
            let unsupported =
                BackendError::Unsupported { tensor: name.clone(), dtype: *dtype, layout: *layout };
            return Err(unsupported.into());
        }
        let embedding = self.load(&[embedding], control)?;
        let output = head.output.as_ref().map(|output| self.load(&[output], control)).transpose()?;
        Ok(Head {
            embed: self.code.kernel(Kernel::Embed(embedding.format), 0)?,
            norm: self.load_vector(&head.norm, control)?,
            output_tiles: self.code.tiles(Kernel::Linear, output.as_ref().unwrap_or(&embedding).format)?,
            embedding,
            output,
        })
    }
}
