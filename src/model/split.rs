//! A model that lies partly on a device and partly in host memory. Uses `backend`, `offload` and `runner`.
//!
//! What moves between the two is the residual stream of a batch, `width` values of 4 bytes for each row: to the processor and back around
//! each layer whose experts alone it computes, and around all the layers that it computes whole. Keys and values stay where they are.

use super::offload::Offload;
use super::runner::{Loading, Runner};
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, Batch, Branch, Candidates, KvPart, KvType, Observer, PageId, Routing, grow};
use crate::checkpoint::Checkpoint;
use crate::control::Control;
use crate::error::Result;
use crate::weights::Layer;

/// A backend with its cache and its activations.
struct Side<B: Backend> {
    backend: B,
    layers: Vec<B::Layer>,
    cache: B::Cache,
    scratch: B::Scratch,
}

impl<B: Backend> Side<B> {
    fn new(backend: B, kv: KvType) -> Self {
        let (cache, scratch) = (backend.cache(kv), backend.scratch());
        Self { backend, layers: Vec::new(), cache, scratch }
    }
}

/// A device and the processor. The backends' configurations have as many layers as they have attention for.
pub(crate) struct Split<B: Backend> {
    offload: Offload,
    layers: usize,
    width: usize,
    head: B::Head,
    device: Side<B>,
    /// Its layers begin with those whose experts alone it computes.
    host: Side<Cpu>,
    /// On its way.
    hidden: Vec<f32>, // [rows, width]
}

impl<B: Backend> Split<B> {
    pub(crate) fn load(
        device: B,
        host: Cpu,
        offload: Offload,
        checkpoint: &Checkpoint,
        kv: KvType,
        control: &Control,
    ) -> Result<Self> {
        let (mut device, mut host) = (Side::new(device, kv), Side::new(host, kv));
        let mut loading = Loading::of(checkpoint, control);
        let head = &checkpoint.head;
        let head = loading.part(head.bytes(), |part| device.backend.load_head(head, part))?;
        for (index, layer) in checkpoint.layers.iter().enumerate() {
            loading.part(layer.bytes(), |part| {
                if index < offload.whole {
                    device.layers.push(device.backend.load_layer(layer, part)?);
                } else if index < offload.on_device() {
                    device.layers.push(device.backend.load_layer(&without_experts(layer), part)?);
                }
                if index >= offload.whole {
                    host.layers.push(host.backend.load_layer(layer, part)?);
                }
                Ok(())
            })?;
        }
        device.backend.loaded()?;
        host.backend.loaded()?;
        let (layers, width) = (checkpoint.layers.len(), checkpoint.config.width);
        let moved = offload.moves(layers) * width * size_of::<f32>();
        log::info!(
            "{} of {layers} layers on {}, {} of them without experts; {moved} bytes move for each token",
            offload.on_device(),
            device.backend.name(),
            offload.attention
        );
        Ok(Self { offload, layers, width, head, device, host, hidden: Vec::new() })
    }

    /// The residual stream of `rows` rows, from the device to the processor.
    fn move_to_host(&mut self, rows: usize) -> Result<()> {
        let hidden = &mut self.hidden[..rows * self.width];
        self.device.backend.read_hidden(&mut self.device.scratch, hidden)?;
        self.host.backend.write_hidden(&mut self.host.scratch, hidden)
    }

    /// And back.
    fn move_to_device(&mut self) -> Result<()> {
        let hidden = self.host.backend.hidden(&self.host.scratch);
        self.device.backend.write_hidden(&mut self.device.scratch, hidden)
    }

    /// A layer whose experts the processor computes.
    fn half_layer(
        &mut self,
        index: usize,
        batch: &Batch<'_>,
        observer: Option<&mut (dyn Observer + '_)>,
    ) -> Result<()> {
        let Side { backend, layers, cache, scratch } = &mut self.device;
        let layer = &layers[index];
        backend.attention(layer, index, batch, cache, scratch)?;
        backend.residual(layer, Branch::Attention, batch, scratch)?;
        self.move_to_host(batch.rows().len())?;
        let Side { backend, layers, scratch, .. } = &mut self.host;
        let layer = &layers[index - self.offload.whole];
        backend.route(layer, batch, scratch)?;
        backend.experts(layer, batch, scratch)?;
        backend.residual(layer, Branch::Experts, batch, scratch)?;
        if let Some(observer) = observer {
            backend.observe_routing(scratch, index, observer)?;
            backend.observe_hidden(scratch, index, observer)?;
        }
        self.move_to_device()
    }
}

/// What of a layer a device needs that does not compute its experts.
fn without_experts(layer: &Layer) -> Layer {
    Layer { gate: Vec::new(), up: Vec::new(), down: Vec::new(), ..layer.clone() }
}

/// Sees layers of one side with their numbers in the model.
struct From<'a> {
    first: usize,
    observer: &'a mut dyn Observer,
}

