//! The definition: each stage as plain loops over f32 values with f64 sums. Uses `backend`.
//!
//! Slow and obviously right; every other backend is tested against it. Weights are dequantised when they are loaded, so it is for
//! small models.

use half::bf16;

use super::values::{self, Rotary};
use super::{
    Backend, BackendError, Batch, Branch, KvPart, KvType, Observer, PAGE, PageId, Precision, Routing,
};
use crate::config::ModelConfig;
use crate::control::Control;
use crate::error::Result;
use crate::tensor::Matrix;
use crate::weights::{Head as StoredHead, Layer as StoredLayer};

/// The reference backend.
pub struct Scalar {
    config: ModelConfig,
    precision: Precision,
    rotary: Rotary,
}

/// A matrix of plain numbers.
struct Dense {
    inputs: usize,
    values: Vec<f32>, // [outputs, inputs]
}

/// One layer's weights.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
pub struct Layer {
    attention_norm: Vec<f32>,
    query: Dense,
    key: Dense,
    value: Dense,
    output: Dense,
    post_attention_norm: Vec<f32>,
    moe_norm: Vec<f32>,
    router: Dense,
    experts: Vec<Expert>,
    post_moe_norm: Vec<f32>,
}

struct Expert {
    gate: Dense,
    up: Dense,
    down: Dense,
}

/// Embedding, last norm and output projection.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
pub struct Head {
    embedding: Dense, // inputs = width, outputs = vocab
    norm: Vec<f32>,
    output: Option<Dense>, // if it is not the embedding
}

/// KV pages as f32, rounded to the cache's type.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
pub struct Cache {
    kv: KvType,
    pages: Vec<Vec<f32>>, // [pages][layers, 2, PAGE, kv_heads, head_dim]
}

/// Activations of the current batch, a vector per row.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
#[derive(Default)]
pub struct Scratch {
    hidden: Vec<Vec<f32>>,    // [rows][width]
    branch: Vec<Vec<f32>>,    // [rows][width]
    moe_input: Vec<Vec<f32>>, // [rows][width]
    probabilities: Vec<f32>,  // [rows, experts]
    experts: Vec<u32>,        // [rows, selected]
    gates: Vec<f32>,          // [rows, selected]
}

impl Dense {
    fn load(matrix: &Matrix, control: &Control) -> Result<Self> {
        Ok(Self { inputs: matrix.inputs, values: values::matrix(matrix, control)? })
    }

    fn row(&self, output: usize) -> &[f32] {
        &self.values[output * self.inputs..][..self.inputs]
    }

    fn product(&self, x: &[f32]) -> Vec<f32> {
        self.values.chunks_exact(self.inputs).map(|row| dot(x, row) as f32).collect()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())) as f32
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let largest = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let exps: Vec<f64> = scores.iter().map(|&score| f64::from(score - largest).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|&exp| (exp / sum) as f32).collect()
}

fn soft_cap(x: f32, cap: Option<f32>) -> f32 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}

impl Cache {
    fn page(&self, page: PageId) -> Result<&[f32], BackendError> {
        self.pages.get(page.0 as usize).map(Vec::as_slice).ok_or(BackendError::Page { page: page.0 })
    }

    fn page_mut(&mut self, page: PageId) -> Result<&mut [f32], BackendError> {
        let found = self.pages.get_mut(page.0 as usize).map(Vec::as_mut_slice);
        found.ok_or(BackendError::Page { page: page.0 })
    }
}

impl Scalar {
    /// A backend for models of `config`.
    #[must_use]
    pub fn new(config: ModelConfig, precision: Precision) -> Self {
        let rotary = Rotary::new(config.rope_base, config.head_dim);
        Self { config, precision, rotary }
    }

    /// What a product with weights sees of an activation.
    fn rounded(&self, mut row: Vec<f32>) -> Vec<f32> {
        if self.precision != Precision::Exact {
            row.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        }
        row
    }

