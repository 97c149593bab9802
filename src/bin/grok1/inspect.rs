//! `grok1 inspect`: what a model consists of. Only headers are read.

use std::fmt::Write;
use std::path::Path;

use grok1::{Checkpoint, ModelConfig, Result};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::model::Location;
use crate::output;

/// Format, hyperparameters and tensors of a model
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    location: Location,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// A model as it is shown.
#[derive(Serialize)]
struct Report<'a> {
    format: &'static str,
    location: &'a str,
    parameters: u64,
    bytes: u64,
    bytes_per_token: u64,
    /// Pieces of the tokenizer, if there is one.
    tokenizer_pieces: Option<usize>,
    #[serde(serialize_with = "as_map")]
    config: Vec<(&'static str, Value)>,
    tensors: Vec<Tensor<'a>>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    dtype: &'static str,
    shape: &'a [u64],
    /// Of elements and scales.
    bytes: u64,
    /// Shape of the scales.
    scales: Option<&'a [u64]>,
    file: &'a str,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let checkpoint = args.location.open()?;
    let report = report(&checkpoint);
    if args.json { output::print_json(&report) } else { output::print(report.to_text()) }
}

fn report(checkpoint: &Checkpoint) -> Report<'_> {
    let tensors: Vec<_> = checkpoint
        .tensors
        .iter()
        .map(|tensor| Tensor {
            name: &tensor.name,
            dtype: tensor.dtype.name(),
            shape: &tensor.shape,
            bytes: tensor.bytes,
            scales: tensor.scales.as_deref(),
            file: &tensor.file,
        })
        .collect();
    Report {
        format: checkpoint.format.name(),
        location: &checkpoint.location,
        parameters: tensors.iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum(),
        bytes: checkpoint.bytes(),
        bytes_per_token: checkpoint.bytes_per_token(),
        tokenizer_pieces: checkpoint.vocabulary.as_ref().map(|vocabulary| vocabulary.entries.len()),
        config: hyperparameters(&checkpoint.config),
        tensors,
    }
}

/// Every hyperparameter, in the order of [`ModelConfig`].
fn hyperparameters(config: &ModelConfig) -> Vec<(&'static str, Value)> {
    vec![
        ("layers", json!(config.layers)),
        ("width", json!(config.width)),
        ("heads", json!(config.heads)),
        ("kv_heads", json!(config.kv_heads)),
        ("head_dim", json!(config.head_dim)),
        ("experts", json!(config.experts)),
        ("selected_experts", json!(config.selected_experts)),
        ("ffn_width", json!(config.ffn_width)),
        ("vocab", json!(config.vocab)),
        ("context", json!(config.context)),
        ("embedding_scale", number(Some(config.embedding_scale))),
        ("output_scale", number(Some(config.output_scale))),
        ("attention_scale", number(Some(config.attention_scale))),
        ("attention_cap", number(config.attention_cap)),
        ("router_cap", number(config.router_cap)),
        ("output_cap", number(config.output_cap)),
        ("renormalise_gates", json!(config.renormalise_gates)),
        ("norm_epsilon", number(Some(config.norm_epsilon))),
        ("rope_base", number(Some(config.rope_base))),
        ("pad", json!(config.pad)),
        ("bos", json!(config.bos)),
        ("eos", json!(config.eos)),
    ]
}

/// The shortest number that is this f32; as an f64 it would show digits that nobody gave.
fn number(value: Option<f32>) -> Value {
    value.map_or(Value::Null, |value| json!(value.to_string().parse::<f64>().unwrap_or(value.into())))
}

/// A JSON object in the order of `pairs`.
fn as_map<S: Serializer>(pairs: &[(&'static str, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

impl Report<'_> {
    fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}: {value}");
        };
        line("format", &self.format);
        line("location", &self.location);
        line("parameters", &self.parameters);
        line("bytes", &self.bytes);
        line("bytes per token", &self.bytes_per_token);
        match self.tokenizer_pieces {
            Some(pieces) => line("tokenizer", &format!("{pieces} pieces")),
            None => line("tokenizer", &"none"),
        }
        for (name, value) in &self.config {
            if !value.is_null() {
                line(name, value);
            }
        }
        let width = self.tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
        for tensor in &self.tensors {
            let Tensor { name, dtype, shape, bytes, scales, file } = tensor;
            let file = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
            let _ = write!(text, "{file} {name:width$} {bytes:>12} {dtype} {shape:?}");
            let _ = match scales {
                Some(scales) => writeln!(text, " scales {scales:?}"),
                None => writeln!(text),
            };
        }
        text
    }
}
