//! Loaded models. Uses `control`.

use std::ffi::{CString, c_char};
use std::ptr;

use super::checkpoint::{grok1_checkpoint, grok1_config};
use super::control::{control, grok1_control};
use super::error::{Failure, grok1_error, guard};
use super::pointer::{self, Versioned, c_string};
use super::pool::{grok1_pool, pool};
use super::status::grok1_status;
use super::tokenizer::grok1_tokenizer;
use crate::{Device, KvType, Model, ModelOptions, Precision, WeightStorage};

/// A loaded model.
///
/// Lifetime: until `grok1_model_free`; sessions keep what they need of it, so the two may be freed in any order. Threads: immutable,
/// may be used from any; runs of several threads take turns.
#[derive(Debug)]
pub struct grok1_model {
    pub(super) model: Model,
    location: CString,
    format: CString,
    device: CString,
    passed_over: CString,
}

impl grok1_model {
    pub(super) fn new(model: Model) -> Self {
        Self {
            location: c_string(&model.checkpoint().location),
            format: c_string(model.checkpoint().format.name()),
            device: c_string(model.device()),
            passed_over: c_string(&model.passed_over().join("; ")),
            model,
        }
    }
}

/// Activations are rounded to bf16 before products with weights; the default.
pub const GROK1_PRECISION_STANDARD: i32 = 0;
/// f32 throughout.
pub const GROK1_PRECISION_EXACT: i32 = 1;
/// As standard, but where the processor multiplies few rows with quantised weights, activations have 8 bits.
pub const GROK1_PRECISION_FAST: i32 = 2;

/// Keys and values of 2 bytes; the default.
pub const GROK1_KV_BF16: i32 = 0;
/// Keys and values of 4 bytes.
pub const GROK1_KV_F32: i32 = 1;

/// Weights are read from the mapped file where they lie; the default. A file that shrinks while it is mapped raises SIGBUS.
pub const GROK1_WEIGHTS_MAPPED: i32 = 0;
/// Weights are read into memory once.
pub const GROK1_WEIGHTS_OWNED: i32 = 1;

/// How a model is loaded. Call `grok1_model_options_init` first; NULL for the defaults.
///
/// Lifetime: the call that it is given to. Threads: it is only read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_model_options {
    /// Set by `grok1_model_options_init`.
    pub struct_size: usize,
    /// Path of a SentencePiece `tokenizer.model` instead of the one in or beside the model; NULL for that one.
    pub tokenizer: *const c_char,
    /// Bytes that the keys and values of all sessions together may use; 0 for no limit.
    pub kv_limit: u64,
    /// Tokens that go through the layers together at most; 0 for the default, 512.
    pub batch_rows: usize,
    /// Threads of the host's own to compute on, where the processor computes; NULL for the library's.
    pub pool: *const grok1_pool,
    /// Threads that compute on the processor, the calling one included; 0 for one per core. Results are the same bits for any number.
    pub threads: u32,
    /// `GROK1_PRECISION_...`
    pub precision: i32,
    /// `GROK1_KV_...`
    pub kv_type: i32,
    /// `GROK1_WEIGHTS_...`: the processor's; a GPU has them in its memory.
    pub weights: i32,
    /// What the model runs on: "cpu", "cuda:0", "hip:0" or another number, "cpu:0" or another number for a NUMA node, "auto" for the
    /// first GPU with room for all of the model or else the processor; NULL for "cpu".
    pub device: *const c_char,
    /// Path of the folder that keeps kernels which were compiled for a GPU; NULL for `grok1/kernels` in `XDG_CACHE_HOME`, or in
    /// `.cache` at home.
    pub kernel_cache: *const c_char,
    /// Layers that run on the GPU, the first of them, with embedding and head; the processor computes the others. Negative, the default,
    /// for all, or as many as the GPU has room for.
    pub gpu_layers: i32,
    /// Of the last so many layers on the GPU the processor computes the experts, from host memory; negative for all of them, 0 for none.
    pub experts_on_cpu: i32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_model_options {}

