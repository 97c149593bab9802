//! A backend whose stages are timed. For those that are done when a call returns: the processor's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use grok1::backend::{Backend, Batch, Branch, KvPart, Observer, PageId};
use grok1::{Control, KvType, Result, weights};

/// The stages, in the order of their times.
pub(super) const STAGES: [&str; 6] = ["embed", "attention", "route", "experts", "residual", "head"];

#[derive(Clone, Copy)]
enum Stage {
    Embed,
    Attention,
    Route,
    Experts,
    Residual,
    Head,
}

/// How long each stage took.
#[derive(Default)]
pub(super) struct Clock([AtomicU64; STAGES.len()]); // nanoseconds

impl Clock {
    /// Seconds of each stage since the last call.
    pub(super) fn take(&self) -> [f64; STAGES.len()] {
        self.0.each_ref().map(|nanoseconds| nanoseconds.swap(0, Relaxed) as f64 / 1e9)
    }

    fn time<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.0[stage as usize].fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        done
    }
}

/// `backend`, watched by a clock.
pub(super) struct Timed<B> {
    pub(super) backend: B,
    pub(super) clock: Arc<Clock>,
}

impl<B: Backend> Backend for Timed<B> {
    type Layer = B::Layer;
    type Head = B::Head;
    type Cache = B::Cache;
    type Scratch = B::Scratch;

    fn name(&self) -> String {
        self.backend.name()
    }

    fn load_layer(&self, layer: &weights::Layer, control: &Control) -> Result<B::Layer> {
        self.backend.load_layer(layer, control)
    }

    fn load_head(&self, head: &weights::Head, control: &Control) -> Result<B::Head> {
        self.backend.load_head(head, control)
    }

    fn loaded(&self) -> Result<()> {
        self.backend.loaded()
    }

    fn cache(&self, kv: KvType) -> B::Cache {
        self.backend.cache(kv)
    }

    fn scratch(&self) -> B::Scratch {
        self.backend.scratch()
    }

    fn allocate_page(&self, cache: &mut B::Cache, page: PageId) -> Result<()> {
        self.backend.allocate_page(cache, page)
    }

    fn free_page(&self, cache: &mut B::Cache, page: PageId) {
        self.backend.free_page(cache, page);
    }

    fn copy_page(&self, cache: &mut B::Cache, from: PageId, to: PageId) -> Result<()> {
        self.backend.copy_page(cache, from, to)
    }

    fn read_page(
        &self,
        cache: &B::Cache,
        page: PageId,
        layer: usize,
        part: KvPart,
        out: &mut [u8],
    ) -> Result<()> {
        self.backend.read_page(cache, page, layer, part, out)
    }

    fn write_page(
        &self,
        cache: &mut B::Cache,
        page: PageId,
        layer: usize,
        part: KvPart,
        values: &[u8],
    ) -> Result<()> {
        self.backend.write_page(cache, page, layer, part, values)
    }

    fn embed(&self, head: &B::Head, batch: &Batch<'_>, scratch: &mut B::Scratch) -> Result<()> {
        self.clock.time(Stage::Embed, || self.backend.embed(head, batch, scratch))
    }

    fn attention(
        &self,
        layer: &B::Layer,
        index: usize,
        batch: &Batch<'_>,
        cache: &mut B::Cache,
        scratch: &mut B::Scratch,
    ) -> Result<()> {
        self.clock.time(Stage::Attention, || self.backend.attention(layer, index, batch, cache, scratch))
    }

    fn route(&self, layer: &B::Layer, batch: &Batch<'_>, scratch: &mut B::Scratch) -> Result<()> {
        self.clock.time(Stage::Route, || self.backend.route(layer, batch, scratch))
    }

    fn experts(&self, layer: &B::Layer, batch: &Batch<'_>, scratch: &mut B::Scratch) -> Result<()> {
        self.clock.time(Stage::Experts, || self.backend.experts(layer, batch, scratch))
    }

    fn residual(
        &self,
        layer: &B::Layer,
        branch: Branch,
        batch: &Batch<'_>,
        scratch: &mut B::Scratch,
    ) -> Result<()> {
        self.clock.time(Stage::Residual, || self.backend.residual(layer, branch, batch, scratch))
    }

    fn head(
        &self,
        head: &B::Head,
        batch: &Batch<'_>,
        rows: &[u32],
        scratch: &mut B::Scratch,
        logits: &mut [f32],
    ) -> Result<()> {
        self.clock.time(Stage::Head, || self.backend.head(head, batch, rows, scratch, logits))
    }

    fn normed(
        &self,
        head: &B::Head,
        batch: &Batch<'_>,
        rows: &[u32],
        scratch: &mut B::Scratch,
        out: &mut [f32],
    ) -> Result<()> {
        self.clock.time(Stage::Head, || self.backend.normed(head, batch, rows, scratch, out))
    }

    fn write_hidden(&self, scratch: &mut B::Scratch, hidden: &[f32]) -> Result<()> {
        self.backend.write_hidden(scratch, hidden)
    }

    fn read_hidden(&self, scratch: &mut B::Scratch, out: &mut [f32]) -> Result<()> {
        self.backend.read_hidden(scratch, out)
    }

    fn observe_routing(&self, scratch: &B::Scratch, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        self.backend.observe_routing(scratch, layer, observer)
    }

    fn observe_hidden(&self, scratch: &B::Scratch, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        self.backend.observe_hidden(scratch, layer, observer)
    }
}
