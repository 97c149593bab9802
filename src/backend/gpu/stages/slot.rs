//! Memory of the host that copies are queued from. Uses `device`.

use crate::backend::gpu::{Buffer, Device, Event, GpuError, Pinned, Runtime, Stream};

/// Pinned memory that is written to, and given up, only when nothing is copied from it any more.
pub(super) struct Slot<R: Runtime> {
    bytes: Pinned<R>,
    /// When the last copy is done.
    copied: Event<R>,
}

impl<R: Runtime> Slot<R> {
    pub(super) fn new(device: &Device<R>, bytes: usize) -> Result<Self, GpuError> {
        Ok(Self { bytes: device.pinned(bytes)?, copied: device.event()? })
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Its bytes, once they were copied.
    pub(super) fn free(&mut self) -> Result<&mut [u8], GpuError> {
        self.copied.synchronize()?;
        Ok(&mut self.bytes)
    }

    /// Queues a copy of its first bytes.
    pub(super) fn send(
        &mut self,
        stream: &Stream<R>,
        to: &Buffer<R>,
        at: usize,
        bytes: usize,
    ) -> Result<(), GpuError> {
        let from = self.bytes.get(..bytes).ok_or(GpuError::Range { at: 0, bytes, of: self.bytes.len() })?;
        // SAFETY: nobody gets at the bytes, nor are they given back, before the event that is recorded behind this copy.
        let queued = unsafe { stream.queue_write(to, at, from) };
        let recorded = queued.and_then(|()| stream.record(&self.copied));
        if recorded.is_err() {
            // Nothing else tells when the copy is done. What this fails with is no more than a consequence.
            _ = stream.synchronize();
        }
        recorded
    }

    /// When the last copy is done.
    pub(super) fn copied(&self) -> &Event<R> {
        &self.copied
    }
}

impl<R: Runtime> Drop for Slot<R> {
    fn drop(&mut self) {
        if let Err(error) = self.copied.synchronize() {
            log::warn!("a copy may have failed: {error}");
        }
    }
}
