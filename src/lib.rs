//! Runs Grok-1, xAI's 314-billion-parameter mixture-of-experts model, inside your program.

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
pub mod checkpoint;
mod config;
mod control;
mod error;
mod model;
pub mod sample;
mod session;
mod source;
mod tensor;
pub mod text;
mod threads;
mod vocab;
pub mod weights;

pub use backend::{KvType, Precision, WeightStorage};
pub use checkpoint::Checkpoint;
pub use config::{ConfigError, ModelConfig};
pub use control::{Cancel, Cancelled, Control, Progress, Task};
pub use error::{Classify, Error, ErrorKind, Outcome, Result};
pub use model::{Model, ModelError, ModelOptions};
pub use sample::{Alternative, SampleError, Sampled, Sampler};
pub use session::{
    Entry, Finish, Generate, Generation, Piece, Prompt, Session, SessionError, SessionOptions, Want,
    log_probability,
};
pub use source::{FileFolder, FileSource, Folder, MemoryFolder, MemorySource, Source};
pub use tensor::{Blob, DType, Layout, Matrix, Scales, Vector};
pub use text::{TextStream, Tokenizer, TokenizerError};
pub use threads::{Pool, Threads};
pub use vocab::{PieceKind, VocabEntry, Vocabulary};
