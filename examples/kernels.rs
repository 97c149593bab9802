//! Writes the kernels of GPUs, to be compiled where no program of ours runs: `cargo run --example kernels -- FOLDER sm_90 gfx906`.
//!
//! The files that modules include come into the folder itself; for each architecture, into one of its name, a module for each set of
//! kernels, without those that it has no instructions for, and the compiler's `options`.

use std::fs;
use std::path::PathBuf;

use grok1::backend::gpu::kernels::{HIPRTC_OPTIONS, KernelSet, NVRTC_OPTIONS, files, source};

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args();
    let Some(folder) = arguments.nth(1).map(PathBuf::from) else {
        eprintln!("usage: kernels FOLDER ARCHITECTURE…");
        std::process::exit(2);
    };
    fs::create_dir_all(&folder)?;
    for (name, text) in files() {
        fs::write(folder.join(name), text.as_bytes())?;
    }
    for architecture in arguments {
        let folder = folder.join(&architecture);
        fs::create_dir_all(&folder)?;
        // AMD's cards for computing have wider warps than those for gaming.
        let warp = if architecture.starts_with("gfx9") { 64 } else { 32 };
        for set in KernelSet::all() {
            let mut kernels = set.kernels();
            kernels.retain(|kernel| kernel.runs_on(&architecture));
            if !kernels.is_empty() {
                fs::write(folder.join(format!("{}.cu", set.name())), source(warp, &kernels))?;
            }
        }
        let options = if architecture.starts_with("gfx") { HIPRTC_OPTIONS } else { NVRTC_OPTIONS };
        fs::write(folder.join("options"), options.join(" "))?;
    }
    Ok(())
}
