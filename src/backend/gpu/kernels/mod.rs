//! The kernels: their source, and what the host must know to compile and launch them. Uses `quant` and `tensor`.
//!
//! One source serves NVRTC, hipRTC and, in tests, a host compiler. A [`Kernel`] is one file compiled for one format of weights and
//! one size of tile; [`source`] makes a module of any set of them, which includes the [`files`] by name. Each file says at its kernel what
//! the grid is and what the buffers hold. Every block has [`THREADS`] threads.
//!
//! A token's way: [`Embed`](Kernel::Embed); per layer [`RmsNorm`](Kernel::RmsNorm), [`Qkv`](Kernel::Qkv), [`Attention`](Kernel::Attention),
//! [`Merge`](Kernel::Merge), [`Linear`](Kernel::Linear), [`Residual`](Kernel::Residual), [`Route`](Kernel::Route),
//! [`Group`](Kernel::Group), [`GateUp`](Kernel::GateUp), [`ExpertLinear`](Kernel::ExpertLinear), [`Combine`](Kernel::Combine),
//! [`Residual`](Kernel::Residual); in the end [`RmsNorm`](Kernel::RmsNorm) and [`Linear`](Kernel::Linear). Where nobody looks in
//! between, [`ResidualRoute`](Kernel::ResidualRoute) and [`CombineResidual`](Kernel::CombineResidual) are several of these in one
//! launch, with the same bits. Where the best logits may do, [`Candidates`](Kernel::Candidates) finds them,
//! [`CandidatesMerge`](Kernel::CandidatesMerge) until one list is left, and [`Weigh`](Kernel::Weigh) says how much all weigh.
//!
//! Many rows, as those of a prompt, may go another way, whose sums differ in their order only:
//!
//! * [`Flash`](Kernel::Flash) is attention of tiles of rows that belong to one sequence, without [`Merge`](Kernel::Merge);
//! * [`LinearTiled`](Kernel::LinearTiled), [`GateUpTiled`](Kernel::GateUpTiled) and
//!   [`ExpertLinearTiled`](Kernel::ExpertLinearTiled) share each weight read among [`TILED_ROWS`]; queries, keys and values are then
//!   three products, which [`Rotary`](Kernel::Rotary) finishes;
//! * where activations are rounded and the device is NVIDIA's, from sm_80 on, matrix instructions do the same:
//!   [`FlashMma`](Kernel::FlashMma), [`LinearTiledMma`](Kernel::LinearTiledMma), [`GateUpTiledMma`](Kernel::GateUpTiledMma),
//!   [`ExpertLinearTiledMma`](Kernel::ExpertLinearTiledMma). The products take activations of [`Narrow`](Kernel::Narrow) and, for
//!   formats [with minima](Format::has_minima), their sums by [`RowSums`](Kernel::RowSums).
//!
//! Matrices lie on the device as they are stored, or packed: rearranged once, by [`Pack`](Kernel::Pack), so that a lane loads 16 bytes
//! at a time and several outputs share each activation. Bits of a packed weight, its scales included:
//!
//! | format                            | stored | packed |
//! |-----------------------------------|--------|--------|
//! | I8 (scales lie beside the matrix) | 8      | 8      |
//! | Q8_0                              | 8.5    | 8.5    |
//! | Q6_K                              | 6.5625 | 6.5625 |
//! | Q5_K                              | 5.5    | 5.5    |
//! | Q4_K, Q4_0                        | 4.5    | 4.5    |
//! | IQ4_XS                            | 4.25   | 4.25   |
//! | Q3_K                              | 3.4375 | 3.4375 |
//! | IQ3_XXS (with all of its signs)   | 3.0625 | 3.1875 |

mod tables;

use std::borrow::Cow;
use std::fmt::Write;

use crate::backend::{KvType, PAGE};
use crate::tensor::{DType, Layout};

/// Threads of every block.
pub const THREADS: usize = 256;

/// Positions whose attention one block computes: whole pages.
pub const SPAN: usize = 2 * PAGE;

/// Experts that [`Kernel::Group`] takes at most.
pub const MAX_EXPERTS: usize = 4096;

