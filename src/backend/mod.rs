//! The seam between the model and the devices that compute it. Uses the ground.
//!
//! [`Backend`] has one method per stage of this one model, so that a device may fuse, lay out weights as it likes and capture a
//! whole step. [`scalar`] is the definition, [`cpu`] the default. Open to implementers; exempt from semantic versioning before 1.0.

pub mod cpu;
mod error;
pub mod gpu;
pub mod scalar;
mod values;

use std::ops::Range;

use crate::config::ModelConfig;
use crate::control::Control;
use crate::error::Result;
use crate::weights::{Head as StoredHead, Layer as StoredLayer};

pub use crate::candidates::{Asked, Candidate, Candidates, MAX_CANDIDATES};
pub use error::BackendError;
pub(crate) use values::grow;

/// Positions per KV page.
pub const PAGE: usize = 64;

/// Rows of a batch unless a model is opened with another number.
pub(crate) const BATCH_ROWS: usize = 512;

/// How activations are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// f32 throughout.
    Exact,
    /// Activations are rounded once to bf16 before each product with the weights of attention, experts and head, and queries before
    /// the product with keys. Router, norms, soft caps, softmax and all sums are f32; only where matrix tiles of AMX multiply values of
    /// a bf16 cache, their weights are rounded to bf16 before they are summed.
    ///
    /// On the processor products of few rows with quantised weights see these as 16-bit integers with a power of two for each 32 as
    /// their scale: exactly what they are within 2^7 of the largest of the 32, otherwise off by up to 2^-16 of that. Processors with
    /// AMX multiply some rows or more by weights that are rounded to bf16 as well, where they are packed in blocks of few bits or in
    /// 8-bit floats; those stored as bf16, f16, f32 or 8-bit integers are taken as they are. Without AMX sixteen rows or more are
    /// multiplied in f32. What a row becomes may then depend on how many are in a batch with it, never on how many threads compute it.
    #[default]
    Standard,
    /// As `Standard`, but on the processor products of few rows with quantised weights see activations as 8-bit integers, with a
    /// scale for each 16: off by up to 1/254 of the largest of them. Nothing is rounded to bf16 before that; matrix tiles still take bf16.
    ///
    /// What this costs on the same file, as the mean difference of the next token's log-probability (nats) and the mean KL divergence
    /// (in 10^-4) from `Exact`, for the trained model in the repository and 20,440 held-out tokens, computed one by one with the keys and
    /// values that each side has by default (`benches/compare_errors.py`):
    ///
    /// | type | `Standard` | `Fast` | llama.cpp | perplexity: `Exact` | `Fast` | llama.cpp |
    /// |---|---|---|---|---|---|---|
    /// | `f32` | 0.0038, 1.2 | 0.0025, 0.9 | 0.0004, 0.1 | 45.158 | 45.158 | 45.158 |
    /// | `q8_0` | 0.0037, 1.0 | 0.0088, 2.4 | 0.0103, 3.6 | 45.164 | 45.155 | 45.163 |
    /// | `q6_k` | 0.0039, 1.3 | 0.0094, 3.7 | 0.0167, 7.1 | 45.250 | 45.269 | 45.268 |
    /// | `q5_k` | 0.0036, 0.9 | 0.0092, 3.3 | 0.0164, 6.3 | 45.313 | 45.318 | 45.316 |
    /// | `q4_k` | 0.0040, 1.3 | 0.0094, 3.4 | 0.0161, 6.2 | 45.441 | 45.445 | 45.452 |
    /// | `q4_0` | 0.0041, 1.6 | 0.0092, 3.7 | 0.0105, 4.0 | 45.393 | 45.409 | 45.407 |
    /// | `q3_k` | 0.0038, 1.3 | 0.0091, 3.2 | 0.0163, 6.3 | 46.907 | 46.906 | 46.920 |
    /// | `q2_k_pure` | 0.0041, 1.6 | 0.0097, 3.6 | 0.0175, 7.5 | 52.653 | 52.638 | 52.678 |
    ///
    /// llama.cpp has 8 bits as well, with a scale for each 32 activations, or for 256 where weights are of K types. By weights of f32 it
    /// multiplies f32, as `Fast` does: there the difference is in keys and values, which it keeps as f16 and we as bf16, and in queries.
    Fast,
}

