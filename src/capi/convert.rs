//! Writing a model in another form. Uses `checkpoint`, `control` and `pool`.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock};

use super::checkpoint::grok1_checkpoint;
use super::control::{control, grok1_control};
use super::error::{Failure, grok1_error, guard, quiet};
use super::pointer::{self, Versioned, c_string};
use super::pool::{grok1_pool, pool};
use super::status::grok1_status;
use crate::Pool;
use crate::convert::{Conversion, Recipe};

/// A model to be written in another form, and what came of it.
///
/// Lifetime: until `grok1_conversion_free`; it keeps its checkpoint alive. Threads: one at a time, a second one gets `GROK1_ERR_BUSY`.
#[derive(Debug)]
pub struct grok1_conversion {
    state: Mutex<State>,
}

struct State {
    checkpoint: Arc<grok1_checkpoint>,
    /// `None` for safetensors.
    recipe: Option<Recipe>,
    split: Option<u64>,
    threads: usize,
    pool: Option<Arc<dyn Pool>>,
    files: Vec<CString>,
    deviations: Vec<(CString, f64)>,
}

impl State {
    fn conversion(&self) -> Conversion<'_> {
        let checkpoint = &self.checkpoint.checkpoint;
        let mut conversion = match &self.recipe {
            Some(recipe) => Conversion::to_gguf(checkpoint, recipe.clone()),
            None => Conversion::to_safetensors(checkpoint),
        };
        conversion = conversion.threads(self.threads);
        if let Some(bytes) = self.split {
            conversion = conversion.split_at(bytes);
        }
        match &self.pool {
            Some(pool) => conversion.pool(Arc::clone(pool)),
            None => conversion,
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.conversion().fmt(f)
    }
}

/// GGUF with names that llama.cpp reads; the default.
pub const GROK1_FORMAT_GGUF: i32 = 0;
/// A folder of bf16 safetensors.
pub const GROK1_FORMAT_SAFETENSORS: i32 = 1;

/// What a model is converted to. Call `grok1_conversion_options_init` first.
///
/// Lifetime: the call that it is given to. Threads: it is only read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_conversion_options {
    /// Set by `grok1_conversion_options_init`.
    pub struct_size: usize,
    /// For GGUF, which type each tensor gets: one of `grok1_recipe_name`, in letters of either case. Must be set there.
    pub recipe: *const c_char,
    /// For GGUF, exceptions "pattern=type": matrices whose name contains the pattern, in which `*` stands for anything, get that type. The
    /// last one that matches counts. NULL for none.
    pub exceptions: *const *const c_char,
    /// How many.
    pub n_exceptions: usize,
    /// Cuts the tensors into files of at most so many bytes; 0 for one GGUF file, or safetensors files of 10 GB.
    pub split: u64,
    /// Threads of the host's own to compute on; NULL for the library's.
    pub pool: *const grok1_pool,
    /// Threads that compute, the calling one included; 0 for one per core.
    pub threads: u32,
    /// `GROK1_FORMAT_...`
    pub format: i32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_conversion_options {}

impl Default for grok1_conversion_options {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            recipe: ptr::null(),
            exceptions: ptr::null(),
            n_exceptions: 0,
            split: 0,
            pool: ptr::null(),
            threads: 0,
            format: GROK1_FORMAT_GGUF,
        }
    }
}

impl grok1_conversion_options {
    /// # Safety
    /// As the header asks of its fields.
    unsafe fn recipe(&self) -> Result<Option<Recipe>, Failure> {
        match self.format {
            GROK1_FORMAT_GGUF => {}
            GROK1_FORMAT_SAFETENSORS => return Ok(None),
            other => return Err(Failure::argument(format!("format is {other}"))),
        }
        // SAFETY: as this function asks.
        let mut recipe = Recipe::named(unsafe { pointer::word("recipe", self.recipe)? })?;
        // SAFETY: as this function asks.
        for &exception in unsafe { pointer::slice("exceptions", self.exceptions, self.n_exceptions)? } {
            // SAFETY: as this function asks.
            recipe = recipe.except(unsafe { pointer::word("an exception", exception)? })?;
        }
        Ok(Some(recipe))
    }
}

/// Fills `options`, which has `size` bytes (`sizeof *options`), with the defaults. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_conversion_options_init(options: *mut grok1_conversion_options, size: usize) {
    // SAFETY: as the header asks.
    unsafe { pointer::init(options, size) }
}

/// Name number `index` of the recipes for GGUF: "q8_0", "q4_k_m"; NULL if there are not so many. Lives as long as the process.
#[unsafe(no_mangle)]
pub extern "C" fn grok1_recipe_name(index: usize) -> *const c_char {
    static NAMES: OnceLock<Vec<CString>> = OnceLock::new();
    quiet(ptr::null(), || {
        let names = NAMES.get_or_init(|| Recipe::names().map(c_string).collect());
        names.get(index).map_or(ptr::null(), |name| name.as_ptr())
    })
}

/// Prepares to convert a checkpoint.
///
/// Returns `GROK1_ERR_ARGUMENT` for a recipe or an exception that is none, and for GGUF without a recipe.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_conversion_new(
    checkpoint: *const grok1_checkpoint,
    options: *const grok1_conversion_options,
    conversion: *mut *mut grok1_conversion,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("conversion", conversion)?;
            let checkpoint = pointer::get("checkpoint", checkpoint)?;
            let options = pointer::options("options", options)?;
            let state = Mutex::new(State {
                checkpoint,
                recipe: options.recipe()?,
                split: (options.split > 0).then_some(options.split),
                threads: options.threads as usize,
                pool: pool(options.pool)?,
                files: Vec::new(),
                deviations: Vec::new(),
            });
            out.write(pointer::new(grok1_conversion { state }));
            Ok(())
        })
    }
}

