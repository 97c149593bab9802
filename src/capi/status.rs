//! Statuses: what a call returns. Uses the crate's error kinds.

use std::ffi::{CStr, c_char};

use super::error::quiet;
use crate::{ErrorKind, Outcome};

/// What a call returns. Numbers are frozen, and say in hundreds what kind of failure it is:
/// 1xx the caller's mistake, 2xx a file, 3xx memory and devices, 4xx ends of normal work that callers handle, 5xx a defect of
/// this library. A newer library may return numbers that this header does not have.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct grok1_status(pub i32);

/// All is well.
pub const GROK1_OK: grok1_status = grok1_status(0);
/// An argument broke what the header asks for; nothing was changed.
pub const GROK1_ERR_ARGUMENT: grok1_status = grok1_status(100);
/// Text is not UTF-8; the error's message has the offset of the first wrong byte.
pub const GROK1_ERR_UTF8: grok1_status = grok1_status(101);
/// A struct sets fields that this library does not know: the caller was built with a newer header.
pub const GROK1_ERR_ABI: grok1_status = grok1_status(102);
/// A file is missing, truncated, hostile or of another model.
pub const GROK1_ERR_FORMAT: grok1_status = grok1_status(200);
/// Memory, a device or the operating system refused, or a callback that reads or writes failed.
pub const GROK1_ERR_RESOURCE: grok1_status = grok1_status(300);
/// The call's cancel was set, or a callback asked to stop. What the call worked on is as it was before.
pub const GROK1_ERR_CANCELLED: grok1_status = grok1_status(400);
/// The tokens do not fit into the session's context.
pub const GROK1_ERR_CONTEXT_FULL: grok1_status = grok1_status(401);
/// The model's memory for keys and values is all in use: free or truncate a session and try again.
pub const GROK1_ERR_KV_FULL: grok1_status = grok1_status(402);
/// The handle is in use: by another thread, or by the call that this callback belongs to.
pub const GROK1_ERR_BUSY: grok1_status = grok1_status(403);
/// This library or this system cannot do it.
pub const GROK1_ERR_UNSUPPORTED: grok1_status = grok1_status(404);
/// The caller's buffer is too small: nothing was written to it, and the size that is needed was reported.
pub const GROK1_ERR_BUFFER: grok1_status = grok1_status(405);
/// The generation has ended: there is no further token.
pub const GROK1_ERR_ENDED: grok1_status = grok1_status(406);
/// A defect of this library that it noticed.
pub const GROK1_ERR_BUG: grok1_status = grok1_status(500);
/// A defect of this library that stopped the call in the middle. Sessions, samplers and generations that took part are poisoned.
pub const GROK1_ERR_PANIC: grok1_status = grok1_status(501);
/// The handle took part in a call that ended with `GROK1_ERR_PANIC`: it can only be freed or asked for its info.
pub const GROK1_ERR_POISONED: grok1_status = grok1_status(502);

/// Every status and its name.
const NAMES: [(grok1_status, &CStr); 16] = [
    (GROK1_OK, c"ok"),
    (GROK1_ERR_ARGUMENT, c"argument"),
    (GROK1_ERR_UTF8, c"utf-8"),
    (GROK1_ERR_ABI, c"abi"),
    (GROK1_ERR_FORMAT, c"format"),
    (GROK1_ERR_RESOURCE, c"resource"),
    (GROK1_ERR_CANCELLED, c"cancelled"),
    (GROK1_ERR_CONTEXT_FULL, c"context full"),
    (GROK1_ERR_KV_FULL, c"kv full"),
    (GROK1_ERR_BUSY, c"busy"),
    (GROK1_ERR_UNSUPPORTED, c"unsupported"),
    (GROK1_ERR_BUFFER, c"buffer"),
    (GROK1_ERR_ENDED, c"ended"),
    (GROK1_ERR_BUG, c"bug"),
    (GROK1_ERR_PANIC, c"panic"),
    (GROK1_ERR_POISONED, c"poisoned"),
];

/// A status' name in lower case, "unknown" for a number that this library does not have. Lives as long as the process.
#[unsafe(no_mangle)]
pub extern "C" fn grok1_status_name(status: grok1_status) -> *const c_char {
    quiet(c"unknown".as_ptr(), || {
        let named = NAMES.iter().find(|(known, _)| *known == status);
        named.map_or(c"unknown", |(_, name)| name).as_ptr()
    })
}

impl From<ErrorKind> for grok1_status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Argument => GROK1_ERR_ARGUMENT,
            ErrorKind::Format => GROK1_ERR_FORMAT,
            ErrorKind::Resource => GROK1_ERR_RESOURCE,
            ErrorKind::Outcome(Outcome::Cancelled) => GROK1_ERR_CANCELLED,
            ErrorKind::Outcome(Outcome::ContextFull) => GROK1_ERR_CONTEXT_FULL,
            ErrorKind::Outcome(Outcome::KvFull) => GROK1_ERR_KV_FULL,
            ErrorKind::Bug => GROK1_ERR_BUG,
        }
    }
}
