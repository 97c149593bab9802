//! Soft-capped attention over the paged cache, block of rows by block. Uses `kernels` and `cache`.
//!
//! Keys are taken in spans of fixed position, each with its own sum of weights, and spans are merged in order. What a row's result
//! is depends neither on the threads nor on who does which span.

mod float;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod weigh;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use self::float::{COLUMNS, Floats};
#[cfg(target_arch = "x86_64")]
use self::tiles::{Queries, Tiled};
use self::weigh::Weighing;
use super::cache::Cache;
use super::kernels::elementwise::{RoundBf16, Scale};
use super::kernels::{BF16, Element, F32};
use super::shared::Shared;
use super::simd::Isa;
#[cfg(target_arch = "x86_64")]
use super::simd::amx::Amx;
use crate::backend::values::grow;
use crate::backend::{BackendError, Batch, KvPart, KvType, PAGE, Sequence};
use crate::config::ModelConfig;

/// Pages per span.
const SPAN_PAGES: usize = 4;

/// Positions per span.
const SPAN: usize = SPAN_PAGES * PAGE;

/// Query vectors worked on together: they share every key and value that is read and converted.
const VECTORS: usize = 256;

/// Query vectors up to which a block is split into spans, if there is little else to do at once.
const FEW_VECTORS: usize = 16;
const FEW_PARTS: usize = 64;

/// Rows of one sequence at consecutive positions.
struct Block {
    sequence: usize,
    rows: Range<usize>,
    /// Position of the first row.
    position: usize,
}

impl Block {
    /// Spans with positions that the last row sees.
    fn spans(&self) -> usize {
        (self.position + self.rows.len()).div_ceil(SPAN)
    }
}

/// Some spans of a block, for each key/value head.
struct Part {
    block: usize,
    spans: Range<usize>,
    /// Where the first head's results go if other parts have the rest of the spans.
    partial: Option<usize>,
}

/// How the attention of a batch is divided into parts, and where those that belong together meet.
#[derive(Default)]
pub(crate) struct Plan {
    blocks: Vec<Block>,
    parts: Vec<Part>,
    /// Blocks in several parts, and where their results are.
    merges: Vec<(usize, usize)>,
    partial: Vec<f32>, // [parts of blocks in several, kv_heads, vectors, head_dim + 2]
}

impl Plan {
    /// Divides a batch.
    pub(crate) fn make(&mut self, config: &ModelConfig, batch: &Batch<'_>) -> Result<(), BackendError> {
        let Self { blocks, parts, merges, partial } = self;
        let group = config.heads / config.kv_heads;
        let step = (VECTORS / group).max(1);
        blocks.clear();
        for (sequence, Sequence { rows, .. }) in batch.sequences().iter().enumerate() {
            for start in rows.clone().step_by(step) {
                let position = batch.rows()[start].position as usize;
                blocks.push(Block { sequence, rows: start..rows.end.min(start + step), position });
            }
        }
        let few = blocks.len() * config.kv_heads < FEW_PARTS;
        let mut len = 0;
        parts.clear();
        merges.clear();
        // Later rows see more: the longest parts come first.
        for (index, block) in blocks.iter().enumerate().rev() {
            let (spans, vectors) = (block.spans(), block.rows.len() * group);
            if few && vectors <= FEW_VECTORS && spans > 1 {
                merges.push((index, len));
                for span in 0..spans {
                    parts.push(Part { block: index, spans: span..span + 1, partial: Some(len) });
                    len += partial_len(config, vectors);
                }
            } else {
                parts.push(Part { block: index, spans: 0..spans, partial: None });
            }
        }
        // Sequences grow by a span now and then.
        grow(partial, len.next_power_of_two(), "parts of attention")
    }

    /// Buffers and counts of a region each: that of all parts, and that which merges them.
    pub(crate) fn split(&mut self) -> (Regions<'_>, Shared<'_, f32>) {
        let Self { blocks, parts, merges, partial } = self;
        (Regions { blocks, parts, merges }, Shared::new(partial))
    }
}

/// Numbers that a part of several results in: for each vector of each head its values, and what [`Local::weights`] has.
fn partial_len(config: &ModelConfig, vectors: usize) -> usize {
    config.kv_heads * vectors * (config.head_dim + 2)
}

