//! The start of a file, read in blocks as far as its header goes. Uses `source`.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::ops::Range;

use super::GgufError;
use crate::source::Source;

/// Bytes a header may have; Grok-1's, with its vocabulary, takes 4 MB. Keys, tensors and everything kept of them are counted by
/// the bytes they take, so this bounds memory and time whatever the counts in a file say.
pub(super) const MAX_HEADER: u64 = 32 << 20;

/// Bytes a key or the name of a tensor may have; real ones have less than 64.
pub(super) const MAX_NAME: u64 = 1024;

/// Bytes read at once.
const BLOCK: u64 = 256 << 10;

pub(super) struct Input<'a> {
    source: &'a dyn Source,
    len: u64,
    /// What was read: the start of the file.
    bytes: Vec<u8>,
    position: u64,
}

impl<'a> Input<'a> {
    pub(super) fn new(source: &'a dyn Source) -> Self {
        Self { source, len: source.len(), bytes: Vec::new(), position: 0 }
    }

    /// Where the next byte stands in the file.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Length of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Everything up to at least [`position`](Self::position).
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Steps over `count` bytes, which are read if they all exist, and tells where they stand.
    pub(super) fn skip(&mut self, count: u64) -> Result<Range<usize>, GgufError> {
        let offset = self.position;
        let end = offset.checked_add(count).filter(|&end| end <= self.len);
        let end = end.ok_or(GgufError::PastEnd { offset, wanted: count, len: self.len })?;
        if end > MAX_HEADER {
            return Err(GgufError::HeaderTooLong { offset });
        }
        let read = self.bytes.len() as u64;
        if end > read {
            let target = end.max(read.saturating_add(BLOCK)).min(self.len);
            // No more than MAX_HEADER and a block: fits.
            self.bytes.resize(target as usize, 0);
            let new = self.bytes.get_mut(read as usize..).unwrap_or_default();
            self.source.read_at(read, new).map_err(|source| GgufError::Read { offset: read, source })?;
        }
        self.position = end;
        Ok(offset as usize..end as usize)
    }

    /// The next key or name of a tensor.
    pub(super) fn name(&mut self) -> Result<String, GgufError> {
        let (offset, found) = (self.position, self.u64()?);
        if found > MAX_NAME {
            return Err(GgufError::NameTooLong { offset, found });
        }
        let bytes = self.take(found)?;
        let name = str::from_utf8(bytes).map(str::to_owned);
        name.map_err(|_| GgufError::Name { offset, found: bytes.escape_ascii().to_string() })
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: u64) -> Result<&[u8], GgufError> {
        let range = self.skip(count)?;
        Ok(self.bytes.get(range).unwrap_or_default())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let (offset, wanted, len) = (self.position, N as u64, self.len);
        let bytes = self.take(wanted)?;
        bytes.try_into().map_err(|_| GgufError::PastEnd { offset, wanted, len })
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }
}
