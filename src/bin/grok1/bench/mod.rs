//! `grok1 bench`: how fast a model runs here, beside the limits of memory and processor.

mod course;
mod report;
mod timed;

use std::sync::Arc;
use std::time::Instant;

use grok1::backend::cpu::Cpu;
use grok1::{Device, Model, ModelOptions, Result, Threads};

use self::course::{Case, Course};
use self::report::{Limit, Loaded, Report, Runs, Spread};
use self::timed::{Clock, Timed};
use crate::bandwidth::{self, Memory};
use crate::error::CommandError;
use crate::model::{Location, Placing, PrecisionName};
use crate::{machine, output, progress};

/// Measure prefill and decode
///
/// Each case is run once to warm up and then several times; between the runs, the memory's bandwidth and the processor's peak are
/// measured too. The medians count.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    location: Location,
    /// Tokens of a prompt in a new session; several numbers are several cases, 0 is none
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "512")]
    prompt_tokens: Vec<usize>,
    /// Tokens decoded in each session, one of each at a time; 0 is none
    #[arg(long, value_name = "N", default_value_t = 128)]
    tokens: usize,
    /// Sessions that decode together, each a text of its own; several numbers are several cases
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = at_least_one)]
    batch: Vec<usize>,
    /// Sessions that decode together have one text, and so choose the same experts
    #[arg(long)]
    same_text: bool,
    /// Tokens in a session before decoding is measured; several numbers are several cases
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    context: Vec<usize>,
    /// Runs that are measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Rounding of activations, as for generate; several are measured one after the other
    #[arg(long, value_enum, value_name = "PRECISION,…", value_delimiter = ',', default_values_t = [PrecisionName::default()])]
    precision: Vec<PrecisionName>,
    /// Instruction sets of the processor to use instead of the best; several are measured one after the other
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    isa: Vec<String>,
    /// Give a GPU kernel by kernel, instead of whole passes as graphs
    #[arg(long)]
    no_graphs: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    placing: Placing,
}

fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number from 1 on".to_owned()),
        Ok(number) => Ok(number),
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    args.check_instruction_sets()?;
    let mut report = Report {
        kv_type: args.placing.kv_type,
        runs: args.runs,
        bytes: 0,
        bytes_per_token: 0,
        peak_memory: None,
        bandwidth: None,
        models: Vec::new(),
    };
    let pool = args.placing.pool()?;
    let mut limit = MemoryLimit::new(pool.clone());
    for &precision in &args.precision {
        let sets: Vec<_> = args.isa.iter().map(|name| Some(name.as_str())).collect();
        for set in if sets.is_empty() { vec![None] } else { sets } {
            let subject = Subject::load(args, &pool, precision, set)?;
            let checkpoint = subject.model.checkpoint();
            (report.bytes, report.bytes_per_token) = (checkpoint.bytes(), checkpoint.bytes_per_token());
            report.models.push(subject.measure(args, &mut limit)?);
        }
    }
    report.peak_memory = limit.peak_memory();
    report.bandwidth = Spread::of(limit.found);
    if args.json { output::print_json(&report) } else { output::print(report.to_string()) }
}

impl Args {
    fn cases(&self) -> Vec<Case> {
        let prompts = self.prompt_tokens.iter().filter(|&&tokens| tokens > 0);
        let prompts = prompts.map(|&tokens| Case::Prefill { tokens });
        let contexts = self.context.iter().filter(|_| self.tokens > 0);
        let decode = contexts.flat_map(|&context| {
            self.batch.iter().map(move |&sessions| Case::Decode { tokens: self.tokens, sessions, context })
        });
        prompts.chain(decode).collect()
    }

    /// Before anything is loaded.
    fn check_instruction_sets(&self) -> Result<()> {
        let available = Cpu::instruction_sets();
        match self.isa.iter().find(|name| !available.contains(&name.as_str())) {
            None if self.isa.is_empty() || self.placing.on_processor() => Ok(()),
            None => Err(CommandError::Usage("--isa is for --device cpu").into()),
            Some(found) => {
                let available = available.join(", ");
                Err(CommandError::InstructionSet { found: found.clone(), available }.into())
            }
        }
    }

    fn options(&self, precision: PrecisionName) -> ModelOptions {
        let options = self.placing.options(precision);
        if self.no_graphs { options.graphs(false) } else { options }
    }
}

/// A loaded model and what is known of it.
struct Subject {
    model: Model,
    precision: PrecisionName,
    load_seconds: f64,
    /// On the processor: the clock of its stages, and what its peaks are measured with.
    processor: Option<(Arc<Clock>, Cpu)>,
}

