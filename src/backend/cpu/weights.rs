//! Weights as kernels read them: where they lie in the mapped file, or in the only copy. Uses `kernels` and `values`.

use std::ops::Range;

use super::kernels::in_out::{Epilogue, InOut};
use super::kernels::out_in::OutIn;
use super::kernels::{BF16, F32, I8, Out, Rows};
use super::simd::Isa;
use crate::backend::{BackendError, values};
use crate::tensor::{Blob, DType, Layout, Matrix};

/// Where weights are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightStorage {
    /// Read from the mapped file where they lie; the operating system keeps what fits.
    #[default]
    Mapped,
    /// Read into memory once. Needs as much memory as the file has bytes; a failing disk is an error at load and nothing later.
    Owned,
}

/// The bytes of a tensor.
enum Resident {
    Mapped(Blob),
    Owned(Vec<u8>),
}

impl Resident {
    fn load(
        name: &str,
        dtype: DType,
        data: &Blob,
        len: usize,
        storage: WeightStorage,
    ) -> Result<Self, BackendError> {
        values::check_size(name, dtype, data, len)?;
        Ok(match storage {
            WeightStorage::Mapped if data.slice().is_some() => Self::Mapped(data.clone()),
            _ => Self::Owned(values::read(name, dtype, data, len)?),
        })
    }

    fn bytes(&self) -> &[u8] {
        match self {
            // Was there when it was loaded; a mapping does not go away.
            Self::Mapped(blob) => blob.slice().unwrap_or_default(),
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A weight matrix.
pub(crate) struct Weights {
    dtype: DType,
    layout: Layout,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    data: Resident,
    scales: Option<(usize, Resident)>,
}

impl Weights {
    pub(crate) fn load(matrix: &Matrix, storage: WeightStorage) -> Result<Self, BackendError> {
        let Matrix { name, dtype, layout, inputs, outputs, data, scales } = matrix;
        let (dtype, layout, inputs, outputs) = (*dtype, *layout, *inputs, *outputs);
        match (dtype, layout, scales) {
            (DType::I8, Layout::InOut, Some(_)) | (DType::F32 | DType::BF16, _, None) => {}
            _ => return Err(BackendError::Unsupported { tensor: name.clone(), dtype, layout }),
        }
        let data = Resident::load(name, dtype, data, inputs * outputs, storage)?;
        let scales = match scales {
            None => None,
            Some(scales) => {
                values::scales(matrix, scales)?;
                let len = scales.groups * outputs;
                Some((scales.groups, Resident::load(name, DType::BF16, &scales.data, len, storage)?))
            }
        };
        Ok(Self { dtype, layout, inputs, outputs, data, scales })
    }

    /// Values that were computed at load, as `[outputs, inputs]`.
    pub(crate) fn dense(values: &[f32], inputs: usize, outputs: usize) -> Self {
        let bytes = values.iter().flat_map(|x| x.to_ne_bytes()).collect();
        Self {
            dtype: DType::F32,
            layout: Layout::OutIn,
            inputs,
            outputs,
            data: Resident::Owned(bytes),
            scales: None,
        }
    }

    /// Outputs per part of a region: enough work for a microsecond, enough parts for every thread.
    pub(crate) fn strip(&self) -> usize {
        if self.outputs >= 4096 { 256 } else { 64 }
    }

    pub(crate) fn strips(&self) -> usize {
        self.outputs.div_ceil(self.strip())
    }

    pub(crate) fn columns(&self, strip: usize) -> Range<usize> {
        let start = strip * self.strip();
        start..self.outputs.min(start + self.strip())
    }

    /// `out[r, columns] = x[r] · weights[.., columns]`.
    ///
    /// # Safety
    /// Nobody else may use `columns` of the written rows of `out` meanwhile.
    pub(crate) unsafe fn product(&self, isa: Isa, x: Rows<'_>, columns: Range<usize>, out: Out<'_>) {
        let (data, shape) = (self.data.bytes(), [self.inputs, self.outputs]);
        let scaled = match &self.scales {
            Some((groups, scales)) => Epilogue::Scaled { groups: *groups, scales: scales.bytes() },
            None => Epilogue::Added,
        };
        if let (Layout::InOut, None) = (self.layout, &self.scales) {
            for row in 0..x.len() {
                let start = out.place(row, columns.start);
                // SAFETY: the caller's promise.
                unsafe { out.buffer.slice(start..start + columns.len()) }.fill(0.0);
            }
        }
        // SAFETY: the caller's promise, in each arm.
        unsafe {
            match (self.layout, self.dtype) {
                (Layout::InOut, DType::I8) => isa.run(InOut::<I8>::new(x, data, shape, columns, scaled, out)),
                (Layout::InOut, DType::F32) => {
                    isa.run(InOut::<F32>::new(x, data, shape, columns, scaled, out))
                }
                (Layout::InOut, DType::BF16) => {
                    isa.run(InOut::<BF16>::new(x, data, shape, columns, scaled, out));
                }
                (Layout::OutIn, DType::BF16) => {
                    isa.run(OutIn::<BF16>::new(x, data, self.inputs, columns, out));
                }
                // `load` lets no int8 through here.
                (Layout::OutIn, DType::F32 | DType::I8) => {
                    isa.run(OutIn::<F32>::new(x, data, self.inputs, columns, out));
                }
            }
        }
    }

    /// Row `output` of a matrix stored `[outputs, inputs]`, as f32.
    pub(crate) fn row(&self, output: usize, out: &mut [f32]) {
        let size = self.dtype.size() as usize;
        let bytes = &self.data.bytes()[output * self.inputs * size..][..self.inputs * size];
        match self.dtype {
            DType::BF16 => out
                .iter_mut()
                .zip(bytes.chunks_exact(2))
                .for_each(|(x, b)| *x = half::bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            DType::F32 | DType::I8 => out
                .iter_mut()
                .zip(bytes.chunks_exact(4))
                .for_each(|(x, b)| *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        }
    }
}
