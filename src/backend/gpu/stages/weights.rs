//! Weights on a device. Uses `kernels`, `code`, `load` and `backend`.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use super::Gpu;
use super::attention::MAX_GRID_ROWS;
use super::code::{EXPERT_LINEAR, GATE_UP, LINEAR, Products, Tiles};
use super::load::{Content, Loader, Pack, Transfer};
use crate::backend::gpu::kernels::{self, Format, Kernel, TILE_OUTPUTS};
use crate::backend::gpu::{Buffer, Function, GpuError, Runtime};
use crate::backend::{BackendError, values};
use crate::config::ModelConfig;
use crate::control::Control;
use crate::error::Result;
use crate::tensor::{DType, Layout, Matrix, Vector};
use crate::weights::{Head as StoredHead, Layer as StoredLayer};

/// A matrix, or one of each expert, one after another.
pub(super) struct Weights<R: Runtime> {
    pub(super) format: Format,
    /// As kernels see the first, whose addresses are those of the buffers.
    pub(super) matrix: kernels::Matrix,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    _data: Arc<Buffer<R>>, // [matrices][outputs, inputs] or [inputs, outputs], or tiles
    _scales: Option<Arc<Buffer<R>>>, // f32 [matrices][outputs / shared, inputs / shared]
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
    Fused(Products<R>),
    /// Gate and up.
    Apart([Products<R>; 2]),
}

/// One layer's weights.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
pub struct Layer<R: Runtime> {
    /// No other layer of this process has it.
    pub(super) id: u64,
    /// Whether all products with experts can be done by matrix instructions: what one makes is what the next takes.
    pub(super) experts_have_mma: bool,
    pub(super) attention_norm: Arc<Buffer<R>>, // f32 [width]
    pub(super) query_key_value: [Weights<R>; 3],
    pub(super) heads: Vec<Heads<R>>,
    /// The same as products of their own, for many rows.
    pub(super) head_products: [Products<R>; 3],
    pub(super) output: Weights<R>,
    pub(super) output_products: Products<R>,
    pub(super) post_attention_norm: Arc<Buffer<R>>, // f32 [width]
    pub(super) moe_norm: Arc<Buffer<R>>,            // f32 [width]
    pub(super) router: Arc<Buffer<R>>,              // f32 [experts, width]
    pub(super) gate: Weights<R>,
    pub(super) up: Weights<R>,
    pub(super) activation: Activation<R>,
    pub(super) down: Weights<R>,
    pub(super) down_products: Products<R>,
    pub(super) post_moe_norm: Arc<Buffer<R>>, // f32 [width]
}

/// Embedding, last norm and output projection.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
pub struct Head<R: Runtime> {
    pub(super) embedding: Weights<R>,
    pub(super) embed: Function<R>,
    pub(super) norm: Arc<Buffer<R>>, // f32 [width]
    /// If it is not the embedding.
    pub(super) output: Option<Weights<R>>,
    pub(super) output_products: Products<R>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Buffers whose weights are still to be copied.
struct Loading<'a, R: Runtime> {
    gpu: &'a Gpu<R>,
    transfers: Vec<Transfer<'a, R>>,
}

impl<'a, R: Runtime> Loading<'a, R> {
    /// A buffer for `contents`, one after another, as they are.
    fn buffer(
        &mut self,
        contents: impl Iterator<Item = Content<'a>> + Clone,
    ) -> Result<Arc<Buffer<R>>, GpuError> {
        let bytes = contents.clone().map(Content::bytes).sum();
        let to = Arc::new(self.gpu.device.allocate(bytes, "weights")?);
        let mut at = 0;
        for content in contents {
            self.transfers.push(Transfer { content, to: Arc::clone(&to), at, pack: None });
            at += content.bytes();
        }
        Ok(to)
    }

    fn vector(&mut self, vector: &'a Vector) -> Result<Arc<Buffer<R>>> {
        Ok(self.buffer([Content::Vector(vector)].into_iter())?)
    }

    /// A buffer for matrices of a packed format, one after another.
    fn packed(&mut self, matrices: &'a [Matrix], format: Format) -> Result<Arc<Buffer<R>>, GpuError> {
        let [inputs, outputs] = matrices.first().map_or([0; 2], |first| [first.inputs, first.outputs]);
        let bytes = format.bytes(inputs, outputs);
        let to = Arc::new(self.gpu.device.allocate(bytes * matrices.len(), "weights")?);
        let pack = Arc::new(Pack { kernel: self.gpu.code.kernel(Kernel::Pack(format), 0)?, inputs, outputs });
        for (index, matrix) in matrices.iter().enumerate() {
            let (content, at) = (Content::Elements(matrix), index * bytes);
            let (to, pack) = (Arc::clone(&to), Some(Arc::clone(&pack)));
            self.transfers.push(Transfer { content, to, at, pack });
        }
        Ok(to)
    }

