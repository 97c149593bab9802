//! Weights as kernels read them: where they lie in the mapped file, or in the only copy. Uses `kernels`,
//! `values` and `quant`.

use std::ops::Range;

use half::bf16;

use super::kernels::blocks::Blocks;
use super::kernels::in_out::{Epilogue, InOut, MAX_COLUMNS};
use super::kernels::integers;
use super::kernels::out_in::OutIn;
use super::kernels::pages::Page;
use super::kernels::panels;
#[cfg(target_arch = "x86_64")]
use super::kernels::tiles::{self, Side};
use super::kernels::unpack;
use super::kernels::{BF16, F16, F32, I8, Out, Rows};
use super::operand::{Operand, Way};
use super::shared::Shared;
use super::simd::Isa;
#[cfg(target_arch = "x86_64")]
use super::simd::amx::Amx;
use crate::backend::values;
use crate::backend::{BackendError, Precision, WeightStorage};
use crate::buffer::Buffer;
use crate::control::Control;
use crate::error::Result;
use crate::quant::{self, Factors};
use crate::tensor::{Blob, DType, Layout, Matrix, Scales};

/// The bytes of a tensor.
enum Resident {
    Mapped(Blob),
    Owned(Buffer),
    Computed(Vec<u8>),
}

impl Resident {
    fn load(
        name: &str,
        dtype: DType,
        data: &Blob,
        len: usize,
        (storage, node): (WeightStorage, Option<usize>),
        control: &Control,
    ) -> Result<Self> {
        values::check_size(name, dtype, data, len)?;
        if storage == WeightStorage::Mapped {
            let shown =
                data.slice().map_err(|source| BackendError::Read { tensor: name.to_owned(), source })?;
            if shown.is_some() {
                return Ok(Self::Mapped(data.clone()));
            }
        }
        Ok(Self::Owned(values::read(name, dtype, data, len, node, control)?))
    }

    fn bytes(&self) -> &[u8] {
        match self {
            // Was there when it was loaded; a mapping does not go away.
            Self::Mapped(blob) => blob.slice().ok().flatten().unwrap_or_default(),
            Self::Owned(bytes) => bytes,
            Self::Computed(bytes) => bytes,
        }
    }
}

/// What elements are multiplied by.
enum Scaling {
    None,
    /// The sums of so many inputs each, by scales that lie beside the weights.
    Sums(usize, Resident), // bf16 [groups, outputs]
    /// Elements, when they are unpacked.
    Elements(Factors),
}

/// Rows from which on panels are faster than integers and than unpacking weights for a few rows at a time.
const PANELS: usize = 16;

/// A weight matrix.
pub(crate) struct Weights {
    dtype: DType,
    layout: Layout,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    data: Resident,
    scales: Scaling,
}

