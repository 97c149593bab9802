//! Saved sessions. Uses `session` and `sampler`.

use std::ffi::c_void;
use std::io::{self, BufWriter, Read, Write};

use super::control::{GROK1_CONTINUE, control, grok1_control};
use super::error::{Failure, grok1_error, guard};
use super::model::grok1_model;
use super::pointer;
use super::sampler::grok1_sampler;
use super::session::{grok1_session, grok1_session_options};
use super::status::grok1_status;

/// Takes the next `len` bytes of a saved session. Returns `GROK1_CONTINUE`, anything else if that failed.
pub type grok1_write_fn =
    Option<unsafe extern "C-unwind" fn(user: *mut c_void, data: *const c_void, len: usize) -> i32>;

/// Gives the next bytes of a saved session: `len` at most, at least one, and says in `*read` how many; 0 at the end. Returns
/// `GROK1_CONTINUE`, anything else if that failed.
pub type grok1_read_fn = Option<
    unsafe extern "C-unwind" fn(user: *mut c_void, data: *mut c_void, len: usize, read: *mut usize) -> i32,
>;

/// Writes the session, and the state of `sampler` if that is not NULL, so that `grok1_session_restore` can go on exactly here. Bytes go
/// to `write`, many at a time. `control` may be NULL.
///
/// Returns `GROK1_ERR_RESOURCE` if `write` failed, `GROK1_ERR_CANCELLED`.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_session_save(
    session: *const grok1_session,
    sampler: *const grok1_sampler,
    write: grok1_write_fn,
    user: *mut c_void,
    control: *const grok1_control,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let handle = pointer::get("session", session)?;
            let sampler = pointer::optional(sampler);
            let callback = write.ok_or_else(|| Failure::null("write"))?;
            let control = self::control(control)?;
            let session = handle.lock()?;
            let sampler = sampler.as_ref().map(|handle| handle.lock()).transpose()?;
            let sampler = sampler.as_ref().map(|state| &state.sampler);
            let write = |bytes: &[u8]| callback(user, bytes.as_ptr().cast(), bytes.len());
            session.save(&mut BufWriter::with_capacity(1 << 16, Writer(write)), sampler, &control)?;
            Ok(())
        })
    }
}

/// Reads a session that `grok1_session_save` wrote from the same model, and its sampler's state if `sampler` is not NULL: `*sampler` is
/// NULL if none was saved, and has no filter otherwise. Asks `read` for the bytes of the saved session and no more. `options` and
/// `control` may be NULL; the context is that of the options or, if it is 0 there, the saved session's.
///
/// Returns `GROK1_ERR_FORMAT` for bytes that are truncated, changed, of another model or of another KV type, `GROK1_ERR_RESOURCE` if `read`
/// failed, `GROK1_ERR_ARGUMENT` for a context longer than the model was trained for, unless the options allow it, `GROK1_ERR_KV_FULL`,
/// `GROK1_ERR_CANCELLED`.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_session_restore(
    model: *const grok1_model,
    read: grok1_read_fn,
    user: *mut c_void,
    options: *const grok1_session_options,
    control: *const grok1_control,
    session: *mut *mut grok1_session,
    sampler: *mut *mut grok1_sampler,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("session", session);
            let sampler_out = pointer::output("sampler", sampler).ok();
            let out = out?;
            let handle = pointer::get("model", model)?;
            let callback = read.ok_or_else(|| Failure::null("read"))?;
            let options = pointer::options("options", options)?.to_rust()?;
            let control = self::control(control)?;
            let read = |data: &mut [u8], read: &mut usize| {
                callback(user, data.as_mut_ptr().cast(), data.len(), read)
            };
            let (session, sampler) = handle.model.restore(&mut Reader(read), &options, &control)?;
            if let (Some(out), Some(sampler)) = (sampler_out, sampler) {
                out.write(pointer::new(grok1_sampler::new(sampler)));
            }
            out.write(pointer::new(grok1_session::new(session)));
            Ok(())
        })
    }
}

struct Writer<F>(F);

impl<F: FnMut(&[u8]) -> i32> Write for Writer<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        check((self.0)(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Reader<F>(F);

impl<F: FnMut(&mut [u8], &mut usize) -> i32> Read for Reader<F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        check((self.0)(out, &mut read))?;
        if read > out.len() {
            return Err(io::Error::other(format!(
                "the host's callback says that it read {read} of {}",
                out.len()
            )));
        }
        Ok(read)
    }
}

fn check(status: i32) -> io::Result<()> {
    if status == GROK1_CONTINUE {
        return Ok(());
    }
    Err(io::Error::other(format!("the host's callback returned {status}")))
}