/// Rows that share every weight read in the kernels for many of them.
pub const TILED_ROWS: usize = 64;

/// Outputs that a block of these computes: of one matrix, or half of them of each of gate and up.
pub const TILED_OUTPUTS: usize = 128;

/// Rows of a block of the kernels for matrix instructions.
pub const MMA_ROWS: usize = 128;

/// Outputs of such a block: of one matrix, or half of them of each of gate and up.
pub const MMA_OUTPUTS: usize = 128;

/// Inputs of a phase of these kernels.
const MMA_INPUTS: usize = 64;

/// Queries that a block of [`Kernel::Flash`] takes: rows times heads that share a key/value head.
pub const FLASH_QUERIES: usize = 64;

/// The same for [`Kernel::FlashMma`].
pub const FLASH_MMA_QUERIES: usize = 128;

/// Elements that a head has at most for both.
pub const FLASH_HEAD_DIM: usize = 128;

/// Positions of a step of [`Kernel::Flash`].
const FLASH_STEP: usize = 32;

/// Bytes of dynamic shared memory that [`Kernel::Attention`] has to be launched with, of `group` heads that share a key/value head.
#[must_use]
pub const fn attention_shared_bytes(group: usize, head_dim: usize) -> usize {
    group * (head_dim.div_ceil(UNIT) * (UNIT + 4) + SPAN) * size_of::<f32>()
}

/// Bytes of dynamic shared memory that [`Kernel::Flash`] has to be launched with.
#[must_use]
pub const fn flash_shared_bytes(head_dim: usize) -> usize {
    let stride = head_dim.next_multiple_of(UNIT) + 4;
    ((FLASH_QUERIES + FLASH_STEP) * stride + FLASH_QUERIES * (FLASH_STEP + 4)) * size_of::<f32>()
}

/// The same for [`Kernel::FlashMma`].
#[must_use]
pub const fn flash_mma_shared_bytes(head_dim: usize) -> usize {
    2 * 2 * PAGE * (head_dim / 2 + 4) * size_of::<u32>()
}

/// Logits that a block of [`Kernel::Candidates`] takes, ranks of [`Kernel::CandidatesMerge`]: at least twice as many as are asked for.
pub const CANDIDATES_BLOCK: usize = 2048;

/// Weights that a lane unpacks at a time.
const UNIT: usize = 8;

/// Outputs that a block computes from matrices stored `[outputs, inputs]`.
const OUT_IN_STRIP: usize = 8;

/// Outputs that a block computes from matrices stored `[inputs, outputs]`.
const IN_OUT_STRIP: usize = 32;

/// Outputs of a tile of a packed matrix, and of a block's strip of them.
pub const TILE_OUTPUTS: usize = 16;

/// Inputs of a tile of a packed matrix.
pub const TILE_INPUTS: usize = 256;

/// What NVRTC has to be told besides the device: see `portable.h`.
pub const NVRTC_OPTIONS: [&str; 2] = ["-std=c++17", "--fmad=false"];

/// The same for hipRTC and clang.
pub const HIPRTC_OPTIONS: [&str; 2] = ["-std=c++17", "-ffp-contract=off"];

/// Rows of activations that share every weight read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rows {
    /// One.
    One,
    /// Up to four.
    Four,
    /// Up to 16.
    Sixteen,
}

impl Rows {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::One, Self::Four, Self::Sixteen];

    /// The smallest that reads weights once for a batch of `rows`; beyond 16 a batch takes several tiles.
    #[must_use]
    pub const fn of(rows: usize) -> Self {
        match rows {
            0..=1 => Self::One,
            2..=4 => Self::Four,
            _ => Self::Sixteen,
        }
    }

    /// How many.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Four => 4,
            Self::Sixteen => 16,
        }
    }
}

/// How a matrix lies in memory, as the kernels name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    dtype: DType,
    layout: Layout,
    packed: bool,
    mma: bool,
}

