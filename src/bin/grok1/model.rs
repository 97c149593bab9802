//! Arguments that several subcommands share: which model, how it is loaded, how long a session may be.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use grok1::checkpoint::Synthetic;
use grok1::{
    Checkpoint, Device, KvType, Model, ModelOptions, Precision, Result, SessionOptions, Threads,
    WeightStorage, checkpoint,
};
use serde::Serialize;

use crate::error::CommandError;
use crate::progress;

/// Which model.
#[derive(clap::Args)]
pub(crate) struct Location {
    /// The model: a folder (xAI's ckpt-0, safetensors, GGUF) or any file of it
    #[arg(required_unless_present = "synthetic")]
    model: Option<PathBuf>,
    /// Random weights instead of a model: layers=2,type=q4_k; what is left out is as in Grok-1
    ///
    /// Keys: layers, width, heads, kv_heads, head_dim, experts, selected, ffn, vocab, context; type, of the matrices; head_type, of
    /// the embedding; seed. Weights are made while they are loaded.
    #[arg(long, value_name = "SPEC", conflicts_with = "model")]
    synthetic: Option<Synthetic>,
    /// tokenizer.model to use instead of the one in or beside the model
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

impl Location {
    /// Reads everything but the weights.
    pub(crate) fn open(&self) -> Result<Checkpoint> {
        let tokenizer = self.tokenizer.as_deref();
        match (&self.synthetic, &self.model) {
            (Some(options), _) => {
                let mut checkpoint = checkpoint::synthetic(options)?;
                checkpoint.vocabulary = tokenizer.map(checkpoint::tokenizer).transpose()?;
                Ok(checkpoint)
            }
            (None, Some(model)) => Ok(checkpoint::open(model, tokenizer)?),
            (None, None) => Err(CommandError::Usage("no MODEL and no --synthetic").into()),
        }
    }
}

/// How a model is loaded.
#[derive(clap::Args)]
pub(crate) struct Loading {
    /// Rounding of activations: exact is f32, standard bf16 before each product, fast 8 bits where few
    /// rows meet quantised weights on the processor
    #[arg(long, value_enum, default_value_t)]
    precision: PrecisionName,
    #[command(flatten)]
    placing: Placing,
}

/// Where a model is loaded: everything but what it computes with.
#[derive(clap::Args)]
pub(crate) struct Placing {
    /// How keys and values are kept
    #[arg(long, value_enum, default_value_t)]
    pub(crate) kv_type: KvTypeName,
    /// Weights are read where they lie in the files, or copied into memory first; a GPU has them in its own
    #[arg(long, value_enum, default_value_t)]
    pub(crate) weights: WeightsName,
    /// Tokens that go through the layers together at most; 512 unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_rows: Option<u32>,
    /// Threads that compute on the processor; 0 is one per available core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Keep each of these threads on a processor of its own
    #[arg(long)]
    pin: bool,
    /// What computes: cpu, cpu:0 (a NUMA node), cuda:0, hip:0 (or another number), auto
    ///
    /// auto is the first GPU with room for all of the model and one session of the length it was trained for, and the processor where
    /// there is none; which it is, and why none before it, is told on stderr. "grok1 devices" tells what there is, and why not more.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub(crate) device: Device,
    /// Layers that run on the GPU, the others on the processor; by default all, or as many as there is room for
    ///
    /// The state of a token, 4 bytes for each of its values, goes to the processor once and back once.
    #[arg(long, value_name = "N")]
    gpu_layers: Option<usize>,
    /// Of the last N layers on the GPU, or of all, the processor computes the experts
    ///
    /// For each of these layers the state of a token goes to the processor and back.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = ALL, require_equals = true)]
    experts_on_cpu: Option<usize>,
}

/// More layers than there are.
const ALL: &str = "4294967295";

impl Loading {
    /// Loads the weights.
    pub(crate) fn load(&self, checkpoint: Checkpoint) -> Result<Model> {
        self.placing.load(checkpoint, self.placing.options(self.precision))
    }
}

impl Placing {
    /// The threads that compute on the processor.
    pub(crate) fn pool(&self) -> Result<Arc<Threads>> {
        let threads = match self.device {
            Device::Node(node) => Threads::of_node(node, self.threads, self.pin),
            _ if self.pin => Threads::pinned(self.threads),
            _ => Threads::new(self.threads),
        };
        Ok(Arc::new(threads.map_err(CommandError::Threads)?))
    }

