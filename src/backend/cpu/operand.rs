//! What products read beside weights. Uses `kernels`.

use super::kernels::Rows;
use super::kernels::integers::IntegerRows;
use super::kernels::pages::Page;
use super::kernels::panels::PackedRows;
#[cfg(target_arch = "x86_64")]
use super::kernels::tiles::{Side, TiledRows};
#[cfg(target_arch = "x86_64")]
use super::simd::amx::Amx;
use super::simd::{Activations, INPUTS};

/// How a product is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// Weights become f32 on the way.
    Floats,
    /// Integers with integers, for few rows: activations of 8 bits where `fast`, otherwise of 16. Threads decide into how many parts
    /// a product falls, never what comes out.
    Integers { fast: bool, threads: usize },
    /// Weights become f32 a piece at a time, which all rows meet at once: for many rows.
    Panels,
    /// Tiles of bf16 with tiles of bf16: for many rows.
    #[cfg(target_arch = "x86_64")]
    Tiles(Amx, Side),
}

/// Rows of activations, in the forms that the ways of computing products with them read.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) floats: Rows<'a>,
    /// The same rows; only there for [`Way::Integers`].
    pub(crate) integers: &'a [Activations], // [any, stride / 256 rounded up]
    /// The same rows, from the first page on; only there for who chose [`Way::Panels`] or `Way::Tiles`.
    pub(crate) tiles: &'a [Page],
}

impl Way {
    /// Whether rows packed for one way are what the other reads, if it reads such at all.
    pub(crate) fn shares(self, packed: Self) -> bool {
        match (self, packed) {
            #[cfg(target_arch = "x86_64")]
            (Self::Tiles(_, side), Self::Tiles(_, other)) => side == other,
            #[cfg(target_arch = "x86_64")]
            (Self::Tiles(..), _) => false,
            (Self::Panels, other) => matches!(other, Self::Panels),
            (Self::Floats | Self::Integers { .. }, _) => true,
        }
    }

    /// Whether it reads rows that are packed to tiles.
    pub(crate) fn has_tiles(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(..) => true,
            _ => false,
        }
    }

    /// Whether it reads rows that are packed to pages.
    pub(crate) fn reads_pages(self) -> bool {
        !matches!(self, Self::Floats | Self::Integers { .. })
    }
}

impl<'a> Operand<'a> {
    /// Rows `index` of `data` and of what they were packed to.
    pub(crate) fn new(
        data: &'a [f32], // [any, stride]
        integers: &'a [Activations],
        tiles: &'a [Page],
        stride: usize,
        index: &'a [u32],
    ) -> Self {
        Self { floats: Rows { data, stride, index }, integers, tiles }
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn tiles(&self) -> TiledRows<'a> {
        TiledRows::new(self.tiles, self.floats.len(), self.floats.stride)
    }

    pub(crate) fn panels(&self) -> PackedRows<'a> {
        PackedRows::new(self.tiles, self.floats.len(), self.floats.stride)
    }

    pub(crate) fn integers(&self) -> IntegerRows<'a> {
        IntegerRows { data: self.integers, stride: packed(self.floats.stride), index: self.floats.index }
    }
}

/// Blocks that so many activations are packed to.
pub(crate) fn packed(activations: usize) -> usize {
    activations.div_ceil(INPUTS)
}