/// Where weights are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightStorage {
    /// Read from the mapped file where they lie; the operating system keeps what fits.
    #[default]
    Mapped,
    /// Read into memory once. Needs as much memory as the file has bytes; a failing disk is an error at load and nothing later.
    Owned,
}

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvType {
    /// 4 bytes a value.
    F32,
    /// 2 bytes a value.
    #[default]
    BF16,
}

impl KvType {
    /// Bytes of one value.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 => 2,
        }
    }

    /// The name in lower case: `f32`, `bf16`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::BF16 => "bf16",
        }
    }
}

/// Number of a KV page in its model's pool: [`PAGE`] positions of every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageId(pub u32);

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvPart {
    /// After the rotary embedding.
    Key,
    /// As projected.
    Value,
}

/// One token to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its id, below the vocabulary's size.
    pub token: u32,
    /// Its position in its sequence.
    pub position: u32,
}

/// Consecutive rows of a batch that continue one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its rows in the batch, at consecutive positions.
    pub rows: Range<usize>,
    /// Its pages among those given to [`Batch::new`], those that the rows are written to included.
    pub pages: Range<usize>,
}

/// The rows that go through the layers together.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    rows: &'a [Row],
    sequences: &'a [Sequence],
    pages: &'a [PageId],
    control: &'a Control,
}

impl<'a> Batch<'a> {
    /// A batch of `rows`, sequence by sequence. `pages` are those of all sequences; `control` is looked at within long stages.
    ///
    /// # Errors
    /// [`BackendError::Batch`] unless the sequences' rows follow each other without gaps, each at consecutive positions that its
    /// pages hold.
    pub fn new(
        rows: &'a [Row],
        sequences: &'a [Sequence],
        pages: &'a [PageId],
        control: &'a Control,
    ) -> Result<Self, BackendError> {
        let mut next = 0;
        for sequence in sequences {
            let Sequence { rows: range, pages: own } = sequence;
            let (Some(own_rows), Some(own_pages)) = (rows.get(range.clone()), pages.get(own.clone())) else {
                return Err(BackendError::Batch);
            };
            let consecutive =
                own_rows.windows(2).all(|pair| pair[0].position.checked_add(1) == Some(pair[1].position));
            let room = own_rows.last().is_some_and(|row| (row.position as usize) < own_pages.len() * PAGE);
            if range.start != next || !consecutive || !room {
                return Err(BackendError::Batch);
            }
            next = range.end;
        }
        if next != rows.len() {
            return Err(BackendError::Batch);
        }
        Ok(Self { rows, sequences, pages, control })
    }

    /// All rows, sequence by sequence.
    #[must_use]
    pub fn rows(&self) -> &'a [Row] {
        self.rows
    }

    /// The sequences, whose rows cover the batch in order.
    #[must_use]
    pub fn sequences(&self) -> &'a [Sequence] {
        self.sequences
    }

    /// The pages of a sequence: position `p` lies in page `p / PAGE` of them.
    #[must_use]
    pub fn pages_of(&self, sequence: &Sequence) -> &'a [PageId] {
        &self.pages[sequence.pages.clone()]
    }

    /// Looked at within long stages.
    #[must_use]
    pub fn control(&self) -> &'a Control {
        self.control
    }
}

/// The two branches that are added to the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Branch {
    /// Attention, with its post-norm.
    Attention,
    /// The experts' weighted sum, with its post-norm.
    Experts,
}

/// The experts that each row of a batch was sent to, in one layer.
#[derive(Clone, Copy, Debug)]
pub struct Routing<'a> {
    /// Softmax over all experts.
    pub probabilities: &'a [f32], // [rows, experts]
    /// Selected experts, best first.
    pub experts: &'a [u32], // [rows, selected]
    /// Their weights.
    pub gates: &'a [f32], // [rows, selected]
}