impl Format {
    /// Whether the kernels of matrix instructions for many rows take matrices with so many inputs: what stands by itself comes eight at a
    /// time.
    #[must_use]
    pub const fn tiled_mma_fits(self, inputs: usize) -> bool {
        self.has_tiled_mma() && (self.packed || inputs.is_multiple_of(UNIT))
    }

    /// As it is stored; `None` if there is no kernel for such matrices.
    #[must_use]
    pub const fn new(dtype: DType, layout: Layout) -> Option<Self> {
        match layout {
            // Only elements that stand by themselves.
            Layout::InOut if dtype.block() > 1 => None,
            Layout::InOut | Layout::OutIn => Some(Self { dtype, layout, packed: false, mma: false }),
        }
    }

    /// As [`Kernel::Pack`] makes it of a matrix stored like that; `None` if it does not pack such matrices.
    ///
    /// Scales beside the matrix stay as they are, and have to meet [`scales_fit`](Self::scales_fit).
    #[must_use]
    pub const fn packed(dtype: DType, layout: Layout, inputs: usize, outputs: usize) -> Option<Self> {
        let whole = inputs.is_multiple_of(TILE_INPUTS) && outputs.is_multiple_of(TILE_OUTPUTS);
        match (tile_bytes(dtype), Self::new(dtype, layout)) {
            (Some(_), Some(stored)) if whole => Some(Self { packed: true, ..stored }),
            _ => None,
        }
    }

    /// Whether the kernels can take scales of which each is for `scale_inputs` inputs of a matrix with `inputs`: those of a tile have to
    /// be one for each output where the matrix is packed.
    #[must_use]
    pub const fn scales_fit(self, scale_inputs: usize, inputs: usize) -> bool {
        !self.packed || scale_inputs.is_multiple_of(TILE_INPUTS) || scale_inputs >= inputs
    }

    /// The same matrices, multiplied by matrix instructions: for NVIDIA's devices from sm_80 on. Those of packed ones only.
    ///
    /// Activations have to be bf16 values, as they are where they are rounded before each product. [`Kernel::Embed`] and [`Kernel::Pack`]
    /// are of the format without.
    #[must_use]
    pub const fn with_mma(self) -> Option<Self> {
        if self.packed { Some(Self { mma: true, ..self }) } else { None }
    }

    /// Whether it was packed.
    #[must_use]
    pub const fn is_packed(self) -> bool {
        self.packed
    }

    /// Bytes of a matrix; those of experts lie one after another.
    #[must_use]
    pub const fn bytes(self, inputs: usize, outputs: usize) -> usize {
        match tile_bytes(self.dtype) {
            Some(tile) if self.packed => inputs / TILE_INPUTS * (outputs / TILE_OUTPUTS) * tile,
            _ => stored_bytes(self.dtype, inputs * outputs),
        }
    }

    /// Whether there are kernels of matrix instructions for many rows: [`Kernel::LinearTiledMma`] and those beside it. Rows of a matrix
    /// that is not packed have to be whole units of eight elements.
    #[must_use]
    pub const fn has_tiled_mma(self) -> bool {
        self.packed && !self.mma || matches!((self.dtype, self.layout), (DType::BF16, Layout::OutIn))
    }

    /// Whether these kernels need the sums that [`Kernel::RowSums`] makes.
    #[must_use]
    pub const fn has_minima(self) -> bool {
        matches!(self.dtype, DType::Q4K | DType::Q5K)
    }

    /// Bytes of dynamic shared memory that these kernels have to be launched with.
    #[must_use]
    pub const fn tiled_mma_shared_bytes(self) -> usize {
        let rows = MMA_ROWS * MMA_INPUTS * 2;
        let weights = self.bytes(TILE_INPUTS, MMA_OUTPUTS);
        let sums = if self.has_minima() { MMA_ROWS * TILE_INPUTS / 32 * 4 } else { 0 };
        2 * (rows + weights + sums)
    }

    /// The name in the source: `q4_k`, `i8_in_out`, `q4_k_packed`, `q4_k_packed_mma`.
    #[must_use]
    pub fn name(self) -> String {
        let layout = match self.layout {
            Layout::InOut => "_in_out",
            Layout::OutIn => "",
        };
        let packed = if self.packed { "_packed" } else { "" };
        let mma = if self.mma { "_mma" } else { "" };
        format!("{}{layout}{packed}{mma}", self.dtype)
    }

