//! How a model is opened. Uses `backend`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::Device;
use crate::backend::{KvType, Precision, WeightStorage};
use crate::threads::Pool;

/// How a model is opened; the default is right for most.
///
/// ```no_run
/// use grok1::{KvType, Model, ModelOptions};
///
/// let options = ModelOptions::new().threads(8).kv_type(KvType::F32);
/// let model = Model::open_with("checkpoints/ckpt-0", options, &Default::default())?;
/// # Ok::<(), grok1::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct ModelOptions {
    pub(crate) tokenizer: Option<PathBuf>,
    pub(crate) device: Device,
    pub(crate) precision: Precision,
    pub(crate) kv_type: KvType,
    pub(crate) weights: WeightStorage,
    pub(crate) threads: usize,
    pub(crate) pin_threads: bool,
    pub(crate) pool: Option<Arc<dyn Pool>>,
    pub(crate) kv_limit: Option<u64>,
    pub(crate) batch_rows: Option<usize>,
    pub(crate) kernel_cache: Option<PathBuf>,
    pub(crate) graphs: Option<bool>,
    pub(crate) gpu_layers: Option<usize>,
    pub(crate) experts_on_cpu: Option<usize>,
}

impl ModelOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A SentencePiece `tokenizer.model`, instead of the one in or beside the model.
    #[must_use]
    pub fn tokenizer(mut self, path: impl Into<PathBuf>) -> Self {
        self.tokenizer = Some(path.into());
        self
    }

    /// What the model runs on; [`Device::Cpu`] by default.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// How activations are rounded; [`Precision::Standard`] by default.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// How keys and values are kept; [`KvType::BF16`] by default.
    #[must_use]
    pub fn kv_type(mut self, kv_type: KvType) -> Self {
        self.kv_type = kv_type;
        self
    }

    /// Where the processor's weights are kept; [`WeightStorage::Mapped`] by default. A GPU has them in its memory.
    #[must_use]
    pub fn weights(mut self, weights: WeightStorage) -> Self {
        self.weights = weights;
        self
    }

    /// Threads that compute on the processor, the calling one included; 0, the default, means one per available core, as
    /// [`Threads::new`](crate::Threads::new) counts them. Results are the same bits for any number. A GPU needs none.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Keeps each of these threads but the calling one on a processor, as [`Threads::pinned`](crate::Threads::pinned) does; false by
    /// default.
    #[must_use]
    pub fn pin_threads(mut self, pin: bool) -> Self {
        self.pin_threads = pin;
        self
    }

    /// Computes on the host's threads instead of on the model's own, where the processor computes.
    #[must_use]
    pub fn pool(mut self, pool: Arc<dyn Pool>) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Bytes that the KV pages of all sessions together may use; unlimited by default. Pages are made when they are first needed
    /// and reused afterwards.
    #[must_use]
    pub fn kv_limit(mut self, bytes: u64) -> Self {
        self.kv_limit = Some(bytes);
        self
    }

    /// Tokens that go through the layers together at most, 512 by default. More need more memory for activations.
    #[must_use]
    pub fn batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = Some(rows);
        self
    }

    /// The first `layers` layers run on the GPU, with embedding and head; the processor computes the others, from host memory. By default
    /// all, or as many as the GPU has room for.
    ///
    /// For each token the residual stream, 4 bytes for each of its values, moves to the processor once and back once.
    #[must_use]
    pub fn gpu_layers(mut self, layers: usize) -> Self {
        self.gpu_layers = Some(layers);
        self
    }

    /// Of the last `layers` layers that run on the GPU, the processor computes the experts, from host memory, with the router and the
    /// norms around them: nearly all of a layer's weights. None by default; `usize::MAX` means all.
    ///
    /// For each token and such layer the residual stream, 4 bytes for each of its values, moves to the processor and back.
    #[must_use]
    pub fn experts_on_cpu(mut self, layers: usize) -> Self {
        self.experts_on_cpu = Some(layers);
        self
    }

    /// The folder that keeps kernels which were compiled for a GPU, and may be deleted at any time; by default `grok1/kernels` in
    /// `XDG_CACHE_HOME`, or in `.cache` at home. Models of several programs may share one.
    #[must_use]
    pub fn kernel_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.kernel_cache = Some(folder.into());
        self
    }

    /// Whether a GPU is given whole passes of a few tokens at once, as graphs, instead of kernel by kernel; by default where its driver
    /// can be relied upon for that.
    #[must_use]
    pub fn graphs(mut self, graphs: bool) -> Self {
        self.graphs = Some(graphs);
        self
    }
}

impl fmt::Debug for ModelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelOptions")
            .field("tokenizer", &self.tokenizer)
            .field("device", &self.device)
            .field("precision", &self.precision)
            .field("kv_type", &self.kv_type)
            .field("weights", &self.weights)
            .field("threads", &self.threads)
            .field("pin_threads", &self.pin_threads)
            .field("pool", &self.pool.is_some())
            .field("kv_limit", &self.kv_limit)
            .field("batch_rows", &self.batch_rows)
            .field("kernel_cache", &self.kernel_cache)
            .field("graphs", &self.graphs)
            .field("gpu_layers", &self.gpu_layers)
            .field("experts_on_cpu", &self.experts_on_cpu)
            .finish()
    }
}
