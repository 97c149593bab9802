//! A loaded model: opening, options, and the engine that runs tokens through it. Uses `checkpoint`, `plan`, `backend` and `text`.

mod device;
mod engine;
mod error;
mod kv;
mod offload;
mod open;
mod options;
mod runner;
mod split;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use self::engine::Engine;
use self::kv::KvPool;
use self::offload::Offload;
use self::open::Opened;
use self::runner::{OneDevice, Runner};
use self::split::Split;
use crate::backend::{BATCH_ROWS, Backend, KvType, page_bytes};
use crate::checkpoint::{self, Checkpoint};
use crate::config::ModelConfig;
use crate::control::Control;
use crate::error::Result;
use crate::plan::{Plan, PlanOptions};
use crate::text::Tokenizer;

pub use self::device::Device;
pub(crate) use self::engine::{Job, Output, Parts};
pub use self::error::ModelError;
pub(crate) use self::kv::KvSequence;
pub use self::options::ModelOptions;

/// Blocks that a GPU launches along its second axis at most.
const MAX_BATCH_ROWS: usize = u16::MAX as usize;

/// A loaded model. Immutable and shared: a clone is one more reference, and sessions keep their model alive.
///
/// All methods may be called from any thread; runs of several threads take turns.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    checkpoint: Checkpoint,
    tokenizer: Option<Arc<Tokenizer>>,
    kv_type: KvType,
    pool: Arc<KvPool>,
    engine: Engine,
    passed_over: Vec<String>,
    fingerprint: OnceLock<u128>,
}

