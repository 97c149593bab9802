//! What is to be written: files, and where in them each tensor lies. Uses the ground only.

use std::ops::Range;

use super::{ConvertError, Unwritable};
use crate::config::ModelConfig;
use crate::tensor::{DType, Matrix};

/// A tensor to be made of one matrix or of several, one after the other.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// Slowest axis first.
    pub(super) shape: Vec<u64>,
    pub(super) matrices: Vec<Matrix>,
    /// Bytes of a row.
    pub(super) row_bytes: u64,
    /// Its file, and where in it its data begins.
    pub(super) file: usize,
    pub(super) start: u64,
}

impl Tensor {
    /// At the start of the first file, until it is placed.
    pub(super) fn new(
        name: String,
        dtype: DType,
        shape: Vec<u64>,
        matrices: Vec<Matrix>,
    ) -> Result<Self, ConvertError> {
        let row = shape.last().copied().unwrap_or(1);
        match dtype.bytes_of(row) {
            Some(row_bytes) => Ok(Self { name, dtype, shape, matrices, row_bytes, file: 0, start: 0 }),
            None => Err(ConvertError::Rows { tensor: name, row, dtype }),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.row_bytes * self.matrices.iter().map(|matrix| matrix.outputs as u64).sum::<u64>()
    }
}

/// A file to be written.
pub(super) struct File {
    pub(super) name: String,
    /// What stands in front of the data.
    pub(super) header: Vec<u8>,
    /// Bytes in all.
    pub(super) len: u64,
}

/// Everything to be written.
pub(super) struct Output {
    /// Files of tensors.
    pub(super) files: Vec<File>,
    /// In the order in which they lie.
    pub(super) tensors: Vec<Tensor>,
    /// Small files beside them, with their content.
    pub(super) companions: Vec<(&'static str, Vec<u8>)>,
    /// Whether it is a folder of its own, or files in one that is there.
    pub(super) is_folder: bool,
}

/// Refuses hyperparameters that readers of `format` do not know or would not apply: the files would be another model.
pub(super) fn refuse_unwritable(config: &ModelConfig, format: &'static str) -> Result<(), ConvertError> {
    for (there, what) in [
        (config.router_cap.is_some(), Unwritable::RouterCap),
        (config.renormalise_gates, Unwritable::RenormalisedGates),
        (config.attention_cap.is_none(), Unwritable::NoAttentionCap),
    ] {
        if there {
            return Err(ConvertError::Unwritable { what, format });
        }
    }
    Ok(())
}

/// Cuts tensors of these sizes into files of at most `max` bytes of data each. A tensor that is larger gets a file of its own.
pub(super) fn cut(sizes: impl Iterator<Item = u64>, max: Option<u64>) -> Vec<Range<usize>> {
    let mut files: Vec<Range<usize>> = Vec::new();
    let mut full = 0;
    for (index, size) in sizes.enumerate() {
        match files.last_mut() {
            Some(file) if max.is_none_or(|max| full + size <= max) => {
                file.end = index + 1;
                full += size;
            }
            _ => {
                files.push(index..index + 1);
                full = size;
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_filled_in_order_and_a_large_tensor_has_one_of_its_own() {
        assert_eq!(cut([3, 4, 9, 1, 1].into_iter(), Some(8)), [0..2, 2..3, 3..5]);
        assert_eq!(cut([3, 4, 9].into_iter(), None).len(), 1);
    }
}
