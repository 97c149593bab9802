//! Whether every weight has the shape that the hyperparameters ask for. Uses `checkpoint`'s views.
//!
//! Readers of formats check this with better words, naming files; this is for checkpoints that a host has changed.

use super::{Checkpoint, CheckpointError};
use crate::tensor::{Blob, DType, Layout, Matrix, Scales, Vector};
use crate::weights::Layer;

impl Checkpoint {
    /// Refuses hyperparameters out of range and weights of other shapes than theirs.
    pub(crate) fn check(&self) -> Result<(), CheckpointError> {
        let config = self
            .config
            .clone()
            .validate()
            .map_err(|source| CheckpointError::Config { path: self.location.clone(), source })?;
        let (width, ffn) = (config.width, config.ffn_width);
        self.matrix(&self.head.embedding, [width, config.vocab])?;
        self.vector(&self.head.norm, width)?;
        if let Some(output) = &self.head.output {
            self.matrix(output, [width, config.vocab])?;
        }
        self.count("layers", self.layers.len(), config.layers)?;
        for layer in &self.layers {
            let Layer { attention_norm, post_attention_norm, moe_norm, post_moe_norm, .. } = layer;
            for norm in [attention_norm, post_attention_norm, moe_norm, post_moe_norm] {
                self.vector(norm, width)?;
            }
            self.matrix(&layer.query, [width, config.query_width()])?;
            self.matrix(&layer.key, [width, config.kv_width()])?;
            self.matrix(&layer.value, [width, config.kv_width()])?;
            self.matrix(&layer.output, [config.query_width(), width])?;
            self.matrix(&layer.router, [width, config.experts])?;
            let experts =
                [(&layer.gate, [width, ffn]), (&layer.up, [width, ffn]), (&layer.down, [ffn, width])];
            for (matrices, shape) in experts {
                self.count("experts", matrices.len(), config.experts)?;
                matrices.iter().try_for_each(|matrix| self.matrix(matrix, shape))?;
            }
        }
        Ok(())
    }

    fn count(&self, what: &str, found: usize, expected: usize) -> Result<(), CheckpointError> {
        if found == expected {
            return Ok(());
        }
        let (folder, found, expected) =
            (self.location.clone(), format!("{found} {what}"), format!("{expected} {what}"));
        Err(CheckpointError::Files { folder, found, expected })
    }

    fn vector(&self, vector: &Vector, len: usize) -> Result<(), CheckpointError> {
        self.shape(&vector.name, vector.len == len, format!("[{}]", vector.len), format!("[{len}]"))?;
        self.elements(&vector.name, vector.dtype, [len, 1], &vector.data)
    }

    fn matrix(&self, matrix: &Matrix, [inputs, outputs]: [usize; 2]) -> Result<(), CheckpointError> {
        let fits = matrix.inputs == inputs && matrix.outputs == outputs;
        let found = format!("{} to {}", matrix.inputs, matrix.outputs);
        self.shape(&matrix.name, fits, found, format!("{inputs} to {outputs}"))?;
        let axes = match matrix.layout {
            Layout::OutIn => [inputs, outputs],
            Layout::InOut => [outputs, inputs],
        };
        self.elements(&matrix.name, matrix.dtype, axes, &matrix.data)?;
        match &matrix.scales {
            None => Ok(()),
            Some(scales) => self.scales(matrix, scales),
        }
    }

    /// `axes`, the fastest first, of whole blocks.
    fn elements(
        &self,
        tensor: &str,
        dtype: DType,
        axes: [usize; 2],
        data: &Blob,
    ) -> Result<(), CheckpointError> {
        let [fast, slow] = axes.map(|axis| axis as u64);
        let expected = dtype.bytes_of(fast).and_then(|row| row.checked_mul(slow));
        let found = format!("{} bytes of {dtype}", data.len());
        let shape = format!("as many as {slow} rows of {fast} have");
        self.shape(tensor, expected == Some(data.len()), found, shape)
    }

    fn scales(&self, matrix: &Matrix, scales: &Scales) -> Result<(), CheckpointError> {
        let Scales { dtype, inputs, outputs, data, .. } = scales;
        let [rows, columns] = scales.counts(matrix.inputs, matrix.outputs);
        let bytes = (rows as u64).checked_mul(columns as u64).and_then(|count| dtype.bytes_of(count));
        let fits = *inputs > 0 && *outputs > 0 && bytes == Some(data.len());
        let found =
            format!("{} bytes of {dtype} scales, each for {inputs} inputs of {outputs} outputs", data.len());
        self.shape(
            &matrix.name,
            fits,
            found,
            format!("as many as {} to {} have", matrix.inputs, matrix.outputs),
        )
    }

    fn shape(
        &self,
        tensor: &str,
        fits: bool,
        found: String,
        expected: String,
    ) -> Result<(), CheckpointError> {
        let (file, tensor) = (self.location.clone(), tensor.to_owned());
        if fits { Ok(()) } else { Err(CheckpointError::Tensor { file, tensor, found, expected }) }
    }
}
