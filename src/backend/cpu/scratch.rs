//! Activations of the current batch. Uses `backend`.

use std::ops::Range;

use super::attention::Plan;
use super::kernels::pages::{Page, block_pages, blocks, half_block_pages, pages};
use super::operand::packed;
use super::simd::Activations;
use crate::backend::{BackendError, values::grow};
use crate::config::ModelConfig;

/// Buffers that grow to the largest batch seen and are then reused.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
#[derive(Default)]
pub struct Scratch {
    pub(crate) rows: usize,
    pub(crate) plan: Plan,
    pub(crate) identity: Vec<u32>,      // [rows or pairs]: 0, 1, 2, ...
    pub(crate) cos: Vec<f32>,           // [rows, head_dim / 2]
    pub(crate) sin: Vec<f32>,           // [rows, head_dim / 2]
    pub(crate) hidden: Vec<f32>,        // [rows, width]
    pub(crate) normed: Vec<f32>,        // [rows, width]
    pub(crate) query: Vec<f32>,         // [rows, heads, head_dim]
    pub(crate) key: Vec<f32>,           // [rows, kv_heads, head_dim]
    pub(crate) value: Vec<f32>,         // [rows, kv_heads, head_dim]
    pub(crate) attended: Vec<f32>,      // [rows, heads, head_dim]
    pub(crate) branch: Vec<f32>,        // [rows, width]
    pub(crate) probabilities: Vec<f32>, // [rows, experts]
    pub(crate) experts: Vec<u32>,       // [rows, selected]
    pub(crate) gates: Vec<f32>,         // [rows, selected]
    pub(crate) pairs: Pairs,
    pub(crate) activated: Vec<f32>, // [pairs, ffn_width]
    pub(crate) down: Vec<f32>,      // [pairs, width]
    /// What the next product reads, as integers.
    pub(crate) integers: Vec<Activations>, // [rows or pairs, inputs / 256]
    /// The same as tiles or panels.
    pub(crate) tiles: Vec<Page>, // [blocks of rows or of each expert's pairs, pages]
}

/// The (row, selected expert) pairs of a batch, ordered by expert.
#[derive(Default)]
pub(crate) struct Pairs {
    /// Row of each pair.
    pub(crate) rows: Vec<u32>, // [pairs]
    /// Pair of each (row, slot).
    pub(crate) of_slot: Vec<u32>, // [rows, selected]
    /// Experts with pairs, and where theirs begin and end.
    pub(crate) active: Vec<(usize, Range<usize>)>,
    /// Where the next pair of each expert goes.
    next: Vec<usize>, // [experts]
}

impl Scratch {
    /// Makes room for `rows` rows, that of tiles or panels only where there are some.
    pub(crate) fn reserve(
        &mut self,
        config: &ModelConfig,
        rows: usize,
        tiles: bool,
    ) -> Result<(), BackendError> {
        let what = "activations";
        let pairs = rows * config.selected_experts;
        self.rows = rows;
        for index in self.identity.len()..rows.max(pairs) {
            self.identity.push(index as u32);
        }
        grow(&mut self.cos, rows * config.head_dim / 2, what)?;
        grow(&mut self.sin, rows * config.head_dim / 2, what)?;
        grow(&mut self.hidden, rows * config.width, what)?;
        grow(&mut self.normed, rows * config.width, what)?;
        grow(&mut self.query, rows * config.query_width(), what)?;
        grow(&mut self.key, rows * config.kv_width(), what)?;
        grow(&mut self.value, rows * config.kv_width(), what)?;
        grow(&mut self.attended, rows * config.query_width(), what)?;
        grow(&mut self.branch, rows * config.width, what)?;
        grow(&mut self.probabilities, rows * config.experts, what)?;
        grow(&mut self.experts, pairs, what)?;
        grow(&mut self.gates, pairs, what)?;
        grow(&mut self.pairs.rows, pairs, what)?;
        grow(&mut self.pairs.of_slot, pairs, what)?;
        grow(&mut self.activated, pairs * config.ffn_width, what)?;
        grow(&mut self.down, pairs * config.width, what)?;
        let widest = rows * packed(config.width.max(config.query_width()));
        grow(&mut self.integers, widest.max(pairs * packed(config.ffn_width)), what)?;
        if tiles {
            let all = pages(rows, 1, config.width.max(config.query_width()));
            // What the first products of experts read, then what the third does; or both at once, if that is tiles of bf16.
            let (width, ffn) = (config.width, config.ffn_width);
            let both = block_pages(width) + half_block_pages(ffn);
            let of_experts = blocks(pairs, config.experts) * block_pages(width.max(ffn)).max(both);
            grow(&mut self.tiles, all.max(of_experts), what)?;
        }
        Ok(())
    }
}

impl Pairs {
    /// Groups the selected experts of all rows, each expert's pairs in the order of their rows.
    pub(crate) fn group(
        &mut self,
        experts: &[u32], /* [rows, selected] */
        selected: usize,
        count: usize,
    ) {
        self.next.clear();
        self.next.resize(count, 0);
        for &expert in experts {
            self.next[expert as usize] += 1;
        }
        self.active.clear();
        let mut first = 0;
        for (expert, next) in self.next.iter_mut().enumerate() {
            let pairs = std::mem::replace(next, first);
            if pairs > 0 {
                self.active.push((expert, first..first + pairs));
                first += pairs;
            }
        }
        for (slot, &expert) in experts.iter().enumerate() {
            let pair = &mut self.next[expert as usize];
            self.rows[*pair] = (slot / selected) as u32;
            self.of_slot[slot] = *pair as u32;
            *pair += 1;
        }
    }

    /// The expert, its pairs and the number within it of part `part` of a region that has `parts` for each active expert.
    pub(crate) fn part(
        &self,
        mut part: usize,
        parts: impl Fn(usize, usize) -> usize,
    ) -> (usize, Range<usize>, usize) {
        for (expert, range) in &self.active {
            let own = parts(*expert, range.len());
            if part < own {
                return (*expert, range.clone(), part);
            }
            part -= own;
        }
        // A region has no more parts than its experts together.
        (0, 0..0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::activation_bytes;

    #[test]
    fn plans_count_the_activations_there_are() {
        let config = ModelConfig { width: 96, ffn_width: 160, head_dim: 32, ..ModelConfig::grok1() };
        let mut scratch = Scratch::default();
        scratch.reserve(&config, 7, true).unwrap();
        let Scratch { cos, sin, hidden, normed, query, key, value, attended, branch, .. } = &scratch;
        let Scratch { probabilities, activated, down, integers, tiles, .. } = &scratch;
        let buffers =
            [cos, sin, hidden, normed, query, key, value, attended, branch, probabilities, activated, down];
        let values: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let packed = size_of_val(integers.as_slice()) + size_of_val(tiles.as_slice());
        assert_eq!(activation_bytes(&config, 7), (4 * values + packed) as u64);
    }
}
