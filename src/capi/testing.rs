//! What only tests call, and the header does not have. Uses `session`.

use super::error::{grok1_error, guard};
use super::pointer;
use super::session::grok1_session;
use super::status::grok1_status;

/// Panics in the middle of using `session`.
#[unsafe(no_mangle)]
#[expect(clippy::panic, reason = "what it is for")]
pub unsafe extern "C" fn grok1_testing_panic(
    session: *mut grok1_session,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let handle = pointer::get("session", session)?;
            let _session = handle.lock()?;
            panic!("asked for by a test");
        })
    }
}