    fn norm(&self, x: &[f32], scale: &[f32]) -> Vec<f32> {
        let mean = dot(x, x) / x.len() as f64;
        let factor = 1.0 / (mean + f64::from(self.config.norm_epsilon)).sqrt();
        x.iter().zip(scale).map(|(&x, &scale)| (f64::from(scale) * f64::from(x) * factor) as f32).collect()
    }

    /// Turns each head by the angles of `position`; element `j` pairs with `j + head_dim / 2`.
    fn rotate(&self, heads: &mut [f32], position: u32) {
        let half = self.config.head_dim / 2;
        for head in heads.chunks_exact_mut(2 * half) {
            for (j, (cos, sin)) in self.rotary.angles(position).enumerate() {
                let (a, b) = (head[j], head[j + half]);
                head[j] = a * cos - b * sin;
                head[j + half] = b * cos + a * sin;
            }
        }
    }

    /// Where keys or values of one position of a layer lie in a page.
    fn place(&self, layer: usize, part: KvPart, position: usize) -> std::ops::Range<usize> {
        let width = self.config.kv_width();
        let part = match part {
            KvPart::Key => 0,
            KvPart::Value => 1,
        };
        let start = ((layer * 2 + part) * PAGE + position % PAGE) * width;
        start..start + width
    }
}

impl Backend for Scalar {
    type Layer = Layer;
    type Head = Head;
    type Cache = Cache;
    type Scratch = Scratch;

    fn name(&self) -> String {
        "scalar".to_owned()
    }

    fn load_layer(&self, layer: &StoredLayer, control: &Control) -> Result<Layer> {
        let experts = layer.gate.iter().zip(&layer.up).zip(&layer.down);
        Ok(Layer {
            attention_norm: values::vector(&layer.attention_norm, control)?,
            query: Dense::load(&layer.query, control)?,
            key: Dense::load(&layer.key, control)?,
            value: Dense::load(&layer.value, control)?,
            output: Dense::load(&layer.output, control)?,
            post_attention_norm: values::vector(&layer.post_attention_norm, control)?,
            moe_norm: values::vector(&layer.moe_norm, control)?,
            router: Dense::load(&layer.router, control)?,
            experts: experts
                .map(|((gate, up), down)| {
                    Ok(Expert {
                        gate: Dense::load(gate, control)?,
                        up: Dense::load(up, control)?,
                        down: Dense::load(down, control)?,
                    })
                })
                .collect::<Result<_>>()?,
            post_moe_norm: values::vector(&layer.post_moe_norm, control)?,
        })
    }

    fn load_head(&self, head: &StoredHead, control: &Control) -> Result<Head> {
        Ok(Head {
            embedding: Dense::load(&head.embedding, control)?,
            norm: values::vector(&head.norm, control)?,
            output: head.output.as_ref().map(|output| Dense::load(output, control)).transpose()?,
        })
    }

    fn cache(&self, kv: KvType) -> Cache {
        Cache { kv, pages: Vec::new() }
    }

    fn scratch(&self) -> Scratch {
        Scratch::default()
    }

    fn allocate_page(&self, cache: &mut Cache, page: PageId) -> Result<()> {
        let index = page.0 as usize;
        if cache.pages.len() <= index {
            cache.pages.resize(index + 1, Vec::new());
        }
        let values = self.config.layers * 2 * PAGE * self.config.kv_width();
        Ok(values::grow(&mut cache.pages[index], values, "a KV page")?)
    }

    fn free_page(&self, cache: &mut Cache, page: PageId) {
        if let Some(page) = cache.pages.get_mut(page.0 as usize) {
            *page = Vec::new();
        }
    }

    fn copy_page(&self, cache: &mut Cache, from: PageId, to: PageId) -> Result<()> {
        let copy = cache.page(from)?.to_vec();
        cache.page_mut(to)?.copy_from_slice(&copy);
        Ok(())
    }

