//! The tensors of all files of a model. Uses `files` and `header`.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::SafetensorsError;
use super::files::{Files, Index};
use super::header::{self, Tensor};
use crate::checkpoint::{CheckpointError, TensorInfo};
use crate::source::Source;
use crate::tensor::{Blob, DType};

/// What other programs keep beside the weights: how they round activations and keys and values, and what they could compute.
const UNUSED: [&str; 7] =
    [".input_scale", ".output_scale", ".q_scale", ".k_scale", ".v_scale", ".kv_scale", ".inv_freq"];

/// A tensor and the file it lies in.
pub(super) struct Stored {
    pub(super) file: Arc<dyn Source>,
    pub(super) tensor: Tensor,
}

/// A weight.
pub(super) struct Weight {
    pub(super) stored: Stored,
    /// What an fp8 weight is multiplied by.
    pub(super) scales: Option<Stored>,
}

/// Every weight in the files, by name, and as a listing shows them, in file order.
pub(super) fn read(
    files: &Files<'_>,
) -> Result<(BTreeMap<String, Weight>, Vec<TensorInfo>), CheckpointError> {
    let mut order = Vec::new();
    let mut tensors = BTreeMap::new();
    for (name, file) in &files.files {
        let wrong = |source| CheckpointError::Safetensors { file: file.name(), source };
        for tensor in header::read(&**file).map_err(wrong)? {
            if let Some(index) = &files.index {
                check_place(index, &tensor.name, name)?;
            }
            let tensor_name = tensor.name.clone();
            let stored = Stored { file: Arc::clone(file), tensor };
            if tensors.insert(tensor_name.clone(), stored).is_some() {
                return Err(wrong(SafetensorsError::Duplicate { tensor: tensor_name }));
            }
            order.push(tensor_name);
        }
    }
    if let Some(index) = &files.index
        && let Some((tensor, expected)) = index.files.iter().find(|(name, _)| !tensors.contains_key(*name))
    {
        return Err(elsewhere(index, tensor, "none of the files", expected));
    }
    tensors.retain(|name, _| !UNUSED.iter().any(|unused| name.ends_with(unused)));
    let weights = with_scales(tensors)?;
    let infos = order.iter().filter_map(|name| weights.get(name)).map(Weight::info).collect();
    Ok((weights, infos))
}

/// Whether the index has `tensor` in `file`.
fn check_place(index: &Index, tensor: &str, file: &str) -> Result<(), CheckpointError> {
    match index.files.get(tensor) {
        Some(expected) if expected == file => Ok(()),
        Some(expected) => Err(elsewhere(index, tensor, file, expected)),
        None => Err(elsewhere(index, tensor, file, "none")),
    }
}

fn elsewhere(index: &Index, tensor: &str, found: &str, expected: &str) -> CheckpointError {
    let (tensor, found, expected) = (tensor.to_owned(), found.to_owned(), expected.to_owned());
    let source = SafetensorsError::Elsewhere { tensor, found, expected };
    CheckpointError::Safetensors { file: index.path.clone(), source }
}

/// Puts fp8 tensors and their scales together.
fn with_scales(mut tensors: BTreeMap<String, Stored>) -> Result<BTreeMap<String, Weight>, CheckpointError> {
    let fp8 = tensors.iter().filter(|(_, stored)| stored.tensor.dtype == DType::F8E4M3);
    let names: Vec<String> = fp8.map(|(name, _)| name.clone()).collect();
    let mut scales = BTreeMap::new();
    for tensor in names {
        let scale =
            ["_scale", "_scale_inv"].iter().find_map(|suffix| tensors.remove(&format!("{tensor}{suffix}")));
        match (scale, tensors.get(&tensor)) {
            (Some(scale), _) => drop(scales.insert(tensor, scale)),
            (None, Some(stored)) => return Err(stored.wrong(SafetensorsError::NoScale { tensor })),
            // An fp8 tensor that was the scale of another.
            (None, None) => {}
        }
    }
    let weight = |(name, stored)| {
        let scales = scales.remove(&name);
        (name, Weight { stored, scales })
    };
    Ok(tensors.into_iter().map(weight).collect())
}

impl Weight {
    fn info(&self) -> TensorInfo {
        let Stored { file, tensor } = &self.stored;
        let bytes = |tensor: &Tensor| tensor.data.end.saturating_sub(tensor.data.start);
        let scales = self.scales.as_ref().map(|scales| &scales.tensor);
        TensorInfo {
            name: tensor.name.clone(),
            file: file.name(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            bytes: bytes(tensor).saturating_add(scales.map_or(0, bytes)),
            scales: scales.map(|scales| scales.shape.clone()),
        }
    }
}

impl Stored {
    /// Its bytes. Ranges are checked when the headers are read; only a source that has shrunk since fails.
    pub(super) fn blob(&self) -> Result<Blob, CheckpointError> {
        Blob::new(Arc::clone(&self.file), self.tensor.data.clone()).ok_or_else(|| CheckpointError::Read {
            path: self.file.name(),
            source: io::ErrorKind::UnexpectedEof.into(),
        })
    }

    pub(super) fn wrong(&self, source: SafetensorsError) -> CheckpointError {
        CheckpointError::Safetensors { file: self.file.name(), source }
    }
}
