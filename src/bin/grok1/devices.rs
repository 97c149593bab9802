//! `grok1 devices`: what this version can compute on here.

use grok1::Result;
use grok1::backend::cpu::Cpu;
use serde::Serialize;

use crate::{bandwidth, machine, output};

/// Kinds of devices that this version has no code for.
const NOT_BUILT: [&str; 2] = ["cuda", "hip"];

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
    not_built: [&'static str; 2],
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

pub(crate) fn run(args: &Args) -> Result<()> {
    let cpu = Processor {
        name: machine::processor(),
        threads: machine::threads(),
        instruction_sets: Cpu::instruction_sets(),
        memory_bytes: machine::memory(),
        bandwidth: args.measure.then(bandwidth::measure).transpose()?,
    };
    let report = Report { cpu, not_built: NOT_BUILT };
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
        lines.extend(self.not_built.map(|kind| format!("{kind}: not built in this version")));
        lines.join("\n") + "\n"
    }
}
