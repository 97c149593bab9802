//! Products of activations with weights, by the kernels that a batch of that size is best served by. Uses `code`, `plain` and `scratch`.

use super::Gpu;
use super::code::Products;
use super::scratch::{Room, Scratch};
use super::slabs::Part;
use super::weights::{Activation, Heads, Layer, Weights};
use crate::backend::gpu::kernels::{
    self, Groups, MMA_OUTPUTS, MMA_ROWS, Rows, THREADS, TILED_OUTPUTS, TILED_ROWS,
};
use crate::backend::gpu::{Function, Runtime};
use crate::error::Result;

/// Kernels that a batch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Those for tiles of a few rows.
    Few,
    /// Those for tiles of many rows.
    Tiled,
    /// The same by matrix instructions.
    Mma,
    /// The vendor's library, on unpacked weights.
    Slabs,
}

/// Rows up to which a batch is one of a few.
pub(super) const FEW_ROWS: usize = Rows::Sixteen.count();

/// Values that one launch activates at most: they are counted in 32 bits.
const MOST_VALUES: usize = 1 << 30;

impl Way {
    /// That of products which the vendor's library never does.
    pub(super) fn without_slabs(rows: usize, has_mma: bool) -> Self {
        match rows {
            0..=FEW_ROWS => Self::Few,
            _ if has_mma => Self::Mma,
            _ => Self::Tiled,
        }
    }

    /// Whether it takes activations of bf16.
    fn is_narrow(self) -> bool {
        matches!(self, Self::Mma | Self::Slabs)
    }

    /// Whether it takes their sums, too.
    fn has_sums<R: Runtime>(self, weights: &Weights<R>) -> bool {
        self == Self::Mma && weights.format.has_minima()
    }
}

impl<R: Runtime> Gpu<R> {
    fn way(&self, rows: usize, has_mma: bool) -> Way {
        match self.blas {
            Some((from, _)) if rows >= from.max(FEW_ROWS + 1) => Way::Slabs,
            _ => Way::without_slabs(rows, has_mma),
        }
    }

    /// What matrix instructions take of activations: bf16, and sums for formats with minima.
    pub(super) fn narrow(
        &self,
        from: &Room<R>, // [count]
        count: usize,
        minima: bool,
        scratch: &Scratch<R>,
    ) -> Result<()> {
        self.narrow_values(&scratch.narrow, from, count)?;
        if minima { self.row_sums(&scratch.narrow, count, scratch) } else { Ok(()) }
    }

    /// Values as bf16.
    pub(super) fn narrow_values(&self, to: &Room<R>, from: &Room<R>, count: usize) -> Result<()> {
        for start in (0..count).step_by(MOST_VALUES) {
            let part = MOST_VALUES.min(count - start);
            let (to, from, values) = (
                to.pointer().offset(start * 2),
                from.pointer().offset(start * size_of::<f32>()),
                part as i32,
            );
            let arguments = [(&to).into(), (&from).into(), (&values).into()];
            // SAFETY: both hold `count` values.
            unsafe { self.launch(&self.kernels.narrow, [part.div_ceil(THREADS), 1, 1], 0, arguments) }?;
        }
        Ok(())
    }

    /// GELU of `scratch.gate` times `scratch.up`.
    pub(super) fn activate_values(&self, to: &Room<R>, count: usize, scratch: &Scratch<R>) -> Result<()> {
        let round = self.round();
        for start in (0..count).step_by(MOST_VALUES) {
            let part = MOST_VALUES.min(count - start);
            let [out, gate, up] =
                [to, &scratch.gate, &scratch.up].map(|room| room.pointer().offset(start * size_of::<f32>()));
            let values = part as i32;
            let arguments = [(&out).into(), (&gate).into(), (&up).into(), (&values).into(), (&round).into()];
            // SAFETY: all three hold `count` values; each is read before what is computed of it is written.
            unsafe { self.launch(&self.kernels.activate, [part.div_ceil(THREADS), 1, 1], 0, arguments) }?;
        }
        Ok(())
    }

    /// Makes room for what [`narrow`](Self::narrow) makes of `rows` rows of a width.
    pub(super) fn make_narrow(&self, rows: usize, width: usize, scratch: &mut Scratch<R>) -> Result<()> {
        scratch.narrow.make(&self.device, rows * width * 2)?;
        Ok(scratch.row_sums.make(&self.device, rows * width.div_ceil(32) * size_of::<f32>())?)
    }

    fn row_sums(&self, from: &Room<R>, count: usize, scratch: &Scratch<R>) -> Result<()> {
        // Formats with minima have rows of whole blocks of so many.
        let groups = count / 32;
        let (to, from, number) = (scratch.row_sums.pointer(), from.pointer(), groups as i32);
        let arguments = [(&to).into(), (&from).into(), (&number).into()];
        // SAFETY: there is room for all sums.
        unsafe { self.launch(&self.kernels.row_sums, [groups.div_ceil(THREADS), 1, 1], 0, arguments) }
    }

