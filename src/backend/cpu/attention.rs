//! Soft-capped attention of one block of rows and one key/value head over the paged cache. Uses `kernels` and `cache`.
//!
//! Keys are taken in spans of fixed position; each span has its own largest score and sum, and spans are merged in order. A row's
//! result therefore depends neither on the threads nor on the rows beside it.

use std::cell::RefCell;
use std::ops::Range;

use super::cache::Cache;
use super::kernels::elementwise::{RoundBf16, Scale, SoftCap, Softmax};
use super::kernels::in_out::{Epilogue, InOut};
use super::kernels::out_in::OutIn;
use super::kernels::{BF16, Element, F32, Out, Rows};
use super::shared::Shared;
use super::simd::Isa;
use crate::backend::{KvPart, KvType, PAGE, PageId};
use crate::config::ModelConfig;

/// Positions per span.
const SPAN: usize = 4 * PAGE;

/// Query vectors worked on together: they share every key and value that is read.
const VECTORS: usize = 16;

/// How many rows of a sequence make a block.
pub(crate) fn block_rows(config: &ModelConfig) -> usize {
    (VECTORS / (config.heads / config.kv_heads)).max(1)
}

/// Rows of one sequence at consecutive positions.
pub(crate) struct Block {
    pub(crate) sequence: usize,
    pub(crate) rows: Range<usize>,
    /// Position of the first row.
    pub(crate) position: usize,
}

/// What all parts of an attention region share.
pub(crate) struct Attention<'a> {
    pub(crate) isa: Isa,
    pub(crate) config: &'a ModelConfig,
    pub(crate) layer: usize,
    pub(crate) cache: &'a Cache,
    pub(crate) query: &'a [f32],              // [rows, heads, head_dim]
    pub(crate) attended: &'a Shared<'a, f32>, // [rows, heads, head_dim]
    pub(crate) round: bool,
}

/// A thread's buffers, grown once.
#[derive(Default)]
struct Local {
    index: Vec<u32>,         // [vectors]
    order: Vec<u32>,         // [vectors]: 0, 1, 2, ...
    scores: Vec<f32>,        // [vectors, SPAN]
    span: Vec<f32>,          // [vectors, head_dim]
    out: Vec<f32>,           // [vectors, head_dim]
    merged: Vec<(f32, f32)>, // [vectors]: largest score, sum of exponentials
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::default();
}