/// What was written.
///
/// Lifetime and threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_conversion_report {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// Files of tensors: what `grok1_conversion_file` counts to.
    pub files: usize,
    /// Tensors in them.
    pub tensors: usize,
    /// Tensors that an earlier run, which was interrupted, had written.
    pub resumed: usize,
    /// Bytes of all files of tensors.
    pub bytes: u64,
    /// Blocks of 32 weights that were made of int8.
    pub int8_blocks: u64,
    /// Those among them whose weights are not exactly the checkpoint's.
    pub int8_inexact: u64,
    /// The largest difference of such a weight, in units of its scale in the checkpoint.
    pub int8_worst: f64,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_conversion_report {}

/// Writes the model to `path`: a file, the first part of the names of several, or a folder. Nothing of that name may be there. What is not
/// whole yet stands in "path.partial"; after an error, a cancellation included, calling this again goes on. Fills `report`, which has `size`
/// bytes (`sizeof *report`). `control` may be NULL.
///
/// Returns `GROK1_ERR_ARGUMENT` if something of that name is there, `GROK1_ERR_FORMAT` for weights that cannot be written so,
/// `GROK1_ERR_RESOURCE` if the disk has no room or refuses, `GROK1_ERR_CANCELLED`.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_conversion_run(
    conversion: *mut grok1_conversion,
    path: *const c_char,
    control: *const grok1_control,
    report: *mut grok1_conversion_report,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("report", report, size)?;
            let handle = pointer::get("conversion", conversion)?;
            let path = pointer::path("path", path)?;
            let control = self::control(control)?;
            let mut state = pointer::lock("conversion", &handle.state)?;
            let made = state.conversion().run(path, &control)?;
            state.files = made.files.iter().map(|file| pointer::c_path(file)).collect();
            out.put(grok1_conversion_report {
                struct_size: size,
                files: made.files.len(),
                tensors: made.tensors,
                resumed: made.resumed,
                bytes: made.bytes,
                int8_blocks: made.int8.blocks,
                int8_inexact: made.int8.inexact,
                int8_worst: made.int8.worst.into(),
            });
            Ok(())
        })
    }
}

/// Path of number `index` of the files that the last run wrote, the first of which opens the model; NULL if there are not so many, while
/// another call uses the conversion, and for NULL. Lives until the conversion runs again or is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_conversion_file(
    conversion: *const grok1_conversion,
    index: usize,
) -> *const c_char {
    // SAFETY: as the header asks.
    quiet(ptr::null(), || unsafe {
        let Some(handle) = pointer::optional(conversion) else { return ptr::null() };
        let Ok(state) = pointer::lock("conversion", &handle.state) else { return ptr::null() };
        state.files.get(index).map_or(ptr::null(), |file| file.as_ptr())
    })
}

/// What a comparison found, all being as it should.
///
/// Lifetime and threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_verification {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// Types of matrices: what `grok1_conversion_deviation` counts to.
    pub types: usize,
    /// Bytes that were compared.
    pub bytes: u64,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_verification {}

/// Makes everything again, compares it with what stands at `path`, and fills `verification`, which has `size` bytes (`sizeof *verification`).
/// `control` may be NULL.
///
/// Returns `GROK1_ERR_FORMAT` if a byte differs or a file is missing, `GROK1_ERR_RESOURCE` if one cannot be read, `GROK1_ERR_CANCELLED`.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_conversion_verify(
    conversion: *mut grok1_conversion,
    path: *const c_char,
    control: *const grok1_control,
    verification: *mut grok1_verification,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("verification", verification, size)?;
            let handle = pointer::get("conversion", conversion)?;
            let path = pointer::path("path", path)?;
            let control = self::control(control)?;
            let mut state = pointer::lock("conversion", &handle.state)?;
            let verified = state.conversion().verify(path, &control)?;
            let deviations = verified.errors.iter().map(|(dtype, error)| (c_string(dtype.name()), *error));
            state.deviations = deviations.collect();
            let types = state.deviations.len();
            out.put(grok1_verification { struct_size: size, types, bytes: verified.bytes });
            Ok(())
        })
    }
}

/// How far the matrices of type number `index` are from the checkpoint's, as the last `grok1_conversion_verify` found: the type's name in
/// `*dtype`, which lives until the conversion is used again, and in `*deviation` the root of the mean square of the differences in units of
/// that of the weights.
///
/// Returns `GROK1_ERR_ARGUMENT` if there are not so many.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_conversion_deviation(
    conversion: *const grok1_conversion,
    index: usize,
    dtype: *mut *const c_char,
    deviation: *mut f64,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let dtype_out = pointer::output("dtype", dtype);
            let deviation_out = pointer::output("deviation", deviation)?;
            let dtype_out = dtype_out?;
            let handle = pointer::get("conversion", conversion)?;
            let state = pointer::lock("conversion", &handle.state)?;
            let found = state.deviations.get(index);
            let (dtype, deviation) = found.ok_or_else(|| pointer::beyond(index, state.deviations.len()))?;
            dtype_out.write(dtype.as_ptr());
            deviation_out.write(*deviation);
            Ok(())
        })
    }
}

/// Frees a conversion. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_conversion_free(conversion: *mut grok1_conversion) {
    // SAFETY: as the header asks.
    unsafe { pointer::free(conversion) }
}
