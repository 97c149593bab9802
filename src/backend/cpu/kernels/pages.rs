//! Where rows of activations lie that are packed to tiles or panels.

use half::bf16;

/// Memory that begins where a page of it does: tiles and vectors that straddle two load slowly.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
pub(crate) struct Page(pub(crate) [u8; 4096]);

impl Default for Page {
    fn default() -> Self {
        Self([0; 4096])
    }
}

/// Rows that are packed together.
pub(crate) const BLOCK: usize = 32;

/// Pages of a block of rows: 32 f32 of each to one.
pub(crate) fn block_pages(inputs: usize) -> usize {
    inputs.div_ceil(size_of::<Page>() / (BLOCK * size_of::<f32>()))
}

/// The same where they are packed to bf16, and to nothing else.
pub(crate) fn half_block_pages(inputs: usize) -> usize {
    inputs.div_ceil(size_of::<Page>() / (BLOCK * size_of::<bf16>()))
}

/// Blocks that `rows` rows in up to `groups` groups take at most, each group whole ones.
pub(crate) fn blocks(rows: usize, groups: usize) -> usize {
    rows / BLOCK + groups
}

/// Pages that hold such rows.
pub(crate) fn pages(rows: usize, groups: usize, inputs: usize) -> usize {
    blocks(rows, groups) * block_pages(inputs)
}

/// Where a group begins whose first row is `start`, and before which there are at most `before`.
pub(crate) fn first_page(start: usize, before: usize, inputs: usize) -> usize {
    pages(start, before, inputs)
}

/// The numbers in pages.
pub(crate) fn floats(pages: &[Page]) -> &[f32] {
    // SAFETY: pages are bytes without padding, of which all values are numbers, and lie as these must.
    unsafe { std::slice::from_raw_parts(pages.as_ptr().cast(), size_of_val(pages) / size_of::<f32>()) }
}

/// The same, to be written.
pub(crate) fn floats_mut(pages: &mut [Page]) -> &mut [f32] {
    // SAFETY: as above, and all numbers are bytes.
    unsafe {
        std::slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), size_of_val(pages) / size_of::<f32>())
    }
}

/// Pages that hold so many numbers.
pub(crate) fn pages_of(floats: usize) -> usize {
    (floats * size_of::<f32>()).div_ceil(size_of::<Page>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_lie_one_behind_the_other() {
        for lengths in [[1_usize, 1, 1, 1], [31, 33, 32, 64], [32, 32, 1, 95], [63, 2, 31, 30]] {
            let (mut start, mut end) = (0, 0);
            for (before, rows) in lengths.into_iter().enumerate() {
                let first = first_page(start, before, 100);
                assert!(first >= end);
                end = first + rows.div_ceil(BLOCK) * block_pages(100);
                start += rows;
            }
            assert!(end <= pages(start, lengths.len(), 100));
        }
    }
}
