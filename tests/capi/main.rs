//! What the C ABI promises: to Rust, which calls its functions directly, and to C and C++ programs that are compiled against the header
//! and the library here.
//!
//! `GROK1_WRITE_GOLDEN=1 cargo test --features capi,testing --test capi` writes the lists in `golden` anew.

mod c;
mod callbacks;
mod devices;
mod files;
mod freeing;
mod generation;
mod handles;
mod header;
mod layout;
mod nulls;
mod panics;
mod saved;
mod signals;
mod sizes;
mod sources;
mod symbols;
mod threads;
mod versions;