    /// How [`Kernel::Dequantise`] writes the weights of some outputs.
    #[must_use]
    pub const fn slab_layout(self) -> Layout {
        if self.packed { Layout::OutIn } else { self.layout }
    }

    /// Outputs that a block computes. In a packed matrix they begin at a multiple of that: a head, for [`Kernel::Qkv`] its half, has to be
    /// one.
    #[must_use]
    pub const fn strip(self) -> usize {
        match self.layout {
            _ if self.packed => TILE_OUTPUTS,
            Layout::InOut => IN_OUT_STRIP,
            Layout::OutIn => OUT_IN_STRIP,
        }
    }
}

/// Bytes of whole blocks.
const fn stored_bytes(dtype: DType, elements: usize) -> usize {
    elements / dtype.block() as usize * dtype.block_bytes() as usize
}

/// Bytes of a packed tile; `None` if there is no such form.
const fn tile_bytes(dtype: DType) -> Option<usize> {
    match dtype {
        // All of the signs, where a stored block lacks one of eight.
        DType::Iq3Xxs => Some(1632),
        DType::I8
        | DType::Q8_0
        | DType::Q4_0
        | DType::Q3K
        | DType::Q4K
        | DType::Q5K
        | DType::Q6K
        | DType::Iq4Xs => Some(stored_bytes(dtype, TILE_OUTPUTS * TILE_INPUTS)),
        _ => None,
    }
}

/// A kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// A stored matrix into a packed one, of this format.
    Pack(Format),
    /// Embedding rows, of a table stored `[vocab, width]`.
    Embed(Format),
    /// RMS norm of some rows.
    RmsNorm,
    /// Queries, keys and values, with the rotary embedding, and into the cache.
    Qkv(Format, Rows),
    /// The rotary embedding, and into the cache, of queries, keys and values that are products of their own.
    Rotary,
    /// Attention of a span of positions.
    Attention(KvType),
    /// All spans of attention.
    Merge,
    /// Attention of many rows of a sequence.
    Flash(KvType),
    /// The same by matrix instructions, with keys and values of bf16, for heads of so many elements: a multiple of 16.
    FlashMma(usize),
    /// A product with scale and cap.
    Linear(Format, Rows),
    /// Post-norm, added to the residual stream.
    Residual,
    /// Pre-MoE norm, router softmax, selection.
    Route,
    /// Rows by expert.
    Group,
    /// Gate, up and GELU of the selected experts.
    GateUp(Format, Rows),
    /// A product with matrices of the selected experts.
    ExpertLinear(Format, Rows),
    /// [`Linear`](Self::Linear) for many rows.
    LinearTiled(Format),
    /// [`GateUp`](Self::GateUp) for many pairs.
    GateUpTiled(Format),
    /// [`ExpertLinear`](Self::ExpertLinear) for many pairs.
    ExpertLinearTiled(Format),
    /// Bytes of random weights: see [`Formula`](crate::Formula).
    Generate,
    /// Activations as bf16, for matrix instructions.
    Narrow,
    /// Sums of activations, for formats with minima.
    RowSums,
    /// [`Linear`](Self::Linear) for many rows by matrix instructions, where [`Format::has_tiled_mma`].
    LinearTiledMma(Format),
    /// [`GateUp`](Self::GateUp) for many pairs, likewise.
    GateUpTiledMma(Format),
    /// [`ExpertLinear`](Self::ExpertLinear) for many pairs, likewise.
    ExpertLinearTiledMma(Format),
    /// GELU of the gate times up.
    Activate,
    /// The gates' weighted sum.
    Combine,
    /// [`Residual`](Self::Residual) and [`Route`](Self::Route), and for one row [`Group`](Self::Group).
    ResidualRoute,
    /// [`Combine`](Self::Combine), [`Residual`](Self::Residual) and the next layer's [`RmsNorm`](Self::RmsNorm).
    CombineResidual,
    /// Weights of a range of outputs, rounded to bf16, for the vendor's library: see `blas` and [`Format::slab_layout`].
    Dequantise(Format),
    /// Rows by expert, rounded to bf16, for the same; [`Narrow`](Self::Narrow) is for rows as they are.
    Gather,
    /// Products of rows by expert, to the places of their pairs.
    Scatter,
    /// The best tokens of each block of logits.
    Candidates,
    /// The best of these.
    CandidatesMerge,
    /// What each block of logits weighs in the softmax.
    Weigh,
}

