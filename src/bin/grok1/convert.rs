//! `grok1 convert`: a model in another form.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use grok1::convert::{Conversion, Int8Fidelity, Recipe, Report, Verified};
use grok1::{Checkpoint, Result};

use crate::error::CommandError;
use crate::model::Location;
use crate::{output, progress};

/// Write a model in another form: GGUF of any type, or bf16 safetensors
///
/// A name that ends with .gguf is written as GGUF, any other as a folder of safetensors. What is not whole yet stands in
/// OUTPUT.partial; after an interruption, the same command goes on there. Norms and routers are always f32.
#[derive(clap::Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Args {
    #[command(flatten)]
    location: Location,
    /// What to write: NAME.gguf, or a folder for safetensors. It must not exist
    output: PathBuf,
    /// Type of the matrices, or a mix of types: q2_k, q3_k_m, q4_k_m, q5_k_m. Letters of either case. Safetensors are bf16
    #[arg(long = "type", value_name = "TYPE", ignore_case = true,
        value_parser = PossibleValuesParser::new(Recipe::names()))]
    recipe: Option<String>,
    /// Another type for matrices with PATTERN in their GGUF name, * standing for anything; the last that matches counts
    #[arg(long, value_name = "PATTERN=TYPE")]
    tensor_type: Vec<String>,
    /// Cut into files of at most SIZE bytes of tensors: 500M, 40G (powers of ten). Safetensors: 10G unless given
    #[arg(long, value_name = "SIZE", value_parser = size)]
    split_max_size: Option<u64>,
    /// Afterwards, make everything again and compare it with what was written. An OUTPUT that is there already is only compared
    #[arg(long)]
    verify: bool,
    /// Threads that compute; 0 is one per available core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let checkpoint = args.location.open()?;
    let conversion = conversion(args, &checkpoint)?.threads(args.threads);
    if !(args.verify && conversion.is_there(&args.output)?) {
        output::print(to_text(&conversion.run(&args.output, &progress::control())?))?;
    }
    if args.verify {
        output::print(verified_to_text(&conversion.verify(&args.output, &progress::control())?))?;
    }
    Ok(())
}

fn conversion<'a>(args: &Args, checkpoint: &'a Checkpoint) -> Result<Conversion<'a>> {
    let conversion =
        if args.output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            let Some(name) = &args.recipe else {
                return Err(CommandError::Usage("GGUF needs a --type").into());
            };
            let recipe = Recipe::named(name)?;
            let recipe =
                args.tensor_type.iter().try_fold(recipe, |recipe, exception| recipe.except(exception))?;
            Conversion::to_gguf(checkpoint, recipe)
        } else {
            let is_bf16 = args.recipe.as_ref().is_none_or(|name| name.eq_ignore_ascii_case("bf16"));
            if !is_bf16 || !args.tensor_type.is_empty() {
                let message = "safetensors are bf16: for another type, call the output NAME.gguf";
                return Err(CommandError::Usage(message).into());
            }
            Conversion::to_safetensors(checkpoint)
        };
    Ok(match args.split_max_size {
        Some(bytes) => conversion.split_at(bytes),
        None => conversion,
    })
}

/// A number of bytes with a suffix of powers of ten.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &*text[digits.len()..].to_ascii_uppercase() {
        "" => 1,
        "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        other => return Err(format!("{other:?} is no unit, expected K, M or G")),
    };
    let number = digits.parse::<u64>().map_err(|error| error.to_string())?;
    number.checked_mul(unit).filter(|&bytes| bytes > 0).ok_or_else(|| "out of range".to_owned())
}

fn to_text(report: &Report) -> String {
    let Report { files, tensors, resumed, bytes, int8, .. } = report;
    let first = files.first().map_or(Path::new(""), PathBuf::as_path).display();
    let mut text = format!("{first}: {} files, {tensors} tensors, {bytes} bytes\n", files.len());
    // Writing to a string cannot fail.
    if *resumed > 0 {
        let _ = writeln!(text, "{resumed} of the tensors were there from an earlier run");
    }
    let Int8Fidelity { blocks, inexact, worst, .. } = int8;
    if *blocks > 0 {
        let _ = writeln!(
            text,
            "int8 kept in {} of {blocks} blocks, worst off by {worst} steps",
            blocks - inexact
        );
    }
    text
}

fn verified_to_text(verified: &Verified) -> String {
    let mut text = format!("{} bytes compared, all as they should be\n", verified.bytes);
    for (dtype, error) in &verified.errors {
        let _ = writeln!(text, "{dtype}: relative error {error:.3e}");
    }
    text
}
