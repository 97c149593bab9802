//! The backend over the kernels, for every runtime. Uses `backend`, `kernels` and `device`.
//!
//! Same steps in the same order as [`cpu`](crate::backend::cpu). Stages only queue work on one stream; the host waits where it needs
//! results: logits, hidden states, what observers see, and, when it is far ahead, the layers before; with the vendor's BLAS for each
//! layer's router too.

mod attention;
mod cache;
mod candidates;
mod code;
mod forward;
mod load;
mod plain;
mod products;
mod scratch;
mod slabs;
mod slot;
mod weights;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::cache::Cache;
use self::code::Code;
use self::load::Loader;
use self::plain::Kernels;
use self::products::Way;
use self::scratch::{Room, Scratch, write_i32};
use self::weights::{Head, Layer};
use super::device::Bound;
use super::kernels::MAX_EXPERTS;
use super::{Blas, CompileOptions, Device, DevicePointer, GpuError, Pinned, Runtime, Stream};
use crate::backend::values::Rotary;
use crate::backend::{
    Backend, BackendError, Batch, Branch, Candidates, KvPart, KvType, Observer, PAGE, PageId, Precision,
    Routing, stage_by_stage,
};
use crate::config::ModelConfig;
use crate::control::Control;
use crate::error::Result;
use crate::weights::{Head as StoredHead, Layer as StoredLayer};

/// How a GPU computes.
#[derive(Clone, Debug)]
pub struct GpuOptions {
    precision: Precision,
    packs: bool,
    compile: CompileOptions,
    graphs: Option<bool>,
    blas_rows: Option<usize>,
}

impl Default for GpuOptions {
    fn default() -> Self {
        let (precision, compile) = (Precision::default(), CompileOptions::default());
        Self { precision, packs: true, compile, graphs: None, blas_rows: None }
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

    /// Multiplies batches of this many rows and more by the vendor's library, if it is there, on weights rounded to bf16: see [`Blas`].
    /// Unpacking the weights takes as long for one row as for many: fewer than 512 are not worth it. Not for [`Precision::Exact`].
    #[must_use]
    pub fn blas_from(mut self, rows: usize) -> Self {
        self.blas_rows = Some(rows);
        self
    }

    /// How kernels are compiled, and where their code is kept.
    #[must_use]
    pub fn compile(mut self, compile: CompileOptions) -> Self {
        self.compile = compile;
        self
    }

    /// Whether passes of a few rows are captured and then queued whole; by default where the driver can be
    /// [relied upon](super::Properties::graphs).
    #[must_use]
    pub fn graphs(mut self, graphs: bool) -> Self {
        self.graphs = Some(graphs);
        self
    }
}

/// The right to use a device's stream, with the device bound to the calling thread once for all that is done meanwhile.
struct Turn<'a, R: Runtime> {
    _bound: Bound<'a, R>,
    _turn: MutexGuard<'a, ()>,
}

/// One graphics processor.
///
/// All of its work goes through one stream, which passes are captured from: threads that call its stages take turns.
pub struct Gpu<R: Runtime> {
    config: ModelConfig,
    precision: Precision,
    graphs: bool,
    /// The vendor's library, if it is used, and for batches of how many rows.
    blas: Option<(usize, Mutex<Blas<R>>)>,
    /// Whether matrices are packed, where they can be.
    packs: bool,
    rotary: Rotary,
    // Streams, which wait for their work when they are dropped, come before the code that this works with.
    stream: Stream<R>,
    /// Held by who queues work on the stream or captures it, and never while a host's code runs.
    turn: Mutex<()>,
    /// While weights are loaded.
    loader: Mutex<Option<Loader<R>>>,
    kernels: Kernels<R>,
    code: Code<R>,
    device: Device<R>,
    ordinal: usize,
}

impl<R: Runtime> Gpu<R> {
    /// A backend for models of `config` on a device.
    ///
    /// # Errors
    /// [`GpuError`](super::GpuError): no such device, nothing that compiles for it.
    pub fn open(runtime: &Arc<R>, ordinal: usize, config: ModelConfig, options: GpuOptions) -> Result<Self> {
        if config.experts > MAX_EXPERTS {
            let (what, found, most) = ("experts", config.experts, MAX_EXPERTS);
            return Err(GpuError::TooMany { what, found, most }.into());
        }
        let device = Device::open(runtime, ordinal)?;
        let rounds = options.precision != Precision::Exact;
        let blas = options.blas_rows.filter(|_| rounds).and_then(|rows| {
            let blas = Blas::load(&device);
            let blas = blas
                .inspect_err(|reason| log::warn!("prompts without the vendor's library: {reason}"))
                .ok()?;
            Some((rows, Mutex::new(blas)))
        });
        let code = Code::new(device.clone(), options.compile, rounds, blas.is_some());
        let kernels = Kernels::new(&code, &config, options.precision)?;
        let rotary = Rotary::new(config.rope_base, config.head_dim);
        let stream = device.stream()?;
        let GpuOptions { precision, packs, .. } = options;
        let loader = Mutex::default();
        let graphs = options.graphs.unwrap_or(device.properties().graphs);
        Ok(Self {
            config,
            precision,
            graphs,
            blas,
            packs,
            rotary,
            stream,
            turn: Mutex::default(),
            loader,
            kernels,
            code,
            device,
            ordinal,
        })
    }