impl Observer for From<'_> {
    fn routing(&mut self, layer: usize, routing: &Routing<'_>) {
        self.observer.routing(self.first + layer, routing);
    }

    fn hidden(&mut self, layer: usize, hidden: &[f32]) {
        self.observer.hidden(self.first + layer, hidden);
    }
}

impl<B: Backend> Runner for Split<B> {
    fn name(&self) -> String {
        let Offload { whole, attention } = self.offload;
        let experts = if attention > 0 { format!(" and {attention} without experts") } else { String::new() };
        let (device, host) = (self.device.backend.name(), self.host.backend.name());
        format!("{device}, {whole} of {} layers{experts}; {host}", self.layers)
    }

    fn allocate_page(&mut self, page: PageId) -> Result<()> {
        self.device.backend.allocate_page(&mut self.device.cache, page)?;
        self.host.backend.allocate_page(&mut self.host.cache, page)
    }

    fn free_page(&mut self, page: PageId) {
        self.device.backend.free_page(&mut self.device.cache, page);
        self.host.backend.free_page(&mut self.host.cache, page);
    }

    fn copy_page(&mut self, from: PageId, to: PageId) -> Result<()> {
        self.device.backend.copy_page(&mut self.device.cache, from, to)?;
        self.host.backend.copy_page(&mut self.host.cache, from, to)
    }

    fn read_page(&self, page: PageId, layer: usize, part: KvPart, out: &mut [u8]) -> Result<()> {
        match layer.checked_sub(self.offload.on_device()) {
            None => self.device.backend.read_page(&self.device.cache, page, layer, part, out),
            Some(layer) => self.host.backend.read_page(&self.host.cache, page, layer, part, out),
        }
    }

    fn write_page(&mut self, page: PageId, layer: usize, part: KvPart, values: &[u8]) -> Result<()> {
        match layer.checked_sub(self.offload.on_device()) {
            None => self.device.backend.write_page(&mut self.device.cache, page, layer, part, values),
            Some(layer) => self.host.backend.write_page(&mut self.host.cache, page, layer, part, values),
        }
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        mut observer: Option<&mut dyn Observer>,
        done: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if let Some(observer) = observer.as_deref_mut() {
            observer.batch(batch);
        }
        let Offload { whole, attention } = self.offload;
        let on_device = self.offload.on_device();
        let Side { backend, layers, cache, scratch } = &mut self.device;
        backend.embed(&self.head, batch, scratch)?;
        // Not `as_deref_mut`: the borrow must be a new one.
        let watching: Option<&mut dyn Observer> = match &mut observer {
            Some(observer) => Some(&mut **observer),
            None => None,
        };
        backend.forward(&layers[..whole], batch, cache, scratch, watching, done)?;
        grow(&mut self.hidden, batch.rows().len() * self.width, "activations")?;
        self.host.backend.begin(batch, &mut self.host.scratch)?;
        for index in whole..on_device {
            self.half_layer(index, batch, observer.as_deref_mut())?;
            done()?;
        }
        if on_device < self.layers {
            self.move_to_host(batch.rows().len())?;
            let mut numbered = observer.map(|observer| From { first: on_device, observer });
            let watching = numbered.as_mut().map(|observer| observer as &mut dyn Observer);
            let Side { backend, layers, cache, scratch } = &mut self.host;
            backend.forward(&layers[attention..], batch, cache, scratch, watching, done)?;
            self.move_to_device()?;
        }
        Ok(())
    }

    fn head(&mut self, batch: &Batch<'_>, rows: &[u32], logits: &mut [f32]) -> Result<()> {
        self.device.backend.head(&self.head, batch, rows, &mut self.device.scratch, logits)
    }

    fn keeps_logits(&self) -> bool {
        self.device.backend.keeps_logits()
    }

    fn candidates(
        &mut self,
        batch: &Batch<'_>,
        rows: &[u32],
        room: &mut [f32],
        out: &mut [Candidates],
    ) -> Result<()> {
        self.device.backend.candidates(&self.head, batch, rows, &mut self.device.scratch, room, out)
    }

    fn logits_of_candidates(
        &mut self,
        batch: &Batch<'_>,
        row: (usize, u32),
        logits: &mut [f32],
    ) -> Result<()> {
        self.device.backend.logits_of_candidates(&self.head, batch, row, &mut self.device.scratch, logits)
    }

    fn normed(&mut self, batch: &Batch<'_>, rows: &[u32], out: &mut [f32]) -> Result<()> {
        self.device.backend.normed(&self.head, batch, rows, &mut self.device.scratch, out)
    }
}