    /// The format that a matrix gets, whose outputs are computed `unit` by `unit`.
    fn format(&self, matrix: &Matrix, unit: usize) -> Option<Format> {
        let Matrix { dtype, layout, inputs, outputs, .. } = *matrix;
        let [scale_inputs, _] = grain(matrix).unwrap_or([inputs, outputs]);
        let packed = Format::packed(dtype, layout, inputs, outputs).filter(|packed| {
            let fits = packed.scales_fit(scale_inputs, inputs) && unit.is_multiple_of(packed.strip());
            self.gpu.packs && fits && outputs / TILE_OUTPUTS <= MAX_GRID_ROWS
        });
        packed.or_else(|| Format::new(dtype, layout))
    }

    /// Matrices of one shape, format and grain of scales, whose outputs are computed `unit` by `unit`.
    fn matrices(&mut self, matrices: &'a [Matrix], unit: usize) -> Result<Weights<R>> {
        let Some((first, others)) = matrices.split_first() else { return Err(BackendError::Batch.into()) };
        let form =
            |matrix: &Matrix| (matrix.dtype, matrix.layout, matrix.inputs, matrix.outputs, grain(matrix));
        if let Some(other) = others.iter().find(|other| form(other) != form(first)) {
            return Err(unsupported(other).into());
        }
        let Matrix { dtype, inputs, outputs, .. } = *first;
        let format = self.format(first, unit).ok_or_else(|| unsupported(first))?;
        let size = |size: usize| i32::try_from(size).map_err(|_| unsupported(first));
        for matrix in matrices {
            values::check_rows(matrix)?;
            values::check_size(&matrix.name, dtype, &matrix.data, inputs * outputs)?;
        }
        let grain = grain(first);
        let scales = grain.map(|_| self.buffer(matrices.iter().map(Content::Scales))).transpose()?;
        let data = if format.is_packed() {
            self.packed(matrices, format)?
        } else {
            self.buffer(matrices.iter().map(Content::Elements))?
        };
        let [scale_inputs, scale_outputs] = grain.unwrap_or([1, 1]);
        let matrix = kernels::Matrix {
            data: data.pointer().0,
            scales: scales.as_ref().map_or(0, |scales| scales.pointer().0),
            scale_inputs: size(scale_inputs)?,
            scale_outputs: size(scale_outputs)?,
            inputs: size(inputs)?,
            outputs: size(outputs)?,
        };
        Ok(Weights { format, matrix, inputs, outputs, _data: data, _scales: scales })
    }

    fn matrix(&mut self, matrix: &'a Matrix) -> Result<Weights<R>> {
        self.matrices(std::slice::from_ref(matrix), matrix.outputs)
    }

    /// Matrices of all experts; of a layer without, whose experts are computed elsewhere, a stand-in that is never read.
    fn experts(&mut self, matrices: &'a [Matrix]) -> Result<Weights<R>> {
        let Some(first) = matrices.first() else {
            let none = self.gpu.device.allocate(0, "weights")?;
            let format = Format::new(DType::F32, Layout::OutIn).ok_or(BackendError::Batch)?;
            let matrix = kernels::Matrix {
                data: none.pointer().0,
                scales: 0,
                scale_inputs: 1,
                scale_outputs: 1,
                inputs: 0,
                outputs: 0,
            };
            return Ok(Weights {
                format,
                matrix,
                inputs: 0,
                outputs: 0,
                _data: Arc::new(none),
                _scales: None,
            });
        };
        self.matrices(matrices, first.outputs)
    }

    /// A matrix of heads, which the rotary embedding turns by halves.
    fn heads(&mut self, matrix: &'a Matrix) -> Result<Weights<R>> {
        self.matrices(std::slice::from_ref(matrix), self.gpu.config.head_dim / 2)
    }
}

fn unsupported(Matrix { name, dtype, layout, .. }: &Matrix) -> BackendError {
    BackendError::Unsupported { tensor: name.clone(), dtype: *dtype, layout: *layout }
}

fn check_shape(matrix: &Matrix, expected: [usize; 2]) -> Result<(), BackendError> {
    let found = [matrix.inputs, matrix.outputs];
    if found == expected {
        Ok(())
    } else {
        Err(BackendError::Shape { tensor: matrix.name.clone(), found, expected })
    }
}

/// Inputs and outputs that share a scale, if there are scales.
fn grain(matrix: &Matrix) -> Option<[usize; 2]> {
    let scales = matrix.scales.as_ref()?;
    Some([scales.inputs.min(matrix.inputs).max(1), scales.outputs.min(matrix.outputs).max(1)])
}