impl Default for grok1_model_options {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            tokenizer: ptr::null(),
            kv_limit: 0,
            batch_rows: 0,
            pool: ptr::null(),
            threads: 0,
            precision: GROK1_PRECISION_STANDARD,
            kv_type: GROK1_KV_BF16,
            weights: GROK1_WEIGHTS_MAPPED,
            device: ptr::null(),
            kernel_cache: ptr::null(),
            gpu_layers: -1,
            experts_on_cpu: 0,
        }
    }
}

impl grok1_model_options {
    /// # Safety
    /// As the header asks of its fields.
    pub(super) unsafe fn to_rust(self) -> Result<ModelOptions, Failure> {
        let mut options = ModelOptions::new()
            .threads(self.threads as usize)
            .precision(match self.precision {
                GROK1_PRECISION_STANDARD => Precision::Standard,
                GROK1_PRECISION_EXACT => Precision::Exact,
                GROK1_PRECISION_FAST => Precision::Fast,
                other => return Err(Failure::argument(format!("precision is {other}"))),
            })
            .kv_type(kv_type(self.kv_type)?)
            .weights(match self.weights {
                GROK1_WEIGHTS_MAPPED => WeightStorage::Mapped,
                GROK1_WEIGHTS_OWNED => WeightStorage::Owned,
                other => return Err(Failure::argument(format!("weights is {other}"))),
            });
        // SAFETY: as this function asks.
        if let Some(tokenizer) = unsafe { pointer::optional_path("tokenizer", self.tokenizer)? } {
            options = options.tokenizer(tokenizer);
        }
        if !self.device.is_null() {
            // SAFETY: as this function asks.
            options = options.device(unsafe { pointer::word("device", self.device)? }.parse::<Device>()?);
        }
        // SAFETY: as this function asks.
        if let Some(folder) = unsafe { pointer::optional_path("kernel_cache", self.kernel_cache)? } {
            options = options.kernel_cache(folder);
        }
        // SAFETY: as this function asks.
        if let Some(pool) = unsafe { pool(self.pool)? } {
            options = options.pool(pool);
        }
        if let Ok(layers) = usize::try_from(self.gpu_layers) {
            options = options.gpu_layers(layers);
        }
        if self.experts_on_cpu != 0 {
            options = options.experts_on_cpu(usize::try_from(self.experts_on_cpu).unwrap_or(usize::MAX));
        }
        if self.kv_limit > 0 {
            options = options.kv_limit(self.kv_limit);
        }
        if self.batch_rows > 0 {
            options = options.batch_rows(self.batch_rows);
        }
        Ok(options)
    }
}

pub(super) fn kv_type(code: i32) -> Result<KvType, Failure> {
    match code {
        GROK1_KV_BF16 => Ok(KvType::BF16),
        GROK1_KV_F32 => Ok(KvType::F32),
        other => Err(Failure::argument(format!("kv_type is {other}"))),
    }
}

pub(super) fn kv_code(kv_type: KvType) -> i32 {
    match kv_type {
        KvType::BF16 => GROK1_KV_BF16,
        KvType::F32 => GROK1_KV_F32,
    }
}

/// Fills `options`, which has `size` bytes (`sizeof *options`), with the defaults. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_model_options_init(options: *mut grok1_model_options, size: usize) {
    // SAFETY: as the header asks.
    unsafe { pointer::init(options, size) }
}

/// Opens and loads the model at `path`: a folder, or a file of any format that `grok1_checkpoint_open` knows. `options` and `control`
/// may be NULL.
///
/// Returns `GROK1_ERR_FORMAT` if it is missing or no model, `GROK1_ERR_RESOURCE` if it cannot be read or memory, threads or the device
/// refuse, `GROK1_ERR_CANCELLED`, and `GROK1_ERR_ARGUMENT` for options out of range.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_model_load(
    path: *const c_char,
    options: *const grok1_model_options,
    control: *const grok1_control,
    model: *mut *mut grok1_model,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("model", model)?;
            let path = pointer::path("path", path)?;
            let options = pointer::options("options", options)?.to_rust()?;
            let control = self::control(control)?;
            out.write(pointer::new(grok1_model::new(Model::open_with(path, options, &control)?)));
            Ok(())
        })
    }
}

