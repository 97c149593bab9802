//! Writes the kernels of GPUs into a folder, to be compiled where no program of ours runs: `cargo run --example kernels -- FOLDER`.
//!
//! A module for each format of weights and one of the rest, for warps of 32 and 64 lanes, beside the files they include. Those whose
//! names begin with `mma` are for NVIDIA's devices from sm_80 on only.

use std::path::PathBuf;

use grok1::backend::gpu::kernels::{Format, Kernel, Rows, TILE_INPUTS, TILE_OUTPUTS, files, source};
use grok1::{DType, KvType, Layout};

/// Modules by name.
fn modules() -> Vec<(String, Vec<Kernel>)> {
    let rest = vec![
        Kernel::RmsNorm,
        Kernel::Attention(KvType::F32),
        Kernel::Attention(KvType::BF16),
        Kernel::Merge,
        Kernel::Flash(KvType::F32),
        Kernel::Flash(KvType::BF16),
        Kernel::Residual,
        Kernel::Route,
        Kernel::Group,
        Kernel::Activate,
        Kernel::Combine,
    ];
    let mma = vec![Kernel::FlashMma(128)];
    let mut modules = vec![("rest".to_owned(), rest), ("mma".to_owned(), mma)];
    let pairs = DType::ALL.into_iter().flat_map(|dtype| [(dtype, Layout::OutIn), (dtype, Layout::InOut)]);
    for (dtype, layout) in pairs {
        let packed = Format::packed(dtype, layout, TILE_INPUTS, TILE_OUTPUTS);
        for format in [Format::new(dtype, layout), packed].into_iter().flatten() {
            let mut kernels: Vec<Kernel> = Rows::ALL
                .into_iter()
                .flat_map(|rows| {
                    let of = [Kernel::Linear, Kernel::Qkv, Kernel::GateUp, Kernel::ExpertLinear];
                    of.map(|kernel| kernel(format, rows))
                })
                .collect();
            if layout == Layout::OutIn {
                kernels.push(Kernel::Embed(format));
            }
            if format.is_packed() {
                kernels.push(Kernel::Pack(format));
            }
            modules.push((format.name(), kernels));
            if let Some(mma) = format.with_mma() {
                let of = [Kernel::Linear, Kernel::Qkv, Kernel::GateUp, Kernel::ExpertLinear];
                let kernels =
                    Rows::ALL.into_iter().flat_map(|rows| of.map(|kernel| kernel(mma, rows))).collect();
                modules.push((format!("mma_{}", format.name()), kernels));
            }
        }
    }
    modules
}

fn main() -> std::io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: kernels FOLDER");
        std::process::exit(2);
    };
    std::fs::create_dir_all(&folder)?;
    for (name, text) in files() {
        std::fs::write(folder.join(name), text.as_bytes())?;
    }
    for (name, kernels) in modules() {
        let warps: &[u32] = if name.starts_with("mma") { &[32] } else { &[32, 64] };
        for &warp in warps {
            std::fs::write(folder.join(format!("module_{name}_{warp}.cu")), source(warp, &kernels))?;
        }
    }
    Ok(())
}
