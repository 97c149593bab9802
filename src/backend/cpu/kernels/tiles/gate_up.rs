//! The first two products of an expert, and what the third reads of them. Uses `elementwise`.

use std::arch::x86_64::*;
use std::ops::Range;

use super::matrix::Matrix;
use super::multiply::{Ending, LOCAL, Multiply};
use super::{SIDE, STEP, Side, TILE_ROWS, TiledPages, TiledRows, in_turn, narrow};
use crate::backend::cpu::kernels::elementwise::gelu;
use crate::backend::cpu::simd::amx::{Block, TileJob, Tiles};

/// `gelu(x[r] · gate[.., j]) * (x[r] · up[.., j])` for the `j` in `columns`, rounded to bf16, as tiles: sums never leave the cache as numbers.
pub(crate) struct GateUp<'a> {
    gate: Multiply<'a>,
    up: Multiply<'a>,
    out: TiledPages<'a>,
}

impl<'a> GateUp<'a> {
    /// The tiles are those of a product whose inputs the outputs are, with weights on the same side.
    ///
    /// # Safety
    /// Nobody else may use the steps of `columns`, which are whole ones, while this runs.
    pub(crate) unsafe fn new(
        x: TiledRows<'a>,
        [gate, up]: [Matrix<'a>; 2],
        columns: Range<usize>,
        out: TiledPages<'a>,
    ) -> Self {
        assert!(columns.end <= gate.outputs && gate.outputs == up.outputs && gate.side == up.side);
        assert!(columns.start.is_multiple_of(STEP) && out.rows() == x.rows() && out.inputs() == gate.outputs);
        let [gate, up] = [gate, up].map(|matrix| Multiply { x, matrix, columns: columns.clone() });
        Self { gate, up, out }
    }
}

impl TileJob for GateUp<'_> {
    #[inline(always)]
    fn run(self, tiles: &Tiles) {
        let mut local = LOCAL.take();
        let [gate, up] = &mut local.sums;
        self.gate.run(tiles, &mut local.work, gate, &());
        self.up.run(tiles, &mut local.work, up, &Activate { job: &self, tiles, gate });
        LOCAL.set(local);
    }
}

/// Meets the sums of `up` with those of `gate`.
struct Activate<'a> {
    job: &'a GateUp<'a>,
    tiles: &'a Tiles,
    gate: &'a [Block], // [panels, blocks]
}