/// A loaded model, in short: what is in effect.
///
/// Lifetime: its strings live as long as the model it was asked of. Threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_model_info {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// Where it was found.
    pub location: *const c_char,
    /// "xai", "gguf", "safetensors" or "synthetic".
    pub format: *const c_char,
    /// What computes: "cpu (avx512, 2 threads)", "cuda:0 (NVIDIA H200, sm_90)". What follows the first word is for people.
    pub device: *const c_char,
    /// Tokens in the vocabulary: the length of logits.
    pub vocab: usize,
    /// Positions the model was trained for.
    pub context: usize,
    /// Bytes of keys and values that sessions hold at present.
    pub kv_bytes: u64,
    /// `GROK1_KV_...`
    pub kv_type: i32,
    /// Not 0 if it has a tokenizer.
    pub has_tokenizer: i32,
    /// Why "auto" took none of the devices before this one: "no cuda: ...; not hip:0: ..."; empty if there were none, or another was
    /// asked for.
    pub passed_over: *const c_char,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_model_info {}

/// Fills `info`, which has `size` bytes (`sizeof *info`).
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_model_get_info(
    model: *const grok1_model,
    info: *mut grok1_model_info,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("info", info, size)?;
            let handle = pointer::get("model", model)?;
            out.put(grok1_model_info {
                struct_size: size,
                location: handle.location.as_ptr(),
                format: handle.format.as_ptr(),
                device: handle.device.as_ptr(),
                vocab: handle.model.config().vocab,
                context: handle.model.config().context,
                kv_bytes: handle.model.kv_bytes(),
                kv_type: kv_code(handle.model.kv_type()),
                has_tokenizer: handle.model.tokenizer().is_ok().into(),
                passed_over: handle.passed_over.as_ptr(),
            });
            Ok(())
        })
    }
}

/// Fills `config`, which has `size` bytes (`sizeof *config`), with the hyperparameters.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_model_get_config(
    model: *const grok1_model,
    config: *mut grok1_config,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("config", config, size)?;
            out.put(pointer::get("model", model)?.model.config().into());
            Ok(())
        })
    }
}

/// What the model was loaded from, for its tensors; its vocabulary has become the tokenizer. The caller frees it.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_model_get_checkpoint(
    model: *const grok1_model,
    checkpoint: *mut *mut grok1_checkpoint,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("checkpoint", checkpoint)?;
            let opened = pointer::get("model", model)?.model.checkpoint().clone();
            out.write(pointer::new(grok1_checkpoint::new(opened)));
            Ok(())
        })
    }
}

/// The model's tokenizer. The caller frees it.
///
/// Returns `GROK1_ERR_ARGUMENT` if the model has none.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_model_get_tokenizer(
    model: *const grok1_model,
    tokenizer: *mut *mut grok1_tokenizer,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("tokenizer", tokenizer)?;
            let shared = pointer::get("model", model)?.model.tokenizer()?.clone();
            out.write(pointer::new(grok1_tokenizer::new(shared)));
            Ok(())
        })
    }
}

/// Gives the memory of keys and values that no session uses back to the operating system. Otherwise it is kept for the next session.
/// `control` may be NULL.
///
/// Returns `GROK1_ERR_CANCELLED` if it was cancelled while it waited for a run to end.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_model_trim(
    model: *const grok1_model,
    control: *const grok1_control,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let handle = pointer::get("model", model)?;
            handle.model.trim(&self::control(control)?)?;
            Ok(())
        })
    }
}

/// Frees a model. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_model_free(model: *mut grok1_model) {
    // SAFETY: as the header asks.
    unsafe { pointer::free(model) }
}
