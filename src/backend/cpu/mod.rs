//! The processor: vector kernels chosen at run time, on several threads. Uses `backend`.
//!
//! Threads split outputs and heads, never a sum over inputs, into parts that depend on the shapes alone; results are the same
//! bits for any number of threads.

mod attention;
mod cache;
mod experts;
mod kernels;
mod operand;
mod peak;
mod scratch;
mod shared;
mod simd;
mod weights;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use self::attention::Attention;
use self::kernels::elementwise::{RmsNorm, Rotate, RoundBf16, SoftCap, Softmax, StoreBf16, Then};
use self::kernels::integers::Pack;
use self::kernels::pages::{Page, first_page};
use self::kernels::panels;
#[cfg(target_arch = "x86_64")]
use self::kernels::tiles;
use self::kernels::{Out, Rows};
use self::operand::{Operand, Way, packed};
use self::shared::Shared;
use self::simd::{Activations, INPUTS, Isa};
use self::weights::Weights;
use super::values::{self, Rotary};
use super::{
    Backend, BackendError, Batch, Branch, KvPart, KvType, Observer, PAGE, PageId, Precision, Routing,
    WeightStorage,
};
use crate::config::ModelConfig;
use crate::control::{Cancelled, Control};
use crate::error::Result;
use crate::tensor::{Layout, Matrix};
use crate::threads::Pool;
use crate::weights::{Head as StoredHead, Layer as StoredLayer};

pub use self::cache::Cache;
pub use self::peak::Peak;
pub use self::scratch::Scratch;
pub use crate::machine::memory;

/// The default backend.
pub struct Cpu {
    config: ModelConfig,
    precision: Precision,
    storage: WeightStorage,
    /// The NUMA node that memory is to lie on.
    node: Option<usize>,
    pool: Arc<dyn Pool>,
    isa: Isa,
    rotary: Rotary,
    /// Bytes of weights that lie in mapped files.
    mapped: AtomicU64,
    /// Whether these are more than memory holds: experts are then fetched as soon as they are chosen.
    reads_ahead: AtomicBool,
}

/// One layer's weights.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
pub struct Layer {
    attention_norm: Vec<f32>,
    query_key_value: [Weights; 3],
    output: Weights,
    post_attention_norm: Vec<f32>,
    moe_norm: Vec<f32>,
    router: Weights,
    gate: Vec<Weights>,
    up: Vec<Weights>,
    down: Vec<Weights>,
    post_moe_norm: Vec<f32>,
}

/// Embedding, last norm and output projection.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
pub struct Head {
    embedding: Weights,
    norm: Vec<f32>,
    /// If it is not the embedding.
    output: Option<Weights>,
}

impl Cpu {
    /// A backend for models of `config` that computes on `pool`.
    #[must_use]
    pub fn new(
        config: ModelConfig,
        precision: Precision,
        storage: WeightStorage,
        pool: Arc<dyn Pool>,
    ) -> Self {
        let rotary = Rotary::new(config.rope_base, config.head_dim);
        let (mapped, reads_ahead) = Default::default();
        let (node, isa) = (None, Isa::best());
        Self { config, precision, storage, node, pool, isa, rotary, mapped, reads_ahead }
    }

    /// Keys and values, and weights that are owned, lie in the memory of this NUMA node; its processors are the pool's matter, as by
    /// [`Threads::of_node`](crate::Threads::of_node).
    #[must_use]
    pub fn on_node(mut self, node: usize) -> Self {
        self.node = Some(node);
        self
    }

