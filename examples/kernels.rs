//! Writes the kernels of GPUs into a folder, to be compiled where no program of ours runs: `cargo run --example kernels -- FOLDER`.
//!
//! A module for each format of weights and one of the rest, for warps of 32 and 64 lanes, beside the files they include.

use std::path::PathBuf;

use grok1::backend::gpu::kernels::{KernelSet, files, source};

fn main() -> std::io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: kernels FOLDER");
        std::process::exit(2);
    };
    std::fs::create_dir_all(&folder)?;
    for (name, text) in files() {
        std::fs::write(folder.join(name), text.as_bytes())?;
    }
    for set in KernelSet::all() {
        for warp in [32, 64] {
            let name = format!("module_{}_{warp}.cu", set.name());
            std::fs::write(folder.join(name), source(warp, &set.kernels()))?;
        }
    }
    Ok(())
}
