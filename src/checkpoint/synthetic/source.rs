//! Bytes that are computed from their place. Uses `pattern`.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::pattern::Pattern;
use crate::source::{Formula, Source};

/// Random bytes in a pattern; any range of them is the same however it is read.
pub(super) struct Random {
    pub(super) len: u64,
    /// Tells tensors apart.
    pub(super) key: u64,
    pub(super) pattern: Arc<Pattern>,
}

impl Source for Random {
    fn name(&self) -> String {
        "a synthetic model".to_owned()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.pattern.fill(self.key, offset, out);
        Ok(())
    }

    /// There is nothing to show: whoever wants weights in memory reads them into their own.
    fn slice(&self, _: Range<u64>) -> io::Result<Option<&[u8]>> {
        Ok(None)
    }

    fn formula(&self) -> Option<Formula<'_>> {
        Some(self.pattern.formula(self.key))
    }
}
