//! `grok1 generate`: text that goes on from a prompt, as it comes.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Instant;

use clap::builder::NonEmptyStringValueParser;
use grok1::{Checkpoint, Entry, Finish, Generation, Piece, Result, Sampler, Session, Want};
use serde::Serialize;

use crate::error::CommandError;
use crate::model::{Context, Loading, Location};
use crate::sampling::Sampling;
use crate::speed::{Speed, rate};
use crate::{input, interrupt, output, progress};

/// Continue a prompt
///
/// Prints the text as it is generated. On a terminal the prompt stands before it and a newline ends it; otherwise stdout carries
/// the generated text and nothing else.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    location: Location,
    /// What the text begins with; without it, or as -, it comes from stdin
    ///
    /// One newline at the end of stdin or of a file is no part of the prompt.
    prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// End after N tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Go on after the end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Print the prompt first, as on a terminal
    #[arg(long, conflicts_with = "json")]
    echo: bool,
    /// Print one JSON object per token: id, text, log-probability, and why it was the last
    #[arg(long)]
    json: bool,
    /// Print speed and seed to stderr afterwards
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    loading: Loading,
    #[command(flatten)]
    sampling: Sampling,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let (sampler, seed) = args.sampling.sampler()?;
    let checkpoint = args.location.open()?;
    require_tokenizer(&checkpoint)?;
    let prompt = args.prompt()?;
    let model = args.loading.load(checkpoint)?;
    let mut session = model.session_with(&args.context.options())?;
    let tokens = model.tokenizer()?.encode_lossy(&prompt);

    let sampler = sampler.logprobs(args.json);
    let start = Instant::now();
    let entry = Entry::new(&mut session, &tokens).want(Want::Sample(&sampler));
    model.run(&mut [entry], &progress::control())?;
    let prefill = rate(tokens.len(), start.elapsed());

    let terminal = io::stdout().is_terminal() && !args.json;
    if args.echo || terminal {
        output::print(&prompt)?;
    }
    let start = Instant::now();
    let generated = stream(&mut session, sampler, args.generation(), args.json);
    let decode = rate(session.position() - tokens.len(), start.elapsed());
    if terminal {
        output::print("\n")?;
    }
    if args.stats {
        let speed = Speed::measured(&model, prefill, decode)?;
        // What was asked for is on stdout.
        let _ = writeln!(io::stderr(), "device: {}\n{speed}seed: {seed}", model.device());
    }
    generated
}

/// Fails before weights are loaded.
fn require_tokenizer(checkpoint: &Checkpoint) -> Result<()> {
    match checkpoint.vocabulary {
        Some(_) => Ok(()),
        None => Err(CommandError::NoTokenizer { model: checkpoint.location.clone() }.into()),
    }
}

/// Generates and prints until something ends it.
fn stream(session: &mut Session, mut sampler: Sampler, mut generation: Generation, json: bool) -> Result<()> {
    let control = interrupt::control();
    while let Some(piece) = generation.next(session, &mut sampler, &control)? {
        if json {
            output::print_json(&Line::from(&piece))?;
        } else if !piece.text().is_empty() {
            output::print(piece.text())?;
        }
    }
    Ok(())
}

impl Args {
    fn prompt(&self) -> Result<Vec<u8>> {
        let mut prompt = match (&self.file, self.prompt.as_deref()) {
            (Some(path), _) => input::file(path)?,
            (None, Some("-")) => input::stdin()?,
            (None, Some(text)) => return nonempty(text.as_bytes().to_vec()),
            (None, None) if io::stdin().is_terminal() => {
                let help = "no prompt: give it as an argument, with --file or on stdin";
                return Err(CommandError::Usage(help).into());
            }
            (None, None) => input::stdin()?,
        };
        prompt.pop_if(|last| *last == b'\n');
        nonempty(prompt)
    }

    fn generation(&self) -> Generation {
        Generation::new()
            .max_tokens(self.max_tokens)
            .stop(self.stop.iter().cloned())
            .ignore_end_of_text(self.ignore_eos)
    }
}

fn nonempty(prompt: Vec<u8>) -> Result<Vec<u8>> {
    if prompt.is_empty() { Err(CommandError::Usage("the prompt is empty").into()) } else { Ok(prompt) }
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    token: u32,
    text: &'a str,
    logprob: Option<f32>,
    finish: Option<&'static str>,
}

impl<'a> From<&'a Piece> for Line<'a> {
    fn from(piece: &'a Piece) -> Self {
        let finish = piece.finish().map(|finish| match finish {
            Finish::EndOfText => "end_of_text",
            Finish::Stop(_) => "stop",
            Finish::MaxTokens => "max_tokens",
            Finish::ContextFull => "context_full",
            _ => "other",
        });
        Self { token: piece.token(), text: piece.text(), logprob: piece.logprob(), finish }
    }
}
