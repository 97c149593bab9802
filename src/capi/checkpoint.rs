//! Opened model files, before they are loaded. Uses `source` and `control`.

use std::ffi::{CString, c_char};
use std::ptr;

use super::control::{control, grok1_control};
use super::error::{grok1_error, guard};
use super::model::{grok1_model, grok1_model_options};
use super::pointer::{self, Versioned, c_string};
use super::source::{HostFolder, grok1_source};
use super::status::grok1_status;
use crate::checkpoint::Synthetic;
use crate::{Checkpoint, Model, ModelConfig, checkpoint};

/// A model's files, opened: their headers were read, their weights were not.
///
/// Lifetime: until `grok1_checkpoint_free`; models loaded from it keep what they need. Threads: immutable, may be used from any.
#[derive(Debug)]
pub struct grok1_checkpoint {
    pub(super) checkpoint: Checkpoint,
    location: CString,
    format: CString,
    tensors: Vec<Names>,
}

/// A tensor's names, for C.
#[derive(Debug)]
struct Names {
    name: CString,
    file: CString,
    dtype: CString,
}

impl grok1_checkpoint {
    pub(super) fn new(checkpoint: Checkpoint) -> Self {
        Self {
            location: c_string(&checkpoint.location),
            format: c_string(checkpoint.format.name()),
            tensors: checkpoint
                .tensors
                .iter()
                .map(|tensor| Names {
                    name: c_string(&tensor.name),
                    file: c_string(&tensor.file),
                    dtype: c_string(tensor.dtype.name()),
                })
                .collect(),
            checkpoint,
        }
    }
}

/// Opens the model at `path`: a folder, or a file of any format that is known (xAI's `ckpt-0`, GGUF, safetensors). `tokenizer` is the
/// path of a SentencePiece `tokenizer.model` to use instead of the one in or beside the model, or NULL.
///
/// Returns `GROK1_ERR_FORMAT` if it is missing or no model, `GROK1_ERR_RESOURCE` if it cannot be read.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_checkpoint_open(
    path: *const c_char,
    tokenizer: *const c_char,
    checkpoint: *mut *mut grok1_checkpoint,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("checkpoint", checkpoint)?;
            let path = pointer::path("path", path)?;
            let tokenizer = pointer::optional_path("tokenizer", tokenizer)?;
            let opened = checkpoint::open(path, tokenizer.as_deref())?;
            out.write(pointer::new(grok1_checkpoint::new(opened)));
            Ok(())
        })
    }
}

/// Opens the model whose files are `sources`, an array of `count` that `grok1_source_init` was called for: all files of one model,
/// `tokenizer.model` and `config.json` included where it has them.
///
/// Returns `GROK1_ERR_FORMAT` if they are no model, `GROK1_ERR_RESOURCE` if one cannot be read, `GROK1_ERR_UNSUPPORTED` for a file
/// descriptor on a system without them. After an error no source is released.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_checkpoint_open_sources(
    sources: *const grok1_source,
    count: usize,
    checkpoint: *mut *mut grok1_checkpoint,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("checkpoint", checkpoint)?;
            let host = HostFolder::new(sources, count)?;
            let opened = checkpoint::open_folder(&host.folder, None, None)?;
            host.own();
            out.write(pointer::new(grok1_checkpoint::new(opened)));
            Ok(())
        })
    }
}

/// A model of random weights, without files and without a tokenizer: to know how fast a machine is before 318 GB are there.
/// `spec` says which, as in "layers=2,type=q4_k,seed=7"; the keys are layers, width, heads, kv_heads, head_dim, experts, selected,
/// ffn, vocab, context, type, head_type and seed, and what is left out is as in Grok-1.
///
/// Returns `GROK1_ERR_ARGUMENT` for a text that is not of that form, or sizes that cannot be.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_checkpoint_synthetic(
    spec: *const c_char,
    checkpoint: *mut *mut grok1_checkpoint,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("checkpoint", checkpoint)?;
            let spec: Synthetic = pointer::word("spec", spec)?.parse()?;
            out.write(pointer::new(grok1_checkpoint::new(checkpoint::synthetic(&spec)?)));
            Ok(())
        })
    }
}

/// Loads a model from what was opened. `options` may be NULL, and so may `control`; the `tokenizer` of the options is not used: the
/// checkpoint has its own.
///
/// Returns `GROK1_ERR_FORMAT` for weights or a tokenizer that do not belong together, `GROK1_ERR_RESOURCE` if memory, threads, the
/// disk or the device refuse, `GROK1_ERR_CANCELLED`, and `GROK1_ERR_ARGUMENT` for options out of range.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_checkpoint_load(
    checkpoint: *const grok1_checkpoint,
    options: *const grok1_model_options,
    control: *const grok1_control,
    model: *mut *mut grok1_model,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("model", model)?;
            let handle = pointer::get("checkpoint", checkpoint)?;
            let options = pointer::options("options", options)?.to_rust()?;
            let control = self::control(control)?;
            let loaded = Model::load(handle.checkpoint.clone(), options, &control)?;
            out.write(pointer::new(grok1_model::new(loaded)));
            Ok(())
        })
    }
}

/// What was opened, in short.
///
/// Lifetime: its strings live as long as the checkpoint it was asked of. Threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_checkpoint_info {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// Where it was found.
    pub location: *const c_char,
    /// "xai", "gguf", "safetensors" or "synthetic".
    pub format: *const c_char,
    /// Bytes of all weights.
    pub bytes: u64,
    /// Bytes of weights that one token reads.
    pub bytes_per_token: u64,
    /// Stored tensors: what `grok1_checkpoint_tensor` counts to.
    pub tensors: usize,
    /// Entries of the vocabulary; 0 if none was found.
    pub vocabulary: usize,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_checkpoint_info {}

