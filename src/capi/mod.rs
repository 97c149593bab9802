//! The C ABI: what `include/grok1.h` declares. Thin over the public API, without logic of its own. Uses nothing else of the crate.
//!
//! The header is made from these files by cbindgen, and is the manual: docs of public items here are written for its reader. The
//! rules that hold for all of it stand at its top, in `cbindgen.toml`.
//!
//! How it is made:
//!
//! * Every entry point runs in a `guard`: neither a wrong call nor a defect of ours unwinds into the host.
//! * Handles are `Arc`s given away as raw pointers. A call holds a reference of its own while it runs, so that a callback may free
//!   the very handle it was called for; handles hold what they need, so that they may be freed in any order.
//! * What one thread may use at a time is in a `Mutex` that is only ever tried: taken means `BUSY`, poisoned by a panic
//!   `POISONED`.
//! * All handling of raw pointers is in `pointer`; an entry point names its arguments and calls the Rust API.
//!
//! Callbacks are typed `extern "C-unwind"`: a C++ exception thrown through one ends in a defined abort, where with `extern "C"` it
//! would pass the guard unseen.
#![allow(non_camel_case_types, reason = "names as C writes them")]
#![allow(clippy::missing_safety_doc, reason = "the header's rules are what callers promise")]

// The header has its parts in this order.
mod abi;
mod error;
mod pointer;
mod status;
mod version;

mod cancel;
mod control;

mod checkpoint;
mod source;

mod model;
mod pool;

mod run;
mod session;
mod state;

mod sampler;

mod generation;

mod tokenizer;

mod plan;

mod convert;

mod log;

#[cfg(feature = "testing")]
mod testing;

pub use self::abi::*;
pub use self::cancel::*;
pub use self::checkpoint::*;
pub use self::control::*;
pub use self::convert::*;
pub use self::error::*;
pub use self::generation::*;
pub use self::log::*;
pub use self::model::*;
pub use self::plan::*;
pub use self::pool::*;
pub use self::run::*;
pub use self::sampler::*;
pub use self::session::*;
pub use self::source::*;
pub use self::state::*;
pub use self::status::*;
#[cfg(feature = "testing")]
pub use self::testing::*;
pub use self::tokenizer::*;
pub use self::version::*;