impl Kernel {
    /// Name of its file without the ending, format and size of the tile.
    fn parts(self) -> (&'static str, Option<String>, Option<Rows>) {
        match self {
            Self::Pack(format) => ("pack", Some(format.name()), None),
            Self::Embed(format) => ("embed", Some(format.name()), None),
            Self::RmsNorm => ("rms_norm", None, None),
            Self::Qkv(format, rows) => ("qkv", Some(format.name()), Some(rows)),
            Self::Attention(kv) => ("attention", Some(kv.name().to_owned()), None),
            Self::Rotary => ("rotary", None, None),
            Self::Merge => ("merge", None, None),
            Self::Flash(kv) => ("flash", Some(kv.name().to_owned()), None),
            Self::FlashMma(head_dim) => ("flash_mma", Some(head_dim.to_string()), None),
            Self::Linear(format, rows) => ("linear", Some(format.name()), Some(rows)),
            Self::Residual => ("residual", None, None),
            Self::Route => ("route", None, None),
            Self::Group => ("group", None, None),
            Self::GateUp(format, rows) => ("gate_up", Some(format.name()), Some(rows)),
            Self::ExpertLinear(format, rows) => ("expert_linear", Some(format.name()), Some(rows)),
            Self::LinearTiled(format) => ("linear_tiled", Some(format.name()), None),
            Self::GateUpTiled(format) => ("gate_up_tiled", Some(format.name()), None),
            Self::ExpertLinearTiled(format) => ("expert_linear_tiled", Some(format.name()), None),
            Self::Generate => ("generate", None, None),
            Self::Narrow => ("narrow", None, None),
            Self::RowSums => ("row_sums", None, None),
            Self::LinearTiledMma(format) => ("linear_tiled_mma", Some(format.name()), None),
            Self::GateUpTiledMma(format) => ("gate_up_tiled_mma", Some(format.name()), None),
            Self::ExpertLinearTiledMma(format) => ("expert_linear_tiled_mma", Some(format.name()), None),
            Self::Activate => ("activate", None, None),
            Self::Combine => ("combine", None, None),
            Self::ResidualRoute => ("residual_route", None, None),
            Self::CombineResidual => ("combine_residual", None, None),
            Self::Dequantise(format) => ("dequantise", Some(format.name()), None),
            Self::Gather => ("gather", None, None),
            Self::Scatter => ("scatter", None, None),
            Self::Candidates => ("candidates", None, None),
            Self::CandidatesMerge => ("candidates_merge", None, None),
            Self::Weigh => ("weigh", None, None),
        }
    }

    /// Whether devices of an architecture, `sm_90` or `gfx942`, have what it needs. Files and formats whose names end in `_mma` need the
    /// matrix instructions that NVIDIA's have from sm_80 on.
    #[must_use]
    pub fn runs_on(self, architecture: &str) -> bool {
        let (file, format, _) = self.parts();
        let mma = file.ends_with("_mma") || format.is_some_and(|format| format.ends_with("_mma"));
        let number =
            architecture.strip_prefix("sm_").map(|number| number.trim_end_matches(char::is_alphabetic));
        !mma || number.and_then(|number| number.parse().ok()) >= Some(80)
    }

    /// Its symbol in a compiled module: `linear_q4_k_16`.
    #[must_use]
    pub fn name(self) -> String {
        let (file, format, rows) = self.parts();
        let format = format.map(|format| format!("_{format}")).unwrap_or_default();
        let rows = rows.map(|rows| format!("_{}", rows.count())).unwrap_or_default();
        format!("{file}{format}{rows}")
    }
}