impl Subject {
    fn load(
        args: &Args,
        pool: &Arc<Threads>,
        precision: PrecisionName,
        instruction_set: Option<&str>,
    ) -> Result<Self> {
        let options = args.options(precision);
        let start = Instant::now();
        let checkpoint = args.location.open()?;
        let (model, processor) = if args.placing.on_processor() {
            let cpu = || {
                let (precision, weights) = (precision.into(), args.placing.weights.into());
                let cpu = Cpu::new(checkpoint.config.clone(), precision, weights, pool.clone());
                let cpu = args.placing.node().into_iter().fold(cpu, Cpu::on_node);
                match instruction_set {
                    Some(name) => cpu.with_instruction_set(name),
                    None => cpu,
                }
            };
            let (clock, backend, twin) = (Arc::new(Clock::default()), cpu(), cpu());
            let timed = Timed { backend, clock: clock.clone() };
            (Model::load_on(timed, checkpoint, options, &progress::control())?, Some((clock, twin)))
        } else {
            (Model::load(checkpoint, options, &progress::control())?, None)
        };
        Ok(Self { model, precision, load_seconds: start.elapsed().as_secs_f64(), processor })
    }

    /// Measures all cases, run by run, so that what disturbs the machine for a while disturbs all of them.
    fn measure(self, args: &Args, limit: &mut MemoryLimit) -> Result<Loaded> {
        let Self { model, precision, load_seconds, processor } = self;
        let clock = processor.as_ref().map(|(clock, _)| clock.clone());
        let mut course = Course::new(model.clone(), clock, args.same_text);
        let mut cases = Vec::new();
        for case in args.cases() {
            let bytes_per_step = course.warm_up(case)?;
            cases.push(Runs { case, bytes_per_step, runs: Vec::new() });
        }
        let mut peaks: Vec<(&'static str, Vec<f64>)> = Vec::new();
        for _ in 0..args.runs {
            for peak in processor.iter().flat_map(|(_, cpu)| cpu.peaks()) {
                match peaks.iter_mut().find(|(name, _)| *name == peak.name) {
                    Some((_, found)) => found.push(peak.operations),
                    None => peaks.push((peak.name, vec![peak.operations])),
                }
            }
            for case in &mut cases {
                let bandwidth = limit.measure(&model)?;
                case.runs.push((course.run(case.case)?, bandwidth));
            }
        }
        let config = model.config();
        let fastest = peaks.iter().flat_map(|(_, found)| found).copied().reduce(f64::max);
        let limit = |(name, found)| Spread::of(found).map(|operations| Limit { name, operations });
        Ok(Loaded {
            device: model.device().to_owned(),
            precision,
            load_seconds,
            load: model.checkpoint().bytes() as f64 / load_seconds,
            peaks: peaks.into_iter().filter_map(limit).collect(),
            cases: cases
                .iter()
                .filter_map(|case| case.measured(case.case.operations(config), fastest))
                .collect(),
        })
    }
}

/// What memory gives, measured again and again.
struct MemoryLimit {
    /// The model's, which get what they can; more might get more.
    pool: Arc<Threads>,
    /// The processor's, kept: making it takes longer than reading it.
    memory: Option<Memory>,
    found: Vec<f64>,
    /// Bytes this process had at most before `memory` was made.
    before: Option<u64>,
}

impl MemoryLimit {
    fn new(pool: Arc<Threads>) -> Self {
        Self { pool, memory: None, found: Vec::new(), before: None }
    }

    fn measure(&mut self, model: &Model) -> Result<Option<f64>> {
        // "cpu (…)", "cuda:0 (…)"
        let device = model.device().split(' ').next().and_then(|name| name.parse().ok());
        let bandwidth = match (device, &mut self.memory) {
            (None, _) => None,
            (Some(Device::Cpu | Device::Node(_)), Some(memory)) => Some(memory.bandwidth()),
            (Some(Device::Cpu | Device::Node(_)), memory) => {
                self.before = machine::peak_memory();
                Some(memory.insert(Memory::new(self.pool.clone())?).bandwidth())
            }
            (Some(device), _) => bandwidth::of(device)?,
        };
        self.found.extend(bandwidth);
        Ok(bandwidth)
    }

    /// Bytes this process had at most, without what is measured here.
    fn peak_memory(&self) -> Option<u64> {
        let own = self.memory.as_ref().map_or(0, |memory| memory.bytes() as u64);
        Some(machine::peak_memory()?.saturating_sub(own).max(self.before.unwrap_or(0)))
    }
}
