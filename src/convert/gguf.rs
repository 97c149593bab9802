//! A model as GGUF: names, types and files. Uses `recipe`, `roles` and `checkpoint`.

use super::ConvertError;
use super::output::{self, File, Output, Tensor};
use super::recipe::Recipe;
use super::roles::{self, Role, Weight};
use crate::checkpoint::{Checkpoint, gguf};

/// The files of `checkpoint` by `recipe`, called after `name`, each of at most `max` bytes of tensors.
pub(super) fn output(
    checkpoint: &Checkpoint,
    recipe: &Recipe,
    name: &str,
    max: Option<u64>,
) -> Result<Output, ConvertError> {
    output::refuse_unwritable(&checkpoint.config, "GGUF")?;
    if gguf::is_of_a_set(name) {
        return Err(ConvertError::OfASet { name: name.to_owned() });
    }
    let mut tensors = tensors(checkpoint, recipe)?;
    let ranges = output::cut(tensors.iter().map(Tensor::bytes), max);
    let (total, count) = (tensors.len(), ranges.len());
    let too_many = || ConvertError::TooManyFiles { found: count };
    let count_u16 = u16::try_from(count).map_err(|_| too_many())?;
    let mut files = Vec::with_capacity(count);
    for (number, range) in (0_u16..).zip(ranges) {
        let mut keys = if number == 0 { gguf::keys(checkpoint, recipe.file_type()) } else { Vec::new() };
        if count > 1 {
            keys.extend(gguf::split(number, count_u16, total));
        }
        let own = tensors.get_mut(range).unwrap_or_default();
        let entries = own.iter().map(|tensor| gguf::Entry {
            name: &tensor.name,
            dtype: tensor.dtype,
            shape: &tensor.shape,
            bytes: tensor.bytes(),
        });
        let (header, starts) = gguf::header(&keys, entries).ok_or_else(too_many)?;
        let mut len = header.len() as u64;
        for (tensor, start) in own.iter_mut().zip(starts) {
            (tensor.file, tensor.start) = (files.len(), start);
            len = start + tensor.bytes();
        }
        files.push(File { name: file_name(name, number, count), header, len });
    }
    Ok(Output { files, tensors, companions: Vec::new(), is_folder: false })
}

/// The tensors of `checkpoint` by `recipe`, in the order in which they are used.
fn tensors(checkpoint: &Checkpoint, recipe: &Recipe) -> Result<Vec<Tensor>, ConvertError> {
    let is_tied = checkpoint.head.output.is_none();
    let layers = checkpoint.config.layers;
    let mut tensors = Vec::new();
    let mut changeable = Vec::new();
    for Weight { role, layer, matrices } in roles::weights(checkpoint) {
        let name = tensor_name(role, layer);
        let [inputs, outputs] = matrices.first().map_or([0; 2], |first| [first.inputs, first.outputs]);
        // What is the output projection as well is as sensitive as one.
        let counts_as = if role == Role::Embedding && is_tied { Role::Output } else { role };
        let dtype = recipe.dtype(counts_as, &name, [layer.unwrap_or(0), layers], inputs);
        if !role.stays_f32() {
            changeable.push(name.clone());
        }
        let [inputs, outputs, experts] = [inputs as u64, outputs as u64, matrices.len() as u64];
        let shape = match role {
            Role::Gate | Role::Up | Role::Down => vec![experts, outputs, inputs],
            _ if role.is_norm() => vec![inputs],
            _ => vec![outputs, inputs],
        };
        tensors.push(Tensor::new(name, dtype, shape, matrices)?);
    }
    match recipe.idle_exception(changeable.iter().map(String::as_str)) {
        Some(pattern) => Err(ConvertError::Pattern { found: pattern.to_owned() }),
        None => Ok(tensors),
    }
}

/// What file `number`, from 0, of `count` is called: `model-00002-of-00009.gguf`, as gguf-split has it.
fn file_name(name: &str, number: u16, count: usize) -> String {
    let stem = name.strip_suffix(".gguf").unwrap_or(name);
    if count == 1 {
        name.to_owned()
    } else {
        format!("{stem}-{:05}-of-{count:05}.gguf", u32::from(number) + 1)
    }
}

/// llama.cpp's name of a tensor.
fn tensor_name(role: Role, layer: Option<usize>) -> String {
    let name = match role {
        Role::Embedding => "token_embd",
        Role::AttentionNorm => "attn_norm",
        Role::Query => "attn_q",
        Role::Key => "attn_k",
        Role::Value => "attn_v",
        Role::AttentionOutput => "attn_output",
        Role::PostAttentionNorm => "attn_output_norm",
        Role::MoeNorm => "ffn_norm",
        Role::Router => "ffn_gate_inp",
        Role::Gate => "ffn_gate_exps",
        Role::Up => "ffn_up_exps",
        Role::Down => "ffn_down_exps",
        Role::PostMoeNorm => "layer_output_norm",
        Role::FinalNorm => "output_norm",
        Role::Output => "output",
    };
    match layer {
        Some(layer) => format!("blk.{layer}.{name}.weight"),
        None => format!("{name}.weight"),
    }
}
