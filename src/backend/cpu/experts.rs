//! The experts of a layer: each meets the rows that chose it. Uses `weights`, `operand` and `kernels`.

use std::cell::RefCell;
use std::sync::atomic::Ordering::Relaxed;

use super::kernels::elementwise::{GeluMul, Scale};
use super::kernels::pages::{blocks, first_page, half_block_pages, pages};
use super::kernels::{Out, Rows};
use super::operand::{Operand, packed};
use super::scratch::Pairs;
use super::shared::Shared;
use super::weights::Weights;
use super::{Cpu, Layer, Scratch, best};
use crate::backend::Batch;
use crate::error::Result;

thread_local! {
    /// A thread's `up` products, grown once.
    static UP: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) }; // [pairs, columns of a part]
}

impl Cpu {
    /// `branch = sum over selected experts of gate * down(gelu(gate(x)) * up(x))`, with `x` as normed for them.
    pub(super) fn run_experts(&self, layer: &Layer, batch: &Batch<'_>, scratch: &mut Scratch) -> Result<()> {
        let Scratch { normed, pairs, activated, down, branch, experts, gates, identity, .. } = scratch;
        let Scratch { integers, tiles, .. } = scratch;
        let (width, ffn, selected) = (self.config.width, self.config.ffn_width, self.config.selected_experts);
        let rows = batch.rows().len();
        pairs.group(&experts[..rows * selected], selected, self.config.experts);
        let pairs = &*pairs;
        if self.reads_ahead.load(Relaxed) {
            for matrices in [&layer.gate, &layer.up, &layer.down] {
                pairs.active.iter().for_each(|(expert, _)| matrices[*expert].read_ahead());
            }
        }
        let strips = |weights: &Weights, rows| weights.strips(self.way(weights, rows), rows);
        let parts = |weights: &[Weights]| {
            pairs.active.iter().map(|(expert, range)| strips(&weights[*expert], range.len())).sum()
        };

        let groups = pairs.active.iter().map(|(expert, range)| {
            let ways = self.ways([&layer.gate[*expert], &layer.up[*expert]], range.len());
            (ways, *expert, range.clone())
        });
        let ways = groups.clone().flat_map(|(ways, ..)| ways);
        self.pack(batch, ways, &normed[..rows * width], width, integers)?;
        let groups = groups.map(|(ways, expert, range)| (best(&ways, 0).0, expert, range));
        let x = Rows { data: normed, stride: width, index: &pairs.rows[..rows * selected] };
        self.tile(batch, x, groups, tiles)?;

        let hands_over = self.hands_over(layer, pairs);
        // Behind the tiles that the first products read are those that they leave to the third, if they do.
        let behind =
            if hands_over { pages(rows * selected, self.config.experts, width) } else { tiles.len() };
        let handed = |start: usize, expert: usize| blocks(start, expert) * half_block_pages(ffn);
        let (of_inputs, of_activated) = tiles.split_at_mut(behind);
        let (of_inputs, of_activated) = (&*of_inputs, Shared::new(of_activated));
        let out = Shared::new(activated);
        self.region(batch, parts(&layer.gate), |part| {
            let (expert, range, strip) = pairs.part(part, |expert, rows| strips(&layer.gate[expert], rows));
            let (gate, up) = (&layer.gate[expert], &layer.up[expert]);
            let ways = self.ways([gate, up], range.len());
            let columns = gate.columns(ways[0], range.len(), strip);
            let tiles = of_inputs.get(first_page(range.start, expert, width)..).unwrap_or_default();
            let x = Operand::new(normed, integers, tiles, width, &pairs.rows[range.clone()]);
            if hands_over && ways[0].has_tiles() {
                // SAFETY: each part has its own columns of its own expert's tiles.
                unsafe { gate.gate_up(up, ways[0], x, columns, &of_activated, handed(range.start, expert)) };
                return;
            }
            let strip = columns.len();
            let mut local = UP.take();
            local.resize(range.len() * strip, 0.0);
            let buffer = Shared::new(&mut local);
            let to_gate = Out::rows(&out, range.start, ffn);
            let to_up = Out { buffer: &buffer, first: 0, stride: strip, origin: columns.start };
            // SAFETY: each part has its own columns of its own expert's pairs; `local` is this thread's own.
            unsafe {
                gate.product(self.isa, ways[0], x, columns.clone(), to_gate);
                up.product(self.isa, ways[1], x, columns.clone(), to_up);
                for index in 0..range.len() {
                    let start = to_gate.place(index, columns.start);
                    let gate = out.slice(start..start + strip);
                    let up = buffer.slice(index * strip..(index + 1) * strip);
                    self.isa.run(GeluMul { gate, up, round: self.rounds_activations() });
                }
            }
            UP.set(local);
        })?;

        for (expert, range) in &pairs.active {
            let way = self.way(&layer.down[*expert], range.len());
            let x = &activated[range.start * ffn..range.end * ffn];
            self.pack(batch, [way], x, ffn, &mut integers[range.start * packed(ffn)..])?;
        }
        if !hands_over {
            let groups = pairs.active.iter();
            let groups = groups
                .map(|(expert, range)| (self.way(&layer.down[*expert], range.len()), *expert, range.clone()));
            let x = Rows { data: activated, stride: ffn, index: &identity[..rows * selected] };
            self.tile(batch, x, groups, tiles)?;
        }
        let out = Shared::new(down);
        self.region(batch, parts(&layer.down), |part| {
            let (expert, range, strip) = pairs.part(part, |expert, rows| strips(&layer.down[expert], rows));
            let (weights, way) = (&layer.down[expert], self.way(&layer.down[expert], range.len()));
            let first = if hands_over {
                behind + handed(range.start, expert)
            } else {
                first_page(range.start, expert, ffn)
            };
            let tiles = tiles.get(first..).unwrap_or_default();
            let x = Operand::new(activated, integers, tiles, ffn, &identity[range.clone()]);
            let out = Out::rows(&out, range.start, width);
            // SAFETY: each part has its own columns of its own expert's pairs.
            unsafe { weights.product(self.isa, way, x, weights.columns(way, range.len(), strip), out) };
        })?;

        let branch = Shared::new(branch);
        self.each_row(batch, rows, |row| {
            // SAFETY: each part has its own row.
            let out = unsafe { branch.slice(row * width..(row + 1) * width) };
            for slot in 0..selected {
                let pair = pairs.of_slot[row * selected + slot] as usize;
                let x = &down[pair * width..][..width];
                let factor = gates[row * selected + slot];
                self.isa.run(Scale { x, factor, out, add: slot > 0 });
            }
        })
    }

    /// Whether the first two products of experts leave what the third one reads as tiles: some do, and all others read no pages.
    fn hands_over(&self, layer: &Layer, pairs: &Pairs) -> bool {
        let mut some = false;
        let all = pairs.active.iter().all(|(expert, range)| {
            let of = [&layer.gate, &layer.up, &layer.down].map(|weights| &weights[*expert]);
            let [gate, up, down] = of.map(|weights| self.way(weights, range.len()));
            let tiles = gate.has_tiles() && up.has_tiles() && up.shares(gate) && gate.shares(down);
            some |= tiles;
            tiles || !gate.has_tiles() && !down.reads_pages()
        });
        some && all
    }
}
