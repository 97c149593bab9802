//! Ctrl-C: the first one asks the work to stop, the second one kills.

use std::sync::{Once, OnceLock};

use grok1::{Cancel, Control};

static CANCEL: OnceLock<Cancel> = OnceLock::new();
static LISTENING: Once = Once::new();

/// A control that Ctrl-C cancels, from now on.
pub(crate) fn control() -> Control {
    let cancel = CANCEL.get_or_init(Cancel::new);
    // After there is something to set.
    LISTENING.call_once(listen);
    Control::new().cancel(cancel)
}

#[cfg(unix)]
fn listen() {
    extern "C" fn on_interrupt(_: libc::c_int) {
        // An atomic load and an atomic store: allowed in a signal handler.
        if let Some(cancel) = CANCEL.get() {
            cancel.set();
        }
    }
    // SAFETY: all fields of `sigaction` may be zero, which means no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_interrupt as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // The handler serves once: the next Ctrl-C finds the default, which kills.
    action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
    // SAFETY: `action` is complete, and the handler does only what a signal handler may. A failure leaves the default, which
    // kills at once.
    unsafe { libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut()) };
}

/// Elsewhere Ctrl-C keeps its default: it kills.
#[cfg(not(unix))]
fn listen() {}
