//! Products of many rows by the vendor's library, on weights that are unpacked to bf16 some outputs at a time. Uses `blas`, `plain` and
//! `scratch`.
//!
//! The library has to be told how many rows each expert gets, so that the host waits once in each layer.

use std::sync::PoisonError;

use super::Gpu;
use super::code::Products;
use super::scratch::{Room, Scratch};
use super::weights::{Activation, Layer, Weights};
use crate::backend::gpu::kernels::{Groups, TILE_OUTPUTS};
use crate::backend::gpu::{DevicePointer, Function, Gemm, Runtime};
use crate::error::Result;
use crate::tensor::Layout;

/// Bytes of unpacked weights: enough that the library is busy, few enough to be there beside a model.
const SLAB_BYTES: usize = 256 << 20;

/// Rows of a product, among those of its buffers.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) first: usize,
    pub(super) rows: usize,
    /// Whose weights.
    pub(super) expert: usize,
}

impl<R: Runtime> Gpu<R> {
    /// Makes room for unpacked weights.
    pub(super) fn make_slab(&self, scratch: &mut Scratch<R>) -> Result<()> {
        Ok(scratch.slab.make(&self.device, SLAB_BYTES)?)
    }

    /// Rows of bf16 activations times the weights of an expert.
    pub(super) fn multiply_slabs(
        &self,
        to: &Room<R>,   // [rows, outputs]
        from: &Room<R>, // bf16 [rows, inputs]
        weights: &Weights<R>,
        products: &Products<R>,
        part: Part,
        scratch: &Scratch<R>,
    ) -> Result<()> {
        let (Some((_, blas)), Some(dequantise)) = (&self.blas, &products.dequantise) else { return Ok(()) };
        let (Some(to), Some(from), Some(slab)) = (to.buffer(), from.buffer(), scratch.slab.buffer()) else {
            return Ok(());
        };
        let mut blas = blas.lock().unwrap_or_else(PoisonError::into_inner);
        let (inputs, outputs, layout) = (weights.inputs, weights.outputs, weights.format.slab_layout());
        let at_a_time = (SLAB_BYTES / 2 / inputs / TILE_OUTPUTS).max(1) * TILE_OUTPUTS;
        for first in (0..outputs).step_by(at_a_time) {
            let count = at_a_time.min(outputs - first);
            let rows = if layout == Layout::OutIn { count } else { inputs };
            let (out, number) = (slab.pointer(), [part.expert, first, count].map(|number| number as i32));
            let arguments = [
                (&out).into(),
                (&weights.matrix).into(),
                (&number[0]).into(),
                (&number[1]).into(),
                (&number[2]).into(),
            ];
            // SAFETY: the slab has room for so many outputs, which the expert's matrix has.
            unsafe { self.launch(dequantise, [rows, 1, 1], 0, arguments) }?;
            let shape = Gemm { out_stride: outputs, ..Gemm::new(part.rows, count, inputs, layout) };
            let out = (part.first * outputs + first) * size_of::<f32>();
            let x = part.first * inputs * 2;
            blas.gemm(&self.stream, (to, out), (from, x), (slab, 0), &shape)?;
        }
        Ok(())
    }

    /// The experts' outputs for all pairs.
    pub(super) fn run_experts_by_slabs(
        &self,
        layer: &Layer<R>,
        groups: &Groups,
        scratch: &mut Scratch<R>,
    ) -> Result<()> {
        let Some(slabs) = &self.kernels.slabs else { return Ok(()) };
        let config = &self.config;
        let pairs = scratch.rows * config.selected_experts;
        let (float, hidden) = (size_of::<f32>(), pairs * config.ffn_width);
        self.make_slab(scratch)?;
        scratch.narrow.make(&self.device, pairs * config.width.max(config.ffn_width) * 2)?;
        scratch.gate.make(&self.device, hidden * float)?;
        scratch.up.make(&self.device, hidden * float)?;
        scratch.activated.make(&self.device, hidden * float)?;
        scratch.sorted.make(&self.device, pairs * config.width * float)?;
        scratch.down.make(&self.device, pairs * config.width * float)?;
        let parts = self.parts(scratch)?;
        let (narrow, x, group_pairs) =
            (scratch.narrow.pointer(), scratch.normed.pointer(), DevicePointer(groups.pairs));
        let (share, width) = (config.selected_experts as i32, config.width as i32);
        let arguments =
            [(&narrow).into(), (&x).into(), (&group_pairs).into(), (&share).into(), (&width).into()];
        // SAFETY: there is room for all pairs, and as many rows as they name.
        unsafe { self.launch(&slabs.gather, [pairs, 1, 1], 0, arguments) }?;
        let [gate_products, up_products] = match &layer.activation {
            Activation::Fused(products) => [products, products],
            Activation::Apart([gate, up]) => [gate, up],
        };
        for part in &parts {
            let from = &scratch.narrow;
            self.multiply_slabs(&scratch.gate, from, &layer.gate, gate_products, *part, scratch)?;
            self.multiply_slabs(&scratch.up, from, &layer.up, up_products, *part, scratch)?;
        }
        // In its place, then as bf16.
        self.activate_values(&scratch.gate, hidden, scratch)?;
        self.narrow_values(&scratch.activated, &scratch.gate, hidden)?;
        for part in &parts {
            let (to, from) = (&scratch.sorted, &scratch.activated);
            self.multiply_slabs(to, from, &layer.down, &layer.down_products, *part, scratch)?;
        }
        let (down, sorted) = (scratch.down.pointer(), scratch.sorted.pointer());
        let arguments = [(&down).into(), (&sorted).into(), (&group_pairs).into(), (&width).into()];
        // SAFETY: both hold all pairs.
        unsafe { self.launch(&slabs.scatter, [pairs, 1, 1], 0, arguments) }
    }

    /// Which pairs, in the order of their experts, each expert gets. Waits for the router.
    fn parts(&self, scratch: &Scratch<R>) -> Result<Vec<Part>> {
        let groups = self.groups(scratch.rows);
        let experts = self.numbers(&scratch.group_experts, groups, i32::from_le_bytes)?;
        let starts = self.numbers(&scratch.group_starts, groups + 1, i32::from_le_bytes)?;
        let used = experts.iter().zip(starts.windows(2)).take_while(|(expert, _)| **expert >= 0);
        let part = |(&expert, bounds): (&i32, &[i32])| {
            let (first, end) = (bounds[0] as usize, bounds[1] as usize);
            Part { first, rows: end - first, expert: expert as usize }
        };
        Ok(used.map(part).collect())
    }
}

/// The kernels that bring rows to the library and back.
pub(super) struct Slabs<R: Runtime> {
    pub(super) gather: Function<R>,
    pub(super) scatter: Function<R>,
}
