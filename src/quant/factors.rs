//! The scales that stand beside a matrix, whatever they are shared by. Uses `tensor`.

use crate::tensor::{Layout, Matrix, Scales};

/// The scales of a matrix as numbers, in the order in which elements of an output are multiplied.
pub(crate) struct Factors {
    /// Inputs and outputs that share one.
    shared: [usize; 2],
    values: Vec<f32>, // [outputs / shared, inputs / shared], rounded up
    /// Length of a row of them.
    stride: usize,
}

impl Factors {
    /// `stored` are the numbers of `scales`, which are those of `matrix`, in the order they have in the file.
    pub(crate) fn new(matrix: &Matrix, scales: &Scales, stored: Vec<f32>) -> Self {
        let [rows, columns] = scales.counts(matrix.inputs, matrix.outputs);
        let values = match scales.layout {
            Layout::OutIn => stored,
            Layout::InOut => (0..columns)
                .flat_map(|j| (0..rows).map(move |i| (i, j)))
                .map(|(i, j)| stored[i * columns + j])
                .collect(),
        };
        let shared = [scales.inputs.min(matrix.inputs).max(1), scales.outputs.min(matrix.outputs).max(1)];
        Self { shared, values, stride: rows }
    }

    /// Multiplies `elements`, those of `output` from `input` on.
    #[inline(always)]
    pub(crate) fn apply(&self, output: usize, mut input: usize, mut elements: &mut [f32]) {
        let [inputs, outputs] = self.shared;
        let factors = &self.values[output / outputs * self.stride..][..self.stride];
        while !elements.is_empty() {
            let group = input / inputs;
            let count = elements.len().min((group + 1) * inputs - input);
            let (shared, rest) = elements.split_at_mut(count);
            shared.iter_mut().for_each(|x| *x *= factors[group]);
            (elements, input) = (rest, input + count);
        }
    }

    /// All of them.
    #[cfg(any(feature = "cuda", feature = "hip"))]
    pub(crate) fn values(&self) -> &[f32] /* [outputs / shared, inputs / shared], rounded up */ {
        &self.values
    }

    /// The scale of one element.
    pub(crate) fn at(&self, input: usize, output: usize) -> f32 {
        let [inputs, outputs] = self.shared;
        self.values[output / outputs * self.stride + input / inputs]
    }
}
