//! What was measured, as JSON and as tables.

use std::fmt;

use serde::Serialize;

use super::course::{Case, Run};
use super::timed::STAGES;
use crate::model::{KvTypeName, PrecisionName};

/// What `--json` prints.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) kv_type: KvTypeName,
    /// Times each case was run.
    pub(super) runs: u32,
    /// Bytes of all weights, and of those that one token reads.
    pub(super) bytes: u64,
    pub(super) bytes_per_token: u64,
    /// Bytes of memory that the process had at most, mapped files included; without the memory that was measured.
    pub(super) peak_memory: Option<u64>,
    /// Bytes per second of the device's memory: read by a processor, read and written in copies by a GPU.
    pub(super) bandwidth: Option<Spread>,
    pub(super) models: Vec<Loaded>,
}

/// A model, as it was loaded once.
#[derive(Serialize)]
pub(super) struct Loaded {
    pub(super) device: String,
    pub(super) precision: PrecisionName,
    /// Seconds until it could run.
    pub(super) load_seconds: f64,
    /// Bytes of weights per second in which it was loaded.
    pub(super) load: f64,
    /// Operations per second that the processor does at best.
    pub(super) peaks: Vec<Limit>,
    pub(super) cases: Vec<Measured>,
}

/// A limit of the processor's.
#[derive(Serialize)]
pub(super) struct Limit {
    pub(super) name: &'static str,
    #[serde(flatten)]
    pub(super) operations: Spread,
}

/// A case, and what its runs say.
#[derive(Serialize)]
pub(super) struct Measured {
    phase: &'static str,
    /// Tokens of each session, after so many others.
    tokens: usize,
    sessions: usize,
    context: usize,
    /// Tokens per second, of all sessions together.
    #[serde(flatten)]
    rate: Spread,
    /// Each run, in order.
    all: Vec<Each>,
    /// Bytes that a step of decoding reads: weights, keys and values. Those per second, and their share of the memory's.
    bytes_per_step: Option<u64>,
    read: Option<f64>,
    bandwidth_share: Option<f64>,
    /// Products and sums with weights per second, and their share of the largest peak.
    flops: f64,
    peak_share: Option<f64>,
    /// Seconds per run that each stage took.
    stages: Option<Stages>,
}

/// A run, and what the memory gave immediately before.
#[derive(Serialize)]
struct Each {
    rate: f64,
    bandwidth: Option<f64>,
}

#[derive(Serialize)]
struct Stages {
    embed: f64,
    attention: f64,
    route: f64,
    experts: f64,
    residual: f64,
    head: f64,
}

/// Several measurements of one thing.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// `None` of none.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&min, &max, middle) = (values.first()?, values.last()?, values.len() / 2);
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, min, max })
    }
}

/// Runs of a case, as they come.
pub(super) struct Runs {
    pub(super) case: Case,
    pub(super) bytes_per_step: Option<u64>,
    pub(super) runs: Vec<(Run, Option<f64>)>,
}

impl Runs {
    /// What they say of the case, `operations` being what it takes and `peak` what the processor does.
    pub(super) fn measured(&self, operations: f64, peak: Option<f64>) -> Option<Measured> {
        let tokens = self.case.tokens() as f64;
        let rates = self.runs.iter().map(|(run, _)| tokens / run.seconds).collect();
        let rate = Spread::of(rates)?;
        let bandwidth = Spread::of(self.runs.iter().filter_map(|(_, bandwidth)| *bandwidth).collect());
        let (phase, tokens, sessions, context) = match self.case {
            Case::Prefill { tokens } => ("prefill", tokens, 1, 0),
            Case::Decode { tokens, sessions, context } => ("decode", tokens, sessions, context),
        };
        let read = self.bytes_per_step.map(|bytes| bytes as f64 * rate.median / sessions as f64);
        let flops = operations * rate.median / self.case.tokens() as f64;
        Some(Measured {
            phase,
            tokens,
            sessions,
            context,
            rate,
            all: self.runs.iter().map(|(run, bandwidth)| self.each(run, *bandwidth)).collect(),
            bytes_per_step: self.bytes_per_step,
            read,
            bandwidth_share: read.zip(bandwidth).map(|(read, bandwidth)| read / bandwidth.median),
            flops,
            peak_share: peak.map(|peak| flops / peak),
            stages: self.stages(),
        })
    }

