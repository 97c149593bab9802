//! A whole pass through the layers: stages share launches where nobody looks between them, and a few rows are one captured graph. Uses
//! `plain`, `products` and `attention`.

use super::Gpu;
use super::cache::Cache;
use super::products::FEW_ROWS;
use super::scratch::Scratch;
use super::weights::Layer;
use crate::backend::gpu::{DevicePointer, Graph, Runtime};
use crate::backend::{BackendError, Batch, KvType};
use crate::error::Result;

/// Layers that are queued, where no graph queues all, before the host waits for the first of them: enough for the device never to wait for the host, few enough for
/// a cancelled run to end soon.
const AHEAD: usize = 4;

/// Graphs that are kept.
const MOST_GRAPHS: usize = 64;

/// What a pass was captured for. With another of these it is another pass.
#[derive(PartialEq, Eq)]
struct Key {
    rows: usize,
    spans: usize,
    kv: KvType,
    layers: Vec<u64>,
    /// Address and length of all buffers.
    places: Vec<(u64, usize)>,
}

impl Key {
    fn is_of<R: Runtime>(&self, layers: &[Layer<R>], kv: KvType, scratch: &Scratch<R>) -> bool {
        self.rows == scratch.rows
            && self.spans == scratch.plan.spans
            && self.kv == kv
            && self.layers.iter().eq(layers.iter().map(|layer| &layer.id))
            && self.places.iter().copied().eq(scratch.places())
    }

    fn new<R: Runtime>(layers: &[Layer<R>], kv: KvType, scratch: &Scratch<R>) -> Self {
        Self {
            rows: scratch.rows,
            spans: scratch.plan.spans,
            kv,
            layers: layers.iter().map(|layer| layer.id).collect(),
            places: scratch.places().collect(),
        }
    }
}

/// Passes that were seen, and the graphs of those that were seen twice.
pub(super) struct Graphs<R: Runtime>(Vec<(Key, Option<Graph<R>>)>);

impl<R: Runtime> Default for Graphs<R> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<R: Runtime> Gpu<R> {
    pub(super) fn forward_fused(
        &self,
        layers: &[Layer<R>],
        batch: &Batch<'_>,
        cache: &Cache<R>,
        scratch: &mut Scratch<R>,
        done: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if layers.len() > self.config.layers {
            return Err(BackendError::Batch.into());
        }
        let turn = self.turn()?;
        self.plan(batch, cache, scratch)?;
        drop(turn);
        if !self.graphs || scratch.rows > FEW_ROWS || layers.is_empty() {
            return self.queue_throttled(layers, cache.kv, scratch, done);
        }
        let place = scratch.graphs.0.iter().position(|(key, _)| key.is_of(layers, cache.kv, scratch));
        let Some(place) = place else {
            // Not captured at once: it makes room for its buffers, and many a pass never comes again.
            self.queue_throttled(layers, cache.kv, scratch, done)?;
            let key = Key::new(layers, cache.kv, scratch);
            let graphs = &mut scratch.graphs.0;
            // What had the same shape, with buffers that are no more.
            graphs.retain(|(other, _)| (other.rows, other.spans) != (key.rows, key.spans));
            if graphs.len() >= MOST_GRAPHS {
                graphs.remove(0);
            }
            graphs.push((key, None));
            return Ok(());
        };
        if !self.queue_graph(place, layers, cache.kv, scratch)? {
            return self.queue_throttled(layers, cache.kv, scratch, done);
        }
        layers.iter().try_for_each(|_| done())
    }

    /// Queues all layers as the graph of this place, which is captured first if it was not; unless that cannot be.
    fn queue_graph(
        &self,
        place: usize,
        layers: &[Layer<R>],
        kv: KvType,
        scratch: &mut Scratch<R>,
    ) -> Result<bool> {
        // From the first captured call to the last: who else uses the stream meanwhile would be captured too.
        let _turn = self.turn()?;
        if scratch.graphs.0[place].1.is_none() {
            let mut queued = Ok(());
            let graph = self.stream.capture(|| {
                queued = (0..layers.len()).try_for_each(|index| self.queue_layer(layers, index, kv, scratch));
                Ok(())
            });
            match queued.and(graph.map_err(Into::into)) {
                Ok(graph) => scratch.graphs.0[place].1 = Some(graph),
                Err(reason) => {
                    // Another model that waits for the whole device in the meantime is enough. Nothing was queued.
                    log::debug!("a pass was not captured: {reason}");
                    scratch.graphs.0.remove(place);
                    return Ok(false);
                }
            }
        }
        if let Some(graph) = &mut scratch.graphs.0[place].1 {
            // SAFETY: its buffers are those of the key, which are there; its kernels are the device's, which the layers keep.
            unsafe { self.stream.launch_graph(graph) }?;
        }
        Ok(true)
    }

    /// Queues all layers, never far ahead of the device.
    fn queue_throttled(
        &self,
        layers: &[Layer<R>],
        kv: KvType,
        scratch: &mut Scratch<R>,
        done: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        while scratch.queued.len() < AHEAD {
            scratch.queued.push(self.device.event()?);
        }
        for index in 0..layers.len() {
            if index >= AHEAD {
                scratch.queued[index % AHEAD].synchronize()?;
                done()?;
            }
            let _turn = self.turn()?;
            self.queue_layer(layers, index, kv, scratch)?;
            self.stream.record(&scratch.queued[index % AHEAD])?;
        }
        (0..AHEAD.min(layers.len())).try_for_each(|_| done())
    }

    /// Queues a layer, with the norm before the first, and before the next.
    fn queue_layer(
        &self,
        layers: &[Layer<R>],
        index: usize,
        kv: KvType,
        scratch: &mut Scratch<R>,
    ) -> Result<()> {
        let Some(layer) = layers.get(index) else { return Ok(()) };
        if index == 0 {
            let bytes = scratch.rows * self.config.width * size_of::<f32>();
            scratch.normed.make(&self.device, bytes)?;
            let (all, rows) = (DevicePointer(0), scratch.rows);
            self.norm(scratch, &scratch.normed, all, rows, &layer.attention_norm, self.round())?;
        }
        self.attend_normed(layer, index, kv, scratch)?;
        let groups = self.add_and_route(layer, scratch)?;
        self.run_experts(layer, &groups, scratch)?;
        let next = layers.get(index + 1).map(|next| &*next.attention_norm);
        self.combine_and_add(layer, next, scratch)
    }

    /// Attention of rows that are normed, up to its output projection.
    pub(super) fn attend_normed(
        &self,
        layer: &Layer<R>,
        index: usize,
        kv: KvType,
        scratch: &mut Scratch<R>,
    ) -> Result<()> {
        let rows = scratch.rows;
        let bytes = |width: usize| rows * width * size_of::<f32>();
        scratch.query.make(&self.device, bytes(self.config.query_width()))?;
        scratch.attended.make(&self.device, bytes(self.config.query_width()))?;
        scratch.branch.make(&self.device, bytes(self.config.width))?;
        self.project(layer, &self.cache_of(scratch, kv, index, 0), scratch)?;
        self.attend(index, kv, scratch)?;
        self.project_output(layer, scratch)
    }
}
