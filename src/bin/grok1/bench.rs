//! `grok1 bench`: how fast a model runs here, beside the limit of the memory.

use std::time::Instant;

use grok1::{Model, ModelConfig, ModelOptions, Result, SessionOptions};
use serde::Serialize;

use crate::model::{KvTypeName, Loading, Location, PrecisionName};
use crate::speed::{Speed, rate};
use crate::{interrupt, output, progress};

/// Measure prefill and decode
///
/// Each run feeds a prompt to a new session and then tokens one by one. The medians count; one run before them warms up.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    location: Location,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// Tokens run one by one after it
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Runs that are measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Tokens of the prompt that go through the layers together; 512 unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_rows: Option<u32>,
    /// Give a GPU kernel by kernel, instead of whole passes as graphs
    #[arg(long)]
    no_graphs: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    loading: Loading,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    device: String,
    precision: PrecisionName,
    kv_type: KvTypeName,
    prompt_tokens: u32,
    tokens: u32,
    runs: u32,
    /// Bytes of weights per second in which the model was loaded.
    load: f64,
    /// Tokens per second.
    prefill: f64,
    decode: f64,
    /// Floating-point operations per second that these tokens of the prompt took, in products with weights.
    prefill_flops: f64,
    bytes_per_token: u64,
    /// Bytes per second, of the device's memory.
    bandwidth: Option<f64>,
    bandwidth_share: Option<f64>,
}

impl Args {
    /// What only measurements choose.
    fn adjust(&self, mut options: ModelOptions) -> ModelOptions {
        if let Some(rows) = self.batch_rows {
            options = options.batch_rows(rows as usize);
        }
        if self.no_graphs {
            options = options.graphs(false);
        }
        options
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let checkpoint = args.location.open()?;
    let start = Instant::now();
    let model = args.loading.load_with(checkpoint, |options| args.adjust(options))?;
    let load = model.checkpoint().bytes() as f64 / start.elapsed().as_secs_f64();
    let (prompt, tokens) = (args.prompt_tokens as usize, args.tokens as usize);
    measure(&model, prompt, tokens)?;
    let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        let (prefill, decode) = measure(&model, prompt, tokens)?;
        prefills.push(prefill);
        decodes.push(decode);
    }
    let speed = Speed::measured(&model, median(prefills), median(decodes))?;
    let prefill_flops = speed.prefill * flops_per_token(model.config());
    if !args.json {
        let teraflops = prefill_flops / 1e12;
        return output::print(format!(
            "device: {}\n{speed}products: {teraflops:.3} TFLOP/s in prefill\n",
            model.device()
        ));
    }
    output::print_json(&Report {
        device: model.device().to_owned(),
        precision: args.loading.precision,
        kv_type: args.loading.kv_type,
        prompt_tokens: args.prompt_tokens,
        tokens: args.tokens,
        runs: args.runs,
        load,
        prefill: speed.prefill,
        decode: speed.decode,
        prefill_flops,
        bytes_per_token: speed.bytes_per_token,
        bandwidth: speed.bandwidth,
        bandwidth_share: speed.share(),
    })
}

/// Tokens per second of prefill and of decode.
fn measure(model: &Model, prompt: usize, tokens: usize) -> Result<(f64, f64)> {
    // Speed does not care what the model was trained for.
    let options = SessionOptions::new().context(prompt + tokens).beyond_trained_length(true);
    let mut session = model.session_with(&options)?;
    let ids = ids(model.config().vocab, prompt + tokens);
    let (prompt, tokens) = ids.split_at(prompt);

    let start = Instant::now();
    session.feed(prompt, &progress::control())?;
    let prefill = rate(prompt.len(), start.elapsed());

    let control = interrupt::control();
    let start = Instant::now();
    for &token in tokens {
        session.feed(&[token], &control)?;
    }
    Ok((prefill, rate(tokens.len(), start.elapsed())))
}

/// Products and sums of a token with the matrices of all layers. Attention itself comes to little for prompts of usual length, and the
/// head is computed for the last token only.
fn flops_per_token(config: &ModelConfig) -> f64 {
    let attention = config.width * (2 * config.query_width() + 2 * config.kv_width());
    let experts = 3 * config.selected_experts * config.width * config.ffn_width;
    2.0 * (config.layers * (attention + experts)) as f64
}

/// Tokens from all over the vocabulary, so that all experts get work.
fn ids(vocab: usize, count: usize) -> Vec<u32> {
    const STRIDE: usize = 7919; // a prime
    (0..count).map(|index| (index * STRIDE % vocab) as u32).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}