impl Model {
    /// Opens a model with the default options: a folder or a file of any format that [`checkpoint::open`] knows.
    ///
    /// # Errors
    /// [`Format`](crate::ErrorKind::Format) if it is no model, [`Resource`](crate::ErrorKind::Resource) if it cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, ModelOptions::new(), &Control::new())
    }

    /// Opens a model; `control` may cancel and hears of bytes loaded.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Cancelled`](crate::Outcome::Cancelled); for another device than the processor
    /// [`GpuError`](crate::backend::gpu::GpuError), which is [`Argument`](crate::ErrorKind::Argument) if there is none of that number,
    /// and mostly [`Resource`](crate::ErrorKind::Resource) otherwise.
    pub fn open_with(path: impl AsRef<Path>, options: ModelOptions, control: &Control) -> Result<Self> {
        let checkpoint = checkpoint::open(path, options.tokenizer.as_deref())?;
        Self::load(checkpoint, options, control)
    }

    /// What the model at `path` needs, and where it would lie; reads headers only.
    ///
    /// # Errors
    /// Those of opening it: [`Format`](crate::ErrorKind::Format) if it is no model, [`Resource`](crate::ErrorKind::Resource) if it
    /// cannot be read.
    pub fn plan(path: impl AsRef<Path>, options: &PlanOptions) -> Result<Plan> {
        Ok(checkpoint::open(path, None)?.plan(options))
    }

    /// Loads an opened checkpoint on the [device](ModelOptions::device) of `options`. The tokenizer is the checkpoint's.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn load(checkpoint: Checkpoint, options: ModelOptions, control: &Control) -> Result<Self> {
        checkpoint.check()?;
        let (opened, passed_over) = open::open(&checkpoint, &options)?;
        let mut loaded = match opened {
            Opened::Cpu(cpu) => {
                let offload = Offload::none(checkpoint.layers.len());
                Self::load_part(cpu, offload, checkpoint, options, control)
            }
            #[cfg(feature = "cuda")]
            Opened::Cuda(gpu, offload) => Self::load_part(*gpu, offload, checkpoint, options, control),
            #[cfg(feature = "hip")]
            Opened::Hip(gpu, offload) => Self::load_part(*gpu, offload, checkpoint, options, control),
        }?;
        loaded.passed_over = passed_over;
        Ok(Self(Arc::new(loaded)))
    }

    /// Loads an opened checkpoint on a backend of your own; device, precision, weights and threads are the backend's. What the options
    /// leave to the processor is computed as they say.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn load_on(
        backend: impl Backend,
        checkpoint: Checkpoint,
        options: ModelOptions,
        control: &Control,
    ) -> Result<Self> {
        checkpoint.check()?;
        let offload = Offload::asked(&options, checkpoint.layers.len());
        Ok(Self(Arc::new(Self::load_part(backend, offload, checkpoint, options, control)?)))
    }

    /// Loads a part of a checkpoint, which was checked, on a backend, and the rest on the processor.
    fn load_part(
        backend: impl Backend,
        offload: Offload,
        mut checkpoint: Checkpoint,
        options: ModelOptions,
        control: &Control,
    ) -> Result<Inner> {
        let batch_rows = options.batch_rows.unwrap_or(BATCH_ROWS);
        if !(1..=MAX_BATCH_ROWS).contains(&batch_rows) {
            let (option, expected) = ("batch_rows", "1 to 65535");
            return Err(ModelError::Option { option, found: batch_rows, expected }.into());
        }
        let config = checkpoint.config.clone();
        let tokenizer = checkpoint.vocabulary.take().map(Tokenizer::new).transpose()?.map(Arc::new);
        if let Some(tokenizer) = tokenizer.as_deref().filter(|tokenizer| tokenizer.len() != config.vocab) {
            return Err(ModelError::Vocabulary { tokenizer: tokenizer.len(), model: config.vocab }.into());
        }
        let page = page_bytes(&config, options.kv_type) as u64;
        // Page numbers are 32 bits.
        let pages = options.kv_limit.map_or(u64::MAX, |bytes| bytes / page).min(u64::from(u32::MAX));
        let runner: Box<dyn Runner> = if offload == Offload::none(config.layers) {
            Box::new(OneDevice::load(backend, &checkpoint, options.kv_type, control)?)
        } else {
            let mut rest = config.clone();
            rest.layers -= offload.on_device();
            let host = open::cpu(rest, &options, None)?;
            Box::new(Split::load(backend, host, offload, &checkpoint, options.kv_type, control)?)
        };
        log::info!(
            "{}: {}, {} layers, {} bytes of weights on {}",
            checkpoint.location,
            checkpoint.format.name(),
            config.layers,
            checkpoint.bytes(),
            runner.name()
        );
        Ok(Inner {
            tokenizer,
            kv_type: options.kv_type,
            pool: KvPool::new(pages as usize),
            engine: Engine::new(config, batch_rows, runner),
            checkpoint,
            passed_over: Vec::new(),
            fingerprint: OnceLock::new(),
        })
    }

    /// The hyperparameters.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.0.checkpoint.config
    }

    /// What was opened: format, location, tensors. Its vocabulary has become the [`tokenizer`](Self::tokenizer).
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.0.checkpoint
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`ModelError::NoTokenizer`] if none was found.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        Ok(self.0.tokenizer.as_ref().ok_or(ModelError::NoTokenizer)?)
    }

    /// How keys and values are kept.
    #[must_use]
    pub fn kv_type(&self) -> KvType {
        self.0.kv_type
    }

    /// Gives the memory of KV pages that no session uses back to the operating system. Otherwise it is kept for the next session.
    ///
    /// # Errors
    /// [`Cancelled`](crate::Cancelled), while waiting for a run to end.
    pub fn trim(&self, control: &Control) -> Result<()> {
        self.0.engine.trim(&self.0.pool, control)
    }

    /// Bytes of keys and values that sessions hold at present.
    #[must_use]
    pub fn kv_bytes(&self) -> u64 {
        self.0.pool.used() as u64 * page_bytes(self.config(), self.0.kv_type) as u64
    }

    /// What computes: `cpu (avx512, 2 threads)`, `cuda:0 (NVIDIA H200, sm_90)`. What follows the [`Device`] is for people.
    #[must_use]
    pub fn device(&self) -> &str {
        self.0.engine.device()
    }

    /// Why [`Device::Auto`] took none of the devices before this one: `no cuda: ...`, `not hip:0: ...`. Empty if another was asked for.
    #[must_use]
    pub fn passed_over(&self) -> &[String] {
        &self.0.passed_over
    }

    /// The checkpoint's [fingerprint](Checkpoint::fingerprint), computed once.
    pub(crate) fn fingerprint(&self, control: &Control) -> Result<u128> {
        if let Some(fingerprint) = self.0.fingerprint.get() {
            return Ok(*fingerprint);
        }
        let fingerprint = self.0.checkpoint.fingerprint(control)?;
        Ok(*self.0.fingerprint.get_or_init(|| fingerprint))
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn kv_pool(&self) -> &Arc<KvPool> {
        &self.0.pool
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("location", &self.0.checkpoint.location)
            .field("format", &self.0.checkpoint.format)
            .field("kv_type", &self.0.kv_type)
            .finish_non_exhaustive()
    }
}