/// The parts of a [`Plan`].
#[derive(Clone, Copy)]
pub(crate) struct Regions<'a> {
    blocks: &'a [Block],
    parts: &'a [Part],
    merges: &'a [(usize, usize)],
}

impl Regions<'_> {
    pub(crate) fn parts(&self, config: &ModelConfig) -> usize {
        self.parts.len() * config.kv_heads
    }

    pub(crate) fn merges(&self, config: &ModelConfig) -> usize {
        self.merges.len() * config.kv_heads
    }
}

/// What all parts of an attention region share.
pub(crate) struct Attention<'a> {
    pub(crate) isa: Isa,
    pub(crate) config: &'a ModelConfig,
    pub(crate) batch: &'a Batch<'a>,
    pub(crate) regions: Regions<'a>,
    pub(crate) partial: &'a Shared<'a, f32>,
    pub(crate) layer: usize,
    pub(crate) cache: &'a Cache,
    pub(crate) query: &'a [f32],              // [rows, heads, head_dim]
    pub(crate) attended: &'a Shared<'a, f32>, // [rows, heads, head_dim]
    pub(crate) round: bool,
}

/// What computes a span.
#[derive(Clone, Copy)]
enum Kernel {
    Floats,
    /// For queries that are rounded to bf16 anyway, a cache of bf16, and scores with this bound.
    #[cfg(target_arch = "x86_64")]
    Tiles(Amx, f32),
}

/// Keys and values of one head on one page.
#[derive(Clone, Copy, Default)]
struct Kv<'a> {
    keys: &'a [u8],   // [PAGE, head_dim] of the cache's type
    values: &'a [u8], // [PAGE, head_dim]
    /// Positions that some row of the block sees.
    count: usize,
}

/// A span as a block of rows sees it.
struct Span<'a> {
    pages: &'a [Kv<'a>],
    /// Position of the first page.
    first: usize,
    /// Position of the block's first row.
    position: usize,
    /// Vectors per row.
    group: usize,
}

impl Span<'_> {
    /// How many positions of a page a vector's row sees.
    fn seen(&self, vector: usize, page: usize) -> usize {
        let first = self.first + page * PAGE;
        if self.position + 1 >= first + PAGE {
            return PAGE;
        }
        (self.position + vector / self.group + 1).saturating_sub(first).min(PAGE)
    }
}

/// A thread's buffers, grown once.
#[derive(Default)]
struct Local {
    query: Vec<f32>, // [vectors, head_dim]
    floats: float::Buffers,
    #[cfg(target_arch = "x86_64")]
    tiles: tiles::Buffers,
    span: Vec<f32>,         // [vectors, columns]: sums of weighted values
    weights: Vec<[f32; 2]>, // [vectors]: the weights' reference, their sum
    merged: Merged,
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::default();
}

/// The spans so far.
#[derive(Default)]
struct Merged {
    values: Vec<f32>,       // [vectors, head_dim]
    weights: Vec<[f32; 2]>, // [vectors], as in `Local`
}

impl Merged {
    fn clear(&mut self, vectors: usize, dim: usize) {
        self.values.clear();
        self.values.resize(vectors * dim, 0.0);
        self.weights.clear();
        self.weights.resize(vectors, [f32::NEG_INFINITY, 0.0]);
    }

    /// Adds the next span of a vector.
    fn add(&mut self, isa: Isa, vector: usize, values: &[f32], [reference, sum]: [f32; 2]) {
        if sum == 0.0 {
            return; // Nothing was seen.
        }
        let [old, old_sum] = self.weights[vector];
        let new = if old > reference { old } else { reference };
        let [before, now] = [old, reference].map(|x| if x == new { 1.0 } else { (x - new).exp() });
        self.weights[vector] = [new, old_sum * before + sum * now];
        let out = &mut self.values[vector * values.len()..][..values.len()];
        if before != 1.0 {
            out.iter_mut().for_each(|x| *x *= before);
        }
        isa.run(Scale { x: values, factor: now, out, add: true });
    }
}

