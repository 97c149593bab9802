//! The backend over the kernels, for every runtime. Uses `backend`, `kernels` and `device`.
//!
//! Same steps in the same order as [`cpu`](crate::backend::cpu). Stages only queue work on one stream; the host waits where it needs
//! results: logits, hidden states, and what observers see.

mod cache;
mod code;
mod load;
mod scratch;
mod weights;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use self::code::Code;
use self::load::Loader;
use self::scratch::{Room, Scratch, write_i32};
use self::weights::{Activation, Head, Heads, Layer, Weights};
use super::kernels::{self, Groups, Kernel, SPAN, THREADS};
use super::{
    Argument, Buffer, CompileOptions, Device, DevicePointer, Function, GpuError, Launch, Runtime, Stream,
};
use crate::backend::values::Rotary;
use crate::backend::{Backend, Batch, Branch, KvPart, KvType, Observer, PAGE, PageId, Precision, Routing};
use crate::config::ModelConfig;
use crate::control::Control;
use crate::error::Result;
use crate::weights::{Head as StoredHead, Layer as StoredLayer};

use self::cache::Cache;

/// Bytes of the spans of attention that are kept until they are merged: bounds the rows that attend at a time.
const SPAN_BYTES: usize = 64 << 20;

/// Rows of blocks that a launch may have.
const MAX_GRID_ROWS: usize = u16::MAX as usize;

/// How a GPU computes.
#[derive(Clone, Debug)]
pub struct GpuOptions {
    precision: Precision,
    packs: bool,
    compile: CompileOptions,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { precision: Precision::default(), packs: true, compile: CompileOptions::default() }
    }
}

impl GpuOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How activations are rounded.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Keeps matrices on the device as they are stored, instead of packing those that can be: for measurements and tests.
    #[must_use]
    pub fn as_stored(mut self) -> Self {
        self.packs = false;
        self
    }

    /// How kernels are compiled, and where their code is kept.
    #[must_use]
    pub fn compile(mut self, compile: CompileOptions) -> Self {
        self.compile = compile;
        self
    }
}

/// One graphics processor.
pub struct Gpu<R: Runtime> {
    config: ModelConfig,
    precision: Precision,
    /// Whether matrices are packed, where they can be.
    packs: bool,
    rotary: Rotary,
    kernels: Kernels<R>,
    code: Code<R>,
    stream: Stream<R>,
    /// While weights are loaded.
    loader: Mutex<Option<Loader<R>>>,
    device: Device<R>,
    ordinal: usize,
}

/// The kernels that read no weights of any format.
struct Kernels<R: Runtime> {
    rms_norm: Function<R>,
    attention: [Function<R>; 2], // F32, BF16
    merge: Function<R>,
    residual: Function<R>,
    route: Function<R>,
    group: Function<R>,
    activate: Function<R>,
    combine: Function<R>,
}

impl<R: Runtime> Gpu<R> {
    /// A backend for models of `config` on a device.
    ///
    /// # Errors
    /// [`GpuError`]: no such device, nothing that compiles for it.
    pub fn open(runtime: &Arc<R>, ordinal: usize, config: ModelConfig, options: GpuOptions) -> Result<Self> {
        let device = Device::open(runtime, ordinal)?;
        let code = Code::new(device.clone(), options.compile);
        let float = size_of::<f32>();
        let attention_shared = config.heads / config.kv_heads * (config.head_dim + SPAN) * float;
        let attention = |kv| code.kernel(Kernel::Attention(kv), attention_shared);
        let kernels = Kernels {
            rms_norm: code.kernel(Kernel::RmsNorm, 0)?,
            attention: [attention(KvType::F32)?, attention(KvType::BF16)?],
            merge: code.kernel(Kernel::Merge, 0)?,
            residual: code.kernel(Kernel::Residual, 0)?,
            route: code.kernel(Kernel::Route, config.experts * float)?,
            group: code.kernel(Kernel::Group, config.experts * 2 * size_of::<i32>())?,
            activate: code.kernel(Kernel::Activate, 0)?,
            combine: code.kernel(Kernel::Combine, 0)?,
        };
        let rotary = Rotary::new(config.rope_base, config.head_dim);
        let stream = device.stream()?;
        let GpuOptions { precision, packs, .. } = options;
        let loader = Mutex::default();
        Ok(Self { config, precision, packs, rotary, kernels, code, stream, loader, device, ordinal })
    }

