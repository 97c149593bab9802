//! Bytes of weights as they lie on a GPU: packed where they can be, scales, norms and router as f32. Uses `checkpoint` and `backend`.

use crate::backend::gpu::kernels::Format;
use crate::checkpoint::Checkpoint;
use crate::tensor::{Matrix, Vector};
use crate::weights::{Head, Layer};

const F32: u64 = size_of::<f32>() as u64;

/// Of a layer, with its experts or, where those are elsewhere with the router and the norms around them, without.
pub(crate) fn layer(layer: &Layer, experts: bool) -> u64 {
    let Layer { query, key, value, output, router, gate, up, down, .. } = layer;
    let Layer { attention_norm, post_attention_norm, moe_norm, post_moe_norm, .. } = layer;
    let projections = [query, key, value, output].map(matrix);
    let experts = [gate, up, down].into_iter().flatten().filter(|_| experts).map(matrix);
    let norms = [attention_norm, post_attention_norm, moe_norm, post_moe_norm].map(vector);
    let router = numbers([router.inputs, router.outputs]);
    projections.into_iter().chain(experts).chain(norms).fold(router, u64::saturating_add)
}

/// Of embedding, last norm and output projection.
pub(crate) fn head(Head { embedding, norm, output }: &Head) -> u64 {
    let output = output.as_ref().map_or(0, matrix);
    [matrix(embedding), vector(norm), output].into_iter().fold(0, u64::saturating_add)
}

/// Of the largest matrix, as it is stored: so much waits on the device to be packed.
pub(crate) fn largest_matrix(checkpoint: &Checkpoint) -> u64 {
    let head = [Some(&checkpoint.head.embedding), checkpoint.head.output.as_ref()];
    let layers = checkpoint.layers.iter().flat_map(|layer| {
        let Layer { query, key, value, output, gate, up, down, .. } = layer;
        [query, key, value, output].into_iter().chain([gate, up, down].into_iter().flatten())
    });
    layers.chain(head.into_iter().flatten()).map(|matrix| matrix.data.len()).max().unwrap_or(0)
}

/// Whether products with gate and up are computed apart: by kernels of two formats.
pub(crate) fn has_gate_and_up_apart(layer: &Layer) -> bool {
    let form = |matrices: &[Matrix]| {
        let grain = |matrix: &Matrix| matrix.scales.as_ref().map(|scales| [scales.inputs, scales.outputs]);
        matrices.first().map(|first| (first.dtype, first.layout, grain(first)))
    };
    form(&layer.gate) != form(&layer.up)
}

fn matrix(matrix: &Matrix) -> u64 {
    let Matrix { dtype, layout, inputs, outputs, .. } = *matrix;
    let packed = Format::packed(dtype, layout, inputs, outputs);
    let data = packed.map_or(0, |packed| packed.bytes(inputs, outputs) as u64).max(matrix.data.len());
    let scales = matrix.scales.as_ref().map_or(0, |scales| numbers(scales.counts(inputs, outputs)));
    data.saturating_add(scales)
}

fn vector(vector: &Vector) -> u64 {
    numbers([vector.len, 1])
}

fn numbers(counts: [usize; 2]) -> u64 {
    counts.into_iter().fold(F32, |bytes, count| bytes.saturating_mul(count as u64))
}