/// Fills `info`, which has `size` bytes (`sizeof *info`).
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_checkpoint_get_info(
    checkpoint: *const grok1_checkpoint,
    info: *mut grok1_checkpoint_info,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("info", info, size)?;
            let handle = pointer::get("checkpoint", checkpoint)?;
            let opened = &handle.checkpoint;
            out.put(grok1_checkpoint_info {
                struct_size: size,
                location: handle.location.as_ptr(),
                format: handle.format.as_ptr(),
                bytes: opened.bytes(),
                bytes_per_token: opened.bytes_per_token(),
                tensors: opened.tensors.len(),
                vocabulary: opened.vocabulary.as_ref().map_or(0, |vocabulary| vocabulary.entries.len()),
            });
            Ok(())
        })
    }
}

/// A stored tensor.
///
/// Lifetime: what it points to lives as long as the checkpoint it was asked of. Threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_tensor {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// Its name in the model.
    pub name: *const c_char,
    /// The file it lies in.
    pub file: *const c_char,
    /// The type of its elements: "f32", "bf16", "i8", "q4_k".
    pub dtype: *const c_char,
    /// Its shape, slowest axis first.
    pub shape: *const u64,
    /// Axes of the shape.
    pub n_shape: usize,
    /// Shape of the scales that belong to it; NULL if it has none.
    pub scales: *const u64,
    /// Axes of the scales.
    pub n_scales: usize,
    /// Bytes of elements and scales.
    pub bytes: u64,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_tensor {}

/// Fills `tensor`, which has `size` bytes (`sizeof *tensor`), with number `index` of the stored tensors, in file order.
///
/// Returns `GROK1_ERR_ARGUMENT` if there are not so many.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_checkpoint_get_tensor(
    checkpoint: *const grok1_checkpoint,
    index: usize,
    tensor: *mut grok1_tensor,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("tensor", tensor, size)?;
            let handle = pointer::get("checkpoint", checkpoint)?;
            let found = handle.checkpoint.tensors.get(index).zip(handle.tensors.get(index));
            let (stored, names) = found.ok_or_else(|| pointer::beyond(index, handle.tensors.len()))?;
            let scales = stored.scales.as_deref();
            out.put(grok1_tensor {
                struct_size: size,
                name: names.name.as_ptr(),
                file: names.file.as_ptr(),
                dtype: names.dtype.as_ptr(),
                shape: stored.shape.as_ptr(),
                n_shape: stored.shape.len(),
                scales: scales.map_or(ptr::null(), <[u64]>::as_ptr),
                n_scales: scales.map_or(0, <[u64]>::len),
                bytes: stored.bytes,
            });
            Ok(())
        })
    }
}

/// The hyperparameters of a model.
///
/// Lifetime and threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_config {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Experts per layer.
    pub experts: usize,
    /// Experts that each token uses.
    pub selected_experts: usize,
    /// Hidden width of one expert.
    pub ffn_width: usize,
    /// Tokens in the vocabulary: the length of logits.
    pub vocab: usize,
    /// Positions the model was trained for.
    pub context: usize,
    /// Multiplies embedding rows.
    pub embedding_scale: f32,
    /// Multiplies logits.
    pub output_scale: f32,
    /// Multiplies attention scores.
    pub attention_scale: f32,
    /// Attention scores become `cap * tanh(score / cap)`; 0 for no cap.
    pub attention_cap: f32,
    /// The same for router logits.
    pub router_cap: f32,
    /// The same for logits.
    pub output_cap: f32,
    /// Added to the mean square inside each RMS norm.
    pub norm_epsilon: f32,
    /// Base of the rotary embedding.
    pub rope_base: f32,
    /// Not 0 if the selected gates are divided by their sum.
    pub renormalise_gates: i32,
    /// Padding token.
    pub pad: u32,
    /// Begin-of-sequence token; never added by itself.
    pub bos: u32,
    /// End-of-sequence token.
    pub eos: u32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_config {}

impl From<&ModelConfig> for grok1_config {
    fn from(config: &ModelConfig) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            layers: config.layers,
            width: config.width,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            experts: config.experts,
            selected_experts: config.selected_experts,
            ffn_width: config.ffn_width,
            vocab: config.vocab,
            context: config.context,
            embedding_scale: config.embedding_scale,
            output_scale: config.output_scale,
            attention_scale: config.attention_scale,
            attention_cap: config.attention_cap.unwrap_or(0.0),
            router_cap: config.router_cap.unwrap_or(0.0),
            output_cap: config.output_cap.unwrap_or(0.0),
            norm_epsilon: config.norm_epsilon,
            rope_base: config.rope_base,
            renormalise_gates: config.renormalise_gates.into(),
            pad: config.pad,
            bos: config.bos,
            eos: config.eos,
        }
    }
}

/// Fills `config`, which has `size` bytes (`sizeof *config`).
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_checkpoint_get_config(
    checkpoint: *const grok1_checkpoint,
    config: *mut grok1_config,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("config", config, size)?;
            out.put((&pointer::get("checkpoint", checkpoint)?.checkpoint.config).into());
            Ok(())
        })
    }
}

/// Frees a checkpoint. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_checkpoint_free(checkpoint: *mut grok1_checkpoint) {
    // SAFETY: as the header asks.
    unsafe { pointer::free(checkpoint) }
}
