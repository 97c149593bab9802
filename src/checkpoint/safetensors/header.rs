//! The header of one file: which tensors lie where. Uses `members`.
//!
//! A file is the header's length in eight bytes, little-endian, the header in JSON, and the tensors' bytes one after the other without
//! gaps (huggingface/safetensors, README).

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use super::SafetensorsError;
use super::members::Members;
use crate::source::Source;
use crate::tensor::DType;

/// Bytes a header may have by the format; Grok-1's takes some hundred thousand.
pub(super) const MAX_HEADER: u64 = 100_000_000;

/// Bytes the name of a tensor may have; real ones have less than 64.
pub(super) const MAX_NAME: usize = 1024;

/// Axes a tensor may have.
pub(super) const MAX_AXES: usize = 8;

/// Bytes of the header's length.
const LENGTH: u64 = 8;

/// The types that are read, by their names.
const TYPES: [(&str, DType); 4] =
    [("F32", DType::F32), ("F16", DType::F16), ("BF16", DType::BF16), ("F8_E4M3", DType::F8E4M3)];

/// A tensor whose bytes lie inside the file, apart from those of the others, and are as many as type and shape say. Its name is the
/// file's only one.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// Slowest first.
    pub(super) shape: Vec<u64>,
    /// Where in the file.
    pub(super) data: Range<u64>,
}

/// A tensor as the header tells of it.
#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    #[serde(deserialize_with = "axes")]
    shape: Vec<u64>,
    /// From the end of the header.
    data_offsets: [u64; 2],
}

/// Reads the header of the file in `source`: its tensors in the order of their bytes.
pub(super) fn read(source: &dyn Source) -> Result<Vec<Tensor>, SafetensorsError> {
    let len = source.len();
    let Some(after_length) = len.checked_sub(LENGTH) else {
        return Err(SafetensorsError::Short { len });
    };
    let mut length = [0; LENGTH as usize];
    fill(source, 0, &mut length)?;
    let wanted = u64::from_le_bytes(length);
    if wanted > MAX_HEADER {
        return Err(SafetensorsError::HeaderTooLong { found: wanted });
    }
    let Some(data_len) = after_length.checked_sub(wanted) else {
        return Err(SafetensorsError::PastEnd { wanted, len });
    };
    // No more than MAX_HEADER, and all of it in the file.
    let mut header = vec![0; wanted as usize];
    fill(source, LENGTH, &mut header)?;
    let Members(entries) =
        serde_json::from_slice::<Members<Entry>>(&header).map_err(SafetensorsError::Header)?;
    drop(header);

    let place = |(name, entry): (String, Entry)| entry.place(name, data_len, len);
    let mut tensors = entries.into_iter().map(place).collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some((twice, _)) = tensors.iter().zip(tensors.iter().skip(1)).find(|(a, b)| a.name == b.name) {
        return Err(SafetensorsError::Duplicate { tensor: twice.name.clone() });
    }
    tensors.sort_by_key(|tensor| (tensor.data.start, tensor.data.end));
    check_cover(&tensors, len.saturating_sub(data_len), len)?;
    Ok(tensors)
}

impl Entry {
    /// The tensor in a file of `len` bytes whose last `data_len` are data.
    fn place(self, name: String, data_len: u64, len: u64) -> Result<Tensor, SafetensorsError> {
        if name.len() > MAX_NAME {
            return Err(SafetensorsError::NameTooLong { found: name.len() });
        }
        let Self { dtype, shape, data_offsets: [start, end] } = self;
        let Some(&(_, dtype)) = TYPES.iter().find(|(known, _)| *known == dtype) else {
            let found: String = dtype.chars().take(32).collect();
            return Err(SafetensorsError::tensor(&name, found, "F32, F16, BF16 or F8_E4M3"));
        };
        let Some(offsets) = (start <= end && end <= data_len).then_some(start..end) else {
            let expected = format!("a part of the {data_len} bytes of data");
            return Err(SafetensorsError::tensor(&name, format!("bytes {start}..{end}"), expected));
        };
        let elements = shape.iter().try_fold(1_u64, |product, &axis| product.checked_mul(axis));
        let Some(bytes) = elements.and_then(|elements| dtype.bytes_of(elements)) else {
            let found = format!("{dtype} {shape:?}");
            return Err(SafetensorsError::tensor(&name, found, "less than 2^64 bytes"));
        };
        let found = offsets.end.saturating_sub(offsets.start);
        if found != bytes {
            let expected = format!("{bytes} for {dtype} {shape:?}");
            return Err(SafetensorsError::tensor(&name, format!("{found} bytes"), expected));
        }
        // The data end where the file does, so these places exist in it.
        let place = |offset: u64| len.saturating_sub(data_len).saturating_add(offset);
        Ok(Tensor { name, dtype, shape, data: place(offsets.start)..place(offsets.end) })
    }
}

/// Refuses tensors that share bytes, and bytes without a tensor.
fn check_cover(sorted: &[Tensor], data: u64, len: u64) -> Result<(), SafetensorsError> {
    let offset = |place: u64| place.saturating_sub(data);
    let (mut end, mut before) = (data, "");
    for tensor in sorted {
        let Range { start, .. } = tensor.data;
        if start < end {
            let found = format!("bytes {}..{}", offset(start), offset(tensor.data.end));
            let expected = format!("none of {before:?}'s, which end at {}", offset(end));
            return Err(SafetensorsError::tensor(&tensor.name, found, expected));
        }
        if start > end {
            return Err(SafetensorsError::Gap { start: offset(end), end: offset(start) });
        }
        (end, before) = (tensor.data.end, &tensor.name);
    }
    if end < len {
        return Err(SafetensorsError::Gap { start: offset(end), end: offset(len) });
    }
    Ok(())
}

/// Axes, of which there are few: a list is refused before it is kept.
fn axes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct Axes;

    impl<'de> Visitor<'de> for Axes {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX_AXES} sizes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u64>, A::Error> {
            let mut axes = Vec::new();
            while let Some(axis) = list.next_element()? {
                axes.push(axis);
                if axes.len() > MAX_AXES {
                    return Err(A::Error::invalid_length(axes.len(), &self));
                }
            }
            Ok(axes)
        }
    }

    deserializer.deserialize_seq(Axes)
}

fn fill(source: &dyn Source, offset: u64, out: &mut [u8]) -> Result<(), SafetensorsError> {
    source.read_at(offset, out).map_err(|source| SafetensorsError::Read { offset, source })
}
