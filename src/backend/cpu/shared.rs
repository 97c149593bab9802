//! Buffers that the parts of a region write to, each its own piece. Uses nothing.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that may be written from several threads at once, as long as no two touch the same elements.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: this hands out pointers and, through an unsafe method whose callers promise disjointness, slices; both are sound from
// any thread for elements that may be sent there.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Pointer to the elements of `range`, which lie in the slice.
    #[inline(always)]
    pub(crate) fn pointer(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the slice, as just checked.
        unsafe { self.start.add(range.start) }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// Nobody else may use them while the result lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        let len = range.end - range.start;
        // SAFETY: `pointer` checks the range; the caller promises exclusive use.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(range), len) }
    }
}
