//! What goes into every long call. Uses `cancel`.

use std::ffi::c_void;
use std::ptr;

use super::cancel::grok1_cancel;
use super::error::Failure;
use super::pointer::{self, User, Versioned};
use crate::{Cancel, Control, Task};

/// What a callback returns to go on.
pub const GROK1_CONTINUE: i32 = 0;
/// What a callback returns to stop the call it was called from; so does every value that is not `GROK1_CONTINUE`.
pub const GROK1_STOP: i32 = 1;

/// Progress in loading weights; the unit is a byte.
pub const GROK1_TASK_LOAD: i32 = 0;
/// Progress in running tokens; the unit is one token through one layer.
pub const GROK1_TASK_RUN: i32 = 1;
/// Progress in converting; the unit is a byte of what is written.
pub const GROK1_TASK_CONVERT: i32 = 2;
/// Progress in comparing what was written; the unit is a byte of it.
pub const GROK1_TASK_VERIFY: i32 = 3;

/// Hears how far a long call is, on the thread that made it: `done` of `total` units of `task` (`GROK1_TASK_...`). Returns
/// `GROK1_CONTINUE`, or `GROK1_STOP` to cancel the call.
///
/// While tokens run the model's turn is taken: calls that run, save or restore sessions of the same model are refused with
/// `GROK1_ERR_BUSY` here.
pub type grok1_progress_fn =
    Option<unsafe extern "C-unwind" fn(user: *mut c_void, task: i32, done: u64, total: u64) -> i32>;

/// How a long call is watched and stopped. Call `grok1_control_init` first; NULL for neither.
///
/// Lifetime: the call that it is given to. Threads: it is only read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_control {
    /// Set by `grok1_control_init`.
    pub struct_size: usize,
    /// Stops the call when it is set; NULL for none.
    pub cancel: *const grok1_cancel,
    /// Hears of progress; NULL for none.
    pub progress: grok1_progress_fn,
    /// What `progress` gets.
    pub progress_user: *mut c_void,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_control {}

impl Default for grok1_control {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            cancel: ptr::null(),
            progress: None,
            progress_user: ptr::null_mut(),
        }
    }
}

/// Fills `control`, which has `size` bytes (`sizeof *control`), with the defaults. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_control_init(control: *mut grok1_control, size: usize) {
    // SAFETY: as the header asks.
    unsafe { pointer::init(control, size) }
}

/// The control that a call was given.
///
/// # Safety
/// As the header asks of `control`.
pub(super) unsafe fn control(control: *const grok1_control) -> Result<Control, Failure> {
    // SAFETY: as this function asks.
    let options = unsafe { pointer::options("control", control)? };
    let mut control = Control::new();
    // SAFETY: as this function asks.
    if let Some(handle) = unsafe { pointer::optional(options.cancel) } {
        control = control.cancel(&handle.cancel);
    }
    if let Some(callback) = options.progress {
        let user = User(options.progress_user);
        let stop = Cancel::new();
        control = control.cancel(&stop).progress(move |progress| {
            let User(user) = { user };
            // SAFETY: the host's callback with the host's pointer, during the call that both were given to.
            if unsafe { callback(user, task(progress.task), progress.done, progress.total) } != GROK1_CONTINUE
            {
                stop.set();
            }
        });
    }
    Ok(control)
}

fn task(task: Task) -> i32 {
    match task {
        Task::Load => GROK1_TASK_LOAD,
        Task::Run => GROK1_TASK_RUN,
        Task::Convert => GROK1_TASK_CONVERT,
        Task::Verify => GROK1_TASK_VERIFY,
    }
}
