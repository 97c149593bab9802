//! Programs that embed grok1 from C, C++ and Python, built against the installed package as their authors would. What the C ABI itself
//! promises is tested in `tests/capi`.

#[path = "../support/scratch.rs"]
mod scratch;

mod cpp;
mod every;
mod examples;
mod package;
mod tools;