impl Ending for Activate<'_> {
    #[inline(always)]
    fn end(&self, panel: usize, up: &[Block]) {
        let (job, gate) = (self.job, &self.gate[panel * up.len()..][..up.len()]);
        let column = job.up.column(panel);
        // Outputs that there are, of a panel's.
        let count = (job.up.columns.end - column).min(SIDE);
        let mask = u32::MAX >> (SIDE - count);
        let masks = [mask as u16, (mask >> 16) as u16];
        // SAFETY: the job runs with AMX, whose proof includes these instructions; the outputs are there. The caller of `new` promised
        // exclusive use of the tiles of this step, whose lines are vectors.
        unsafe {
            for (block, (gate, up)) in gate.iter().zip(up).enumerate() {
                let out = job.out.step(block, column / STEP);
                for tile in 0..2 {
                    for line in 0..TILE_ROWS {
                        let mut halves = [_mm512_setzero_ps(); 2];
                        for half in 0..2 {
                            // Rows of a tile are rows of `x`, of which it has half the columns; or else they are columns.
                            let (from, at, mask) = match job.up.matrix.side {
                                Side::Left => (2 * tile + half, line, masks[half]),
                                Side::Right => {
                                    let output = 2 * line + half;
                                    let there = if output < count { u16::MAX } else { 0 };
                                    (output / TILE_ROWS * 2 + tile, output % TILE_ROWS, there)
                                }
                            };
                            let [gate, up] = [&gate.0[from].0[at], &up.0[from].0[at]];
                            let gate = _mm512_load_ps(gate.as_ptr());
                            let up = _mm512_load_ps(up.as_ptr());
                            let x = _mm512_mul_ps(gelu(self.tiles.floats, gate), up);
                            halves[half] = _mm512_maskz_mov_ps(mask, x);
                        }
                        let x = narrow(halves[0], halves[1]);
                        let x = if job.up.matrix.side == Side::Right { in_turn(x) } else { x };
                        _mm512_storeu_si512(out.add((tile * TILE_ROWS + line) * 64).cast(), x);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bf16_bytes, values};
    use super::super::{Pack, Product};
    use super::*;
    use crate::backend::cpu::kernels::elementwise::GeluMul;
    use crate::backend::cpu::kernels::pages::{Page, pages};
    use crate::backend::cpu::kernels::{Out, Rows};
    use crate::backend::cpu::shared::Shared;
    use crate::backend::cpu::simd::amx::Amx;
    use crate::tensor::DType;

    /// Rows as tiles.
    fn packed(amx: Amx, data: &[f32], inputs: usize, side: Side) -> Vec<Page> {
        let index: Vec<u32> = (0..(data.len() / inputs) as u32).collect();
        let mut memory = vec![Page::default(); pages(index.len(), 1, inputs)];
        let shared = Shared::new(&mut memory);
        for part in 0..Pack::parts(index.len(), inputs) {
            let x = Rows { data, stride: inputs, index: &index };
            // SAFETY: nobody else uses the pages.
            amx.enter_tiles(unsafe { Pack::new(x, inputs, side, part, &shared, 0) });
        }
        memory
    }

    /// The product of rows that are tiles.
    fn product(amx: Amx, x: &[Page], rows: usize, matrix: Matrix<'_>) -> Vec<f32> {
        let mut out = vec![f32::NAN; rows * matrix.outputs];
        let shared = Shared::new(&mut out);
        let (x, columns) = (TiledRows::new(x, rows, matrix.inputs), 0..matrix.outputs);
        // SAFETY: nobody else uses the buffer.
        amx.enter_tiles(unsafe { Product::new(x, matrix, columns, Out::rows(&shared, 0, matrix.outputs)) });
        out
    }

    /// Compares the third product of what was handed over with that of what was written, activated and packed.
    fn check(amx: Amx, rows: usize, [gate, up, down]: [Matrix<'_>; 3]) {
        let (inputs, outputs) = (gate.inputs, gate.outputs);
        let x = packed(amx, &values(rows * inputs), inputs, gate.side);
        let [mut activated, other] = [gate, up].map(|matrix| product(amx, &x, rows, matrix));
        amx.vectors().enter(GeluMul { gate: &mut activated, up: &other, round: true });
        let expected = product(amx, &packed(amx, &activated, outputs, gate.side), rows, down);

        let mut memory = vec![Page([0xff; _]); pages(rows, 1, outputs)];
        let shared = Shared::new(&mut memory);
        let out = TiledPages::new(&shared, 0, rows, outputs);
        let middle = outputs / 2 / STEP * STEP;
        for columns in [0..middle, middle..outputs] {
            let x = TiledRows::new(&x, rows, inputs);
            // SAFETY: nobody else uses the pages.
            amx.enter_tiles(unsafe { GateUp::new(x, [gate, up], columns, out) });
        }
        assert_eq!(product(amx, &memory, rows, down), expected, "{rows} rows, {:?}", gate.side);
    }

    #[test]
    fn the_third_product_reads_what_it_would_of_numbers() {
        let Some(amx) = Amx::new() else { return eprintln!("skipped: no AMX") };
        for (rows, inputs, outputs) in [(1, 40, 5), (17, 300, 49), (33, 64, 96), (70, 32, 131)] {
            let [gate, up] = [3, 4].map(|skip| bf16_bytes(&values(inputs * outputs + skip)[skip..]));
            let down = bf16_bytes(&values(outputs * 50));
            let matrices = [(&gate, inputs), (&up, inputs), (&down, outputs)];
            check(
                amx,
                rows,
                matrices.map(|(bytes, inputs)| Matrix::out_in(bytes, DType::BF16, inputs, None)),
            );
            let shapes = [[inputs, outputs], [inputs, outputs], [outputs, 50]];
            let [gate, up, down] = [&gate, &up, &down];
            let of = |bytes, shape| Matrix::numbers(bytes, shape);
            check(amx, rows, [of(gate, shapes[0]), of(up, shapes[1]), of(down, shapes[2])]);
            let codes: Vec<u8> = (0..inputs * outputs).map(|i| (i * 89 % 255) as u8).collect();
            for group in [inputs, 256] {
                let scales = bf16_bytes(&values(inputs.div_ceil(group) * outputs));
                let integers = |codes| Matrix::integers(codes, shapes[0], group, &scales);
                check(
                    amx,
                    rows,
                    [integers(&codes), integers(&gate[..inputs * outputs]), of(down, shapes[2])],
                );
            }
        }
    }
}
