//! KV pages on a device: `[layers, key and value, kv_heads, PAGE, head_dim]` each. Uses `backend`.

use super::Gpu;
use crate::backend::gpu::{Buffer, Runtime};
use crate::backend::{BackendError, KvPart, KvType, PAGE, PageId, page_bytes};
use crate::error::Result;

/// The KV pages of a model.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
pub struct Cache<R: Runtime> {
    pub(super) kv: KvType,
    pages: Vec<Option<Buffer<R>>>,
}

impl<R: Runtime> Cache<R> {
    pub(super) fn new(kv: KvType) -> Self {
        Self { kv, pages: Vec::new() }
    }

    pub(super) fn page(&self, page: PageId) -> Result<&Buffer<R>, BackendError> {
        let found = self.pages.get(page.0 as usize).and_then(Option::as_ref);
        found.ok_or(BackendError::Page { page: page.0 })
    }

    pub(super) fn free(&mut self, page: PageId) {
        if let Some(page) = self.pages.get_mut(page.0 as usize) {
            *page = None;
        }
    }
}

impl<R: Runtime> Gpu<R> {
    pub(super) fn make_page(&self, cache: &mut Cache<R>, page: PageId) -> Result<()> {
        let index = page.0 as usize;
        if cache.pages.len() <= index {
            cache.pages.resize_with(index + 1, || None);
        }
        if cache.pages[index].is_none() {
            let bytes = page_bytes(&self.config, cache.kv);
            cache.pages[index] = Some(self.device.allocate(bytes, "a KV page")?);
        }
        Ok(())
    }

    pub(super) fn copy_whole_page(&self, cache: &mut Cache<R>, from: PageId, to: PageId) -> Result<()> {
        // Taken out for as long as it is written to, so that it is not the other.
        let taken = cache.pages.get_mut(to.0 as usize).and_then(Option::take);
        let mut target = taken.ok_or(BackendError::Page { page: to.0 })?;
        let copied = cache
            .page(from)
            .map_err(Into::into)
            .and_then(|from| Ok(self.stream.copy(&mut target, 0, from, 0, from.len())?));
        cache.pages[to.0 as usize] = Some(target);
        copied
    }

    /// The bytes of a head at one position, and where keys or values of a layer lie in a page.
    fn part_of_page(&self, kv: KvType, layer: usize, part: KvPart) -> (usize, usize) {
        let head = self.config.head_dim * kv.size();
        let part = match part {
            KvPart::Key => 0,
            KvPart::Value => 1,
        };
        (head, (layer * 2 + part) * self.config.kv_heads * PAGE * head)
    }

    pub(super) fn read_part(
        &self,
        cache: &Cache<R>,
        page: PageId,
        layer: usize,
        part: KvPart,
        out: &mut [u8],
    ) -> Result<()> {
        let (head, start) = self.part_of_page(cache.kv, layer, part);
        let mut stored = vec![0; out.len()]; // [kv_heads, PAGE, head_dim]
        self.stream.read(cache.page(page)?, start, &mut stored)?;
        for (position, out) in out.chunks_exact_mut(self.config.kv_heads * head).enumerate() {
            for (kv_head, out) in out.chunks_exact_mut(head).enumerate() {
                out.copy_from_slice(&stored[(kv_head * PAGE + position) * head..][..head]);
            }
        }
        Ok(())
    }

    pub(super) fn write_part(
        &self,
        cache: &Cache<R>,
        page: PageId,
        layer: usize,
        part: KvPart,
        values: &[u8],
    ) -> Result<()> {
        let (head, start) = self.part_of_page(cache.kv, layer, part);
        let mut stored = vec![0; values.len()]; // [kv_heads, PAGE, head_dim]
        for (position, values) in values.chunks_exact(self.config.kv_heads * head).enumerate() {
            for (kv_head, values) in values.chunks_exact(head).enumerate() {
                stored[(kv_head * PAGE + position) * head..][..head].copy_from_slice(values);
            }
        }
        Ok(self.stream.write(cache.page(page)?, start, &stored)?)
    }
}
