//! `grok1 devices`: what this version can compute on here.

use std::collections::BTreeMap;

use grok1::backend::cpu::Cpu;
use grok1::backend::gpu::{self, FoundDevice};
use grok1::{Error, Result};
use serde::Serialize;

use crate::{bandwidth, machine, output};

/// What a model can be run on
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure how fast memory is read, which takes half a second
    #[arg(long)]
    measure: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    cpu: Processor,
    /// By the name of the runtime: `cuda`, `hip`.
    #[serde(flatten)]
    gpus: BTreeMap<&'static str, Gpus>,
}

#[derive(Serialize)]
struct Processor {
    name: String,
    /// CPUs that this process may use.
    threads: usize,
    /// Those there are kernels for, best first.
    instruction_sets: Vec<&'static str>,
    memory_bytes: Option<u64>,
    /// Bytes per second, if measured.
    bandwidth: Option<f64>,
}

/// The devices of a runtime, or why there are none.
#[derive(Serialize)]
struct Gpus {
    devices: Vec<Gpu>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Gpu {
    name: String,
    architecture: String,
    driver: String,
    compute_units: u32,
    /// Threads that go in step.
    warp: u32,
    memory_bytes: usize,
    free_bytes: Option<usize>,
    /// Why it cannot be opened.
    error: Option<String>,
}

impl From<FoundDevice> for Gpu {
    fn from(FoundDevice { properties, memory, .. }: FoundDevice) -> Self {
        let (free_bytes, error) = match memory {
            Ok(memory) => (Some(memory.free), None),
            Err(error) => (None, Some(Error::from(error).chain())),
        };
        Self {
            name: properties.name,
            architecture: properties.architecture,
            driver: properties.driver.to_string(),
            compute_units: properties.compute_units,
            warp: properties.warp,
            memory_bytes: properties.memory,
            free_bytes,
            error,
        }
    }
}

fn gpus() -> BTreeMap<&'static str, Gpus> {
    let found = gpu::devices().into_iter().map(|found| {
        let gpus = match found.devices {
            Ok(devices) => Gpus { devices: devices.into_iter().map(Gpu::from).collect(), error: None },
            Err(error) => Gpus { devices: Vec::new(), error: Some(Error::from(error).chain()) },
        };
        (found.runtime, gpus)
    });
    found.collect()
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let cpu = Processor {
        name: machine::processor(),
        threads: machine::threads(),
        instruction_sets: Cpu::instruction_sets(),
        memory_bytes: machine::memory(),
        bandwidth: args.measure.then(bandwidth::measure).transpose()?,
    };
    let report = Report { cpu, gpus: gpus() };
    if args.json { output::print_json(&report) } else { output::print(report.to_text()) }
}

impl Report {
    fn to_text(&self) -> String {
        let Processor { name, threads, instruction_sets, memory_bytes, bandwidth } = &self.cpu;
        let mut lines = vec![
            format!("cpu: {name}"),
            format!("  threads: {threads}"),
            format!("  instruction sets: {}", instruction_sets.join(", ")),
        ];
        lines.extend(memory_bytes.map(|bytes| format!("  memory: {:.1} GB", bytes as f64 / 1e9)));
        lines.extend(bandwidth.map(|rate| format!("  bandwidth: {:.1} GB/s", rate / 1e9)));
        for (runtime, Gpus { devices, error }) in &self.gpus {
            lines.extend(error.iter().map(|error| format!("{runtime}: {error}")));
            for (ordinal, gpu) in devices.iter().enumerate() {
                lines.push(format!("{runtime}:{ordinal}: {} ({})", gpu.name, gpu.architecture));
                lines.push(format!("  driver: {}", gpu.driver));
                lines.push(format!("  compute units: {}, {} threads a warp", gpu.compute_units, gpu.warp));
                let free = gpu.free_bytes.map(|bytes| format!(", {:.1} GB free", bytes as f64 / 1e9));
                let memory = gpu.memory_bytes as f64 / 1e9;
                lines.push(format!("  memory: {memory:.1} GB{}", free.unwrap_or_default()));
                lines.extend(gpu.error.iter().map(|error| format!("  cannot be opened: {error}")));
            }
        }
        lines.join("\n") + "\n"
    }
}