/// Kernels that are compiled together, since who needs one needs most of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelSet {
    /// Those that read weights of a format.
    Format(Format),
    /// Those that read none.
    Plain,
    /// Attention by matrix instructions, for heads of so many elements.
    FlashMma(usize),
    /// Products of many rows by matrix instructions, where [`Format::has_tiled_mma`].
    TiledMma(Format),
}

impl KernelSet {
    /// All of them, for Grok-1's heads.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let layouts = [Layout::OutIn, Layout::InOut];
        let pairs = DType::ALL.into_iter().flat_map(|dtype| layouts.map(|layout| (dtype, layout)));
        let formats = pairs.flat_map(|(dtype, layout)| {
            let packed = Format::packed(dtype, layout, TILE_INPUTS, TILE_OUTPUTS);
            [Format::new(dtype, layout), packed, packed.and_then(Format::with_mma)].into_iter().flatten()
        });
        let sets = formats.flat_map(|format| {
            let mma = format.has_tiled_mma().then_some(Self::TiledMma(format));
            [Self::Format(format)].into_iter().chain(mma)
        });
        [Self::Plain, Self::FlashMma(128)].into_iter().chain(sets).collect()
    }

    /// The one that a kernel is in.
    #[must_use]
    pub const fn of(kernel: Kernel) -> Self {
        match kernel {
            Kernel::Embed(format)
            | Kernel::Dequantise(format)
            | Kernel::Qkv(format, _)
            | Kernel::Linear(format, _)
            | Kernel::GateUp(format, _)
            | Kernel::ExpertLinear(format, _)
            | Kernel::Pack(format)
            | Kernel::LinearTiled(format)
            | Kernel::GateUpTiled(format)
            | Kernel::ExpertLinearTiled(format) => Self::Format(format),
            Kernel::FlashMma(head_dim) => Self::FlashMma(head_dim),
            Kernel::LinearTiledMma(format)
            | Kernel::GateUpTiledMma(format)
            | Kernel::ExpertLinearTiledMma(format) => Self::TiledMma(format),
            Kernel::RmsNorm
            | Kernel::Attention(_)
            | Kernel::Rotary
            | Kernel::Merge
            | Kernel::Flash(_)
            | Kernel::Residual
            | Kernel::Route
            | Kernel::Group
            | Kernel::Generate
            | Kernel::Narrow
            | Kernel::RowSums
            | Kernel::Activate
            | Kernel::Combine
            | Kernel::ResidualRoute
            | Kernel::CombineResidual
            | Kernel::Gather
            | Kernel::Scatter
            | Kernel::Candidates
            | Kernel::CandidatesMerge
            | Kernel::Weigh => Self::Plain,
        }
    }

    /// `plain`, or the format's name.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Format(format) => format.name(),
            Self::Plain => "plain".to_owned(),
            Self::FlashMma(head_dim) => format!("mma_flash_{head_dim}"),
            Self::TiledMma(format) => format!("tiled_mma_{}", format.name()),
        }
    }

    /// Its kernels.
    #[must_use]
    pub fn kernels(self) -> Vec<Kernel> {
        match self {
            Self::Format(format) => {
                let products = [Kernel::Linear, Kernel::Qkv, Kernel::GateUp, Kernel::ExpertLinear];
                let tiled = [Kernel::LinearTiled, Kernel::GateUpTiled, Kernel::ExpertLinearTiled];
                // Only tables of rows that lie in one piece.
                let embed = (format.layout == Layout::OutIn).then_some(Kernel::Embed(format));
                let pack = format.packed.then_some(Kernel::Pack(format));
                let products =
                    Rows::ALL.into_iter().flat_map(|rows| products.map(|kernel| kernel(format, rows)));
                if format.mma {
                    return products.collect();
                }
                let tiled = tiled.map(|kernel| kernel(format));
                products.chain(tiled).chain(embed).chain(pack).chain([Kernel::Dequantise(format)]).collect()
            }
            Self::Plain => vec![
                Kernel::RmsNorm,
                Kernel::Attention(KvType::F32),
                Kernel::Attention(KvType::BF16),
                Kernel::Rotary,
                Kernel::Merge,
                Kernel::Flash(KvType::F32),
                Kernel::Flash(KvType::BF16),
                Kernel::Residual,
                Kernel::Route,
                Kernel::Group,
                Kernel::Generate,
                Kernel::Narrow,
                Kernel::RowSums,
                Kernel::Activate,
                Kernel::Combine,
                Kernel::ResidualRoute,
                Kernel::CombineResidual,
                Kernel::Gather,
                Kernel::Scatter,
                Kernel::Candidates,
                Kernel::CandidatesMerge,
                Kernel::Weigh,
            ],
            Self::FlashMma(head_dim) => vec![Kernel::FlashMma(head_dim)],
            Self::TiledMma(format) => {
                let kernels = [Kernel::LinearTiledMma, Kernel::GateUpTiledMma, Kernel::ExpertLinearTiledMma];
                kernels.map(|kernel| kernel(format)).into()
            }
        }
    }
}

