//! Where rows of activations lie that are packed to tiles.

/// Memory that begins where a page of it does: tiles that straddle two load slowly.
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

/// Pages of a block of rows: 32 bf16 of each to a tile's row, whole ones.
pub(crate) fn block_pages(inputs: usize) -> usize {
    (inputs.div_ceil(32) * BLOCK * 64).div_ceil(size_of::<Page>())
}

/// Pages that hold `rows` rows in up to `groups` groups, each of whole blocks.
pub(crate) fn pages(rows: usize, groups: usize, inputs: usize) -> usize {
    (rows / BLOCK + groups) * block_pages(inputs)
}

/// Where a group begins whose first row is `start`, and before which there are at most `before`.
pub(crate) fn first_page(start: usize, before: usize, inputs: usize) -> usize {
    pages(start, before, inputs)
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