    /// `rows` rows of activations times a matrix. Matrix instructions take what [`narrow`](Self::narrow) made instead of `from`.
    #[expect(clippy::too_many_arguments, reason = "a kernel's")]
    pub(super) fn linear(
        &self,
        way: Way,
        to: &Room<R>,   // [rows, outputs]
        from: &Room<R>, // [rows, inputs]
        weights: &Weights<R>,
        products: &Products<R>,
        rows: usize,
        [scale, cap]: [f32; 2],
        scratch: &Scratch<R>,
    ) -> Result<()> {
        if way == Way::Slabs {
            let all = Part { first: 0, rows, expert: 0 };
            return self.multiply_slabs(to, &scratch.narrow, weights, products, all, scratch);
        }
        let (to, count, outputs) = (to.pointer(), rows as i32, weights.outputs);
        let matrix = &weights.matrix;
        if let (Way::Mma, Some(kernel)) = (way, &products.mma) {
            let (narrow, sums) = (scratch.narrow.pointer(), scratch.row_sums.pointer());
            let arguments = [
                (&to).into(),
                (&narrow).into(),
                (&sums).into(),
                matrix.into(),
                (&count).into(),
                (&scale).into(),
                (&cap).into(),
            ];
            let grid = [rows.div_ceil(MMA_ROWS), outputs.div_ceil(MMA_OUTPUTS), 1];
            // SAFETY: all of them hold `rows` rows of the matrix's sides.
            return unsafe { self.launch(kernel, grid, weights.format.tiled_mma_shared_bytes(), arguments) };
        }
        let (kernel, grid) = if way == Way::Few {
            let (kernel, tile_rows) = products.few.of(rows);
            (kernel, [products.few.strips(outputs), tile_rows, 1])
        } else {
            (&*products.tiled, [outputs.div_ceil(TILED_OUTPUTS), rows.div_ceil(TILED_ROWS), 1])
        };
        let from = from.pointer();
        let arguments =
            [(&to).into(), (&from).into(), matrix.into(), (&count).into(), (&scale).into(), (&cap).into()];
        // SAFETY: both hold `rows` rows of the matrix's sides.
        unsafe { self.launch(kernel, grid, 0, arguments) }
    }

    /// Queries, keys and values of normed rows; keys and values into the cache.
    pub(super) fn project(
        &self,
        layer: &Layer<R>,
        cache: &kernels::Cache,
        scratch: &mut Scratch<R>,
    ) -> Result<()> {
        if scratch.rows <= FEW_ROWS {
            self.project_few(layer, cache, scratch)
        } else {
            self.project_many(layer, cache, scratch)
        }
    }

    fn project_few(&self, layer: &Layer<R>, cache: &kernels::Cache, scratch: &Scratch<R>) -> Result<()> {
        let (rows, round) = (scratch.rows as i32, self.round());
        let heads = self.config.heads as i32;
        let [queries, keys, values] = layer.query_key_value.each_ref().map(|weights| &weights.matrix);
        let (query, x, rotary) =
            (scratch.query.pointer(), scratch.normed.pointer(), scratch.rotary.pointer());
        for Heads { first, count, tiles } in &layer.heads {
            let (kernel, tile_rows) = tiles.of(scratch.rows);
            let first = *first as i32;
            let arguments = [
                (&query).into(),
                cache.into(),
                (&x).into(),
                queries.into(),
                keys.into(),
                values.into(),
                (&rotary).into(),
                (&heads).into(),
                (&first).into(),
                (&rows).into(),
                (&round).into(),
            ];
            let grid = [tiles.strips(self.config.head_dim / 2), *count, tile_rows];
            // SAFETY: activations hold all rows; each row's page and angles are there, for its position.
            unsafe { self.launch(kernel, grid, 0, arguments) }?;
        }
        Ok(())
    }

