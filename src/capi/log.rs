//! What the library has to say, to the host. Uses `error`.

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::sync::{OnceLock, PoisonError, RwLock};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::error::{Failure, grok1_error, guard, quiet};
use super::pointer::User;
use super::status::{GROK1_ERR_BUSY, GROK1_ERR_UNSUPPORTED, grok1_status};

/// Nothing is logged.
pub const GROK1_LOG_OFF: i32 = 0;
/// Something failed.
pub const GROK1_LOG_ERROR: i32 = 1;
/// Something is not as it should be.
pub const GROK1_LOG_WARN: i32 = 2;
/// What a person may want to know.
pub const GROK1_LOG_INFO: i32 = 3;
/// What a developer may want to know.
pub const GROK1_LOG_DEBUG: i32 = 4;
/// Everything.
pub const GROK1_LOG_TRACE: i32 = 5;

const LEVELS: [LevelFilter; 6] = [
    LevelFilter::Off,
    LevelFilter::Error,
    LevelFilter::Warn,
    LevelFilter::Info,
    LevelFilter::Debug,
    LevelFilter::Trace,
];

/// Gets a message of `len` bytes of UTF-8 and its `GROK1_LOG_...` level. Comes from any thread, from several at once.
pub type grok1_log_fn =
    Option<unsafe extern "C-unwind" fn(user: *mut c_void, level: i32, message: *const c_char, len: usize)>;

/// Hands messages up to `max_level` (`GROK1_LOG_...`) to `log`, in place of the callback before; NULL for silence, which is what there is
/// at first. For the whole process. When this returns, the callback before is not running and will not be called again.
///
/// Returns `GROK1_ERR_ARGUMENT` for another level, `GROK1_ERR_BUSY` within a log callback, and `GROK1_ERR_UNSUPPORTED` in a Rust program that
/// has a logger of its own, which gets the messages already.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_set_log(
    log: grok1_log_fn,
    user: *mut c_void,
    max_level: i32,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let level = usize::try_from(max_level).ok().and_then(|level| LEVELS.get(level));
            let level = *level
                .ok_or_else(|| Failure::argument(format!("max_level is {max_level}, expected 0 to 5")))?;
            if INSIDE.get() {
                return Err(Failure::new(GROK1_ERR_BUSY, "the log cannot be set within a log callback"));
            }
            if !*INSTALLED.get_or_init(|| log::set_logger(&LOGGER).is_ok()) {
                return Err(Failure::new(GROK1_ERR_UNSUPPORTED, "this program has a logger of its own"));
            }
            let mut sink = LOGGER.0.write().unwrap_or_else(PoisonError::into_inner);
            *sink = log.map(|callback| Sink { callback, user: User(user) });
            log::set_max_level(if sink.is_some() { level } else { LevelFilter::Off });
            Ok(())
        })
    }
}

/// Whether the process took our logger.
static INSTALLED: OnceLock<bool> = OnceLock::new();
static LOGGER: Logger = Logger(RwLock::new(None));

thread_local! {
    /// Whether this thread is in a log callback.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

struct Logger(RwLock<Option<Sink>>);

struct Sink {
    callback: unsafe extern "C-unwind" fn(*mut c_void, i32, *const c_char, usize),
    user: User,
}

impl Log for Logger {
    /// Of other crates a Rust host may have nothing is said.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &Record<'_>) {
        // What a callback itself would log is dropped.
        if !self.enabled(record.metadata()) || INSIDE.replace(true) {
            return;
        }
        if let Some(Sink { callback, user }) = &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            let message = record.args().to_string();
            // SAFETY: the host's callback with the host's pointer, which the lock keeps in place.
            quiet((), || unsafe {
                callback(user.0, code(record.level()), message.as_ptr().cast(), message.len())
            });
        }
        INSIDE.set(false);
    }

    fn flush(&self) {}
}

fn code(level: Level) -> i32 {
    match level {
        Level::Error => GROK1_LOG_ERROR,
        Level::Warn => GROK1_LOG_WARN,
        Level::Info => GROK1_LOG_INFO,
        Level::Debug => GROK1_LOG_DEBUG,
        Level::Trace => GROK1_LOG_TRACE,
    }
}
