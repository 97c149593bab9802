//! The header of a file to be written. Uses `types` and `keys`.

use super::{MAGIC, types};
use crate::tensor::DType;

/// What the data of each tensor is aligned to, and where the data starts.
const ALIGNMENT: u64 = 32;

/// A value as a file holds it: the number of its type and its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Value(Vec<u8>);

impl Value {
    /// With the number of its type in front, as stored.
    pub(super) fn stored(kind: u32, bytes: &[u8]) -> Self {
        Self([&kind.to_le_bytes(), bytes].concat())
    }

    /// A length or a count, whose place in a file is a u32.
    pub(crate) fn size(size: usize) -> Self {
        // Hyperparameters are validated to far less.
        Self::from(u32::try_from(size).unwrap_or(u32::MAX))
    }

    pub(crate) fn texts<'a>(texts: impl ExactSizeIterator<Item = &'a str>) -> Self {
        Self::array(8, texts.len(), texts.flat_map(|text| string(text.as_bytes())))
    }

    pub(crate) fn floats(floats: impl ExactSizeIterator<Item = f32>) -> Self {
        Self::array(6, floats.len(), floats.flat_map(f32::to_le_bytes))
    }

    pub(crate) fn ints(ints: impl ExactSizeIterator<Item = i32>) -> Self {
        Self::array(5, ints.len(), ints.flat_map(i32::to_le_bytes))
    }

    fn array(kind: u32, count: usize, elements: impl Iterator<Item = u8>) -> Self {
        let start = kind.to_le_bytes().into_iter().chain((count as u64).to_le_bytes());
        Self::stored(9, &start.chain(elements).collect::<Vec<_>>())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::stored(4, &number.to_le_bytes())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::stored(2, &number.to_le_bytes())
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::stored(5, &number.to_le_bytes())
    }
}

impl From<f32> for Value {
    fn from(number: f32) -> Self {
        Self::stored(6, &number.to_le_bytes())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::stored(7, &[truth.into()])
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::stored(8, &string(text.as_bytes()).collect::<Vec<_>>())
    }
}

/// A text with its length.
fn string(bytes: &[u8]) -> impl Iterator<Item = u8> {
    (bytes.len() as u64).to_le_bytes().into_iter().chain(bytes.iter().copied())
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: DType,
    /// Slowest axis first.
    pub(crate) shape: &'a [u64],
    pub(crate) bytes: u64,
}

/// The start of a file up to its data, and where in the file the data of each tensor begins; `None` if a type has no number.
pub(crate) fn header<'a>(
    keys: &[(String, Value)],
    tensors: impl ExactSizeIterator<Item = Entry<'a>>,
) -> Option<(Vec<u8>, Vec<u64>)> {
    let mut out = MAGIC.to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, Value(bytes)) in keys {
        out.extend(string(key.as_bytes()));
        out.extend(bytes);
    }
    let mut starts = Vec::with_capacity(tensors.len());
    let mut end = 0_u64;
    for Entry { name, dtype, shape, bytes } in tensors {
        out.extend(string(name.as_bytes()));
        out.extend((shape.len() as u32).to_le_bytes());
        out.extend(shape.iter().rev().flat_map(|axis| axis.to_le_bytes()));
        out.extend(types::number(dtype)?.to_le_bytes());
        out.extend(end.to_le_bytes());
        starts.push(end);
        end = end.checked_add(bytes)?.checked_next_multiple_of(ALIGNMENT)?;
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    let data = out.len() as u64;
    let starts = starts.into_iter().map(|start| data.checked_add(start)).collect::<Option<_>>()?;
    Some((out, starts))
}