    fn project_many(&self, layer: &Layer<R>, cache: &kernels::Cache, scratch: &mut Scratch<R>) -> Result<()> {
        let (config, rows) = (&self.config, scratch.rows);
        let bytes = rows * config.kv_width() * size_of::<f32>();
        scratch.key.make(&self.device, bytes)?;
        scratch.value.make(&self.device, bytes)?;
        let ways = layer.head_products.each_ref().map(|products| self.way(rows, products.mma.is_some()));
        if ways.contains(&Way::Slabs) {
            self.make_slab(scratch)?;
        }
        if ways.into_iter().any(Way::is_narrow) {
            self.make_narrow(rows, config.width, scratch)?;
            let minima = ways.iter().zip(&layer.query_key_value).any(|(way, weights)| way.has_sums(weights));
            self.narrow(&scratch.normed, rows * config.width, minima, scratch)?;
        }
        let to = [&scratch.query, &scratch.key, &scratch.value];
        let products = layer.query_key_value.iter().zip(&layer.head_products);
        for ((to, way), (weights, products)) in to.into_iter().zip(ways).zip(products) {
            self.linear(way, to, &scratch.normed, weights, products, rows, [1.0, 0.0], scratch)?;
        }
        let [query, keys, values, rotary] =
            [&scratch.query, &scratch.key, &scratch.value, &scratch.rotary].map(Room::pointer);
        let (heads, round) = (config.heads as i32, self.round());
        let arguments = [
            (&query).into(),
            cache.into(),
            (&query).into(),
            (&keys).into(),
            (&values).into(),
            (&rotary).into(),
            (&heads).into(),
            (&round).into(),
        ];
        let pairs = (config.heads + 2 * config.kv_heads) * config.head_dim / 2;
        let grid = [pairs.div_ceil(THREADS), rows, 1];
        // SAFETY: all of them hold `rows` rows; each row's page and angles are there, for its position.
        unsafe { self.launch(&self.kernels.rotary, grid, 0, arguments) }
    }

    /// Attention's output projection.
    pub(super) fn project_output(&self, layer: &Layer<R>, scratch: &mut Scratch<R>) -> Result<()> {
        let (rows, width) = (scratch.rows, self.config.query_width());
        let way = self.way(rows, layer.output_products.mma.is_some());
        if way.is_narrow() {
            self.make_narrow(rows, width, scratch)?;
            self.narrow(&scratch.attended, rows * width, way.has_sums(&layer.output), scratch)?;
        }
        let (to, from) = (&scratch.branch, &scratch.attended);
        self.linear(way, to, from, &layer.output, &layer.output_products, rows, [1.0, 0.0], scratch)
    }

    /// The experts' outputs for all pairs.
    pub(super) fn run_experts(
        &self,
        layer: &Layer<R>,
        groups: &Groups,
        scratch: &mut Scratch<R>,
    ) -> Result<()> {
        let config = &self.config;
        let pairs = scratch.rows * config.selected_experts;
        let way = self.way(scratch.rows, layer.experts_have_mma);
        if way == Way::Slabs {
            return self.run_experts_by_slabs(layer, groups, scratch);
        }
        // Half-empty tiles of many pairs are slower than full ones of a few.
        let sparse = way == Way::Tiled && pairs < FEW_ROWS * config.experts;
        let way = if sparse { Way::Few } else { way };
        scratch.down.make(&self.device, pairs * config.width * size_of::<f32>())?;
        scratch.activated.make(&self.device, pairs * config.ffn_width * size_of::<f32>())?;
        if way == Way::Mma {
            self.make_narrow(scratch.rows, config.width, scratch)?;
            let minima = way.has_sums(&layer.gate) || way.has_sums(&layer.up);
            self.narrow(&scratch.normed, scratch.rows * config.width, minima, scratch)?;
        }
        match &layer.activation {
            Activation::Fused(products) => self.gate_up(way, layer, products, groups, scratch)?,
            Activation::Apart(products) => self.gate_and_up(way, layer, products, groups, scratch)?,
        }
        if way.has_sums(&layer.down) {
            scratch.row_sums.make(&self.device, pairs * config.ffn_width.div_ceil(32) * size_of::<f32>())?;
            self.row_sums(&scratch.activated, pairs * config.ffn_width, scratch)?;
        }
        let (to, from) = (&scratch.down, &scratch.activated);
        self.expert_linear(way, to, from, &layer.down, &layer.down_products, groups, 1, scratch)
    }