/// A module of `kernels` for warps of 32 or 64 lanes.
#[must_use]
pub fn source(warp: u32, kernels: &[Kernel]) -> String {
    let mut out = format!("#define WARP {warp}\n");
    for kernel in kernels {
        let (file, format, rows) = kernel.parts();
        let format = format.unwrap_or_default();
        let rows = rows.map(|rows| rows.count().to_string()).unwrap_or_default();
        if format.ends_with("_mma") {
            out.push_str("#include \"packed_mma.h\"\n");
        }
        // Writing to a string does not fail.
        _ = writeln!(out, "#define FORMAT {format}\n#define ROWS {rows}\n#include \"{file}.cu\"");
        out.push_str("#undef FORMAT\n#undef ROWS\n");
    }
    out
}

/// A file of the source.
macro_rules! file {
    ($name:literal) => {
        ($name, Cow::Borrowed(include_str!($name)))
    };
}

/// The files that a module includes, by name.
#[must_use]
pub fn files() -> Vec<(&'static str, Cow<'static, str>)> {
    vec![
        ("generated.h", tables::constants().into()),
        ("tables.h", tables::tables().into()),
        file!("activate.cu"),
        file!("attention.cu"),
        file!("bytes.h"),
        file!("cache.h"),
        file!("candidates.cu"),
        file!("candidates.h"),
        file!("candidates_merge.cu"),
        file!("combine.cu"),
        file!("combine_residual.cu"),
        file!("dequantise.cu"),
        file!("embed.cu"),
        file!("expert_linear.cu"),
        file!("expert_linear_tiled.cu"),
        file!("expert_linear_tiled_mma.cu"),
        file!("experts.h"),
        file!("flash.cu"),
        file!("flash.h"),
        file!("flash_mma.cu"),
        file!("flash_page.h"),
        file!("flash_step.h"),
        file!("formats.h"),
        file!("gate_up.cu"),
        file!("gate_up_tiled.cu"),
        file!("gate_up_tiled_mma.cu"),
        file!("gather.cu"),
        file!("generate.cu"),
        file!("group.cu"),
        file!("iq.h"),
        file!("k.h"),
        file!("legacy.h"),
        file!("linear.cu"),
        file!("linear_tiled.cu"),
        file!("linear_tiled_mma.cu"),
        file!("merge.cu"),
        file!("mma.h"),
        file!("mma_product.h"),
        file!("mma_weights.h"),
        file!("narrow.cu"),
        file!("norm.h"),
        file!("numbers.h"),
        file!("pack.cu"),
        file!("packed.h"),
        file!("packed_formats.h"),
        file!("packed_mma.h"),
        file!("packed_product.h"),
        file!("plain.h"),
        file!("portable.h"),
        file!("product.h"),
        file!("qkv.cu"),
        file!("reduce.h"),
        file!("residual.cu"),
        file!("residual_route.cu"),
        file!("rms_norm.cu"),
        file!("rotary.cu"),
        file!("rotary.h"),
        file!("route.cu"),
        file!("router.h"),
        file!("row_sums.cu"),
        file!("scatter.cu"),
        file!("slab.h"),
        file!("tiled.h"),
        file!("weigh.cu"),
    ]
}

