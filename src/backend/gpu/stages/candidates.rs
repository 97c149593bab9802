//! The best tokens of logits, which stay on the device. Uses `plain` and `scratch`.

use super::scratch::Scratch;
use super::{Gpu, copy_values};
use crate::backend::Candidates;
use crate::backend::gpu::kernels::CANDIDATES_BLOCK;
use crate::backend::gpu::{DevicePointer, Runtime};
use crate::candidates::Candidate;
use crate::error::Result;
use crate::softmax;

impl<R: Runtime> Gpu<R> {
    /// What is asked of each row of logits in `scratch.outputs`.
    pub(super) fn find_candidates(&self, scratch: &mut Scratch<R>, out: &mut [Candidates]) -> Result<()> {
        let (rows, blocks) = (out.len(), self.config.vocab.div_ceil(CANDIDATES_BLOCK));
        let Some(count) = out.iter().map(|row| row.asked.count()).max() else {
            return Ok(());
        };
        let scales = out.iter().flat_map(|row| [1.0, row.asked.temperature()].map(softmax::scale));
        let bytes = rows * 2 * size_of::<f64>();
        scratch.scales.send(&self.device, &self.stream, bytes, |out| {
            out.as_chunks_mut().0.iter_mut().zip(scales).for_each(|(out, scale)| *out = scale.to_le_bytes());
        })?;
        for ranks in &mut scratch.ranks {
            ranks.make(&self.device, rows * blocks * (count + 2) * size_of::<u64>())?;
        }
        self.find_best(blocks, rows, count, scratch)?;
        let mut len = blocks * count;
        while len > count {
            scratch.ranks.swap(0, 1);
            let blocks = len.div_ceil(CANDIDATES_BLOCK);
            self.merge_best(blocks, rows, len, count, scratch)?;
            len = blocks * count;
        }
        // Totals lie behind the ranks, so that they come back together.
        self.weigh(blocks, rows, count, scratch)?;
        let words = rows * (count + 2 * blocks);
        let bytes = self.returned(&scratch.ranks[0], words * size_of::<u64>(), &mut scratch.returned)?;
        let (ranks, totals) = bytes.as_chunks().0.split_at(rows * count);
        let rows = ranks.chunks_exact(count).zip(totals.chunks_exact(2 * blocks));
        for (out, (ranks, totals)) in out.iter_mut().zip(rows) {
            let ranks = ranks.iter().take(out.asked.count()).map(|rank| u64::from_le_bytes(*rank));
            out.best.clear();
            out.best.extend(ranks.map_while(Candidate::of_rank));
            [out.total, out.total_at_temperature] = [0, 1].map(|scale| {
                totals.iter().skip(scale).step_by(2).fold(0, |sum: u64, total| {
                    // No more than there can be, unless the device is broken.
                    sum.wrapping_add(u64::from_le_bytes(*total))
                })
            });
        }
        Ok(())
    }

    /// The best of each block of logits, in the first buffer of ranks.
    fn find_best(&self, blocks: usize, rows: usize, count: usize, scratch: &Scratch<R>) -> Result<()> {
        let (best, logits) = (scratch.ranks[0].pointer(), scratch.outputs.pointer());
        let (vocab, count) = (self.config.vocab as i32, count as i32);
        let arguments = [(&best).into(), (&logits).into(), (&vocab).into(), (&count).into()];
        // SAFETY: there are so many rows of logits, and room for as many ranks of each block.
        unsafe { self.launch(&self.kernels.candidates, [blocks, rows, 1], 0, arguments) }
    }

    /// Of `len` ranks of each row in the second buffer, in the first one.
    fn merge_best(
        &self,
        blocks: usize,
        rows: usize,
        len: usize,
        count: usize,
        scratch: &Scratch<R>,
    ) -> Result<()> {
        let [best, from] = scratch.ranks.each_ref().map(|ranks| ranks.pointer());
        let (len, count) = (len as i32, count as i32);
        let arguments = [(&best).into(), (&from).into(), (&len).into(), (&count).into()];
        // SAFETY: the launch before wrote as many, and there is room for what is left of them.
        unsafe { self.launch(&self.kernels.candidates_merge, [blocks, rows, 1], 0, arguments) }
    }

    /// Totals of each block of logits.
    fn weigh(&self, blocks: usize, rows: usize, count: usize, scratch: &Scratch<R>) -> Result<()> {
        let (logits, best) = (scratch.outputs.pointer(), scratch.ranks[0].pointer());
        let (totals, scales) = (best.0 + (rows * count * size_of::<u64>()) as u64, scratch.scales.pointer());
        let (totals, vocab, count) = (DevicePointer(totals), self.config.vocab as i32, count as i32);
        let arguments = [
            (&totals).into(),
            (&logits).into(),
            (&best).into(),
            (&scales).into(),
            (&vocab).into(),
            (&count).into(),
        ];
        // SAFETY: there are so many rows of each, and room for two totals of each block behind the ranks.
        unsafe { self.launch(&self.kernels.weigh, [blocks, rows, 1], 0, arguments) }
    }

    /// Row `index` of the logits in `scratch.outputs`.
    pub(super) fn read_row(&self, index: usize, scratch: &mut Scratch<R>, logits: &mut [f32]) -> Result<()> {
        let bytes = size_of_val(logits);
        let pinned = self.pinned(bytes, &mut scratch.returned)?;
        if let Some(buffer) = scratch.outputs.buffer() {
            self.stream.read(buffer, index * bytes, &mut pinned[..bytes])?;
            copy_values(&pinned[..bytes], logits);
        }
        Ok(())
    }
}
