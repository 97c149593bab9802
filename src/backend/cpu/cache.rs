//! The KV pages in memory: `[layers, 2, kv_heads, PAGE, head_dim]` each, so that one head's keys lie together. Uses `backend` and `buffer`.

use std::ops::Range;

use crate::backend::{BackendError, KvPart, KvType, PAGE, PageId, page_bytes};
use crate::buffer::Buffer;
use crate::config::ModelConfig;

/// Storage of a model's KV pages.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
pub struct Cache {
    pub(crate) kv: KvType,
    page_bytes: usize,
    kv_heads: usize,
    head_bytes: usize,
    /// The NUMA node that they are to lie on.
    node: Option<usize>,
    /// Those that are not freed.
    pages: Vec<Option<Buffer>>,
}

impl Cache {
    pub(crate) fn new(config: &ModelConfig, kv: KvType, node: Option<usize>) -> Self {
        Self {
            kv,
            page_bytes: page_bytes(config, kv),
            kv_heads: config.kv_heads,
            head_bytes: config.head_dim * kv.size(),
            node,
            pages: Vec::new(),
        }
    }

    pub(crate) fn allocate(&mut self, page: PageId) -> Result<(), BackendError> {
        let index = page.0 as usize;
        if self.pages.len() <= index {
            self.pages.resize_with(index + 1, || None);
        }
        if self.pages[index].is_none() {
            let (what, bytes) = ("a KV page", self.page_bytes);
            let page = Buffer::zeroed(bytes, self.node).map_err(|_| BackendError::Memory { what, bytes })?;
            self.pages[index] = Some(page);
        }
        Ok(())
    }

    pub(crate) fn free(&mut self, page: PageId) {
        if let Some(page) = self.pages.get_mut(page.0 as usize) {
            *page = None;
        }
    }

    pub(crate) fn copy(&mut self, from: PageId, to: PageId) -> Result<(), BackendError> {
        let (from, to) = (from.0 as usize, to.0 as usize);
        let pages = self.pages.get_disjoint_mut([from, to]);
        let Ok([Some(from), Some(to)]) = pages else { return Err(BackendError::Page { page: to as u32 }) };
        to.copy_from_slice(from);
        Ok(())
    }

    /// Bytes of a page that hold one head's `PAGE` keys or values of one layer.
    pub(crate) fn head(&self, layer: usize, part: KvPart, head: usize) -> Range<usize> {
        let part = match part {
            KvPart::Key => 0,
            KvPart::Value => 1,
        };
        let len = PAGE * self.head_bytes;
        let start = ((layer * 2 + part) * self.kv_heads + head) * len;
        start..start + len
    }

    /// Bytes of one position within [`head`](Self::head).
    pub(crate) fn slot(&self, position: usize) -> Range<usize> {
        let start = position % PAGE * self.head_bytes;
        start..start + self.head_bytes
    }

    pub(crate) fn page(&self, page: PageId) -> Result<&[u8], BackendError> {
        let found = self.pages.get(page.0 as usize).and_then(Option::as_deref);
        found.ok_or(BackendError::Page { page: page.0 })
    }

    pub(crate) fn page_mut(&mut self, page: PageId) -> Result<&mut [u8], BackendError> {
        let found = self.pages.get_mut(page.0 as usize).and_then(Option::as_deref_mut);
        found.ok_or(BackendError::Page { page: page.0 })
    }

    /// Where each (position, head) of a layer's keys or values lies in `[PAGE, kv_heads, head_dim]`, and where in a page.
    pub(crate) fn ranges(&self, layer: usize, part: KvPart) -> Vec<[Range<usize>; 2]> {
        let places = (0..PAGE).flat_map(|position| (0..self.kv_heads).map(move |head| (position, head)));
        places
            .map(|(position, head)| {
                let canonical = (position * self.kv_heads + head) * self.head_bytes;
                let start = self.head(layer, part, head).start + self.slot(position).start;
                [canonical..canonical + self.head_bytes, start..start + self.head_bytes]
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_page_has_no_memory_until_it_is_allocated_again() {
        let mut cache = Cache::new(&ModelConfig::grok1(), KvType::BF16, None);
        let page = PageId(2);
        cache.allocate(page).unwrap();
        assert_eq!(cache.page(page).unwrap().len(), 16 << 20);
        cache.free(page);
        assert!(cache.pages[2].is_none());
        cache.allocate(page).unwrap();
        assert_eq!(cache.page(page).unwrap().len(), 16 << 20);
    }
}
