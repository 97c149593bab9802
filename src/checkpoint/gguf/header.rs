//! The header of one file: keys, and which tensors lie where. Uses `input`, `metadata` and `types`.
//!
//! Everything is little-endian: magic, version, numbers of tensors and of keys; keys and values; names, dimensions, types and
//! offsets of tensors; padding; data (ggml, `docs/gguf.md`).

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::ops::Range;

use super::input::Input;
use super::metadata::{self, Metadata};
use super::{GgufError, MAGIC, types};
use crate::source::Source;
use crate::tensor::DType;

const MAX_DIMENSIONS: u32 = 4;

/// What tensors are aligned to when the file does not say.
const ALIGNMENT: u64 = 32;

pub(super) struct Header {
    pub(super) metadata: Metadata,
    /// In file order.
    pub(super) tensors: Vec<Tensor>,
}

/// A tensor whose bytes lie inside the file, apart from those of the others, and are as many as type and dimensions say. Names may
/// repeat.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// Fastest first; rows along the first are whole blocks.
    pub(super) dimensions: Vec<u64>,
    /// Where in the file.
    pub(super) data: Range<u64>,
}

/// Reads the header of the file in `source`.
pub(super) fn read(source: &dyn Source) -> Result<Header, GgufError> {
    let mut input = Input::new(source);
    let magic = input.take(4)?;
    if magic != MAGIC {
        return Err(GgufError::Magic { found: magic.escape_ascii().to_string() });
    }
    match input.u32()? {
        2 | 3 => {}
        swapped if (1..=3).contains(&swapped.swap_bytes()) => return Err(GgufError::BigEndian),
        found => return Err(GgufError::Version { found }),
    }
    let (tensor_count, key_count) = (input.u64()?, input.u64()?);
    let keys = metadata::read(&mut input, key_count)?;
    // Each takes bytes of the file, however large the count is.
    let infos = (0..tensor_count).map(|_| info(&mut input)).collect::<Result<Vec<_>, _>>()?;
    let (end, len) = (input.position(), input.len());
    let metadata = keys.with(input.into_bytes());

    let alignment = alignment(&metadata)?;
    // A header has some megabytes, so this is far from overflow if the alignment is.
    let data = end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    let tensors =
        infos.into_iter().map(|info| info.place(data, alignment, len)).collect::<Result<Vec<_>, _>>()?;
    apart(&tensors)?;
    Ok(Header { metadata, tensors })
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let key = "general.alignment";
    match metadata.integer(key)? {
        None => Ok(ALIGNMENT),
        Some(found) if found.is_power_of_two() => Ok(found),
        Some(found) => Err(GgufError::value(key, found, "a power of two")),
    }
}

/// A tensor as the header tells of it.
struct Info {
    name: String,
    dtype: DType,
    dimensions: Vec<u64>,
    bytes: u64,
    /// From the start of the data.
    offset: u64,
}

fn info(input: &mut Input<'_>) -> Result<Info, GgufError> {
    let name = input.name()?;
    let count = input.u32()?;
    if !(1..=MAX_DIMENSIONS).contains(&count) {
        return Err(GgufError::tensor(&name, format!("{count} dimensions"), "1 to 4"));
    }
    let dimensions = (0..count).map(|_| input.u64()).collect::<Result<Vec<_>, _>>()?;
    let number = input.u32()?;
    let Some(dtype) = types::dtype(number) else {
        return Err(GgufError::tensor(&name, format!("GGML type {number}"), "a supported type"));
    };
    let row = dimensions.first().copied().unwrap_or(1);
    if !row.is_multiple_of(dtype.block()) {
        let expected = format!("a multiple of {}", dtype.block());
        return Err(GgufError::tensor(&name, format!("{dtype} in rows of {row}"), expected));
    }
    let elements = dimensions.iter().try_fold(1_u64, |product, &axis| product.checked_mul(axis));
    let Some(bytes) = elements.and_then(|elements| dtype.bytes_of(elements)) else {
        let found = format!("{dtype} of dimensions {dimensions:?}");
        return Err(GgufError::tensor(&name, found, "less than 2^64 bytes"));
    };
    Ok(Info { name, dtype, dimensions, bytes, offset: input.u64()? })
}

impl Info {
    /// The tensor in a file of `len` bytes whose data start at `data`.
    fn place(self, data: u64, alignment: u64, len: u64) -> Result<Tensor, GgufError> {
        let Self { name, dtype, dimensions, bytes, offset } = self;
        if !offset.is_multiple_of(alignment) {
            let expected = format!("a multiple of {alignment}");
            return Err(GgufError::tensor(&name, format!("offset {offset}"), expected));
        }
        let start = data.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= len => {
                Ok(Tensor { name, dtype, dimensions, data: start..end })
            }
            _ => {
                let found = format!("{bytes} bytes at offset {offset} of the data at byte {data}");
                let expected = format!("all of them before the file's end at byte {len}");
                Err(GgufError::tensor(&name, found, expected))
            }
        }
    }
}

/// Refuses tensors that share bytes.
fn apart(tensors: &[Tensor]) -> Result<(), GgufError> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| (tensor.data.start, tensor.data.end));
    for (before, after) in sorted.iter().zip(sorted.iter().skip(1)) {
        if after.data.start < before.data.end {
            let found = format!("bytes {:?}", after.data);
            let expected = format!("none of {:?}'s {:?}", before.name, before.data);
            return Err(GgufError::tensor(&after.name, found, expected));
        }
    }
    Ok(())
}