    /// The instruction sets of this processor that there are kernels for, best first.
    #[must_use]
    pub fn instruction_sets() -> Vec<&'static str> {
        Isa::available().into_iter().map(Isa::name).collect()
    }

    /// Uses another instruction set than the best, if the processor has it: for tests and measurements.
    #[must_use]
    pub fn with_instruction_set(mut self, name: &str) -> Self {
        if let Some(isa) = Isa::available().into_iter().find(|isa| isa.name() == name) {
            self.isa = isa;
        }
        self
    }

    fn rounds(&self) -> bool {
        self.precision != Precision::Exact
    }

    /// Whether what products multiply is rounded to bf16 first. `Fast` leaves it to the kernels: bytes would be rounded twice.
    fn rounds_activations(&self) -> bool {
        self.precision == Precision::Standard
    }

    fn load(&self, matrix: &Matrix, control: &Control) -> Result<Weights> {
        let weights = Weights::load(matrix, (self.storage, self.node), control)?;
        self.mapped.fetch_add(weights.mapped_bytes(), Relaxed);
        Ok(weights)
    }

    fn load_all(&self, matrices: &[Matrix], control: &Control) -> Result<Vec<Weights>> {
        matrices.iter().map(|matrix| self.load(matrix, control)).collect()
    }

    /// Does parts `0..parts`, each exactly once whatever the pool does with its numbers: that parts are disjoint is what the
    /// unsafe code in them rests on. Stops between parts when cancelled.
    fn region(&self, batch: &Batch<'_>, parts: usize, part: impl Fn(usize) + Sync) -> Result<()> {
        if parts == 0 {
            return Ok(());
        }
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let cancelled = AtomicBool::new(false);
        self.pool.run(parts, &|_| {
            let index = next.fetch_add(1, Relaxed);
            if index >= parts {
                return;
            }
            if batch.control().is_cancelled() {
                cancelled.store(true, Relaxed);
            } else {
                part(index);
            }
            done.fetch_add(1, Relaxed);
        });
        let done = done.into_inner();
        if cancelled.into_inner() {
            Err(Cancelled.into())
        } else if done < parts {
            Err(BackendError::Pool { done, parts }.into())
        } else {
            Ok(())
        }
    }

    /// A region with a part per row; a few rows are not worth one.
    fn each_row(&self, batch: &Batch<'_>, rows: usize, part: impl Fn(usize) + Sync) -> Result<()> {
        if rows < 4 {
            (0..rows).for_each(part);
            Ok(())
        } else {
            self.region(batch, rows, part)
        }
    }

    /// Makes everything ready for a batch but its residual stream, which `embed` or another device makes.
    pub(crate) fn begin(&self, batch: &Batch<'_>, scratch: &mut Scratch) -> Result<()> {
        let half = self.config.head_dim / 2;
        scratch.reserve(&self.config, batch.rows().len(), self.rounds())?;
        scratch.plan.make(&self.config, batch)?;
        for (index, row) in batch.rows().iter().enumerate() {
            for (j, (cos, sin)) in self.rotary.angles(row.position).enumerate() {
                scratch.cos[index * half + j] = cos;
                scratch.sin[index * half + j] = sin;
            }
        }
        Ok(())
    }

    /// The residual stream of the current batch.
    pub(crate) fn hidden<'a>(&self, scratch: &'a Scratch) -> &'a [f32] /* [rows, width] */ {
        &scratch.hidden[..scratch.rows * self.config.width]
    }

    fn way(&self, weights: &Weights, rows: usize) -> Way {
        weights.way(self.isa, self.precision, rows, self.pool.width())
    }

    /// How products of some matrices with the same rows are computed: rows are packed to the pages that suit the first.
    fn ways<const N: usize>(&self, weights: [&Weights; N], rows: usize) -> [Way; N] {
        let ways = weights.map(|weights| self.way(weights, rows));
        let (packed, ..) = best(&ways, rows);
        ways.map(|way| if way.shares(packed) { way } else { Way::Floats })
    }

    /// Packs groups of rows, each with how products with it are computed, to pages if that is how.
    fn tile(
        &self,
        batch: &Batch<'_>,
        x: Rows<'_>,
        groups: impl Iterator<Item = (Way, usize, Range<usize>)> + Clone + Sync,
        tiles: &mut [Page],
    ) -> Result<()> {
        let width = x.stride;
        let groups = groups.filter(|(way, ..)| way.reads_pages());
        let parts = |way: Way, rows: usize| match way {
            #[cfg(target_arch = "x86_64")]
            Way::Tiles(..) => tiles::Pack::parts(rows, width),
            _ => panels::Pack::parts(rows, width),
        };
        let all = groups.clone().map(|(way, _, rows)| parts(way, rows.len())).sum();
        let out = Shared::new(tiles);
        let part = |mut part: usize| {
            for (way, before, rows) in groups.clone() {
                let own = parts(way, rows.len());
                if part < own {
                    let first = first_page(rows.start, before, width);
                    let x = Rows { index: &x.index[rows], ..x };
                    match way {
                        #[cfg(target_arch = "x86_64")]
                        Way::Tiles(amx, side) => {
                            // SAFETY: each part has its own tiles.
                            amx.enter_tiles(unsafe { tiles::Pack::new(x, width, side, part, &out, first) });
                        }
                        // SAFETY: each part has its own vectors.
                        _ => self.isa.run(unsafe { panels::Pack::new(x, width, part, &out, first) }),
                    }
                    return;
                }
                part -= own;
            }
        };
        if all < 2 {
            (0..all).for_each(part);
            Ok(())
        } else {
            self.region(batch, all, part)
        }
    }

    /// Packs rows of activations, if a product with them is computed in a way that reads them so.
    fn pack(
        &self,
        batch: &Batch<'_>,
        ways: impl IntoIterator<Item = Way>,
        x: &[f32], // [rows, width]
        width: usize,
        integers: &mut [Activations], // [rows, width / 256]
    ) -> Result<()> {
        let packing = ways.into_iter().find_map(|way| match way {
            Way::Integers { fast, .. } => Some(fast),
            _ => None,
        });
        let Some(fast) = packing else { return Ok(()) };
        let blocks = packed(width);
        let count = x.len() / width * blocks;
        let out = Shared::new(&mut integers[..count]);
        let parts = count.div_ceil(PACKED);
        let part = |part: usize| {
            for block in part * PACKED..count.min((part + 1) * PACKED) {
                let (row, first) = (block / blocks, block % blocks * INPUTS);
                let x = &x[row * width + first..row * width + width.min(first + INPUTS)];
                // SAFETY: each part has its own blocks.
                let out = unsafe { &mut out.slice(block..block + 1)[0] };
                self.isa.integers(Pack { x, fast, out });
            }
        };
        if parts < 4 {
            (0..parts).for_each(part);
            Ok(())
        } else {
            self.region(batch, parts, part)
        }
    }

    fn norm(&self, x: &[f32], scale: &[f32], out: &mut [f32], then: Then) {
        self.isa.run(RmsNorm { x, scale, epsilon: self.config.norm_epsilon, out, then });
    }

    /// Writes the keys and values of all rows to their pages.
    fn append(&self, index: usize, batch: &Batch<'_>, cache: &mut Cache, scratch: &Scratch) -> Result<()> {
        let (width, dim) = (self.config.kv_width(), self.config.head_dim);
        for sequence in batch.sequences() {
            for row in sequence.rows.clone() {
                let position = batch.rows()[row].position as usize;
                let page = batch.pages_of(sequence)[position / PAGE];
                for (part, values) in [(KvPart::Key, &scratch.key), (KvPart::Value, &scratch.value)] {
                    for (head, x) in values[row * width..][..width].chunks_exact(dim).enumerate() {
                        let head = cache.head(index, part, head);
                        let slot = cache.slot(position);
                        let kv = cache.kv;
                        let out = &mut cache.page_mut(page)?[head][slot];
                        match kv {
                            KvType::BF16 => self.isa.run(StoreBf16 { x, out }),
                            KvType::F32 => out
                                .chunks_exact_mut(4)
                                .zip(x)
                                .for_each(|(out, x)| out.copy_from_slice(&x.to_le_bytes())),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Softmax over the router's logits and the best of them, of equal ones the lower.
    fn select(&self, probabilities: &mut [f32], experts: &mut [u32], gates: &mut [f32]) {
        if let Some(cap) = self.config.router_cap {
            self.isa.run(SoftCap { values: probabilities, scale: 1.0, cap: Some(cap) });
        }
        let mut result = (0.0, 0.0);
        self.isa.run(Softmax { values: probabilities, result: &mut result });
        probabilities.iter_mut().for_each(|p| *p /= result.1);
        for (slot, gate) in gates.iter_mut().enumerate() {
            let (taken, rest) = experts.split_at_mut(slot);
            let mut best = None::<usize>;
            for (expert, p) in probabilities.iter().enumerate() {
                if !taken.contains(&(expert as u32)) && best.is_none_or(|best| *p > probabilities[best]) {
                    best = Some(expert);
                }
            }
            let best = best.unwrap_or_default();
            rest[0] = best as u32;
            *gate = probabilities[best];
        }
        if self.config.renormalise_gates {
            let sum: f32 = gates.iter().sum();
            gates.iter_mut().for_each(|gate| *gate /= sum);
        }
    }
}

impl Backend for Cpu {
    type Layer = Layer;
    type Head = Head;
    type Cache = Cache;
    type Scratch = Scratch;

    fn name(&self) -> String {
        let node = self.node.map_or_else(String::new, |node| format!(":{node}"));
        format!("cpu{node} ({}, {} threads)", self.isa.name(), self.pool.width())
    }

    fn load_layer(&self, layer: &StoredLayer, control: &Control) -> Result<Layer> {
        let router = values::matrix(&layer.router, control)?;
        Ok(Layer {
            attention_norm: values::vector(&layer.attention_norm, control)?,
            query_key_value: [
                self.load(&layer.query, control)?,
                self.load(&layer.key, control)?,
                self.load(&layer.value, control)?,
            ],
            output: self.load(&layer.output, control)?,
            post_attention_norm: values::vector(&layer.post_attention_norm, control)?,
            moe_norm: values::vector(&layer.moe_norm, control)?,
            router: Weights::dense(&router, layer.router.inputs, layer.router.outputs),
            gate: self.load_all(&layer.gate, control)?,
            up: self.load_all(&layer.up, control)?,
            down: self.load_all(&layer.down, control)?,
            post_moe_norm: values::vector(&layer.post_moe_norm, control)?,
        })
    }

    fn load_head(&self, head: &StoredHead, control: &Control) -> Result<Head> {
        let Matrix { name, dtype, layout, .. } = &head.embedding;
        if *layout != Layout::OutIn {
            let (tensor, dtype, layout) = (name.clone(), *dtype, *layout);
            return Err(BackendError::Unsupported { tensor, dtype, layout }.into());
        }
        Ok(Head {
            embedding: self.load(&head.embedding, control)?,
            norm: values::vector(&head.norm, control)?,
            output: head.output.as_ref().map(|output| self.load(output, control)).transpose()?,
        })
    }

    fn loaded(&self) -> Result<()> {
        let (mapped, memory) = (self.mapped.load(Relaxed), memory().unwrap_or(u64::MAX));
        if mapped > memory {
            log::info!(
                "{mapped} bytes of weights are more than {memory} of memory: experts are read from files again and again"
            );
            self.reads_ahead.store(true, Relaxed);
        }
        Ok(())
    }

    fn cache(&self, kv: KvType) -> Cache {
        Cache::new(&self.config, kv, self.node)
    }

    fn scratch(&self) -> Scratch {
        Scratch::default()
    }

    fn allocate_page(&self, cache: &mut Cache, page: PageId) -> Result<()> {
        Ok(cache.allocate(page)?)
    }

    fn free_page(&self, cache: &mut Cache, page: PageId) {
        cache.free(page);
    }

    fn copy_page(&self, cache: &mut Cache, from: PageId, to: PageId) -> Result<()> {
        Ok(cache.copy(from, to)?)
    }

    fn read_page(
        &self,
        cache: &Cache,
        page: PageId,
        layer: usize,
        part: KvPart,
        out: &mut [u8],
    ) -> Result<()> {
        let page = cache.page(page)?;
        for [canonical, stored] in cache.ranges(layer, part) {
            out[canonical].copy_from_slice(&page[stored]);
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
        let ranges = cache.ranges(layer, part);
        let page = cache.page_mut(page)?;
        for [canonical, stored] in ranges {
            page[stored].copy_from_slice(&values[canonical]);
        }
        Ok(())
    }

    fn embed(&self, head: &Head, batch: &Batch<'_>, scratch: &mut Scratch) -> Result<()> {
        self.begin(batch, scratch)?;
        for (row, hidden) in batch.rows().iter().zip(scratch.hidden.chunks_exact_mut(self.config.width)) {
            batch.control().check()?;
            head.embedding.row(row.token as usize, hidden);
            hidden.iter_mut().for_each(|x| *x *= self.config.embedding_scale);
        }
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
        let rows = batch.rows().len();
        let (width, query_width, kv_width) = (config.width, config.query_width(), config.kv_width());
        let half = config.head_dim / 2;
        let then = if self.rounds_activations() { Then::StoreRounded } else { Then::Store };
        let all = &scratch.identity[..rows];

        let normed = Shared::new(&mut scratch.normed);
        self.each_row(batch, rows, |row| {
            let x = &scratch.hidden[row * width..][..width];
            // SAFETY: each part has its own row.
            let out = unsafe { normed.slice(row * width..(row + 1) * width) };
            self.norm(x, &layer.attention_norm, out, then);
        })?;

        let ways = self.ways(layer.query_key_value.each_ref(), rows);
        self.pack(batch, ways, &scratch.normed[..rows * width], width, &mut scratch.integers)?;
        let x = Rows { data: &scratch.normed, stride: width, index: all };
        self.tile(batch, x, [best(&ways, rows)].into_iter(), &mut scratch.tiles)?;
        let x = Operand::new(&scratch.normed, &scratch.integers, &scratch.tiles, width, all);
        let outs =
            [Shared::new(&mut scratch.query), Shared::new(&mut scratch.key), Shared::new(&mut scratch.value)];
        let strips: [_; 3] = std::array::from_fn(|i| layer.query_key_value[i].strips(ways[i], rows));
        self.region(batch, strips.iter().sum(), |mut part| {
            for (((weights, way), buffer), strips) in
                layer.query_key_value.iter().zip(ways).zip(&outs).zip(strips)
            {
                if part < strips {
                    let out = Out::rows(buffer, 0, weights.outputs);
                    // SAFETY: each part has its own columns of its own matrix.
                    unsafe { weights.product(self.isa, way, x, weights.columns(way, rows, part), out) };
                    return;
                }
                part -= strips;
            }
        })?;

        let (query, key) = (Shared::new(&mut scratch.query), Shared::new(&mut scratch.key));
        self.each_row(batch, rows, |row| {
            let (cos, sin) = (&scratch.cos[row * half..][..half], &scratch.sin[row * half..][..half]);
            // SAFETY: each part has its own row.
            let query = unsafe { query.slice(row * query_width..(row + 1) * query_width) };
            // SAFETY: as above.
            let key = unsafe { key.slice(row * kv_width..(row + 1) * kv_width) };
            self.isa.run(Rotate { heads: query, cos, sin, round: self.rounds() });
            self.isa.run(Rotate { heads: key, cos, sin, round: false });
        })?;
        self.append(index, batch, cache, scratch)?;

        let attended = Shared::new(&mut scratch.attended);
        let (regions, partial) = scratch.plan.split();
        let attention = Attention {
            isa: self.isa,
            config,
            batch,
            regions,
            partial: &partial,
            layer: index,
            cache,
            query: &scratch.query,
            attended: &attended,
            round: self.rounds_activations(),
        };
        // SAFETY: a region does each part once.
        self.region(batch, regions.parts(config), |part| unsafe { attention.part(part) })?;
        // SAFETY: likewise; all parts are done.
        self.region(batch, regions.merges(config), |part| unsafe { attention.merge(part) })?;

        let way = self.way(&layer.output, rows);
        let attended = &scratch.attended[..rows * query_width];
        self.pack(batch, [way], attended, query_width, &mut scratch.integers)?;
        let x = Rows { data: attended, stride: query_width, index: all };
        self.tile(batch, x, [(way, 0, 0..rows)].into_iter(), &mut scratch.tiles)?;
        let x = Operand::new(attended, &scratch.integers, &scratch.tiles, query_width, all);
        let branch = Shared::new(&mut scratch.branch);
        let out = Out::rows(&branch, 0, width);
        self.region(batch, layer.output.strips(way, rows), |strip| {
            let columns = layer.output.columns(way, rows, strip);
            // SAFETY: each part has its own columns.
            unsafe { layer.output.product(self.isa, way, x, columns, out) };
        })
    }

    fn route(&self, layer: &Layer, batch: &Batch<'_>, scratch: &mut Scratch) -> Result<()> {
        let (width, experts, selected) =
            (self.config.width, self.config.experts, self.config.selected_experts);
        let normed = Shared::new(&mut scratch.normed);
        let probabilities = Shared::new(&mut scratch.probabilities);
        let ids = Shared::new(&mut scratch.experts);
        let gates = Shared::new(&mut scratch.gates);
        self.each_row(batch, batch.rows().len(), |row| {
            let x = &scratch.hidden[row * width..][..width];
            // SAFETY: each part has its own row.
            let normed = unsafe { normed.slice(row * width..(row + 1) * width) };
            self.norm(x, &layer.moe_norm, normed, Then::Store);
            let x = Rows { data: normed, stride: width, index: &[0] };
            let out = Out::rows(&probabilities, row, experts);
            // SAFETY: as above.
            unsafe { layer.router.floats(self.isa, x, 0..experts, out) };
            if self.rounds_activations() {
                self.isa.run(RoundBf16(normed));
            }
            let pairs = row * selected..(row + 1) * selected;
            // SAFETY: as above, for all three.
            unsafe {
                let probabilities = probabilities.slice(row * experts..(row + 1) * experts);
                self.select(probabilities, ids.slice(pairs.clone()), gates.slice(pairs));
            }
        })
    }

    fn experts(&self, layer: &Layer, batch: &Batch<'_>, scratch: &mut Scratch) -> Result<()> {
        self.run_experts(layer, batch, scratch)
    }

    fn residual(
        &self,
        layer: &Layer,
        branch: Branch,
        batch: &Batch<'_>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let width = self.config.width;
        let scale = match branch {
            Branch::Attention => &layer.post_attention_norm,
            Branch::Experts => &layer.post_moe_norm,
        };
        let hidden = Shared::new(&mut scratch.hidden);
        self.each_row(batch, batch.rows().len(), |row| {
            let range = row * width..(row + 1) * width;
            // SAFETY: each part has its own row.
            let hidden = unsafe { hidden.slice(range.clone()) };
            self.norm(&scratch.branch[range], scale, hidden, Then::Add);
        })
    }

    fn head(
        &self,
        head: &Head,
        batch: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Scratch,
        logits: &mut [f32],
    ) -> Result<()> {
        let (width, vocab) = (self.config.width, self.config.vocab);
        let then = if self.rounds_activations() { Then::StoreRounded } else { Then::Store };
        let normed = Shared::new(&mut scratch.normed);
        self.each_row(batch, rows.len(), |index| {
            let x = &scratch.hidden[rows[index] as usize * width..][..width];
            // SAFETY: each part has its own row.
            let out = unsafe { normed.slice(index * width..(index + 1) * width) };
            self.norm(x, &head.norm, out, then);
        })?;
        let output = head.output.as_ref().unwrap_or(&head.embedding);
        let way = self.way(output, rows.len());
        self.pack(batch, [way], &scratch.normed[..rows.len() * width], width, &mut scratch.integers)?;
        let x = Rows { data: &scratch.normed, stride: width, index: &scratch.identity[..rows.len()] };
        self.tile(batch, x, [(way, 0, 0..rows.len())].into_iter(), &mut scratch.tiles)?;
        let x = Operand::new(x.data, &scratch.integers, &scratch.tiles, width, x.index);
        let buffer = Shared::new(logits);
        let out = Out::rows(&buffer, 0, vocab);
        self.region(batch, output.strips(way, rows.len()), |strip| {
            let columns = output.columns(way, rows.len(), strip);
            // SAFETY: each part has its own columns.
            unsafe { output.product(self.isa, way, x, columns.clone(), out) };
            for row in 0..rows.len() {
                // SAFETY: as above.
                let values = unsafe { buffer.slice(row * vocab + columns.start..row * vocab + columns.end) };
                let (scale, cap) = (self.config.output_scale, self.config.output_cap);
                self.isa.run(SoftCap { values, scale, cap });
            }
        })
    }

    fn normed(
        &self,
        head: &Head,
        _: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Scratch,
        out: &mut [f32],
    ) -> Result<()> {
        let width = self.config.width;
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
            self.norm(&scratch.hidden[row as usize * width..][..width], &head.norm, out, Then::Store);
        }
        Ok(())
    }

    fn write_hidden(&self, scratch: &mut Scratch, hidden: &[f32]) -> Result<()> {
        scratch.hidden[..hidden.len()].copy_from_slice(hidden);
        Ok(())
    }

    fn observe_routing(&self, scratch: &Scratch, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        let (experts, selected) = (self.config.experts, self.config.selected_experts);
        observer.routing(
            layer,
            &Routing {
                probabilities: &scratch.probabilities[..scratch.rows * experts],
                experts: &scratch.experts[..scratch.rows * selected],
                gates: &scratch.gates[..scratch.rows * selected],
            },
        );
        Ok(())
    }

    fn observe_hidden(&self, scratch: &Scratch, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        observer.hidden(layer, &scratch.hidden[..scratch.rows * self.config.width]);
        Ok(())
    }
}

/// The way among several for which rows are packed to pages, if there is one, and that they are one group.
fn best(ways: &[Way], rows: usize) -> (Way, usize, Range<usize>) {
    let packed = ways.iter().find(|way| way.reads_pages());
    (packed.copied().unwrap_or(Way::Floats), 0, 0..rows)
}

/// Blocks of activations that a part packs.
const PACKED: usize = 16;

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu")
            .field("isa", &self.isa)
            .field("precision", &self.precision)
            .field("storage", &self.storage)
            .field("threads", &self.pool.width())
            .finish_non_exhaustive()
    }
}
