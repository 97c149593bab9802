//! `grok1 score`: how probable given tokens are, and all their logits.

use std::ops::ControlFlow;
use std::path::PathBuf;

use grok1::{Entry, Result, Want, log_probability};
use serde::Serialize;

use crate::error::CommandError;
use crate::model::{Context, Loading, Location};
use crate::npy::NpyWriter;
use crate::{input, output, progress};

/// Log-probability of each token and perplexity
///
/// Prints a JSON object: logprobs, the natural logarithm of each token's probability after all tokens before it (null for the
/// first), nll, the mean of their negatives, and perplexity.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    location: Location,
    /// The tokens: a JSON array of ids
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// Write all logits to a .npy file, f32 [tokens, vocabulary]
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    loading: Loading,
}

/// What is printed.
#[derive(Serialize)]
struct Scores {
    tokens: usize,
    logprobs: Vec<Option<f32>>, // [tokens]
    nll: Option<f64>,
    perplexity: Option<f64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let tokens: Vec<u32> = serde_json::from_slice(&input::file(&args.tokens)?)
        .map_err(|source| CommandError::Ids { name: args.tokens.display().to_string(), source })?;
    let model = args.loading.load(args.location.open()?)?;
    let mut session = model.session_with(&args.context.options())?;

    let shape = [tokens.len(), model.config().vocab];
    let mut file = args.logits.as_deref().map(|path| NpyWriter::create(path, shape)).transpose()?;
    let mut logprobs = Vec::with_capacity(tokens.len());
    logprobs.push(None);
    let mut written = Ok(());
    let mut each = |index: usize, logits: &[f32]| {
        if let Some(&next) = tokens.get(index + 1) {
            logprobs.push(Some(log_probability(logits, next)));
        }
        written = file.as_mut().map_or(Ok(()), |file| file.row(logits));
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let entry = Entry::new(&mut session, &tokens).want(Want::All(&mut each));
    let run = model.run(&mut [entry], &progress::control());
    // A failure to write is why the run was broken off.
    written.and(run)?;
    let scores = scores(logprobs)?;
    file.map_or(Ok(()), NpyWriter::finish)?;
    output::print_json(&scores)
}

fn scores(logprobs: Vec<Option<f32>>) -> Result<Scores> {
    let scored = || logprobs.iter().enumerate().filter_map(|(index, logprob)| Some((index, (*logprob)?)));
    if let Some((index, found)) = scored().find(|(_, logprob)| !logprob.is_finite()) {
        return Err(CommandError::NotFinite { index, found }.into());
    }
    let sum: f64 = scored().map(|(_, logprob)| f64::from(logprob)).sum();
    let nll = (logprobs.len() > 1).then(|| -sum / (logprobs.len() - 1) as f64);
    Ok(Scores { tokens: logprobs.len(), logprobs, nll, perplexity: nll.map(f64::exp) })
}