    /// Whether the processor computes, or a node of it, and nothing else.
    pub(crate) fn on_processor(&self) -> bool {
        matches!(self.device, Device::Cpu | Device::Node(_))
    }

    /// The NUMA node that computes, if it is one.
    pub(crate) fn node(&self) -> Option<usize> {
        match self.device {
            Device::Node(node) => Some(node),
            _ => None,
        }
    }

    /// The options that say the same.
    pub(crate) fn options(&self, precision: PrecisionName) -> ModelOptions {
        let options = ModelOptions::new()
            .precision(precision.into())
            .kv_type(self.kv_type.into())
            .weights(self.weights.into())
            .threads(self.threads)
            .pin_threads(self.pin)
            .device(self.device);
        let options = match self.batch_rows {
            Some(rows) => options.batch_rows(rows as usize),
            None => options,
        };
        let options = match self.gpu_layers {
            Some(layers) => options.gpu_layers(layers),
            None => options,
        };
        match self.experts_on_cpu {
            Some(layers) => options.experts_on_cpu(layers),
            None => options,
        }
    }

    /// Loads the weights with these options, and says what `auto` has taken.
    pub(crate) fn load(&self, checkpoint: Checkpoint, options: ModelOptions) -> Result<Model> {
        let model = Model::load(checkpoint, options, &progress::control())?;
        if self.device == Device::Auto {
            let told: Vec<_> = std::iter::once(model.device())
                .chain(model.passed_over().iter().map(String::as_str))
                .collect();
            // What was asked for is on stdout.
            let _ = writeln!(io::stderr(), "device: {}", told.join("; "));
        }
        Ok(model)
    }
}

/// How long a session may be.
#[derive(clap::Args)]
pub(crate) struct Context {
    /// Positions for prompt and generated tokens; by default as many as the model was trained for
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Allow a --context longer than the model was trained for
    #[arg(long)]
    beyond_trained_length: bool,
}

impl Context {
    pub(crate) fn options(&self) -> SessionOptions {
        let options = SessionOptions::new().beyond_trained_length(self.beyond_trained_length);
        match self.context {
            Some(positions) => options.context(positions),
            None => options,
        }
    }
}

/// [`Precision`] by name.
#[derive(Clone, Copy, Default, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PrecisionName {
    Exact,
    #[default]
    Standard,
    Fast,
}

impl PrecisionName {
    /// As it is written.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Standard => "standard",
            Self::Fast => "fast",
        }
    }
}

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::Exact => Self::Exact,
            PrecisionName::Standard => Self::Standard,
            PrecisionName::Fast => Self::Fast,
        }
    }
}

/// [`KvType`] by name.
#[derive(Clone, Copy, Default, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KvTypeName {
    F32,
    #[default]
    Bf16,
}

impl From<KvTypeName> for KvType {
    fn from(name: KvTypeName) -> Self {
        match name {
            KvTypeName::F32 => Self::F32,
            KvTypeName::Bf16 => Self::BF16,
        }
    }
}

/// [`WeightStorage`] by name.
#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum WeightsName {
    #[default]
    Mapped,
    Owned,
}

impl From<WeightsName> for WeightStorage {
    fn from(name: WeightsName) -> Self {
        match name {
            WeightsName::Mapped => Self::Mapped,
            WeightsName::Owned => Self::Owned,
        }
    }
}
