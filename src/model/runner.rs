//! A loaded model on its device, without the device's types. Uses `backend`.

use crate::backend::{Backend, Batch, Candidates, KvPart, KvType, Observer, PageId};
use crate::checkpoint::Checkpoint;
use crate::control::{Control, Task};
use crate::error::Result;

/// What the model asks of whatever holds its weights.
pub(crate) trait Runner: Send {
    fn name(&self) -> String;
    fn allocate_page(&mut self, page: PageId) -> Result<()>;
    fn free_page(&mut self, page: PageId);
    fn copy_page(&mut self, from: PageId, to: PageId) -> Result<()>;
    fn read_page(&self, page: PageId, layer: usize, part: KvPart, out: &mut [u8]) -> Result<()>;
    fn write_page(&mut self, page: PageId, layer: usize, part: KvPart, values: &[u8]) -> Result<()>;

    /// Embedding and all layers.
    fn forward(
        &mut self,
        batch: &Batch<'_>,
        observer: Option<&mut dyn Observer>,
        done: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()>;

    /// Logits of some rows of the last batch.
    fn head(&mut self, batch: &Batch<'_>, rows: &[u32], logits: &mut [f32]) -> Result<()>;

    /// As [`Backend::keeps_logits`].
    fn keeps_logits(&self) -> bool;

    /// The best tokens of some rows of the last batch.
    fn candidates(
        &mut self,
        batch: &Batch<'_>,
        rows: &[u32],
        room: &mut [f32],
        out: &mut [Candidates],
    ) -> Result<()>;

    /// As [`Backend::logits_of_candidates`].
    fn logits_of_candidates(
        &mut self,
        batch: &Batch<'_>,
        row: (usize, u32),
        logits: &mut [f32],
    ) -> Result<()>;

    /// Normed hidden states of some rows of the last batch.
    fn normed(&mut self, batch: &Batch<'_>, rows: &[u32], out: &mut [f32]) -> Result<()>;
}

/// How far loading is.
pub(super) struct Loading<'a> {
    control: &'a Control,
    done: u64,
    total: u64,
}

impl<'a> Loading<'a> {
    pub(super) fn of(checkpoint: &Checkpoint, control: &'a Control) -> Self {
        Self { control, done: 0, total: checkpoint.bytes() }
    }

    /// Loads what has so many bytes.
    pub(super) fn part<T>(&mut self, bytes: u64, load: impl FnOnce(&Control) -> Result<T>) -> Result<T> {
        self.control.check()?;
        let part = self.done..self.done + bytes;
        self.done = part.end;
        let loaded = load(&self.control.part(part, self.total))?;
        self.control.report(Task::Load, self.done, self.total);
        Ok(loaded)
    }
}

/// Everything on one device.
pub(crate) struct OneDevice<B: Backend> {
    backend: B,
    head: B::Head,
    layers: Vec<B::Layer>,
    cache: B::Cache,
    scratch: B::Scratch,
}

impl<B: Backend> OneDevice<B> {
    pub(crate) fn load(backend: B, checkpoint: &Checkpoint, kv: KvType, control: &Control) -> Result<Self> {
        let mut loading = Loading::of(checkpoint, control);
        let head = loading.part(checkpoint.head.bytes(), |part| backend.load_head(&checkpoint.head, part))?;
        let layers = checkpoint.layers.iter();
        let layers = layers
            .map(|layer| loading.part(layer.bytes(), |part| backend.load_layer(layer, part)))
            .collect::<Result<_>>()?;
        backend.loaded()?;
        let (cache, scratch) = (backend.cache(kv), backend.scratch());
        Ok(Self { backend, head, layers, cache, scratch })
    }
}

impl<B: Backend> Runner for OneDevice<B> {
    fn name(&self) -> String {
        self.backend.name()
    }

    fn allocate_page(&mut self, page: PageId) -> Result<()> {
        self.backend.allocate_page(&mut self.cache, page)
    }

    fn free_page(&mut self, page: PageId) {
        self.backend.free_page(&mut self.cache, page);
    }

    fn copy_page(&mut self, from: PageId, to: PageId) -> Result<()> {
        self.backend.copy_page(&mut self.cache, from, to)
    }

    fn read_page(&self, page: PageId, layer: usize, part: KvPart, out: &mut [u8]) -> Result<()> {
        self.backend.read_page(&self.cache, page, layer, part, out)
    }

    fn write_page(&mut self, page: PageId, layer: usize, part: KvPart, values: &[u8]) -> Result<()> {
        self.backend.write_page(&mut self.cache, page, layer, part, values)
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        mut observer: Option<&mut dyn Observer>,
        done: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let Self { backend, head, layers, cache, scratch } = self;
        if let Some(observer) = observer.as_deref_mut() {
            observer.batch(batch);
        }
        backend.embed(head, batch, scratch)?;
        backend.forward(layers, batch, cache, scratch, observer, done)
    }

    fn head(&mut self, batch: &Batch<'_>, rows: &[u32], logits: &mut [f32]) -> Result<()> {
        self.backend.head(&self.head, batch, rows, &mut self.scratch, logits)
    }

    fn keeps_logits(&self) -> bool {
        self.backend.keeps_logits()
    }

    fn candidates(
        &mut self,
        batch: &Batch<'_>,
        rows: &[u32],
        room: &mut [f32],
        out: &mut [Candidates],
    ) -> Result<()> {
        self.backend.candidates(&self.head, batch, rows, &mut self.scratch, room, out)
    }

    fn logits_of_candidates(
        &mut self,
        batch: &Batch<'_>,
        row: (usize, u32),
        logits: &mut [f32],
    ) -> Result<()> {
        self.backend.logits_of_candidates(&self.head, batch, row, &mut self.scratch, logits)
    }

    fn normed(&mut self, batch: &Batch<'_>, rows: &[u32], out: &mut [f32]) -> Result<()> {
        self.backend.normed(&self.head, batch, rows, &mut self.scratch, out)
    }
}
