//! The `grok1` command.
fn main() {}