impl Attention<'_> {
    /// Part `index`: some spans of a block, for one key/value head.
    ///
    /// # Safety
    /// Nobody else may do this part or use `partial` and `attended` meanwhile, but for other parts.
    pub(crate) unsafe fn part(&self, index: usize) {
        let dim = self.config.head_dim;
        let part = &self.regions.parts[index / self.config.kv_heads];
        let (block, head) = (&self.regions.blocks[part.block], index % self.config.kv_heads);
        let vectors = self.vectors(block);
        let mut local = LOCAL.take();
        self.gather(block, head, &mut local.query);
        let kernel = self.kernel(&mut local);
        local.merged.clear(vectors, dim);
        for span in part.spans.clone() {
            self.span(kernel, block, span, head, &mut local);
            let columns = local.span.len() / vectors;
            let rows = local.span.chunks_exact(columns).map(|row| &row[..dim]).zip(&local.weights);
            match part.partial {
                Some(start) => {
                    // SAFETY: each part of several has a place for each head.
                    let partial = unsafe { self.partial.slice(self.partial(start, vectors, head)) };
                    for (to, (values, weights)) in partial.chunks_exact_mut(dim + 2).zip(rows) {
                        to[..dim].copy_from_slice(values);
                        to[dim..].copy_from_slice(weights);
                    }
                }
                None => rows.enumerate().for_each(|(vector, (values, weights))| {
                    local.merged.add(self.isa, vector, values, *weights);
                }),
            }
        }
        if part.partial.is_none() {
            // SAFETY: the caller's promise; no other part has all spans of this head of these rows.
            unsafe { self.finish(block, head, &local.merged) };
        }
        LOCAL.set(local);
    }

    /// Merges the parts of block `index` of those in several, for one key/value head.
    ///
    /// # Safety
    /// All parts must be done, and nobody else merge these or use `attended` meanwhile, but for other merges.
    pub(crate) unsafe fn merge(&self, index: usize) {
        let (dim, head) = (self.config.head_dim, index % self.config.kv_heads);
        let (block, start) = self.regions.merges[index / self.config.kv_heads];
        let block = &self.regions.blocks[block];
        let vectors = self.vectors(block);
        let mut local = LOCAL.take();
        local.merged.clear(vectors, dim);
        for span in 0..block.spans() {
            let start = start + span * partial_len(self.config, vectors);
            // SAFETY: nobody writes there any more.
            let partial = unsafe { self.partial.slice(self.partial(start, vectors, head)) };
            for (vector, row) in partial.chunks_exact(dim + 2).enumerate() {
                local.merged.add(self.isa, vector, &row[..dim], [row[dim], row[dim + 1]]);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.finish(block, head, &local.merged) };
        LOCAL.set(local);
    }

    fn group(&self) -> usize {
        self.config.heads / self.config.kv_heads
    }

    fn vectors(&self, block: &Block) -> usize {
        block.rows.len() * self.group()
    }

    /// Where the results of a part of several are that begin at `start`.
    fn partial(&self, start: usize, vectors: usize, head: usize) -> Range<usize> {
        let len = vectors * (self.config.head_dim + 2);
        start + head * len..start + (head + 1) * len
    }

    /// Values of the queries of a row that share a key/value head, in all rows.
    fn heads(&self, row: usize, head: usize) -> Range<usize> {
        let len = self.group() * self.config.head_dim;
        let start = row * self.config.query_width() + head * len;
        start..start + len
    }

    /// A block's queries of one key/value head.
    fn gather(&self, block: &Block, head: usize, query: &mut Vec<f32>) {
        query.clear();
        for row in block.rows.clone() {
            query.extend_from_slice(&self.query[self.heads(row, head)]);
        }
    }

    /// What computes the spans of a part, whose queries have been gathered.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(unused_variables, reason = "only tiles need their queries prepared")
    )]
    fn kernel(&self, local: &mut Local) -> Kernel {
        #[cfg(target_arch = "x86_64")]
        if let Isa::Amx(amx) = self.isa
            && self.round
            && self.cache.kv == KvType::BF16
            && let Some(cap) = Weighing::new(self.config).bound()
        {
            let (query, dim) = (&local.query, self.config.head_dim);
            self.isa.run(Queries { query, dim, buffers: &mut local.tiles });
            return Kernel::Tiles(amx, cap);
        }
        Kernel::Floats
    }

    /// One span, for all vectors of a block.
    fn span(&self, kernel: Kernel, block: &Block, span: usize, head: usize, local: &mut Local) {
        let (vectors, dim) = (self.vectors(block), self.config.head_dim);
        let (first, end) = (span * SPAN, block.position + block.rows.len());
        let pages = self.batch.pages_of(&self.batch.sequences()[block.sequence]);
        let mut kv = [Kv::default(); SPAN_PAGES];
        let used = (end - first).div_ceil(PAGE).min(SPAN_PAGES);
        for (index, kv) in kv[..used].iter_mut().enumerate() {
            let number = first / PAGE + index;
            // Pages were allocated before the batch began; a missing one would fail the kernels' checks.
            let page = self.cache.page(pages[number]).unwrap_or_default();
            let part = |part| &page[self.cache.head(self.layer, part, head)];
            let count = PAGE.min(end - number * PAGE);
            *kv = Kv { keys: part(KvPart::Key), values: part(KvPart::Value), count };
        }
        let span = Span { pages: &kv[..used], first, position: block.position, group: self.group() };
        local.span.resize(vectors * dim.next_multiple_of(COLUMNS), 0.0);
        local.weights.resize(vectors, [0.0; 2]);
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Tiles(amx, cap) => amx.enter_tiles(Tiled {
                span: &span,
                dim,
                weighing: Weighing::new(self.config),
                cap,
                buffers: &mut local.tiles,
                out: &mut local.span,
                weights: &mut local.weights,
            }),
            Kernel::Floats => match self.cache.kv {
                KvType::F32 => self.floats::<F32>(&span, local),
                KvType::BF16 => self.floats::<BF16>(&span, local),
            },
        }
    }

    fn floats<E: Element>(&self, span: &Span<'_>, local: &mut Local) {
        self.isa.run(Floats::<E> {
            span,
            query: &local.query,
            dim: self.config.head_dim,
            weighing: Weighing::new(self.config),
            buffers: &mut local.floats,
            out: &mut local.span,
            weights: &mut local.weights,
            element: PhantomData,
        });
    }

    /// Divides by the sums of weights.
    ///
    /// # Safety
    /// Nobody else may use these heads of these rows of `attended` meanwhile.
    unsafe fn finish(&self, block: &Block, head: usize, merged: &Merged) {
        let (dim, group) = (self.config.head_dim, self.group());
        let (values, weights) = (merged.values.chunks_exact(group * dim), merged.weights.chunks_exact(group));
        for (row, (values, weights)) in block.rows.clone().zip(values.zip(weights)) {
            // SAFETY: the caller's promise.
            let attended = unsafe { self.attended.slice(self.heads(row, head)) };
            for ((x, weights), out) in
                values.chunks_exact(dim).zip(weights).zip(attended.chunks_exact_mut(dim))
            {
                self.isa.run(Scale { x, factor: 1.0 / weights[1], out, add: false });
            }
            if self.round {
                self.isa.run(RoundBf16(attended));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::backend::{PageId, Row};
    use crate::control::Control;
    use crate::threads::{Pool, Threads};

    /// A cache that is filled to some position, and queries for any rows.
    struct Case {
        config: ModelConfig,
        cache: Cache,
        pages: Vec<PageId>,
    }

    /// Numbers of bf16 about 1, the same for the same `seed`.
    fn number(seed: usize) -> f32 {
        let bits = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bf16::from_f32(((bits >> 40) as f32 / (1 << 23) as f32 - 1.0) * 1.7).to_f32()
    }

    impl Case {
        /// `positions` keys and values; NaNs behind them.
        fn new(heads: [usize; 2], head_dim: usize, kv: KvType, positions: usize) -> Self {
            let mut config = ModelConfig::grok1();
            [config.heads, config.kv_heads] = heads;
            (config.head_dim, config.layers) = (head_dim, 1);
            config.attention_scale = (head_dim as f32).powf(-0.5);
            let mut cache = Cache::new(&config, kv, None);
            // From the last to the first.
            let pages: Vec<PageId> = (0..positions.div_ceil(PAGE) as u32 + 1).rev().map(PageId).collect();
            for &page in &pages {
                cache.allocate(page).unwrap();
                cache.page_mut(page).unwrap().fill(0xff);
            }
            let mut case = Self { config, cache, pages };
            for position in 0..positions {
                for head in 0..heads[1] {
                    for part in [KvPart::Key, KvPart::Value] {
                        let values = case.kv(part, head, position);
                        let (range, slot) = (case.cache.head(0, part, head), case.cache.slot(position));
                        let page = case.cache.page_mut(case.pages[position / PAGE]).unwrap();
                        let place = &mut page[range][slot];
                        match kv {
                            KvType::F32 => place
                                .chunks_exact_mut(4)
                                .zip(values)
                                .for_each(|(to, x)| to.copy_from_slice(&x.to_le_bytes())),
                            KvType::BF16 => place
                                .chunks_exact_mut(2)
                                .zip(values)
                                .for_each(|(to, x)| to.copy_from_slice(&bf16::from_f32(x).to_le_bytes())),
                        }
                    }
                }
            }
            case
        }

        fn kv(&self, part: KvPart, head: usize, position: usize) -> Vec<f32> {
            let first = (position * self.config.kv_heads + head) * 2 + usize::from(part == KvPart::Value);
            (0..self.config.head_dim).map(|i| number(first * 131 + i)).collect()
        }

        /// Queries of the row at a position.
        fn query(&self, position: usize) -> Vec<f32> {
            (0..self.config.query_width()).map(|i| number(7_000_000 + position * 7919 + i)).collect()
        }

        /// What the rows attend to, of sequences at these positions, all over the same cache: `[rows, heads, head_dim]`.
        fn attended(&self, isa: Isa, round: bool, sequences: &[Range<usize>], pool: &dyn Pool) -> Vec<f32> {
            let (mut rows, mut spans, mut pages) = (Vec::new(), Vec::new(), Vec::new());
            let mut query = Vec::new();
            for positions in sequences {
                let (first_row, first_page) = (rows.len(), pages.len());
                rows.extend(positions.clone().map(|position| Row { token: 0, position: position as u32 }));
                query.extend(positions.clone().flat_map(|position| self.query(position)));
                pages.extend_from_slice(&self.pages[..positions.end.div_ceil(PAGE)]);
                spans.push(Sequence { rows: first_row..rows.len(), pages: first_page..pages.len() });
            }
            let control = Control::new();
            let batch = Batch::new(&rows, &spans, &pages, &control).unwrap();
            let mut plan = Plan::default();
            plan.make(&self.config, &batch).unwrap();
            let mut attended = vec![f32::NAN; query.len()];
            let (regions, partial) = plan.split();
            let attention = Attention {
                isa,
                config: &self.config,
                batch: &batch,
                regions,
                partial: &partial,
                layer: 0,
                cache: &self.cache,
                query: &query,
                attended: &Shared::new(&mut attended),
                round,
            };
            // SAFETY: each part is done once, those of the merges after all others.
            pool.run(regions.parts(&self.config), &|part| unsafe { attention.part(part) });
            // SAFETY: as above.
            pool.run(regions.merges(&self.config), &|part| unsafe { attention.merge(part) });
            attended
        }

        /// The same for one row, in f64.
        fn truth(&self, position: usize) -> Vec<f64> {
            let ModelConfig { heads, kv_heads, head_dim, attention_scale, attention_cap, .. } = self.config;
            let query = self.query(position);
            let mut attended = Vec::new();
            for (head, query) in query.chunks_exact(head_dim).enumerate() {
                let kv = |part, position| self.kv(part, head / (heads / kv_heads), position);
                let weights: Vec<f64> = (0..=position)
                    .map(|position| {
                        let key = kv(KvPart::Key, position);
                        let dot: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(k)).sum();
                        let score = dot * f64::from(attention_scale);
                        let cap = attention_cap.map(f64::from);
                        cap.map_or(score, |cap| cap * (score / cap).tanh()).exp()
                    })
                    .collect();
                let mut out = vec![0.0; head_dim];
                for (position, weight) in weights.iter().enumerate() {
                    for (out, value) in out.iter_mut().zip(kv(KvPart::Value, position)) {
                        *out += weight * f64::from(value);
                    }
                }
                let sum: f64 = weights.iter().sum();
                attended.extend(out.iter().map(|x| x / sum));
            }
            attended
        }

        fn truths(&self, sequences: &[Range<usize>]) -> Vec<f64> {
            sequences.iter().cloned().flatten().flat_map(|position| self.truth(position)).collect()
        }

        /// The largest error of a head relative to its length.
        fn error(&self, truth: &[f64], attended: &[f32]) -> f64 {
            assert_eq!(truth.len(), attended.len());
            let dim = self.config.head_dim;
            let errors = truth.chunks_exact(dim).zip(attended.chunks_exact(dim)).map(|(truth, found)| {
                let error: f64 = truth.iter().zip(found).map(|(t, f)| (t - f64::from(*f)).powi(2)).sum();
                (error / truth.iter().map(|t| t * t).sum::<f64>()).sqrt()
            });
            // A NaN must not get lost.
            errors.fold(0.0, |worst, error| if error <= worst { worst } else { error })
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn every_shape_on_every_instruction_set_is_what_a_plain_loop_computes() {
        // Rows across the borders of pages, spans and blocks, and so few that sequences are split.
        let many = [0..70, 250..300, 511..513];
        let few = [0..1, 63..65, 255..256, 260..261, 600..601];
        let threads = Threads::new(1).unwrap();
        for (kv, heads, head_dim, sequences) in [
            (KvType::BF16, [2, 2], 10, &many[..]),
            (KvType::BF16, [3, 1], 18, &few),
            (KvType::F32, [3, 1], 18, &many),
            (KvType::BF16, [6, 1], 128, &few),
            (KvType::BF16, [12, 2], 64, &many),
            (KvType::F32, [20, 1], 32, &few),
            (KvType::BF16, [20, 1], 32, &few),
        ] {
            let case = Case::new(heads, head_dim, kv, 601);
            let truth = case.truths(sequences);
            for isa in Isa::available() {
                // Queries are of bf16 anyway: what is rounded is the result, and by tiles the weights.
                for (round, bound) in [(false, 2e-6), (true, 5e-3)] {
                    let error = case.error(&truth, &case.attended(isa, round, sequences, &threads));
                    assert!(error < bound, "{} {kv:?} {heads:?} {head_dim} {round}: {error:.1e}", isa.name());
                }
            }
        }
    }

    #[test]
    fn scores_far_beyond_the_cap_and_without_one_are_what_a_plain_loop_computes() {
        let threads = Threads::new(1).unwrap();
        let sequences = [290..300, 64..65];
        for (cap, scale, bound) in
            [(Some(30.0), 3.0, 1e-5), (Some(5.0), 1.0, 2e-6), (None, 1.0, 5e-6), (Some(80.0), 3.0, 2e-5)]
        {
            let mut case = Case::new([6, 1], 128, KvType::BF16, 300);
            (case.config.attention_cap, case.config.attention_scale) = (cap, scale);
            let truth = case.truths(&sequences);
            for isa in Isa::available() {
                for (round, bound) in [(false, bound), (true, 5e-3)] {
                    let error = case.error(&truth, &case.attended(isa, round, &sequences, &threads));
                    assert!(error < bound, "{}, cap {cap:?}: {error:.1e}", isa.name());
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_a_batch() {
        let threads = Threads::new(1).unwrap();
        let case = Case::new([6, 1], 32, KvType::BF16, 640);
        let width = case.config.query_width();
        for (isa, round) in Isa::available().into_iter().flat_map(|isa| [(isa, false), (isa, true)]) {
            let batch = case.attended(isa, round, &[3..4, 500..640], &threads);
            for (row, position) in [(0, 3), (1, 500), (13, 512), (140, 639)] {
                let sequence = position..position + 1;
                let alone = case.attended(isa, round, std::slice::from_ref(&sequence), &threads);
                assert_eq!(bits(&alone), bits(&batch[row * width..][..width]), "{} {position}", isa.name());
            }
        }
    }

    #[test]
    fn a_split_sequence_has_the_same_bits_on_any_number_of_threads() {
        let case = Case::new([12, 2], 128, KvType::BF16, 1500);
        let sequences = [1499..1500, 700..740, 1000..1002];
        for isa in Isa::available() {
            let one = case.attended(isa, true, &sequences, &Threads::new(1).unwrap());
            for threads in [2, 3] {
                let several = case.attended(isa, true, &sequences, &Threads::new(threads).unwrap());
                assert_eq!(bits(&one), bits(&several), "{} on {threads} threads", isa.name());
            }
        }
    }
}