impl Attention<'_> {
    /// All heads that share `kv_head`, for the rows of `block`.
    ///
    /// # Safety
    /// Nobody else may use those heads of those rows of `attended` meanwhile.
    pub(crate) unsafe fn run(&self, block: &Block, pages: &[PageId], kv_head: usize) {
        let mut local = LOCAL.take();
        match self.cache.kv {
            KvType::F32 => self.spans::<F32>(block, pages, kv_head, &mut local),
            KvType::BF16 => self.spans::<BF16>(block, pages, kv_head, &mut local),
        }
        let dim = self.config.head_dim;
        for (vector, &index) in local.index.iter().enumerate() {
            let start = index as usize * dim;
            // SAFETY: the caller's promise.
            let attended = unsafe { self.attended.slice(start..start + dim) };
            let x = &local.out[vector * dim..][..dim];
            let factor = 1.0 / local.merged[vector].1;
            self.isa.run(Scale { x, factor, out: attended, add: false });
            if self.round {
                self.isa.run(RoundBf16(attended));
            }
        }
        LOCAL.set(local);
    }

    fn spans<E: Element>(&self, block: &Block, pages: &[PageId], kv_head: usize, local: &mut Local) {
        let group = self.config.heads / self.config.kv_heads;
        let vectors = block.rows.len() * group;
        let dim = self.config.head_dim;
        local.index.clear();
        for row in block.rows.clone() {
            local.index.extend((0..group).map(|h| (row * self.config.heads + kv_head * group + h) as u32));
        }
        local.order.clear();
        local.order.extend(0..vectors as u32);
        local.scores.resize(vectors * SPAN, 0.0);
        local.span.resize(vectors * dim, 0.0);
        local.out.resize(vectors * dim, 0.0);
        local.out.fill(0.0);
        local.merged.clear();
        local.merged.resize(vectors, (f32::NEG_INFINITY, 0.0));

        let end = block.position + block.rows.len();
        for first in (0..end).step_by(SPAN) {
            let last = end.min(first + SPAN);
            self.scores::<E>(pages, kv_head, first..last, local);
            local.span.fill(0.0);
            for vector in 0..vectors {
                // Positions that the vector's row may see.
                let seen = (block.position + vector / group + 1).saturating_sub(first).min(last - first);
                let (scores, unseen) = local.scores[vector * SPAN..][..last - first].split_at_mut(seen);
                unseen.fill(0.0);
                let mut result = (f32::NEG_INFINITY, 0.0);
                if !scores.is_empty() {
                    let (scale, cap) = (self.config.attention_scale, self.config.attention_cap);
                    self.isa.run(SoftCap { values: scores, scale, cap });
                    self.isa.run(Softmax { values: scores, result: &mut result });
                }
                local.merged.push(result);
            }
            self.values::<E>(pages, kv_head, first..last, local);
            for vector in 0..vectors {
                let (span_largest, span_sum) = local.merged[vectors + vector];
                let (largest, sum) = local.merged[vector];
                if span_sum == 0.0 {
                    continue;
                }
                let new = if largest > span_largest { largest } else { span_largest };
                let (before, now) = ((largest - new).exp(), (span_largest - new).exp());
                local.merged[vector] = (new, sum * before + span_sum * now);
                let out = &mut local.out[vector * dim..][..dim];
                out.iter_mut().for_each(|x| *x *= before);
                let x = &local.span[vector * dim..][..dim];
                self.isa.run(Scale { x, factor: now, out, add: true });
            }
            local.merged.truncate(vectors);
        }
    }

    /// `scores[vector, position] = query · key`.
    fn scores<E: Element>(
        &self,
        pages: &[PageId],
        kv_head: usize,
        positions: Range<usize>,
        local: &mut Local,
    ) {
        let dim = self.config.head_dim;
        let x = Rows { data: self.query, stride: dim, index: &local.index };
        for (offset, count, keys) in self.pages(pages, kv_head, positions, KvPart::Key) {
            let buffer = Shared::new(&mut local.scores[offset..]);
            let out = Out::rows(&buffer, 0, SPAN);
            // SAFETY: the buffer is this thread's own.
            self.isa.run(unsafe { OutIn::<E>::new(x, keys, dim, 0..count, out) });
        }
    }

    /// `span[vector] += scores[vector, position] * value`.
    fn values<E: Element>(
        &self,
        pages: &[PageId],
        kv_head: usize,
        positions: Range<usize>,
        local: &mut Local,
    ) {
        let dim = self.config.head_dim;
        let buffer = Shared::new(&mut local.span);
        let out = Out::rows(&buffer, 0, dim);
        for (offset, count, values) in self.pages(pages, kv_head, positions, KvPart::Value) {
            let x = Rows { data: &local.scores[offset..], stride: SPAN, index: &local.order };
            // SAFETY: the buffer is this thread's own.
            self.isa.run(unsafe { InOut::<E>::new(x, values, [count, dim], 0..dim, Epilogue::Added, out) });
        }
    }

    /// The pages of a span: offset within the span, number of positions, and their keys or values.
    fn pages<'a>(
        &'a self,
        pages: &'a [PageId],
        kv_head: usize,
        positions: Range<usize>,
        part: KvPart,
    ) -> impl Iterator<Item = (usize, usize, &'a [u8])> {
        let bytes = self.cache.head(self.layer, part, kv_head);
        positions.clone().step_by(PAGE).map(move |position| {
            let count = PAGE.min(positions.end - position);
            // Pages were allocated before the batch began; a missing one would fail the kernels' checks.
            let page = self.cache.page(pages[position / PAGE]).unwrap_or_default();
            (position - positions.start, count, &page[bytes.clone()])
        })
    }
}