/// The address of something in the device's memory; 0 for nothing.
pub type Address = u64;

/// `Matrix` in `product.h`: weights on the device. Those of a layer's experts are one, with the experts one after another.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Matrix {
    /// Elements as stored; aligned to 16 bytes.
    pub data: Address, // [outputs, inputs] or [inputs, outputs]
    /// What they are multiplied by, or nothing.
    pub scales: Address, // f32 [ceil(outputs / scale_outputs), ceil(inputs / scale_inputs)]
    /// Consecutive inputs that share a scale; not 0.
    pub scale_inputs: i32,
    /// Consecutive outputs that share a scale; not 0.
    pub scale_outputs: i32,
    /// Length of the contracted axis.
    pub inputs: i32,
    /// Length of the result.
    pub outputs: i32,
}

/// `Cache` in `cache.h`: the pages of a batch, as one layer sees them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Cache {
    /// Addresses of the sequences' pages.
    pub pages: Address, // u64 [pages], each [layers, 2, kv_heads, PAGE, head_dim]
    /// Where those of each row's sequence begin.
    pub first: Address, // i32 [rows]
    /// The rows' positions.
    pub positions: Address, // i32 [rows]
    /// Which layer.
    pub layer: i32,
    /// Key/value heads.
    pub kv_heads: i32,
    /// Values per head.
    pub head_dim: i32,
    /// How elements are stored: 1 for BF16, 0 for F32.
    pub is_bf16: i32,
}

/// `Router` in `router.h`: weights and settings.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Router {
    /// Scale of the norm before it.
    pub norm: Address, // f32 [width]
    /// Its weights.
    pub weights: Address, // f32 [experts, width]
    /// Width of the residual stream.
    pub width: i32,
    /// Experts.
    pub experts: i32,
    /// Experts of a token.
    pub selected: i32,
    /// Of the norm.
    pub epsilon: f32,
    /// Soft cap of its scores; 0 for none.
    pub cap: f32,
    /// Whether gates are divided by their sum.
    pub renormalise: i32,
}

/// `Routed` in `router.h`: what the router decides.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Routed {
    /// Normed rows, for the experts.
    pub input: Address, // f32 [rows, width]
    /// Softmax over all experts.
    pub probabilities: Address, // f32 [rows, experts]
    /// Selected experts, best first.
    pub selection: Address, // i32 [rows, selected]
    /// Their weights.
    pub gates: Address, // f32 [rows, selected]
}

/// `Groups` in `experts.h`: rows by expert.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Groups {
    /// The expert of each group, or -1.
    pub experts: Address, // i32 [min(experts, pairs)]
    /// Where each group begins, and the last ends.
    pub starts: Address, // i32 [min(experts, pairs) + 1]
    /// Row and slot of each.
    pub pairs: Address, // i32 [rows * selected]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_source_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/backend/gpu/kernels");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut found: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        found.retain(|name| !name.ends_with(".rs"));
        found.sort();
        let embedded: Vec<_> = files().into_iter().skip(2).map(|(name, _)| name).collect();
        assert_eq!(embedded, found);
    }

    #[test]
    fn blocks_of_elements_do_not_run_along_the_outputs() {
        assert!(Format::new(DType::Q4K, Layout::InOut).is_none());
        assert!(Format::new(DType::I8, Layout::InOut).is_some());
    }

    #[test]
    fn a_module_defines_what_its_files_ask_for() {
        let format = Format::new(DType::Q4K, Layout::OutIn).unwrap();
        let kernel = Kernel::Linear(format, Rows::of(3));
        assert_eq!(kernel.name(), "linear_q4_k_4");
        let lines = ["#define WARP 64", "#define FORMAT q4_k", "#define ROWS 4", "#include \"linear.cu\""];
        assert!(source(64, &[kernel]).starts_with(&lines.join("\n")));
    }
}