    /// The kernel and the grid of a product with matrices of experts: `most` outputs of a block of many rows, a few fewer of a fused one.
    fn expert_grid<'a>(
        &self,
        way: Way,
        products: &'a Products<R>,
        rows: usize,
        outputs: usize,
        fused: bool,
    ) -> (&'a Function<R>, [usize; 3]) {
        let (groups, pairs) = (self.groups(rows), rows * self.config.selected_experts);
        let matrices = if fused { 2 } else { 1 };
        match (way, &products.mma) {
            (Way::Few, _) => {
                let (kernel, _) = products.few.of(rows);
                (kernel, [products.few.strips(outputs), groups, 1])
            }
            (Way::Mma, Some(kernel)) => {
                (kernel, [pairs / MMA_ROWS + groups, outputs.div_ceil(MMA_OUTPUTS / matrices), 1])
            }
            _ => (
                &products.tiled,
                [outputs.div_ceil(TILED_OUTPUTS / matrices), pairs / TILED_ROWS + groups, 1],
            ),
        }
    }

    /// Pairs times the matrices of their experts. `share` pairs share a row of `from`, which is bf16 for matrix instructions.
    #[expect(clippy::too_many_arguments, reason = "a kernel's")]
    fn expert_linear(
        &self,
        way: Way,
        to: &Room<R>,   // [pairs, outputs]
        from: &Room<R>, // [pairs / share, inputs]
        weights: &Weights<R>,
        products: &Products<R>,
        groups: &Groups,
        share: usize,
        scratch: &Scratch<R>,
    ) -> Result<()> {
        let (kernel, grid) = self.expert_grid(way, products, scratch.rows, weights.outputs, false);
        let (to, from, sums) = (to.pointer(), from.pointer(), scratch.row_sums.pointer());
        let (count, share, matrix) = (self.groups(scratch.rows) as i32, share as i32, &weights.matrix);
        // SAFETY: all of them hold all pairs' rows of the matrices' sides, and there is a matrix for each expert.
        unsafe {
            match way {
                Way::Few => {
                    let arguments =
                        [(&to).into(), (&from).into(), matrix.into(), groups.into(), (&share).into()];
                    self.launch(kernel, grid, 0, arguments)
                }
                Way::Tiled | Way::Slabs => {
                    let arguments = [
                        (&to).into(),
                        (&from).into(),
                        matrix.into(),
                        groups.into(),
                        (&count).into(),
                        (&share).into(),
                    ];
                    self.launch(kernel, grid, 0, arguments)
                }
                Way::Mma => {
                    let arguments = [
                        (&to).into(),
                        (&from).into(),
                        (&sums).into(),
                        matrix.into(),
                        groups.into(),
                        (&count).into(),
                        (&share).into(),
                    ];
                    self.launch(kernel, grid, weights.format.tiled_mma_shared_bytes(), arguments)
                }
            }
        }
    }

    /// Activated values, of gate and up in one kernel.
    fn gate_up(
        &self,
        way: Way,
        layer: &Layer<R>,
        products: &Products<R>,
        groups: &Groups,
        scratch: &Scratch<R>,
    ) -> Result<()> {
        let (kernel, grid) = self.expert_grid(way, products, scratch.rows, self.config.ffn_width, true);
        let (gate, up) = (&layer.gate.matrix, &layer.up.matrix);
        let [out, x, narrow, sums] =
            [&scratch.activated, &scratch.normed, &scratch.narrow, &scratch.row_sums].map(Room::pointer);
        let (count, round) = (self.groups(scratch.rows) as i32, self.round());
        let selected = self.config.selected_experts as i32;
        // SAFETY: activations hold all rows and pairs, and there is a matrix for each expert.
        unsafe {
            match way {
                Way::Few => {
                    let arguments = [
                        (&out).into(),
                        (&x).into(),
                        gate.into(),
                        up.into(),
                        groups.into(),
                        (&selected).into(),
                        (&round).into(),
                    ];
                    self.launch(kernel, grid, 0, arguments)
                }
                Way::Tiled | Way::Slabs => {
                    let arguments = [
                        (&out).into(),
                        (&x).into(),
                        gate.into(),
                        up.into(),
                        groups.into(),
                        (&count).into(),
                        (&selected).into(),
                        (&round).into(),
                    ];
                    self.launch(kernel, grid, 0, arguments)
                }
                Way::Mma => {
                    let arguments = [
                        (&out).into(),
                        (&narrow).into(),
                        (&sums).into(),
                        gate.into(),
                        up.into(),
                        groups.into(),
                        (&count).into(),
                        (&selected).into(),
                    ];
                    self.launch(kernel, grid, layer.gate.format.tiled_mma_shared_bytes(), arguments)
                }
            }
        }
    }

    /// Activated values, of gate and up that differ in format.
    fn gate_and_up(
        &self,
        way: Way,
        layer: &Layer<R>,
        [gate_products, up_products]: &[Products<R>; 2],
        groups: &Groups,
        scratch: &mut Scratch<R>,
    ) -> Result<()> {
        let selected = self.config.selected_experts;
        let count = scratch.rows * selected * self.config.ffn_width;
        scratch.gate.make(&self.device, count * size_of::<f32>())?;
        scratch.up.make(&self.device, count * size_of::<f32>())?;
        let x = if way == Way::Mma { &scratch.narrow } else { &scratch.normed };
        self.expert_linear(way, &scratch.gate, x, &layer.gate, gate_products, groups, selected, scratch)?;
        self.expert_linear(way, &scratch.up, x, &layer.up, up_products, groups, selected, scratch)?;
        // Matrix instructions take bf16, into which they are then narrowed.
        let to = if way == Way::Mma { &scratch.gate } else { &scratch.activated };
        self.activate_values(to, count, scratch)?;
        if way == Way::Mma { self.narrow_values(&scratch.activated, to, count) } else { Ok(()) }
    }
}