    /// Whether products see activations rounded to bf16, as kernels are told.
    fn round(&self) -> i32 {
        i32::from(self.precision == Precision::Standard)
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// Arguments and grid are as its file says, of buffers that hold as much.
    unsafe fn launch<const N: usize>(
        &self,
        function: &Function<R>,
        grid: [usize; 3],
        shared_bytes: usize,
        arguments: [Argument<'_>; N],
    ) -> Result<(), GpuError> {
        let size = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let launch =
            Launch { grid: grid.map(size), block: [THREADS as u32, 1, 1], shared_bytes: size(shared_bytes) };
        // SAFETY: the caller's.
        unsafe { self.stream.launch(function, launch, arguments) }
    }

    /// Makes sure that angles of positions below `len` are on the device.
    fn make_rotary(&self, scratch: &mut Scratch<R>, len: usize) -> Result<()> {
        if scratch.rotary_len < len {
            // Twice as many each time: seldom enough to wait for.
            let len = len.max(2 * scratch.rotary_len).next_multiple_of(PAGE);
            let positions = 0..u32::try_from(len).unwrap_or(u32::MAX);
            let angles = positions.flat_map(|position| self.rotary.angles(position));
            let bytes: Vec<u8> =
                angles.flat_map(|(cos, sin)| [cos, sin]).flat_map(f32::to_le_bytes).collect();
            scratch.rotary.make(&self.device, bytes.len())?;
            if let Some(buffer) = scratch.rotary.buffer() {
                self.stream.write(buffer, 0, &bytes)?;
            }
            scratch.rotary_len = len;
        }
        Ok(())
    }

    /// Sends the addresses of the batch's pages.
    fn send_pages(&self, batch: &Batch<'_>, cache: &Cache<R>, scratch: &mut Scratch<R>) -> Result<()> {
        if scratch.has_pages {
            return Ok(());
        }
        let mut addresses = Vec::new();
        for sequence in batch.sequences() {
            for &page in batch.pages_of(sequence) {
                addresses.push(cache.page(page)?.pointer().0);
            }
        }
        scratch.pages.send(&self.device, &self.stream, addresses.len() * size_of::<u64>(), |out| {
            for (out, address) in out.chunks_exact_mut(size_of::<u64>()).zip(&addresses) {
                out.copy_from_slice(&address.to_le_bytes());
            }
        })?;
        scratch.has_pages = true;
        Ok(())
    }

    /// RMS norm of `rows` rows of the residual stream; of all, or of those whose numbers are at `source`.
    fn norm(
        &self,
        scratch: &Scratch<R>,
        to: &Room<R>, // [rows, width]
        source: DevicePointer,
        rows: usize,
        scale: &Buffer<R>,
        round: i32,
    ) -> Result<()> {
        let (width, epsilon) = (self.config.width as i32, self.config.norm_epsilon);
        let (to, from, scale) = (to.pointer(), scratch.hidden.pointer(), scale.pointer());
        let arguments = [
            (&to).into(),
            (&from).into(),
            (&source).into(),
            (&scale).into(),
            (&width).into(),
            (&epsilon).into(),
            (&round).into(),
        ];
        // SAFETY: `to` has room for `rows` rows, `hidden` holds those that are asked for, and the scale is as wide.
        Ok(unsafe { self.launch(&self.kernels.rms_norm, [rows, 1, 1], 0, arguments) }?)
    }

    /// `rows` rows of activations times a matrix.
    fn linear(
        &self,
        to: &Room<R>,   // [rows, outputs]
        from: &Room<R>, // [rows, inputs]
        weights: &Weights<R>,
        tiles: &code::Tiles<R>,
        rows: usize,
        [scale, cap]: [f32; 2],
    ) -> Result<()> {
        let (kernel, tile_rows) = tiles.of(rows);
        let (to, from, count) = (to.pointer(), from.pointer(), rows as i32);
        let arguments = [
            (&to).into(),
            (&from).into(),
            (&weights.matrix).into(),
            (&count).into(),
            (&scale).into(),
            (&cap).into(),
        ];
        let grid = [tiles.strips(weights.outputs), tile_rows, 1];
        // SAFETY: both hold `rows` rows of the matrix's sides.
        Ok(unsafe { self.launch(kernel, grid, 0, arguments) }?)
    }

    /// The batch's pages as a layer sees them, from row `first_row` on.
    fn cache_of(&self, scratch: &Scratch<R>, kv: KvType, layer: usize, first_row: usize) -> kernels::Cache {
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

    /// Queries, keys and values; keys and values into the cache.
    fn project(&self, layer: &Layer<R>, cache: &kernels::Cache, scratch: &Scratch<R>) -> Result<()> {
        let (rows, round) = (scratch.rows as i32, self.round());
        let heads = self.config.heads as i32;
        let [queries, keys, values] = layer.query_key_value.each_ref().map(|weights| &weights.matrix);
        let (query, x, rotary) =
            (scratch.query.pointer(), scratch.normed.pointer(), scratch.rotary.pointer());
        for Heads { first, count, tiles } in &layer.heads {
            let (kernel, tile_rows) = tiles.of(scratch.rows);
            let first = *first as i32;
            let arguments = [
                (&query).into(),
                cache.into(),
                (&x).into(),
                queries.into(),
                keys.into(),
                values.into(),
                (&rotary).into(),
                (&heads).into(),
                (&first).into(),
                (&rows).into(),
                (&round).into(),
            ];
            let grid = [tiles.strips(self.config.head_dim / 2), *count, tile_rows];
            // SAFETY: activations hold all rows; each row's page and angles are there, for its position.
            unsafe { self.launch(kernel, grid, 0, arguments) }?;
        }
        Ok(())
    }

    /// What the rows' queries make of keys and values up to their positions.
    fn attend(&self, batch: &Batch<'_>, index: usize, kv: KvType, scratch: &mut Scratch<R>) -> Result<()> {
        let config = &self.config;
        let float = size_of::<f32>();
        let spans_of = |row: usize| batch.rows()[row].position as usize / SPAN + 1;
        let most = (0..scratch.rows).map(spans_of).max().unwrap_or(1);
        let row_bytes = config.heads * most * config.head_dim * float;
        let at_a_time = (SPAN_BYTES / row_bytes).clamp(1, MAX_GRID_ROWS).min(scratch.rows);
        scratch.sums.make(&self.device, at_a_time * row_bytes)?;
        scratch.stats.make(&self.device, at_a_time * config.heads * most * 2 * float)?;
        let group = config.heads / config.kv_heads;
        let kernel = match kv {
            KvType::F32 => &self.kernels.attention[0],
            KvType::BF16 => &self.kernels.attention[1],
        };
        let (heads, head_dim, round) = (config.heads as i32, config.head_dim as i32, self.round());
        let (scale, cap) = (config.attention_scale, config.attention_cap.unwrap_or(0.0));
        let (sums, stats) = (scratch.sums.pointer(), scratch.stats.pointer());
        for first in (0..scratch.rows).step_by(at_a_time) {
            let rows = at_a_time.min(scratch.rows - first);
            let spans = (first..first + rows).map(spans_of).max().unwrap_or(1);
            let span_count = spans as i32;
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
            let shared = group * (config.head_dim + SPAN) * float;
            // SAFETY: spans of that many rows have room; queries and the pages up to each row's position are there.
            unsafe { self.launch(kernel, [spans, config.kv_heads, rows], shared, arguments) }?;
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

    /// Rows by expert.
    fn group(&self, scratch: &Scratch<R>) -> Result<Groups> {
        let pairs = scratch.rows * self.config.selected_experts;
        let (experts, count) = (self.config.experts as i32, pairs as i32);
        let (group_experts, starts, group_pairs) =
            (scratch.group_experts.pointer(), scratch.group_starts.pointer(), scratch.group_pairs.pointer());
        let selection = scratch.selection.pointer();
        let arguments = [
            (&group_experts).into(),
            (&starts).into(),
            (&group_pairs).into(),
            (&selection).into(),
            (&count).into(),
            (&experts).into(),
        ];
        let shared = self.config.experts * 2 * size_of::<i32>();
        // SAFETY: all of them have room for the pairs of the batch, and `selection` holds them.
        unsafe { self.launch(&self.kernels.group, [1, 1, 1], shared, arguments) }?;
        Ok(Groups { experts: group_experts.0, starts: starts.0, pairs: group_pairs.0 })
    }

    /// Groups that a batch has at most.
    fn groups(&self, rows: usize) -> usize {
        self.config.experts.min(rows * self.config.selected_experts)
    }

    /// Pairs times the matrices of their experts. `share` pairs share a row of `from`.
    fn expert_linear(
        &self,
        to: &Room<R>,   // [pairs, outputs]
        from: &Room<R>, // [pairs / share, inputs]
        weights: &Weights<R>,
        tiles: &code::Tiles<R>,
        groups: &Groups,
        rows: usize,
        share: usize,
    ) -> Result<()> {
        let (kernel, _) = tiles.of(rows);
        let (to, from, share) = (to.pointer(), from.pointer(), share as i32);
        let arguments =
            [(&to).into(), (&from).into(), (&weights.matrix).into(), groups.into(), (&share).into()];
        let grid = [tiles.strips(weights.outputs), self.groups(rows), 1];
        // SAFETY: both hold all pairs' rows of the matrices' sides, and there is a matrix for each expert.
        Ok(unsafe { self.launch(kernel, grid, 0, arguments) }?)
    }

    /// The experts' hidden values.
    fn activate(&self, layer: &Layer<R>, groups: &Groups, scratch: &mut Scratch<R>) -> Result<()> {
        let (rows, selected) = (scratch.rows, self.config.selected_experts);
        let count = rows * selected * self.config.ffn_width;
        let bytes = count * size_of::<f32>();
        let (share, round) = (selected as i32, self.round());
        scratch.activated.make(&self.device, bytes)?;
        let out = scratch.activated.pointer();
        match &layer.activation {
            Activation::Fused(tiles) => {
                let (kernel, _) = tiles.of(rows);
                let x = scratch.normed.pointer();
                let arguments = [
                    (&out).into(),
                    (&x).into(),
                    (&layer.gate.matrix).into(),
                    (&layer.up.matrix).into(),
                    groups.into(),
                    (&share).into(),
                    (&round).into(),
                ];
                let grid = [tiles.strips(self.config.ffn_width), self.groups(rows), 1];
                // SAFETY: activations hold all rows and pairs, and there is a matrix for each expert.
                unsafe { self.launch(kernel, grid, 0, arguments) }?;
            }
            Activation::Apart([gate_tiles, up_tiles]) => {
                scratch.gate.make(&self.device, bytes)?;
                scratch.up.make(&self.device, bytes)?;
                let x = &scratch.normed;
                self.expert_linear(&scratch.gate, x, &layer.gate, gate_tiles, groups, rows, selected)?;
                self.expert_linear(&scratch.up, x, &layer.up, up_tiles, groups, rows, selected)?;
                // Counts are 32 bits.
                const MOST: usize = 1 << 30;
                for start in (0..count).step_by(MOST) {
                    let part = MOST.min(count - start);
                    let [out, gate, up] = [out, scratch.gate.pointer(), scratch.up.pointer()]
                        .map(|pointer| pointer.offset(start * size_of::<f32>()));
                    let part_count = part as i32;
                    let arguments =
                        [(&out).into(), (&gate).into(), (&up).into(), (&part_count).into(), (&round).into()];
                    let grid = [part.div_ceil(THREADS), 1, 1];
                    // SAFETY: all three hold `count` values.
                    unsafe { self.launch(&self.kernels.activate, grid, 0, arguments) }?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the first values of `from`, and shows them.
    fn returned<'a>(
        &self,
        from: &Room<R>,
        bytes: usize,
        returned: &'a mut Option<super::Pinned<R>>,
    ) -> Result<&'a [u8]> {
        if returned.as_ref().is_none_or(|pinned| pinned.len() < bytes) {
            *returned = None;
            *returned = Some(self.device.pinned(bytes)?);
        }
        match (returned, from.buffer()) {
            (Some(pinned), Some(buffer)) => {
                self.stream.read(buffer, 0, &mut pinned[..bytes])?;
                Ok(&pinned[..bytes])
            }
            _ => Ok(&[]),
        }
    }

    /// The first numbers of `from`.
    fn numbers<const N: usize, T>(
        &self,
        from: &Room<R>,
        len: usize,
        number: fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        let mut bytes = vec![0; len * N];
        if let Some(buffer) = from.buffer() {
            self.stream.read(buffer, 0, &mut bytes)?;
        }
        Ok(bytes.as_chunks().0.iter().map(|bytes| number(*bytes)).collect())
    }

    /// Sends the numbers of rows whose outputs are wanted, and makes room for `width` values of each.
    fn want(&self, rows: &[u32], width: usize, scratch: &mut Scratch<R>) -> Result<()> {
        let numbers = rows.iter().map(|&row| row as i32);
        let bytes = size_of_val(rows);
        scratch.output_rows.send(&self.device, &self.stream, bytes, |out| write_i32(out, numbers))?;
        scratch.outputs.make(&self.device, rows.len() * width * size_of::<f32>())?;
        Ok(())
    }
}

/// Bytes of the device's as numbers.
fn copy_values(from: &[u8], to: &mut [f32]) {
    let values = from.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    to.iter_mut().zip(values).for_each(|(to, value)| *to = value);
}

impl<R: Runtime> Backend for Gpu<R> {
    type Layer = Layer<R>;
    type Head = Head<R>;
    type Cache = Cache<R>;
    type Scratch = Scratch<R>;

    fn name(&self) -> String {
        let properties = self.device.properties();
        format!("{}:{} ({}, {})", R::NAME, self.ordinal, properties.name, properties.architecture)
    }

    fn load_layer(&self, layer: &StoredLayer, control: &Control) -> Result<Layer<R>> {
        self.load_layer_weights(layer, control)
    }

    fn load_head(&self, head: &StoredHead, control: &Control) -> Result<Head<R>> {
        self.load_head_weights(head, control)
    }

    fn loaded(&self) -> Result<()> {
        let loader = self.loader.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(loader);
        // Whatever went wrong with a copy is told here.
        Ok(self.stream.synchronize()?)
    }

    fn cache(&self, kv: KvType) -> Cache<R> {
        Cache::new(kv)
    }

    fn scratch(&self) -> Scratch<R> {
        Scratch::default()
    }

    fn allocate_page(&self, cache: &mut Cache<R>, page: PageId) -> Result<()> {
        self.make_page(cache, page)
    }

    fn free_page(&self, cache: &mut Cache<R>, page: PageId) {
        cache.free(page);
    }

    fn copy_page(&self, cache: &mut Cache<R>, from: PageId, to: PageId) -> Result<()> {
        self.copy_whole_page(cache, from, to)
    }

    fn read_page(
        &self,
        cache: &Cache<R>,
        page: PageId,
        layer: usize,
        part: KvPart,
        out: &mut [u8],
    ) -> Result<()> {
        self.read_part(cache, page, layer, part, out)
    }

    fn write_page(
        &self,
        cache: &mut Cache<R>,
        page: PageId,
        layer: usize,
        part: KvPart,
        values: &[u8],
    ) -> Result<()> {
        self.write_part(cache, page, layer, part, values)
    }

    fn embed(&self, head: &Head<R>, batch: &Batch<'_>, scratch: &mut Scratch<R>) -> Result<()> {
        let rows = batch.rows();
        scratch.rows = rows.len();
        scratch.has_pages = false;
        let positions = rows.iter().map(|row| row.position as usize + 1).max().unwrap_or(0);
        self.make_rotary(scratch, positions)?;
        // Pages of sequences are sent one sequence after another.
        let mut first = 0;
        let firsts = batch.sequences().iter().flat_map(|sequence| {
            let own = first;
            first += sequence.pages.len() as i32;
            std::iter::repeat_n(own, sequence.rows.len())
        });
        let numbers = rows.iter().map(|row| row.token as i32);
        let numbers = numbers.chain(rows.iter().map(|row| row.position as i32)).chain(firsts);
        let bytes = 3 * rows.len() * size_of::<i32>();
        scratch.batch.send(&self.device, &self.stream, bytes, |out| write_i32(out, numbers))?;
        scratch.hidden.make(&self.device, rows.len() * self.config.width * size_of::<f32>())?;
        let (hidden, tokens) = (scratch.hidden.pointer(), scratch.batch.pointer());
        let scale = self.config.embedding_scale;
        let arguments =
            [(&hidden).into(), (&tokens).into(), (&head.embedding.matrix).into(), (&scale).into()];
        // SAFETY: there are as many tokens, below the vocabulary's size, and room for their rows.
        Ok(unsafe { self.launch(&head.embed, [rows.len(), 1, 1], 0, arguments) }?)
    }

    fn attention(
        &self,
        layer: &Layer<R>,
        index: usize,
        batch: &Batch<'_>,
        cache: &mut Cache<R>,
        scratch: &mut Scratch<R>,
    ) -> Result<()> {
        let rows = scratch.rows;
        let bytes = |width: usize| rows * width * size_of::<f32>();
        scratch.normed.make(&self.device, bytes(self.config.width))?;
        scratch.query.make(&self.device, bytes(self.config.query_width()))?;
        scratch.attended.make(&self.device, bytes(self.config.query_width()))?;
        scratch.branch.make(&self.device, bytes(self.config.width))?;
        self.send_pages(batch, cache, scratch)?;
        let all = DevicePointer(0);
        self.norm(scratch, &scratch.normed, all, rows, &layer.attention_norm, self.round())?;
        self.project(layer, &self.cache_of(scratch, cache.kv, index, 0), scratch)?;
        self.attend(batch, index, cache.kv, scratch)?;
        self.linear(&scratch.branch, &scratch.attended, &layer.output, &layer.output_tiles, rows, [1.0, 0.0])
    }

    fn route(&self, layer: &Layer<R>, _: &Batch<'_>, scratch: &mut Scratch<R>) -> Result<()> {
        let config = &self.config;
        let rows = scratch.rows;
        let bytes = |width: usize| rows * width * size_of::<f32>();
        scratch.normed.make(&self.device, bytes(config.width))?;
        scratch.probabilities.make(&self.device, bytes(config.experts))?;
        scratch.selection.make(&self.device, bytes(config.selected_experts))?;
        scratch.gates.make(&self.device, bytes(config.selected_experts))?;
        let [input, probabilities, selection, gates, hidden] =
            [&scratch.normed, &scratch.probabilities, &scratch.selection, &scratch.gates, &scratch.hidden]
                .map(Room::pointer);
        let routed = kernels::Routed {
            input: input.0,
            probabilities: probabilities.0,
            selection: selection.0,
            gates: gates.0,
        };
        let router = kernels::Router {
            norm: layer.moe_norm.pointer().0,
            weights: layer.router.pointer().0,
            width: config.width as i32,
            experts: config.experts as i32,
            selected: config.selected_experts as i32,
            epsilon: config.norm_epsilon,
            cap: config.router_cap.unwrap_or(0.0),
            renormalise: i32::from(config.renormalise_gates),
        };
        let round = self.round();
        let arguments = [(&routed).into(), (&hidden).into(), (&router).into(), (&round).into()];
        let shared = config.experts * size_of::<f32>();
        // SAFETY: all of them hold `rows` rows.
        Ok(unsafe { self.launch(&self.kernels.route, [rows, 1, 1], shared, arguments) }?)
    }

    fn experts(&self, layer: &Layer<R>, _: &Batch<'_>, scratch: &mut Scratch<R>) -> Result<()> {
        let config = &self.config;
        let (rows, number) = (scratch.rows, size_of::<i32>());
        let pairs = rows * config.selected_experts;
        scratch.group_experts.make(&self.device, self.groups(rows) * number)?;
        scratch.group_starts.make(&self.device, (self.groups(rows) + 1) * number)?;
        scratch.group_pairs.make(&self.device, pairs * number)?;
        scratch.down.make(&self.device, pairs * config.width * size_of::<f32>())?;
        scratch.branch.make(&self.device, rows * config.width * size_of::<f32>())?;
        let groups = self.group(scratch)?;
        self.activate(layer, &groups, scratch)?;
        self.expert_linear(
            &scratch.down,
            &scratch.activated,
            &layer.down,
            &layer.down_tiles,
            &groups,
            rows,
            1,
        )?;
        let [branch, down, gates] = [&scratch.branch, &scratch.down, &scratch.gates].map(Room::pointer);
        let (width, selected) = (config.width as i32, config.selected_experts as i32);
        let arguments =
            [(&branch).into(), (&down).into(), (&gates).into(), (&width).into(), (&selected).into()];
        // SAFETY: all of them hold `rows` rows, or their pairs.
        Ok(unsafe {
            self.launch(&self.kernels.combine, [config.width.div_ceil(THREADS), rows, 1], 0, arguments)
        }?)
    }

    fn residual(
        &self,
        layer: &Layer<R>,
        branch: Branch,
        _: &Batch<'_>,
        scratch: &mut Scratch<R>,
    ) -> Result<()> {
        let scale = match branch {
            Branch::Attention => &layer.post_attention_norm,
            Branch::Experts => &layer.post_moe_norm,
        };
        let (hidden, branch, scale) = (scratch.hidden.pointer(), scratch.branch.pointer(), scale.pointer());
        let (width, epsilon) = (self.config.width as i32, self.config.norm_epsilon);
        let arguments =
            [(&hidden).into(), (&branch).into(), (&scale).into(), (&width).into(), (&epsilon).into()];
        // SAFETY: both hold `rows` rows, and the scale is as wide.
        Ok(unsafe { self.launch(&self.kernels.residual, [scratch.rows, 1, 1], 0, arguments) }?)
    }

    fn head(
        &self,
        head: &Head<R>,
        _: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Scratch<R>,
        logits: &mut [f32],
    ) -> Result<()> {
        let config = &self.config;
        scratch.normed.make(&self.device, rows.len() * config.width * size_of::<f32>())?;
        self.want(rows, config.vocab, scratch)?;
        let output = head.output.as_ref().unwrap_or(&head.embedding);
        let (numbers, factors) =
            (scratch.output_rows.pointer(), [config.output_scale, config.output_cap.unwrap_or(0.0)]);
        self.norm(scratch, &scratch.normed, numbers, rows.len(), &head.norm, self.round())?;
        self.linear(&scratch.outputs, &scratch.normed, output, &head.output_tiles, rows.len(), factors)?;
        copy_values(self.returned(&scratch.outputs, size_of_val(logits), &mut scratch.returned)?, logits);
        Ok(())
    }

    fn normed(
        &self,
        head: &Head<R>,
        _: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Scratch<R>,
        out: &mut [f32],
    ) -> Result<()> {
        self.want(rows, self.config.width, scratch)?;
        let numbers = scratch.output_rows.pointer();
        self.norm(scratch, &scratch.outputs, numbers, rows.len(), &head.norm, 0)?;
        copy_values(self.returned(&scratch.outputs, size_of_val(out), &mut scratch.returned)?, out);
        Ok(())
    }

    fn write_hidden(&self, scratch: &mut Scratch<R>, hidden: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = hidden.iter().flat_map(|x| x.to_le_bytes()).collect();
        match scratch.hidden.buffer() {
            Some(buffer) => Ok(self.stream.write(buffer, 0, &bytes)?),
            None => Ok(()),
        }
    }

    fn observe_routing(&self, scratch: &Scratch<R>, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        let selected = scratch.rows * self.config.selected_experts;
        let probabilities = scratch.rows * self.config.experts;
        let probabilities = &self.numbers(&scratch.probabilities, probabilities, f32::from_le_bytes)?;
        let experts = &self.numbers(&scratch.selection, selected, u32::from_le_bytes)?;
        let gates = &self.numbers(&scratch.gates, selected, f32::from_le_bytes)?;
        observer.routing(layer, &Routing { probabilities, experts, gates });
        Ok(())
    }

    fn observe_hidden(&self, scratch: &Scratch<R>, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        let hidden = scratch.rows * self.config.width;
        observer.hidden(layer, &self.numbers(&scratch.hidden, hidden, f32::from_le_bytes)?);
        Ok(())
    }
}

impl<R: Runtime> fmt::Debug for Gpu<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu")
            .field("device", &self.device)
            .field("precision", &self.precision)
            .finish_non_exhaustive()
    }
}