    fn read_page(
        &self,
        cache: &Cache,
        page: PageId,
        layer: usize,
        part: KvPart,
        out: &mut [u8],
    ) -> Result<()> {
        let start = self.place(layer, part, 0).start;
        let values = cache.page(page)?[start..].iter();
        match cache.kv {
            KvType::F32 => {
                out.chunks_exact_mut(4).zip(values).for_each(|(out, x)| out.copy_from_slice(&x.to_le_bytes()))
            }
            KvType::BF16 => out
                .chunks_exact_mut(2)
                .zip(values)
                .for_each(|(out, x)| out.copy_from_slice(&bf16::from_f32(*x).to_le_bytes())),
        }
        Ok(())
    }

    fn write_page(
        &self,
        cache: &mut Cache,
        page: PageId,
        layer: usize,
        part: KvPart,
        values: &[u8],
    ) -> Result<()> {
        let start = self.place(layer, part, 0).start;
        let kv = cache.kv;
        for (x, bytes) in cache.page_mut(page)?[start..].iter_mut().zip(values.chunks_exact(kv.size())) {
            *x = match kv {
                KvType::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                KvType::BF16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            };
        }
        Ok(())
    }

    fn embed(&self, head: &Head, batch: &Batch<'_>, scratch: &mut Scratch) -> Result<()> {
        scratch.hidden = batch
            .rows()
            .iter()
            .map(|row| {
                head.embedding
                    .row(row.token as usize)
                    .iter()
                    .map(|x| x * self.config.embedding_scale)
                    .collect()
            })
            .collect();
        Ok(())
    }

    fn attention(
        &self,
        layer: &Layer,
        index: usize,
        batch: &Batch<'_>,
        cache: &mut Cache,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let config = &self.config;
        let group = config.heads / config.kv_heads;
        scratch.branch.clear();
        for sequence in batch.sequences() {
            let pages = batch.pages_of(sequence);
            for row in sequence.rows.clone() {
                let position = batch.rows()[row].position;
                let x = self.rounded(self.norm(&scratch.hidden[row], &layer.attention_norm));
                let mut query = layer.query.product(&x); // [heads, head_dim]
                let mut key = layer.key.product(&x); // [kv_heads, head_dim]
                let mut value = layer.value.product(&x); // [kv_heads, head_dim]
                self.rotate(&mut query, position);
                self.rotate(&mut key, position);
                let query = self.rounded(query);
                if cache.kv == KvType::BF16 {
                    key.iter_mut().chain(&mut value).for_each(|x| *x = bf16::from_f32(*x).to_f32());
                }
                let page = cache.page_mut(pages[position as usize / PAGE])?;
                for (part, values) in [(KvPart::Key, key), (KvPart::Value, value)] {
                    page[self.place(index, part, position as usize)].copy_from_slice(&values);
                }
                let mut attended = Vec::with_capacity(config.query_width()); // [heads, head_dim]
                for (h, query) in query.chunks_exact(config.head_dim).enumerate() {
                    let lane = h / group * config.head_dim..(h / group + 1) * config.head_dim;
                    let at = |part, p: usize| {
                        let page = &cache.pages[pages[p / PAGE].0 as usize];
                        &page[self.place(index, part, p)][lane.clone()]
                    };
                    let seen = 0..position as usize + 1;
                    let scores: Vec<f32> = seen
                        .clone()
                        .map(|p| {
                            let score = dot(query, at(KvPart::Key, p)) as f32 * config.attention_scale;
                            soft_cap(score, config.attention_cap)
                        })
                        .collect();
                    let weights = softmax(&scores);
                    for d in 0..config.head_dim {
                        let sum: f64 = seen
                            .clone()
                            .map(|p| f64::from(weights[p]) * f64::from(at(KvPart::Value, p)[d]))
                            .sum();
                        attended.push(sum as f32);
                    }
                }
                scratch.branch.push(layer.output.product(&self.rounded(attended)));
            }
        }
        Ok(())
    }

