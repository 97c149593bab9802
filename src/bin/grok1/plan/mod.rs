//! `grok1 plan`: what a model needs, where it would lie and how fast that can be. Only headers are read.

mod report;
mod text;

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;

use grok1::backend::gpu;
use grok1::plan::{Device, DeviceError, KNOWN_DEVICES, rate};
use grok1::{PlanOptions, Result};

use crate::error::CommandError;
use crate::model::{KvTypeName, Location};
use crate::{bandwidth, machine, output};

/// The memory that a model needs, what would lie where, and the tokens per second that bandwidth allows
///
/// Layers are given to the devices in their order, each as many as it holds, with their keys and values. Without --device, these are
/// the GPUs that are found (with the features cuda and hip), and the memory of this machine as far as it may be used.
#[derive(clap::Args)]
#[command(after_help = known_devices())]
pub(crate) struct Args {
    #[command(flatten)]
    location: Location,
    /// A device, as h100, 8xh200 or NAME:MEMORY:BANDWIDTH; may be given several times
    ///
    /// Sizes have a unit, as in mybox:192GB:800GB/s. GB and TB are powers of 1000, GiB and TiB of 1024. Known devices need a name only;
    /// figures that are given take the place of theirs.
    #[arg(long, value_name = "DEVICE", value_parser = devices)]
    device: Vec<Devices>,
    /// Host memory for what the devices do not hold: MEMORY:BANDWIDTH, or "this" for that of this machine
    #[arg(long, value_name = "HOST", value_parser = host)]
    host: Option<Host>,
    /// Machines that all have these devices and this host
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    nodes: u16,
    /// Bandwidth between nodes
    #[arg(long, value_name = "RATE", default_value = "12.5GB/s", value_parser = rate)]
    link: u64,
    /// Positions of each session; by default as many as the model was trained for
    #[arg(long, value_name = "N")]
    context: Option<NonZeroUsize>,
    /// Sessions held at once
    #[arg(long, value_name = "N", default_value = "1")]
    sessions: NonZeroUsize,
    /// How keys and values are kept
    #[arg(long, value_enum, default_value_t)]
    kv_type: KvTypeName,
    /// Measure how fast this machine's memory is read, which takes half a second
    #[arg(long)]
    measure: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What one `--device` says; not a `Vec`, which clap takes for several arguments.
type Devices = Arc<[Device]>;

fn devices(text: &str) -> Result<Devices, DeviceError> {
    Device::parse(text).map(Into::into)
}

#[derive(Clone)]
enum Host {
    This,
    Described(Device),
}

fn host(text: &str) -> Result<Host, DeviceError> {
    if text == "this" {
        return Ok(Host::This);
    }
    let mut described = Device::parse(&format!("host:{text}"))?;
    described.truncate(1);
    let unknown = || DeviceError::Unknown { name: "host".to_owned() };
    described.pop().map(Host::Described).ok_or_else(unknown)
}

/// A table for `--help`.
fn known_devices() -> String {
    let mut text = "Known devices:\n".to_owned();
    for device in KNOWN_DEVICES {
        let bandwidth = device
            .bandwidth
            .map_or_else(|| "unknown".to_owned(), |rate| format!("{} GB/s", rate / 1_000_000_000));
        let (names, memory) = (device.names.join(", "), device.memory / 1_000_000_000);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {names:18} {memory:>4} GB {bandwidth:>10}  {}", device.source);
    }
    text
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let options = args.options()?;
    let checkpoint = args.location.open()?;
    let plan = checkpoint.plan(&options);
    if args.json {
        output::print_json(&report::Report::new(&checkpoint, &plan))
    } else {
        output::print(text::text(&checkpoint, &plan))
    }
}

/// The GPUs of this machine, with what is free of their memory. Drivers do not tell a bandwidth.
fn found() -> Vec<Device> {
    let found = gpu::devices().into_iter().filter_map(|runtime| runtime.devices.ok()).flatten();
    let device = |device: gpu::FoundDevice| {
        let memory = device.memory.ok()?.free;
        Some(Device::new(device.properties.name, memory as u64))
    };
    found.filter_map(device).collect()
}

impl Args {
    fn options(&self) -> Result<PlanOptions> {
        let options = PlanOptions::new()
            .devices(self.device.iter().flat_map(|devices| devices.iter().cloned()))
            .devices(if self.device.is_empty() { found() } else { Vec::new() })
            .nodes(self.nodes.into())
            .link(self.link)
            .sessions(self.sessions.get())
            .kv_type(self.kv_type.into());
        let options = match self.context {
            Some(positions) => options.context(positions.get()),
            None => options,
        };
        let host = match &self.host {
            None if !self.device.is_empty() => None,
            None | Some(Host::This) => {
                let device = machine::memory().map(|memory| Device::new(machine::processor(), memory));
                match (device, self.measure) {
                    (Some(device), true) => Some(device.bandwidth(bandwidth::measure()? as u64)),
                    (device, _) => device,
                }
            }
            Some(Host::Described(device)) => Some(device.clone()),
        };
        if self.measure && (matches!(self.host, Some(Host::Described(_))) || host.is_none()) {
            return Err(
                CommandError::Usage("--measure, but the memory of this machine is not in the plan").into()
            );
        }
        Ok(match host {
            Some(host) => options.host(host),
            None => options,
        })
    }
}