impl<R: Runtime> Gpu<R> {
    /// Copies what is still to be copied.
    fn transfer(&self, loading: Loading<'_, R>, control: &Control) -> Result<()> {
        let kept = || self.loader.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out while it runs, since that reports to the host, and not kept after an error: it may have lost a part.
        let taken = kept().take();
        let new = || Loader::new(&self.device, self.code.kernel(Kernel::Generate, 0)?);
        let mut loader = taken.map_or_else(new, Ok)?;
        loader.run(&self.device, &loading.transfers, control)?;
        let turn = self.turn()?;
        loader.precede(&self.stream)?;
        drop(turn);
        *kept() = Some(loader);
        Ok(())
    }

    /// Refuses layers of another model: kernels trust in their sizes.
    fn check_layer(&self, layer: &StoredLayer) -> Result<(), BackendError> {
        let ModelConfig { width, ffn_width, experts, .. } = self.config;
        let (query, kv) = (self.config.query_width(), self.config.kv_width());
        let one = [
            (&layer.query, [width, query]),
            (&layer.key, [width, kv]),
            (&layer.value, [width, kv]),
            (&layer.output, [query, width]),
            (&layer.router, [width, experts]),
        ];
        one.into_iter().try_for_each(|(matrix, expected)| check_shape(matrix, expected))?;
        let of_experts = [
            (&layer.gate, [width, ffn_width]),
            (&layer.up, [width, ffn_width]),
            (&layer.down, [ffn_width, width]),
        ];
        for (matrices, expected) in of_experts {
            if matrices.len() != experts && !matrices.is_empty() {
                return Err(BackendError::Batch);
            }
            matrices.iter().try_for_each(|matrix| check_shape(matrix, expected))?;
        }
        Ok(())
    }

    pub(super) fn load_layer_weights(&self, layer: &StoredLayer, control: &Control) -> Result<Layer<R>> {
        self.check_layer(layer)?;
        let mut loading = Loading { gpu: self, transfers: Vec::new() };
        let query = loading.heads(&layer.query)?;
        let query_key_value = [query, loading.heads(&layer.key)?, loading.heads(&layer.value)?];
        let (output, gate) = (loading.matrix(&layer.output)?, loading.experts(&layer.gate)?);
        let (up, down) = (loading.experts(&layer.up)?, loading.experts(&layer.down)?);
        let code = &self.code;
        let activation = if gate.format == up.format {
            Activation::Fused(code.products(GATE_UP, gate.format, gate.inputs)?)
        } else {
            let products =
                |weights: &Weights<R>| code.products(EXPERT_LINEAR, weights.format, weights.inputs);
            Activation::Apart([products(&gate)?, products(&up)?])
        };
        let linear = |weights: &Weights<R>| code.products(LINEAR, weights.format, weights.inputs);
        let [query, key, value] = query_key_value.each_ref().map(linear);
        let head_products = [query?, key?, value?];
        let output_products = linear(&output)?;
        let down_products = code.products(EXPERT_LINEAR, down.format, down.inputs)?;
        let activated = match &activation {
            Activation::Fused(products) => std::slice::from_ref(products),
            Activation::Apart(products) => products,
        };
        let experts_have_mma =
            activated.iter().chain([&down_products]).all(|products| products.mma.is_some());
        let loaded = Layer {
            id: NEXT_ID.fetch_add(1, Relaxed),
            experts_have_mma,
            attention_norm: loading.vector(&layer.attention_norm)?,
            heads: self.heads(&query_key_value)?,
            head_products,
            query_key_value,
            output_products,
            output,
            post_attention_norm: loading.vector(&layer.post_attention_norm)?,
            moe_norm: loading.vector(&layer.moe_norm)?,
            router: loading.buffer([Content::Weights(&layer.router)].into_iter())?,
            activation,
            gate,
            up,
            down_products,
            down,
            post_moe_norm: loading.vector(&layer.post_moe_norm)?,
        };
        self.transfer(loading, control)?;
        Ok(loaded)
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
        if head.embedding.layout != Layout::OutIn {
            return Err(unsupported(&head.embedding).into());
        }
        for matrix in [&head.embedding].into_iter().chain(&head.output) {
            check_shape(matrix, [self.config.width, self.config.vocab])?;
        }
        let mut loading = Loading { gpu: self, transfers: Vec::new() };
        let embedding = loading.matrix(&head.embedding)?;
        let output = head.output.as_ref().map(|output| loading.matrix(output)).transpose()?;
        let projection = output.as_ref().unwrap_or(&embedding);
        let loaded = Head {
            embed: self.code.kernel(Kernel::Embed(embedding.format), 0)?,
            norm: loading.vector(&head.norm)?,
            output_products: self.code.products(LINEAR, projection.format, projection.inputs)?,
            embedding,
            output,
        };
        self.transfer(loading, control)?;
        Ok(loaded)
    }
}
