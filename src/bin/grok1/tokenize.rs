//! `grok1 tokenize`: text to token ids. No weights are read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use grok1::{Result, Tokenizer, checkpoint};
use serde::Serialize;

use crate::error::CommandError;
use crate::{input, output};

/// Token ids of a text
#[derive(clap::Args)]
#[command(override_usage = "grok1 tokenize [OPTIONS] <MODEL|--tokenizer FILE> <TEXT|--stdin>")]
pub(crate) struct Args {
    /// Folder of the model; left out with --tokenizer
    model: Option<OsString>,
    /// The text
    text: Option<OsString>,
    /// Use this tokenizer.model; no model is needed then
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Take the text from stdin as it is: a newline at its end counts, every byte that is not UTF-8 becomes U+FFFD
    #[arg(long)]
    stdin: bool,
    /// Print a JSON object {"ids": [...]}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Ids {
    ids: Vec<u32>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (tokenizer, text) = match (&args.tokenizer, &args.model, &args.text) {
        // Without a model the first word is the text.
        (Some(file), text, None) => (Tokenizer::new(checkpoint::tokenizer(file)?)?, text),
        (None, Some(model), text) => (from_model(Path::new(model))?, text),
        (Some(_), _, Some(_)) => return usage("both a MODEL and --tokenizer"),
        (None, None, _) => return usage("no MODEL and no --tokenizer"),
    };
    let text = match (text, args.stdin) {
        (Some(text), false) => text.as_encoded_bytes().to_vec(),
        (None, true) => input::stdin()?,
        (Some(_), true) => return usage("both a TEXT and --stdin"),
        (None, false) => return usage("no TEXT and no --stdin"),
    };
    let ids = tokenizer.encode_lossy(&text);
    if args.json {
        output::print_json(&Ids { ids })
    } else {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        output::print(ids.join(" ") + "\n")
    }
}

fn usage(message: &'static str) -> Result<()> {
    Err(CommandError::Usage(message).into())
}

fn from_model(path: &Path) -> Result<Tokenizer> {
    let checkpoint = checkpoint::open(path, None)?;
    let vocabulary = checkpoint.vocabulary.ok_or(CommandError::NoTokenizer { model: checkpoint.location })?;
    Ok(Tokenizer::new(vocabulary)?)
}