    /// Waits for the right to use the stream.
    fn turn(&self) -> Result<Turn<'_, R>> {
        // Nothing that a panic could leave behind is guarded.
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Turn { _bound: self.device.bind()?, _turn: turn })
    }

    /// Makes sure that angles of positions below `len` are on the device.
    fn make_rotary(&self, scratch: &mut Scratch<R>, len: usize) -> Result<()> {
        if scratch.rotary_len < len {
            // Twice as many each time: seldom enough to wait for.
            let len = len.max(2 * scratch.rotary_len).next_multiple_of(PAGE);
            // Whatever fails below leaves no table.
            scratch.rotary_len = 0;
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

    /// Memory of the host for copies of up to `bytes` bytes, which nothing is being copied from or to.
    fn pinned<'a>(&self, bytes: usize, kept: &'a mut Option<Pinned<R>>) -> Result<&'a mut Pinned<R>> {
        let enough = kept.take().filter(|pinned| pinned.len() >= bytes);
        Ok(kept.insert(enough.map_or_else(|| self.device.pinned(bytes.next_power_of_two()), Ok)?))
    }

    /// Waits for the first values of `from`, and shows them.
    fn returned<'a>(
        &self,
        from: &Room<R>,
        bytes: usize,
        returned: &'a mut Option<Pinned<R>>,
    ) -> Result<&'a [u8]> {
        let pinned = self.pinned(bytes, returned)?;
        match from.buffer() {
            Some(buffer) => {
                self.stream.read(buffer, 0, &mut pinned[..bytes])?;
                Ok(&pinned[..bytes])
            }
            None => Ok(&[]),
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
        if rows.iter().any(|row| *row as usize >= scratch.rows) {
            return Err(BackendError::Batch.into());
        }
        let numbers = rows.iter().map(|&row| row as i32);
        let bytes = size_of_val(rows);
        scratch.output_rows.send(&self.device, &self.stream, bytes, |out| write_i32(out, numbers))?;
        scratch.outputs.make(&self.device, rows.len() * width * size_of::<f32>())?;
        Ok(())
    }

    /// Logits of some rows, in `scratch.outputs`.
    fn make_logits(&self, head: &Head<R>, rows: &[u32], scratch: &mut Scratch<R>) -> Result<()> {
        let config = &self.config;
        scratch.normed.make(&self.device, rows.len() * config.width * size_of::<f32>())?;
        self.want(rows, config.vocab, scratch)?;
        let output = head.output.as_ref().unwrap_or(&head.embedding);
        let (numbers, factors) =
            (scratch.output_rows.pointer(), [config.output_scale, config.output_cap.unwrap_or(0.0)]);
        self.norm(scratch, &scratch.normed, numbers, rows.len(), &head.norm, self.round())?;
        let way = Way::without_slabs(rows.len(), head.output_products.mma.is_some());
        if way == Way::Mma {
            self.make_narrow(rows.len(), config.width, scratch)?;
            let values = rows.len() * config.width;
            self.narrow(&scratch.normed, values, output.format.has_minima(), scratch)?;
        }
        let (to, from, products) = (&scratch.outputs, &scratch.normed, &head.output_products);
        self.linear(way, to, from, output, products, rows.len(), factors, scratch)
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
        let _turn = self.turn()?;
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
        let _turn = self.turn()?;
        self.make_page(cache, page)
    }

    fn free_page(&self, cache: &mut Cache<R>, page: PageId) {
        // Without it, a capture may end, and nothing else.
        let _turn = self.turn();
        cache.free(page);
    }

    fn copy_page(&self, cache: &mut Cache<R>, from: PageId, to: PageId) -> Result<()> {
        let _turn = self.turn()?;
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
        let _turn = self.turn()?;
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
        let _turn = self.turn()?;
        self.write_part(cache, page, layer, part, values)
    }

    fn embed(&self, head: &Head<R>, batch: &Batch<'_>, scratch: &mut Scratch<R>) -> Result<()> {
        let rows = batch.rows();
        if rows.iter().any(|row| row.token as usize >= head.embedding.outputs) {
            return Err(BackendError::Batch.into());
        }
        let _turn = self.turn()?;
        scratch.rows = rows.len();
        scratch.plan.is_current = false;
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
        unsafe { self.launch(&head.embed, [rows.len(), 1, 1], 0, arguments) }
    }

    fn attention(
        &self,
        layer: &Layer<R>,
        index: usize,
        batch: &Batch<'_>,
        cache: &mut Cache<R>,
        scratch: &mut Scratch<R>,
    ) -> Result<()> {
        if index >= self.config.layers {
            return Err(BackendError::Batch.into());
        }
        let _turn = self.turn()?;
        self.plan(batch, cache, scratch)?;
        let (all, rows) = (DevicePointer(0), scratch.rows);
        scratch.normed.make(&self.device, rows * self.config.width * size_of::<f32>())?;
        self.norm(scratch, &scratch.normed, all, rows, &layer.attention_norm, self.round())?;
        self.attend_normed(layer, index, cache.kv, scratch)
    }

    fn route(&self, layer: &Layer<R>, _: &Batch<'_>, scratch: &mut Scratch<R>) -> Result<()> {
        let _turn = self.turn()?;
        self.route_rows(layer, scratch)
    }

    fn experts(&self, layer: &Layer<R>, _: &Batch<'_>, scratch: &mut Scratch<R>) -> Result<()> {
        let _turn = self.turn()?;
        let groups = self.make_groups(scratch)?;
        self.group(&groups, scratch)?;
        self.run_experts(layer, &groups, scratch)?;
        scratch.branch.make(&self.device, scratch.rows * self.config.width * size_of::<f32>())?;
        self.combine(scratch)
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
        let _turn = self.turn()?;
        self.add_branch(scale, scratch)
    }

    fn head(
        &self,
        head: &Head<R>,
        _: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Scratch<R>,
        logits: &mut [f32],
    ) -> Result<()> {
        let _turn = self.turn()?;
        self.make_logits(head, rows, scratch)?;
        copy_values(self.returned(&scratch.outputs, size_of_val(logits), &mut scratch.returned)?, logits);
        Ok(())
    }

    fn keeps_logits(&self) -> bool {
        true
    }

    fn candidates(
        &self,
        head: &Head<R>,
        _: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Scratch<R>,
        _: &mut [f32],
        out: &mut [Candidates],
    ) -> Result<()> {
        let _turn = self.turn()?;
        self.make_logits(head, rows, scratch)?;
        let count = rows.len().min(out.len());
        self.find_candidates(scratch, &mut out[..count])
    }

    fn logits_of_candidates(
        &self,
        _: &Head<R>,
        _: &Batch<'_>,
        (index, _): (usize, u32),
        scratch: &mut Scratch<R>,
        logits: &mut [f32],
    ) -> Result<()> {
        let _turn = self.turn()?;
        self.read_row(index, scratch, logits)
    }

    fn normed(
        &self,
        head: &Head<R>,
        _: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Scratch<R>,
        out: &mut [f32],
    ) -> Result<()> {
        let _turn = self.turn()?;
        self.want(rows, self.config.width, scratch)?;
        let numbers = scratch.output_rows.pointer();
        self.norm(scratch, &scratch.outputs, numbers, rows.len(), &head.norm, 0)?;
        copy_values(self.returned(&scratch.outputs, size_of_val(out), &mut scratch.returned)?, out);
        Ok(())
    }

    fn forward(
        &self,
        layers: &[Layer<R>],
        batch: &Batch<'_>,
        cache: &mut Cache<R>,
        scratch: &mut Scratch<R>,
        observer: Option<&mut dyn Observer>,
        done: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        match observer {
            Some(observer) => stage_by_stage(self, layers, batch, cache, scratch, Some(observer), done),
            None => self.forward_fused(layers, batch, cache, scratch, done),
        }
    }

    fn write_hidden(&self, scratch: &mut Scratch<R>, hidden: &[f32]) -> Result<()> {
        let _turn = self.turn()?;
        let bytes = size_of_val(hidden);
        let pinned = self.pinned(bytes, &mut scratch.returned)?;
        pinned.as_chunks_mut().0.iter_mut().zip(hidden).for_each(|(out, x)| *out = x.to_le_bytes());
        match scratch.hidden.buffer() {
            Some(buffer) => Ok(self.stream.write(buffer, 0, &pinned[..bytes])?),
            None => Ok(()),
        }
    }

    fn read_hidden(&self, scratch: &mut Scratch<R>, out: &mut [f32]) -> Result<()> {
        let _turn = self.turn()?;
        copy_values(self.returned(&scratch.hidden, size_of_val(out), &mut scratch.returned)?, out);
        Ok(())
    }

    fn observe_routing(&self, scratch: &Scratch<R>, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        let selected = scratch.rows * self.config.selected_experts;
        let probabilities = scratch.rows * self.config.experts;
        let turn = self.turn()?;
        let probabilities = &self.numbers(&scratch.probabilities, probabilities, f32::from_le_bytes)?;
        let experts = &self.numbers(&scratch.selection, selected, u32::from_le_bytes)?;
        let gates = &self.numbers(&scratch.gates, selected, f32::from_le_bytes)?;
        drop(turn);
        observer.routing(layer, &Routing { probabilities, experts, gates });
        Ok(())
    }

    fn observe_hidden(&self, scratch: &Scratch<R>, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        let hidden = scratch.rows * self.config.width;
        let turn = self.turn()?;
        let hidden = self.numbers(&scratch.hidden, hidden, f32::from_le_bytes)?;
        drop(turn);
        observer.hidden(layer, &hidden);
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
