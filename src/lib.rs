//! Runs Grok-1, xAI's 314-billion-parameter mixture-of-experts model, inside your program.
//!
//! ```no_run
//! use grok1::{Model, Sampler};
//!
//! let model = Model::open("checkpoints/ckpt-0")?;
//! let mut session = model.session()?;
//! let mut sampler = Sampler::new().temperature(0.7).top_p(0.95).seed(42);
//! for piece in session.generate("The answer to life", &mut sampler) {
//!     print!("{}", piece?.text());
//! }
//! # Ok::<(), grok1::Error>(())
//! ```
//!
//! A [`Model`] is opened once and shared. A [`Session`] is one sequence: its tokens, its keys and values. Everything it can do is thin
//! over [`Model::run`], which takes tokens of any number of sessions at once. A [`Sampler`] chooses tokens from logits, a
//! [`Generation`] makes text of them until something ends it, and a [`Control`] goes into every long call to cancel it. Types are
//! owned and may be stored and sent to other threads; nothing here needs an async runtime.
//!
//! The code is a house with arrows that run downwards only:
//!
//! | room | what lives there |
//! |---|---|
//! | `capi` | the C ABI (feature `capi`), over everything that is public below |
//! | `session` | [`Session`], [`Generation`], [`Model::run`], saved sessions |
//! | `model` | [`Model`]: opening, options, KV pages, the engine that runs batches |
//! | [`plan`] | what a model needs and where it would lie, from headers alone |
//! | [`backend`] | the seam to devices: one method per stage of the model; the scalar definition; the processor; GPUs |
//! | [`convert`] | one form of model files into another |
//! | [`checkpoint`] | files as named, typed views of weights |
//! | [`quant`] | how stored elements become numbers, and numbers stored elements |
//! | `sample`, `text` | [`Sampler`]; [`Tokenizer`] and [`TextStream`] |
//! | the ground | errors, configuration, [`weights`] by role, tensors, sources of bytes, control, the machine, buffers, threads, vocabularies, softmax |
//!
//! Everything but [`backend`], and what takes its traits ([`Model::load_on`], [`Model::observe`]), follows semantic versioning; that
//! module is open to implementers and may change before 1.0.

#![deny(missing_debug_implementations)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::print_stdout,
        clippy::print_stderr,
        clippy::exit
    )
)]

#[cfg(target_endian = "big")]
compile_error!("weights are read where they lie, and they are little-endian");

pub mod backend;
mod buffer;
mod candidates;
#[cfg(feature = "capi")]
pub mod capi;
pub mod checkpoint;
mod config;
mod control;
pub mod convert;
mod error;
mod machine;
mod model;
pub mod plan;
pub mod quant;
mod sample;
mod session;
mod softmax;
mod source;
mod tensor;
mod text;
mod threads;
mod vocab;
pub mod weights;

pub use backend::{KvType, Precision, WeightStorage};
pub use checkpoint::Checkpoint;
pub use config::{ConfigError, ModelConfig};
pub use control::{Cancel, Cancelled, Control, Progress, Task};
pub use error::{Classify, Error, ErrorKind, Outcome, Result};
pub use model::{Device, Model, ModelError, ModelOptions};
pub use plan::{Plan, PlanOptions};
pub use sample::{Alternative, SampleError, Sampled, Sampler};
pub use session::{
    Entry, Finish, Generate, Generation, Piece, Prompt, Session, SessionError, SessionOptions, Want,
    log_probability,
};
pub use source::{FileFolder, FileSource, Folder, Formula, JoinedSource, MemoryFolder, MemorySource, Source};
pub use tensor::{Blob, DType, Layout, Matrix, Scales, Vector};
pub use text::{TextStream, Tokenizer, TokenizerError};
pub use threads::{Pool, Threads};
pub use vocab::{PieceKind, VocabEntry, Vocabulary};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