    fn each(&self, run: &Run, bandwidth: Option<f64>) -> Each {
        Each { rate: self.case.tokens() as f64 / run.seconds, bandwidth }
    }

    fn stages(&self) -> Option<Stages> {
        let mut sums = [0.0; STAGES.len()];
        for (run, _) in &self.runs {
            sums.iter_mut().zip(run.stages?).for_each(|(sum, seconds)| *sum += seconds);
        }
        let [embed, attention, route, experts, residual, head] = sums.map(|sum| sum / self.runs.len() as f64);
        Some(Stages { embed, attention, route, experts, residual, head })
    }
}

impl Measured {
    /// Its line of the table.
    fn line(&self) -> Vec<String> {
        let number = |value: Option<f64>, factor: f64, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{:.digits$}", value * factor))
        };
        let mut line: Vec<String> = vec![self.phase.to_owned()];
        line.extend([self.sessions, self.context, self.tokens].map(|count| count.to_string()));
        line.extend([self.rate.median, self.rate.min, self.rate.max].map(|rate| format!("{rate:.2}")));
        line.push(number(self.read, 1e-9, 1));
        line.push(number(self.bandwidth_share, 100.0, 1));
        line.push(number(Some(self.flops), 1e-12, 3));
        line.push(number(self.peak_share, 100.0, 1));
        if let Some(Stages { embed, attention, route, experts, residual, head }) = self.stages {
            let stages = [embed, attention, route, experts, residual, head];
            let all: f64 = stages.iter().sum();
            line.extend(stages.map(|seconds| format!("{:.1}", 100.0 * seconds / all)));
        }
        line
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weights: {:.3} GB, {} bytes per token", self.bytes as f64 / 1e9, self.bytes_per_token)?;
        match self.peak_memory {
            Some(bytes) => writeln!(f, "; {:.3} GB of memory at most", bytes as f64 / 1e9)?,
            None => writeln!(f)?,
        }
        if let Some(Spread { median, min, max }) = self.bandwidth.map(|spread| spread.scaled(1e-9)) {
            writeln!(f, "memory: {median:.1} GB/s ({min:.1} to {max:.1})")?;
        }
        self.models.iter().try_for_each(|model| write!(f, "\n{model}"))
    }
}

impl Spread {
    fn scaled(self, factor: f64) -> Self {
        Self { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "device: {}", self.device)?;
        write!(f, "{} precision, loaded in {:.3} s", self.precision.name(), self.load_seconds)?;
        for Limit { name, operations } in &self.peaks {
            let Spread { median, min, max } = operations.scaled(1e-12);
            write!(f, "; {name}: {median:.3} TFLOP/s ({min:.3} to {max:.3})")?;
        }
        writeln!(f)?;
        let mut columns = vec!["phase", "sessions", "context", "tokens", "tok/s", "min", "max"];
        columns.extend(["GB/s", "%", "TFLOP/s", "%"]);
        if self.cases.iter().any(|case| case.stages.is_some()) {
            columns.extend(STAGES);
        }
        let mut lines = vec![columns.into_iter().map(str::to_owned).collect::<Vec<_>>()];
        lines.extend(self.cases.iter().map(Measured::line));
        table(f, &lines)
    }
}

/// Columns as wide as what is in them: the first to the left, the others to the right.
fn table(f: &mut fmt::Formatter<'_>, lines: &[Vec<String>]) -> fmt::Result {
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..).map_while(width).collect();
    for line in lines {
        for (column, (text, width)) in line.iter().zip(&widths).enumerate() {
            if column == 0 {
                write!(f, "{text:width$}")?;
            } else {
                write!(f, "  {text:>width$}")?;
            }
        }
        writeln!(f)?;
    }
    Ok(())
}
