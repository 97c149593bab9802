//! Attention of a batch: which kernel takes which rows, and the launches. Uses `plain`, `products` and `scratch`.

use std::ops::Range;

use super::Gpu;
use super::cache::Cache;
use super::products::FEW_ROWS;
use super::scratch::{Scratch, write_i32};
use crate::backend::gpu::activations::SPAN_BYTES;
use crate::backend::gpu::kernels::{self, SPAN};
use crate::backend::gpu::{DevicePointer, Runtime};
use crate::backend::{BackendError, Batch, KvType, page_bytes};
use crate::error::Result;

/// Rows of a sequence from which on tiles of them go over its positions together.
const TILED_ROWS: usize = 8;

/// Rows of blocks that a launch may have.
pub(super) const MAX_GRID_ROWS: usize = u16::MAX as usize;

/// Who takes which rows of a batch.
#[derive(Default)]
pub(super) struct Plan {
    /// Whether it is this batch's: `embed`, which begins one, does not know the cache.
    pub(super) is_current: bool,
    /// Rows that are taken one by one, span by span.
    single: Vec<Range<usize>>,
    /// Spans of the longest of them, rounded up so that a captured graph serves for more than one position.
    pub(super) spans: usize,
    /// First row and number of rows of tiles.
    tiles: Vec<[i32; 2]>,
    addresses: Vec<u64>,
    kv: KvType,
}

impl Plan {
    fn make(&mut self, batch: &Batch<'_>, rows_of_tile: Option<usize>) {
        let is_tiled = |rows: &Range<usize>| rows_of_tile.is_some() && rows.len() >= TILED_ROWS;
        let all = || batch.sequences().iter().map(|sequence| sequence.rows.clone());
        self.tiles.clear();
        for rows in all().filter(is_tiled) {
            let most = rows_of_tile.unwrap_or(rows.len());
            let tile = |first: usize| [first as i32, most.min(rows.end - first) as i32];
            self.tiles.extend(rows.clone().step_by(most).map(tile));
        }
        // Those late in a sequence, which take longest, come first.
        self.tiles.reverse();
        self.single.clear();
        let mut longest = 0;
        for rows in all().filter(|rows| !is_tiled(rows)) {
            longest = batch.rows()[rows.clone()].iter().map(|row| row.position).fold(longest, u32::max);
            match self.single.last_mut() {
                Some(last) if last.end == rows.start => last.end = rows.end,
                _ => self.single.push(rows),
            }
        }
        self.spans = (longest as usize / SPAN + 1).next_power_of_two();
    }
}

impl<R: Runtime> Gpu<R> {
    /// Plans the batch's attention, and sends what it needs.
    pub(super) fn plan(&self, batch: &Batch<'_>, cache: &Cache<R>, scratch: &mut Scratch<R>) -> Result<()> {
        let Scratch { plan, pages, tiles, .. } = scratch;
        if plan.is_current {
            // The pages that were sent are those of the cache that the batch began with.
            return if plan.kv == cache.kv { Ok(()) } else { Err(BackendError::Batch.into()) };
        }
        plan.kv = cache.kv;
        let page_bytes = page_bytes(&self.config, cache.kv);
        let group = self.config.heads / self.config.kv_heads;
        // A captured graph of a few rows serves for any sequences they are of.
        let flash = self.kernels.flash.as_ref().filter(|_| batch.rows().len() > FEW_ROWS);
        let rows_of_tile = flash.map(|flash| flash.of(cache.kv).2 / group);
        plan.make(batch, rows_of_tile);
        plan.addresses.clear();
        for sequence in batch.sequences() {
            for &page in batch.pages_of(sequence) {
                plan.addresses.push(cache.page(page)?.address(&self.device, 0, page_bytes)?.0);
            }
        }
        let address = size_of::<u64>();
        pages.send(&self.device, &self.stream, plan.addresses.len() * address, |out| {
            for (out, address) in out.chunks_exact_mut(address).zip(&plan.addresses) {
                out.copy_from_slice(&address.to_le_bytes());
            }
        })?;
        if !plan.tiles.is_empty() {
            let numbers = plan.tiles.as_flattened();
            let bytes = size_of_val(numbers);
            tiles.send(&self.device, &self.stream, bytes, |out| write_i32(out, numbers.iter().copied()))?;
        }
        plan.is_current = true;
        Ok(())
    }

