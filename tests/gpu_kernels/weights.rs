//! Random matrices as they are stored, and what they mean.

use std::cell::OnceCell;

use grok1::backend::gpu::kernels::{Kernel, Matrix, TILE_INPUTS, TILE_OUTPUTS};
use grok1::quant::dequantise;
use grok1::{DType, Layout};
use half::{bf16, f16};

use crate::blocks::blocks;
use crate::machine::{Kind, Machine};
use crate::random::Random;
use crate::simt::Buffer;

/// One matrix or, one after another, those of some experts.
pub(crate) struct Weights {
    pub(crate) kind: Kind,
    stored: Buffer<u8>,
    packed: OnceCell<Buffer<u8>>,
    experts: usize,
    scales: Option<Buffer<f32>>,
    shared: [usize; 2], // inputs, outputs
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) values: Vec<f32>, // [experts, outputs, inputs]
}

impl Weights {
    /// `shared` inputs and outputs have a scale in common, in types of bytes.
    pub(crate) fn new(
        seed: u64,
        kind: Kind,
        [inputs, outputs]: [usize; 2],
        experts: usize,
        shared: [usize; 2],
    ) -> Self {
        let Kind { dtype, layout, .. } = kind;
        let random = &mut Random(seed);
        let size = 1.7 / (inputs as f32).sqrt();
        let count = experts * inputs * outputs;
        let has_scales = matches!(dtype, DType::I8 | DType::F8E4M3);
        let data: Vec<u8> = match dtype {
            DType::F32 => floats(random, count, size).flat_map(f32::to_le_bytes).collect(),
            DType::F16 => floats(random, count, size).flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            DType::BF16 => {
                floats(random, count, size).flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect()
            }
            DType::I8 => (0..count).map(|_| random.next() as u8).collect(),
            // No NaN, and magnitudes of which many are less than 1.
            DType::F8E4M3 => (0..count).map(|_| random.next() as u8 & 0xbf).collect(),
            _ => blocks(random, dtype, count, size),
        };
        let mut stored = vec![0.0; count];
        dequantise(dtype, &data, &mut stored).unwrap();
        let at = |e: usize, o: usize, i: usize| match layout {
            Layout::OutIn => stored[(e * outputs + o) * inputs + i],
            _ => stored[(e * inputs + i) * outputs + o],
        };
        let counts = [inputs.div_ceil(shared[0]), outputs.div_ceil(shared[1])];
        let unit = if dtype == DType::I8 { size / 64.0 } else { size };
        let scales: Option<Vec<f32>> = has_scales
            .then(|| (0..experts * counts[0] * counts[1]).map(|_| random.float(0.4, 1.6) * unit).collect());
        let mut values = Vec::with_capacity(count);
        for e in 0..experts {
            for o in 0..outputs {
                for i in 0..inputs {
                    let scale = scales.as_ref().map_or(1.0, |scales| {
                        scales[(e * counts[1] + o / shared[1]) * counts[0] + i / shared[0]]
                    });
                    values.push(at(e, o, i) * scale);
                }
            }
        }
        Self {
            kind,
            stored: Buffer::of(&data),
            packed: OnceCell::new(),
            experts,
            scales: scales.map(|s| Buffer::of(&s)),
            shared,
            inputs,
            outputs,
            values,
        }
    }

    /// As a kernel takes it; packed by the first machine that asks.
    pub(crate) fn matrix(&self, machine: &Machine) -> Matrix {
        let data =
            if self.kind.packed { self.packed.get_or_init(|| self.pack(machine)) } else { &self.stored };
        Matrix {
            data: data.address(),
            scales: self.scales.as_ref().map_or(0, Buffer::address),
            scale_inputs: self.shared[0] as i32,
            scale_outputs: self.shared[1] as i32,
            inputs: self.inputs as i32,
            outputs: self.outputs as i32,
        }
    }

    /// Packed on a machine.
    pub(crate) fn pack(&self, machine: &Machine) -> Buffer<u8> {
        let (format, inputs, outputs) = (self.kind.format(), self.inputs, self.outputs);
        let bytes = format.bytes(inputs, outputs);
        let stored = self.stored.values().len() / self.experts;
        let out = Buffer::new(self.experts * bytes);
        for expert in 0..self.experts {
            let [to, from] = [(&out, bytes), (&self.stored, stored)]
                .map(|(buffer, bytes)| buffer.address() + (expert * bytes) as u64);
            let grid = [inputs / TILE_INPUTS, outputs / TILE_OUTPUTS, 1];
            machine.launch(Kernel::Pack(format), grid, 0, &[&to, &from, &(inputs as i32), &(outputs as i32)]);
        }
        out
    }

    /// The weights of an output of an expert.
    pub(crate) fn row(&self, expert: usize, output: usize) -> &[f32] {
        &self.values[(expert * self.outputs + output) * self.inputs..][..self.inputs]
    }

    /// The products of `x` with all outputs of an expert.
    pub(crate) fn product(&self, expert: usize, x: &[f32]) -> Vec<f64> {
        (0..self.outputs).map(|output| dot(self.row(expert, output), x)).collect()
    }
}

fn floats(random: &mut Random, count: usize, size: f32) -> impl Iterator<Item = f32> {
    (0..count).map(move |_| random.float(-size, size))
}

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