impl Weights {
    /// In this storage, on a NUMA node if one is named and they are copied.
    pub(crate) fn load(
        matrix: &Matrix,
        storage: (WeightStorage, Option<usize>),
        control: &Control,
    ) -> Result<Self> {
        let Matrix { name, dtype, layout, inputs, outputs, data, scales } = matrix;
        let (dtype, layout, inputs, outputs) = (*dtype, *layout, *inputs, *outputs);
        match (dtype, layout, scales) {
            (DType::I8, Layout::InOut, Some(Scales { dtype, layout, outputs, .. }))
                if (*dtype, *layout, *outputs) == (DType::BF16, Layout::InOut, 1) => {}
            (DType::F32 | DType::BF16, Layout::InOut, None) | (DType::F8E4M3, Layout::OutIn, Some(_)) => {}
            (_, Layout::OutIn, None) if dtype != DType::I8 => {}
            _ => return Err(BackendError::Unsupported { tensor: name.clone(), dtype, layout }.into()),
        }
        values::check_rows(matrix)?;
        let data = Resident::load(name, dtype, data, inputs * outputs, storage, control)?;
        let scales = match scales {
            None => Scaling::None,
            Some(scales) if dtype == DType::I8 => {
                let len = scales.counts(inputs, outputs).into_iter().product();
                let loaded = Resident::load(name, DType::BF16, &scales.data, len, storage, control)?;
                let values =
                    loaded.bytes().chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32());
                values::check_finite(name, "scale", values)?;
                Scaling::Sums(scales.inputs.min(inputs).max(1), loaded)
            }
            Some(_) => values::factors(matrix, control)?.map_or(Scaling::None, Scaling::Elements),
        };
        Ok(Self { dtype, layout, inputs, outputs, data, scales })
    }

    /// Values that were computed at load, as `[outputs, inputs]`.
    pub(crate) fn dense(values: &[f32], inputs: usize, outputs: usize) -> Self {
        let bytes = values.iter().flat_map(|x| x.to_ne_bytes()).collect();
        Self {
            dtype: DType::F32,
            layout: Layout::OutIn,
            inputs,
            outputs,
            data: Resident::Computed(bytes),
            scales: Scaling::None,
        }
    }

    /// How products of this many rows are computed, which so many threads share.
    pub(crate) fn way(&self, isa: Isa, precision: Precision, rows: usize, threads: usize) -> Way {
        if precision == Precision::Exact {
            return Way::Floats;
        }
        #[cfg(target_arch = "x86_64")]
        if let (Some(amx), Some(least)) = (isa.amx(), self.tiles_from())
            && rows >= least
        {
            return Way::Tiles(amx, if self.layout == Layout::OutIn { Side::Right } else { Side::Left });
        }
        if rows >= PANELS {
            return Way::Panels;
        }
        let has = match (self.layout, &self.scales) {
            (Layout::OutIn, _) => integers::has(self.dtype),
            (Layout::InOut, Scaling::Sums(group, _)) => integers::InOut::can(self.inputs, *group),
            (Layout::InOut, _) => false,
        };
        if has && isa.has_integers() {
            Way::Integers { fast: precision == Precision::Fast, threads }
        } else {
            Way::Floats
        }
    }

    /// Rows from which on tiles are faster than integers and f32: to make tiles of the weights takes as long whatever their number. None
    /// where tiles would lose bits that nothing else does, or cannot be scaled as the scales ask for.
    #[cfg(target_arch = "x86_64")]
    fn tiles_from(&self) -> Option<usize> {
        match (&self.scales, self.dtype) {
            (Scaling::Sums(group, _), _) => tiles::Matrix::can(self.inputs, *group).then_some(12),
            (_, DType::F32 | DType::F16) => None,
            (_, DType::BF16) => Some(4),
            // Those of up to five bits come from tables.
            (_, dtype) if dtype.block_bytes() * 8 <= 6 * dtype.block() => Some(5),
            (_, _) => Some(7),
        }
    }

    /// Its bytes that lie in a mapped file.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        match &self.data {
            Resident::Mapped(blob) => blob.len(),
            Resident::Owned(_) | Resident::Computed(_) => 0,
        }
    }

    /// Has the operating system begin to read what lies in a mapped file.
    pub(crate) fn read_ahead(&self) {
        if let Resident::Mapped(blob) = &self.data {
            blob.read_ahead();
        }
    }

    /// Outputs per part of a region for this many rows: enough work for a microsecond, little enough to be cancelled in time.
    fn strip(&self, way: Way, rows: usize) -> usize {
        match (way, self.layout, self.outputs, rows) {
            // Long runs of memory, equally long, and one for each thread if they stay long.
            (Way::Integers { threads, .. }, Layout::InOut, outputs, _) => {
                let strips = threads.min(outputs / integers::MIN_COLUMNS);
                let strips = strips.max(outputs.div_ceil(integers::MAX_COLUMNS));
                outputs.div_ceil(strips).next_multiple_of(64)
            }
            // Long streams through memory, and two parts at least for each thread: experts have different numbers of rows.
            (Way::Integers { threads, .. }, Layout::OutIn, outputs, _) => {
                outputs.div_ceil(2 * threads).next_multiple_of(64).min(512)
            }
            (Way::Panels, _, outputs, _) => {
                if outputs < 4096 {
                    panels::PANEL
                } else {
                    5 * panels::PANEL
                }
            }
            (_, _, ..4096, _) => 64,
            (Way::Floats, _, _, ..4) => MAX_COLUMNS,
            (_, _, ..16384, _) => 256,
            _ => 512,
        }
    }

    pub(crate) fn strips(&self, way: Way, rows: usize) -> usize {
        self.outputs.div_ceil(self.strip(way, rows))
    }

    pub(crate) fn columns(&self, way: Way, rows: usize, strip: usize) -> Range<usize> {
        let width = self.strip(way, rows);
        strip * width..self.outputs.min((strip + 1) * width)
    }

    /// `out[r, columns] = x[r] · weights[.., columns]`.
    ///
    /// # Safety
    /// Nobody else may use `columns` of the written rows of `out` meanwhile.
    pub(crate) unsafe fn product(
        &self,
        isa: Isa,
        way: Way,
        x: Operand<'_>,
        columns: Range<usize>,
        out: Out<'_>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match way {
                // A part may be wider than this kernel takes, if it is that of another matrix as well.
                Way::Floats => {
                    for first in columns.clone().step_by(MAX_COLUMNS) {
                        self.floats(isa, x.floats, first..columns.end.min(first + MAX_COLUMNS), out);
                    }
                }
                Way::Integers { fast, .. } => self.integers(isa, fast, x, columns, out),
                Way::Panels => self.panels(isa, x, columns, out),
                #[cfg(target_arch = "x86_64")]
                Way::Tiles(amx, _) => self.tiles(amx, x, columns, out),
            }
        }
    }

    /// The product with packed activations.
    ///
    /// # Safety
    /// As for [`product`](Self::product).
    unsafe fn integers(&self, isa: Isa, fast: bool, x: Operand<'_>, columns: Range<usize>, out: Out<'_>) {
        let (x, data, shape) = (x.integers(), self.data.bytes(), [self.inputs, self.outputs]);
        // SAFETY: the caller's promise.
        unsafe {
            if let Scaling::Sums(group, scales) = &self.scales {
                let scales = (*group, scales.bytes());
                isa.integers(integers::InOut::new(x, data, shape, scales, columns, out, fast));
            } else {
                integers::out_in(isa, x, (self.dtype, data), self.inputs, columns, out, fast);
            }
        }
    }

    /// The product with activations packed to vectors.
    ///
    /// # Safety
    /// As for [`product`](Self::product).
    unsafe fn panels(&self, isa: Isa, x: Operand<'_>, columns: Range<usize>, out: Out<'_>) {
        let (data, shape, dtype) = (self.data.bytes(), [self.inputs, self.outputs], self.dtype);
        let (scaled, factors) = self.scaling();
        let weights = match self.layout {
            Layout::OutIn => panels::Weights::OutIn(unpack::Matrix::new(data, dtype, self.inputs, factors)),
            Layout::InOut => panels::Weights::InOut(panels::InOut::new(data, dtype, shape, scaled)),
        };
        // SAFETY: the caller's promise.
        isa.run(unsafe { panels::Product::new(isa, x.panels(), weights, columns, out) });
    }

    /// The product by tiles.
    ///
    /// # Safety
    /// As for [`product`](Self::product).
    #[cfg(target_arch = "x86_64")]
    unsafe fn tiles(&self, amx: Amx, x: Operand<'_>, columns: Range<usize>, out: Out<'_>) {
        // SAFETY: the caller's promise.
        amx.enter_tiles(unsafe { tiles::Product::new(x.tiles(), self.matrix(), columns, out) });
    }

    /// `gelu(x[r] · self[.., columns]) * (x[r] · up[.., columns])` as tiles from page `first` on, those that a third product reads whose
    /// inputs `columns` are. `way` is that of all three products: one by tiles.
    ///
    /// # Safety
    /// Nobody else may use the steps of `columns` meanwhile.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "there are no tiles"))]
    pub(crate) unsafe fn gate_up(
        &self,
        up: &Self,
        way: Way,
        x: Operand<'_>,
        columns: Range<usize>,
        pages: &Shared<'_, Page>,
        first: usize,
    ) {
        match way {
            #[cfg(target_arch = "x86_64")]
            Way::Tiles(amx, _) => {
                let x = x.tiles();
                let out = tiles::TiledPages::new(pages, first, x.rows(), self.outputs);
                // SAFETY: the caller's promise.
                amx.enter_tiles(unsafe { tiles::GateUp::new(x, [self.matrix(), up.matrix()], columns, out) });
            }
            _ => debug_assert!(false, "{way:?} has no tiles"),
        }
    }

    /// The matrix as it becomes tiles.
    #[cfg(target_arch = "x86_64")]
    fn matrix(&self) -> tiles::Matrix<'_> {
        let (data, shape) = (self.data.bytes(), [self.inputs, self.outputs]);
        match (self.layout, &self.scales) {
            (Layout::OutIn, scales) => {
                let factors = if let Scaling::Elements(factors) = scales { Some(factors) } else { None };
                tiles::Matrix::out_in(data, self.dtype, self.inputs, factors)
            }
            (_, Scaling::Sums(group, scales)) => tiles::Matrix::integers(data, shape, *group, scales.bytes()),
            (_, _) => tiles::Matrix::numbers(data, shape),
        }
    }

    /// What becomes of sums, and of elements.
    fn scaling(&self) -> (Epilogue<'_>, Option<&Factors>) {
        match &self.scales {
            Scaling::None => (Epilogue::Stored, None),
            Scaling::Sums(inputs, scales) => {
                (Epilogue::Scaled { inputs: *inputs, scales: scales.bytes() }, None)
            }
            Scaling::Elements(factors) => (Epilogue::Stored, Some(factors)),
        }
    }

    /// The product with f32 activations.
    ///
    /// # Safety
    /// As for [`product`](Self::product).
    pub(crate) unsafe fn floats(&self, isa: Isa, x: Rows<'_>, columns: Range<usize>, out: Out<'_>) {
        let (data, shape) = (self.data.bytes(), [self.inputs, self.outputs]);
        let (scaled, factors) = self.scaling();
        // SAFETY: the caller's promise, in each arm.
        unsafe {
            match (self.layout, self.dtype) {
                (Layout::InOut, DType::I8) => isa.run(InOut::<I8>::new(x, data, shape, columns, scaled, out)),
                (Layout::InOut, DType::BF16) => {
                    isa.run(InOut::<BF16>::new(x, data, shape, columns, scaled, out));
                }
                (Layout::InOut, _) => isa.run(InOut::<F32>::new(x, data, shape, columns, scaled, out)),
                (Layout::OutIn, DType::BF16) => {
                    isa.run(OutIn::<BF16>::new(x, data, self.inputs, columns, out));
                }
                (Layout::OutIn, DType::F16) => {
                    isa.run(OutIn::<F16>::new(x, data, self.inputs, columns, out));
                }
                (Layout::OutIn, DType::F32) => {
                    isa.run(OutIn::<F32>::new(x, data, self.inputs, columns, out));
                }
                (Layout::OutIn, dtype) => {
                    let weights = unpack::Matrix::new(data, dtype, self.inputs, factors);
                    isa.run(Blocks::new(isa, x, weights, columns, out));
                }
            }
        }
    }

    /// Row `output` of a matrix stored `[outputs, inputs]`, as f32.
    pub(crate) fn row(&self, output: usize, out: &mut [f32]) {
        let (block, size) = (self.dtype.block() as usize, self.dtype.block_bytes() as usize);
        let len = self.inputs / block * size;
        quant::unpack(self.dtype, &self.data.bytes()[output * len..][..len], out);
        if let Scaling::Elements(factors) = &self.scales {
            factors.apply(output, 0, out);
        }
    }
}
