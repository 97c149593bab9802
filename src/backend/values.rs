//! Stored numbers as f32, for the small tensors that every backend converts once. Uses `quant`.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::BackendError;
use crate::buffer::Buffer;
use crate::control::Control;
use crate::error::Result;
use crate::quant;
use crate::quant::Factors;
use crate::tensor::{Blob, DType, Layout, Matrix, Vector};

/// The elements of `data`, which must be `len` of `dtype`; those of a matrix come without their scales.
pub(crate) fn to_f32(
    tensor: &str,
    dtype: DType,
    data: &Blob,
    len: usize,
    control: &Control,
) -> Result<Vec<f32>> {
    let bytes = read(tensor, dtype, data, len, None, control)?;
    let mut values = Vec::new();
    grow(&mut values, len, "weights")?;
    quant::dequantise(dtype, &bytes, &mut values)?;
    Ok(values)
}

/// Bytes read between two looks at whether to go on.
const BLOCK: usize = 8 << 20;

/// Threads that read a large tensor: one alone gets less than storage, or the page cache, gives.
const READERS: usize = 4;

/// The bytes of `len` elements, and nothing else, on a NUMA node if one is named.
pub(crate) fn read(
    tensor: &str,
    dtype: DType,
    data: &Blob,
    len: usize,
    node: Option<usize>,
    control: &Control,
) -> Result<Buffer> {
    check_size(tensor, dtype, data, len)?;
    let total = data.len() as usize;
    let mut bytes =
        Buffer::zeroed(total, node).map_err(|_| BackendError::Memory { what: "weights", bytes: total })?;
    let readers = READERS.min(total / BLOCK).max(1);
    let blocks = Mutex::new(bytes.chunks_mut(BLOCK).enumerate());
    let work = || -> Result<()> {
        loop {
            let Some((index, block)) = blocks.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                return Ok(());
            };
            control.check()?;
            data.read_at((index * BLOCK) as u64, block)
                .map_err(|source| BackendError::Read { tensor: tensor.to_owned(), source })?;
        }
    };
    thread::scope(|scope| {
        // Where no more threads can be had, fewer read.
        let others: Vec<_> =
            (1..readers).map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        let mut result = work();
        for other in others {
            result = result.and(other.join().unwrap_or_else(|payload| resume_unwind(payload)));
        }
        result
    })?;
    Ok(bytes)
}

/// Refuses data that are not `len` elements.
pub(crate) fn check_size(tensor: &str, dtype: DType, data: &Blob, len: usize) -> Result<(), BackendError> {
    let expected = dtype.bytes_of(len as u64).unwrap_or(u64::MAX);
    if data.len() == expected {
        Ok(())
    } else {
        Err(BackendError::Size { tensor: tensor.to_owned(), found: data.len(), expected })
    }
}

/// Refuses a matrix whose rows, as they lie in memory, are not whole blocks.
pub(crate) fn check_rows(matrix: &Matrix) -> Result<(), BackendError> {
    let Matrix { name, dtype, layout, inputs, outputs, .. } = matrix;
    let row = match layout {
        Layout::InOut => *outputs,
        Layout::OutIn => *inputs,
    };
    if row.is_multiple_of(dtype.block() as usize) {
        Ok(())
    } else {
        Err(BackendError::Blocks { tensor: name.clone(), dtype: *dtype, row })
    }
}

/// The weights of a matrix.
pub(crate) fn matrix(matrix: &Matrix, control: &Control) -> Result<Vec<f32>> {
    let Matrix { name, dtype, layout, inputs, outputs, data, .. } = matrix;
    check_rows(matrix)?;
    let stored = to_f32(name, *dtype, data, inputs * outputs, control)?;
    let mut values = out_in(stored, *layout, *outputs); // [outputs, inputs]
    if let Some(factors) = factors(matrix, control)? {
        values.chunks_exact_mut(*inputs).enumerate().for_each(|(j, row)| factors.apply(j, 0, row));
    }
    Ok(values)
}

/// `stored` as `[outputs, any]`.
fn out_in(stored: Vec<f32>, layout: Layout, outputs: usize) -> Vec<f32> {
    match layout {
        Layout::OutIn => stored,
        Layout::InOut => (0..outputs).flat_map(|j| stored.iter().skip(j).step_by(outputs)).copied().collect(),
    }
}

/// A norm's scale, all finite.
pub(crate) fn vector(vector: &Vector, control: &Control) -> Result<Vec<f32>> {
    let values = to_f32(&vector.name, vector.dtype, &vector.data, vector.len, control)?;
    check_finite(&vector.name, "element", values.iter().copied())?;
    Ok(values)
}

/// The scales of `matrix`, if it has any; all finite.
pub(crate) fn factors(matrix: &Matrix, control: &Control) -> Result<Option<Factors>> {
    let Some(scales) = &matrix.scales else { return Ok(None) };
    let len = scales.counts(matrix.inputs, matrix.outputs).iter().product();
    let stored = to_f32(&matrix.name, scales.dtype, &scales.data, len, control)?;
    check_finite(&matrix.name, "scale", stored.iter().copied())?;
    Ok(Some(Factors::new(matrix, scales, stored)))
}

/// Refuses a NaN or an infinity.
pub(crate) fn check_finite(
    tensor: &str,
    what: &'static str,
    values: impl Iterator<Item = f32>,
) -> Result<(), BackendError> {
    match values.enumerate().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((index, found)) => {
            Err(BackendError::NotFinite { tensor: tensor.to_owned(), what, index, found })
        }
    }
}

/// The rotary embedding's frequencies: `base^(-2j / head_dim)`.
pub(crate) struct Rotary(Vec<f64>); // [head_dim / 2]

impl Rotary {
    pub(crate) fn new(base: f32, head_dim: usize) -> Self {
        Self((0..head_dim / 2).map(|j| f64::from(base).powf(-2.0 * j as f64 / head_dim as f64)).collect())
    }

    /// Cosine and sine of each angle at `position`.
    ///
    /// The angle is an f64: at 8192 positions an f32 would be off by half a thousandth.
    pub(crate) fn angles(&self, position: u32) -> impl Iterator<Item = (f32, f32)> {
        self.0.iter().map(move |frequency| {
            let (sin, cos) = (f64::from(position) * frequency).sin_cos();
            (cos as f32, sin as f32)
        })
    }
}

/// Grows `buffer` to `len` values if it is shorter.
pub(crate) fn grow<T: Clone + Default>(
    buffer: &mut Vec<T>,
    len: usize,
    what: &'static str,
) -> Result<(), BackendError> {
    if buffer.len() < len {
        buffer
            .try_reserve_exact(len - buffer.len())
            .map_err(|_| BackendError::Memory { what, bytes: len.saturating_mul(size_of::<T>()) })?;
        buffer.resize(len, T::default());
    }
    Ok(())
}