/// Sees inside a run: for importance matrices, pruning, plots and tests. Attaching one costs copies to the host.
pub trait Observer {
    /// The rows of the next batch, in the order in which the other methods show them.
    fn batch(&mut self, _batch: &Batch<'_>) {}

    /// Layer `layer` has chosen its experts.
    fn routing(&mut self, _layer: usize, _routing: &Routing<'_>) {}

    /// The residual stream after layer `layer`.
    fn hidden(&mut self, _layer: usize, _hidden: &[f32] /* [rows, width] */) {}
}

/// A device, or the processor, as the model's stages see it.
///
/// Within a batch the stages are called in order: `embed`; per layer `attention`, `residual`, `route`, `experts`, `residual`; then
/// `head`, `candidates` or `normed` any number of times. A stage may stop early with [`Cancelled`](crate::Cancelled), and then must. Tokens are
/// checked by the model before they get here.
pub trait Backend: Send + Sync + 'static {
    /// A layer's weights, where and how the device wants them.
    type Layer: Send + Sync;
    /// Embedding, last norm and output projection.
    type Head: Send + Sync;
    /// The KV pages.
    type Cache: Send;
    /// Activations of the current batch.
    type Scratch: Send;

    /// What to call it: `cpu (avx512, 2 threads)`, `cuda:0 (NVIDIA H200, sm_90)`.
    fn name(&self) -> String;

    /// Makes one layer's weights resident. May [report](Control::report) how far it is, in units of its own.
    ///
    /// # Errors
    /// A type that is not supported, values that are not finite, unreadable bytes, no memory; [`Cancelled`](crate::Cancelled).
    fn load_layer(&self, layer: &StoredLayer, control: &Control) -> Result<Self::Layer>;

    /// Makes embedding, last norm and output projection resident. Errors as [`load_layer`](Self::load_layer).
    fn load_head(&self, head: &StoredHead, control: &Control) -> Result<Self::Head>;

    /// All weights are resident: what loading alone needed can go.
    ///
    /// # Errors
    /// Those of loading that are not known earlier.
    fn loaded(&self) -> Result<()> {
        Ok(())
    }

    /// A cache without pages.
    fn cache(&self, kv: KvType) -> Self::Cache;

    /// Scratch without room; `embed` makes room for its batch.
    fn scratch(&self) -> Self::Scratch;

    /// Makes sure that `page` exists. Its contents are undefined.
    ///
    /// # Errors
    /// No memory.
    fn allocate_page(&self, cache: &mut Self::Cache, page: PageId) -> Result<()>;

    /// Gives the memory of a page back until it is allocated again.
    fn free_page(&self, cache: &mut Self::Cache, page: PageId);

    /// Copies all layers of a page.
    ///
    /// # Errors
    /// The device's.
    fn copy_page(&self, cache: &mut Self::Cache, from: PageId, to: PageId) -> Result<()>;

    /// Reads keys or values of one layer from a page: `[positions, kv_heads, head_dim]` in the cache's type, little-endian.
    ///
    /// # Errors
    /// The device's.
    fn read_page(
        &self,
        cache: &Self::Cache,
        page: PageId,
        layer: usize,
        part: KvPart,
        out: &mut [u8],
    ) -> Result<()>;

    /// Writes what [`read_page`](Self::read_page) read.
    ///
    /// # Errors
    /// The device's.
    fn write_page(
        &self,
        cache: &mut Self::Cache,
        page: PageId,
        layer: usize,
        part: KvPart,
        values: &[u8],
    ) -> Result<()>;

    /// Embedding rows times their scale become the residual stream.
    ///
    /// # Errors
    /// No memory for the batch.
    fn embed(&self, head: &Self::Head, batch: &Batch<'_>, scratch: &mut Self::Scratch) -> Result<()>;

    /// Pre-norm, Q/K/V, rotary embedding, append to the cache, scaled and capped scores, weighted values, output projection.
    ///
    /// # Errors
    /// The device's.
    fn attention(
        &self,
        layer: &Self::Layer,
        index: usize,
        batch: &Batch<'_>,
        cache: &mut Self::Cache,
        scratch: &mut Self::Scratch,
    ) -> Result<()>;

    /// Pre-MoE norm, router softmax, selection.
    ///
    /// # Errors
    /// The device's.
    fn route(&self, layer: &Self::Layer, batch: &Batch<'_>, scratch: &mut Self::Scratch) -> Result<()>;

    /// Gate, up, GELU, down and the weighted sum, for the selected experts.
    ///
    /// # Errors
    /// The device's.
    fn experts(&self, layer: &Self::Layer, batch: &Batch<'_>, scratch: &mut Self::Scratch) -> Result<()>;

    /// Post-norm of a branch, added to the residual stream.
    ///
    /// # Errors
    /// The device's.
    fn residual(
        &self,
        layer: &Self::Layer,
        branch: Branch,
        batch: &Batch<'_>,
        scratch: &mut Self::Scratch,
    ) -> Result<()>;

    /// Logits of some rows: last norm, output projection, scale and cap.
    ///
    /// # Errors
    /// The device's.
    fn head(
        &self,
        head: &Self::Head,
        batch: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Self::Scratch,
        logits: &mut [f32], // [rows, vocab]
    ) -> Result<()>;

    /// Whether logits stay where they are computed until they are read, so that [`candidates`](Self::candidates) is less to move than
    /// [`head`](Self::head).
    fn keeps_logits(&self) -> bool {
        false
    }

    /// The best tokens of some rows by what [`head`](Self::head) computes, and totals: of each row what its place in `out`
    /// [asks](Candidates::asked).
    ///
    /// # Errors
    /// The device's.
    fn candidates(
        &self,
        head: &Self::Head,
        batch: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Self::Scratch,
        room: &mut [f32],       // [vocab], for those who need it
        out: &mut [Candidates], // [rows]
    ) -> Result<()> {
        rows.iter().zip(out).try_for_each(|(row, out)| {
            self.head(head, batch, std::slice::from_ref(row), scratch, room)?;
            out.fill(room);
            Ok(())
        })
    }

    /// All logits of a row that [`candidates`](Self::candidates) was last asked for, as number `index` of its rows.
    ///
    /// # Errors
    /// The device's.
    fn logits_of_candidates(
        &self,
        head: &Self::Head,
        batch: &Batch<'_>,
        (_index, row): (usize, u32),
        scratch: &mut Self::Scratch,
        logits: &mut [f32], // [vocab]
    ) -> Result<()> {
        self.head(head, batch, &[row], scratch, logits)
    }

    /// Some rows of the residual stream after the last norm, not rounded.
    ///
    /// # Errors
    /// The device's.
    fn normed(
        &self,
        head: &Self::Head,
        batch: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Self::Scratch,
        out: &mut [f32], // [rows, width]
    ) -> Result<()>;

    /// Replaces the residual stream of the batch that [`embed`](Self::embed) began, by what another device made of it.
    ///
    /// # Errors
    /// The device's.
    fn write_hidden(
        &self,
        scratch: &mut Self::Scratch,
        hidden: &[f32], /* [rows, width] */
    ) -> Result<()>;

    /// Reads the residual stream, for another device.
    ///
    /// # Errors
    /// The device's.
    fn read_hidden(
        &self,
        scratch: &mut Self::Scratch,
        out: &mut [f32], /* [rows, width] */
    ) -> Result<()> {
        struct Copy<'a>(&'a mut [f32]);
        impl Observer for Copy<'_> {
            fn hidden(&mut self, _: usize, hidden: &[f32]) {
                self.0.copy_from_slice(hidden);
            }
        }
        self.observe_hidden(scratch, 0, &mut Copy(out))
    }

    /// Shows an observer what [`route`](Self::route) decided.
    ///
    /// # Errors
    /// The device's.
    fn observe_routing(
        &self,
        scratch: &Self::Scratch,
        layer: usize,
        observer: &mut dyn Observer,
    ) -> Result<()>;

    /// Shows an observer the residual stream.
    ///
    /// # Errors
    /// The device's.
    fn observe_hidden(
        &self,
        scratch: &Self::Scratch,
        layer: usize,
        observer: &mut dyn Observer,
    ) -> Result<()>;

    /// All layers, in order. `done` is called after each; its error ends the call.
    ///
    /// A device may replace this whole, as long as an attached observer sees the same.
    ///
    /// # Errors
    /// The stages' and `done`'s.
    fn forward(
        &self,
        layers: &[Self::Layer],
        batch: &Batch<'_>,
        cache: &mut Self::Cache,
        scratch: &mut Self::Scratch,
        observer: Option<&mut dyn Observer>,
        done: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        stage_by_stage(self, layers, batch, cache, scratch, observer, done)
    }
}

/// All layers, in order, by a backend's stages.
fn stage_by_stage<B: Backend + ?Sized>(
    backend: &B,
    layers: &[B::Layer],
    batch: &Batch<'_>,
    cache: &mut B::Cache,
    scratch: &mut B::Scratch,
    mut observer: Option<&mut dyn Observer>,
    done: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    for (index, layer) in layers.iter().enumerate() {
        backend.attention(layer, index, batch, cache, scratch)?;
        backend.residual(layer, Branch::Attention, batch, scratch)?;
        backend.route(layer, batch, scratch)?;
        if let Some(observer) = observer.as_deref_mut() {
            backend.observe_routing(scratch, index, observer)?;
        }
        backend.experts(layer, batch, scratch)?;
        backend.residual(layer, Branch::Experts, batch, scratch)?;
        if let Some(observer) = observer.as_deref_mut() {
            backend.observe_hidden(scratch, index, observer)?;
        }
        done()?;
    }
    Ok(())
}

/// Bytes of one page: keys and values of [`PAGE`] positions in every layer.
#[must_use]
pub fn page_bytes(config: &ModelConfig, kv: KvType) -> usize {
    config.layers * 2 * PAGE * config.kv_width() * kv.size()
}

/// Bytes of the activations of a batch of `rows`, as the processor keeps them; GPUs need up to twice as much. Saturates.
#[must_use]
pub fn activation_bytes(config: &ModelConfig, rows: usize) -> u64 {
    let size = |size: usize| size as u64;
    let [query, kv] =
        [config.heads, config.kv_heads].map(|heads| size(heads).saturating_mul(size(config.head_dim)));
    // Hidden, normed and branch; queries and attended values; keys and values; angles; router. Then those of each selected expert.
    let row = [
        3 * size(config.width),
        query.saturating_mul(2),
        kv.saturating_mul(2),
        size(config.head_dim),
        size(config.experts),
    ];
    let pair = [size(config.ffn_width), size(config.width)];
    let sum = |sizes: &[u64]| sizes.iter().fold(0, |sum: u64, &size| sum.saturating_add(size));
    let values = sum(&row).saturating_add(sum(&pair).saturating_mul(size(config.selected_experts)));
    // The inputs of one product at a time, as integers: 640 bytes for each 256.
    let integers = |inputs: u64| inputs.div_ceil(256).saturating_mul(640);
    let packed = integers(size(config.width).max(query))
        .max(integers(size(config.ffn_width)).saturating_mul(size(config.selected_experts)));
    let row = values.saturating_mul(size_of::<f32>() as u64).saturating_add(packed);
    // Or to pages of 32 rows by 32 inputs, for each expert its own; what the third product reads may be there at the same time, as
    // bf16 in half as many.
    let pages = |inputs: u64, of_page: u64| inputs.div_ceil(of_page).saturating_mul(4096);
    let (rows, pairs) = (size(rows), size(rows).saturating_mul(size(config.selected_experts)));
    let of_all = (rows / 32 + 1).saturating_mul(pages(size(config.width).max(query), 32));
    let (width, ffn) = (size(config.width), size(config.ffn_width));
    let of_pair = pages(width.max(ffn), 32).max(pages(width, 32).saturating_add(pages(ffn, 64)));
    let of_experts = (pairs / 32 + size(config.experts)).saturating_mul(of_pair);
    row.saturating_mul(rows).saturating_add(of_all.max(of_experts))
}