    /// The batch's pages as a layer sees them, from row `first_row` on.
    pub(super) fn cache_of(
        &self,
        scratch: &Scratch<R>,
        kv: KvType,
        layer: usize,
        first_row: usize,
    ) -> kernels::Cache {
        let number = size_of::<i32>();
        let positions = scratch.batch.pointer().offset(scratch.rows * number);
        kernels::Cache {
            pages: scratch.pages.pointer().0,
            first: positions.offset((scratch.rows + first_row) * number).0,
            positions: positions.offset(first_row * number).0,
            layer: layer as i32,
            kv_heads: self.config.kv_heads as i32,
            head_dim: self.config.head_dim as i32,
            is_bf16: i32::from(kv == KvType::BF16),
        }
    }

    /// What the rows' queries make of keys and values up to their positions.
    pub(super) fn attend(&self, index: usize, kv: KvType, scratch: &mut Scratch<R>) -> Result<()> {
        self.attend_by_tiles(index, kv, scratch)?;
        for run in 0..scratch.plan.single.len() {
            self.attend_one_by_one(scratch.plan.single[run].clone(), index, kv, scratch)?;
        }
        Ok(())
    }

    fn attend_by_tiles(&self, index: usize, kv: KvType, scratch: &Scratch<R>) -> Result<()> {
        let (Some(flash), false) = (&self.kernels.flash, scratch.plan.tiles.is_empty()) else {
            return Ok(());
        };
        let (kernel, shared, _) = flash.of(kv);
        let cache = self.cache_of(scratch, kv, index, 0);
        let (attended, query, tiles) =
            (scratch.attended.pointer(), scratch.query.pointer(), scratch.tiles.pointer());
        let (heads, round) = (self.config.heads as i32, self.round());
        let (scale, cap) = (self.config.attention_scale, self.config.attention_cap.unwrap_or(0.0));
        let arguments = [
            (&attended).into(),
            (&query).into(),
            (&cache).into(),
            (&tiles).into(),
            (&heads).into(),
            (&scale).into(),
            (&cap).into(),
            (&round).into(),
        ];
        let grid = [scratch.plan.tiles.len(), self.config.kv_heads, 1];
        // SAFETY: tiles are rows of the batch; queries and the pages up to each row's position are there.
        unsafe { self.launch(kernel, grid, shared, arguments) }
    }

    fn attend_one_by_one(
        &self,
        all: Range<usize>,
        index: usize,
        kv: KvType,
        scratch: &mut Scratch<R>,
    ) -> Result<()> {
        let config = &self.config;
        let float = size_of::<f32>();
        let spans = scratch.plan.spans;
        let row_bytes = config.heads * spans * config.head_dim * float;
        let at_a_time = (SPAN_BYTES / row_bytes).clamp(1, MAX_GRID_ROWS).min(all.len());
        scratch.sums.make(&self.device, at_a_time * row_bytes)?;
        scratch.stats.make(&self.device, at_a_time * config.heads * spans * 2 * float)?;
        let kernel = &self.kernels.attention;
        let (heads, head_dim, round) = (config.heads as i32, config.head_dim as i32, self.round());
        let (scale, cap) = (config.attention_scale, config.attention_cap.unwrap_or(0.0));
        let (sums, stats, span_count) = (scratch.sums.pointer(), scratch.stats.pointer(), spans as i32);
        for first in all.clone().step_by(at_a_time) {
            let rows = at_a_time.min(all.end - first);
            let cache = self.cache_of(scratch, kv, index, first);
            let skipped = first * config.query_width() * float;
            let (query, attended) =
                (scratch.query.pointer().offset(skipped), scratch.attended.pointer().offset(skipped));
            let arguments = [
                (&sums).into(),
                (&stats).into(),
                (&query).into(),
                (&cache).into(),
                (&heads).into(),
                (&span_count).into(),
                (&scale).into(),
                (&cap).into(),
            ];
            // SAFETY: spans of that many rows have room; queries and the pages up to each row's position are there.
            unsafe { self.launch(kernel.of(kv), [spans, config.kv_heads, rows], kernel.shared, arguments) }?;
            let positions = DevicePointer(cache.positions);
            let arguments = [
                (&attended).into(),
                (&sums).into(),
                (&stats).into(),
                (&positions).into(),
                (&heads).into(),
                (&head_dim).into(),
                (&span_count).into(),
                (&round).into(),
            ];
            // SAFETY: as above; `attended` holds all rows.
            unsafe { self.launch(&self.kernels.merge, [config.heads, rows, 1], 0, arguments) }?;
        }
        Ok(())
    }
}