    fn route(&self, layer: &Layer, batch: &Batch<'_>, scratch: &mut Scratch) -> Result<()> {
        let config = &self.config;
        scratch.moe_input.clear();
        scratch.probabilities.clear();
        scratch.experts.clear();
        scratch.gates.clear();
        for row in 0..batch.rows().len() {
            let x = self.norm(&scratch.hidden[row], &layer.moe_norm);
            let logits: Vec<f32> =
                layer.router.product(&x).iter().map(|&z| soft_cap(z, config.router_cap)).collect();
            let probabilities = softmax(&logits);
            let mut order: Vec<usize> = (0..config.experts).collect();
            // Stable: of equal experts the lower one comes first.
            order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
            order.truncate(config.selected_experts);
            let sum: f32 = order.iter().map(|&e| probabilities[e]).sum();
            let divisor = if config.renormalise_gates { sum } else { 1.0 };
            scratch.experts.extend(order.iter().map(|&e| e as u32));
            scratch.gates.extend(order.iter().map(|&e| probabilities[e] / divisor));
            scratch.probabilities.extend(probabilities);
            scratch.moe_input.push(self.rounded(x));
        }
        Ok(())
    }

    fn experts(&self, layer: &Layer, batch: &Batch<'_>, scratch: &mut Scratch) -> Result<()> {
        let selected = self.config.selected_experts;
        scratch.branch.clear();
        for row in 0..batch.rows().len() {
            let x = &scratch.moe_input[row];
            let mut sum = vec![0.0; self.config.width];
            for slot in row * selected..(row + 1) * selected {
                let expert = &layer.experts[scratch.experts[slot] as usize];
                let gate = expert.gate.product(x);
                let up = expert.up.product(x);
                let activated = gate.iter().zip(&up).map(|(&gate, &up)| gelu(gate) * up).collect();
                let down = expert.down.product(&self.rounded(activated));
                sum.iter_mut().zip(&down).for_each(|(sum, x)| *sum += scratch.gates[slot] * x);
            }
            scratch.branch.push(sum);
        }
        Ok(())
    }

    fn residual(&self, layer: &Layer, branch: Branch, _: &Batch<'_>, scratch: &mut Scratch) -> Result<()> {
        let scale = match branch {
            Branch::Attention => &layer.post_attention_norm,
            Branch::Experts => &layer.post_moe_norm,
        };
        for (hidden, branch) in scratch.hidden.iter_mut().zip(&scratch.branch) {
            hidden.iter_mut().zip(self.norm(branch, scale)).for_each(|(hidden, x)| *hidden += x);
        }
        Ok(())
    }

    fn head(
        &self,
        head: &Head,
        _: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Scratch,
        logits: &mut [f32],
    ) -> Result<()> {
        let output = head.output.as_ref().unwrap_or(&head.embedding);
        for (&row, logits) in rows.iter().zip(logits.chunks_exact_mut(self.config.vocab)) {
            let x = self.rounded(self.norm(&scratch.hidden[row as usize], &head.norm));
            for (logit, z) in logits.iter_mut().zip(output.product(&x)) {
                *logit = soft_cap(z * self.config.output_scale, self.config.output_cap);
            }
        }
        Ok(())
    }

    fn normed(
        &self,
        head: &Head,
        _: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Scratch,
        out: &mut [f32],
    ) -> Result<()> {
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(self.config.width)) {
            out.copy_from_slice(&self.norm(&scratch.hidden[row as usize], &head.norm));
        }
        Ok(())
    }

    fn write_hidden(&self, scratch: &mut Scratch, hidden: &[f32]) -> Result<()> {
        let rows = scratch.hidden.iter_mut().zip(hidden.chunks_exact(self.config.width));
        rows.for_each(|(row, hidden)| row.copy_from_slice(hidden));
        Ok(())
    }

    fn observe_routing(&self, scratch: &Scratch, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        let Scratch { probabilities, experts, gates, .. } = scratch;
        observer.routing(layer, &Routing { probabilities, experts, gates });
        Ok(())
    }

    fn observe_hidden(&self, scratch: &Scratch, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        observer.hidden(layer, &scratch.hidden.concat());
        Ok(())
    }
}

impl std::fmt::Debug for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scalar").field("precision", &self.precision).finish_non_exhaustive()
    }
}
