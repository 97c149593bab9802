//! The kernels that read no weights of any format, and their launches. Uses `code` and `scratch`.

use super::Gpu;
use super::code::Code;
use super::scratch::{Room, Scratch};
use super::slabs::Slabs;
use super::weights::Layer;
use crate::backend::gpu::kernels::{
    FLASH_HEAD_DIM, FLASH_MMA_QUERIES, FLASH_QUERIES, Groups, Kernel, Routed, Router, THREADS,
    attention_shared_bytes, flash_mma_shared_bytes, flash_shared_bytes,
};
use crate::backend::gpu::{Argument, Buffer, DevicePointer, Function, GpuError, Launch, Runtime};
use crate::backend::{KvType, Precision};
use crate::config::ModelConfig;
use crate::error::Result;

/// The kernels, for a model's sizes.
pub(super) struct Kernels<R: Runtime> {
    pub(super) rms_norm: Function<R>,
    pub(super) rotary: Function<R>,
    pub(super) attention: ForKv<R>,
    pub(super) merge: Function<R>,
    pub(super) flash: Option<Flash<R>>,
    residual: Function<R>,
    route: Function<R>,
    residual_route: Function<R>,
    group: Function<R>,
    pub(super) narrow: Function<R>,
    pub(super) row_sums: Function<R>,
    pub(super) activate: Function<R>,
    combine: Function<R>,
    combine_residual: Function<R>,
    pub(super) candidates: Function<R>,
    pub(super) candidates_merge: Function<R>,
    pub(super) weigh: Function<R>,
    pub(super) slabs: Option<Slabs<R>>,
}

/// A kernel for each type of cache.
pub(super) struct ForKv<R: Runtime> {
    f32: Function<R>,
    bf16: Function<R>,
    /// Bytes of shared memory it is launched with.
    pub(super) shared: usize,
}

impl<R: Runtime> ForKv<R> {
    fn new(code: &Code<R>, kernel: fn(KvType) -> Kernel, shared: usize) -> Result<Self, GpuError> {
        let [f32, bf16] = [KvType::F32, KvType::BF16].map(|kv| code.kernel(kernel(kv), shared));
        Ok(Self { f32: f32?, bf16: bf16?, shared })
    }

    pub(super) fn of(&self, kv: KvType) -> &Function<R> {
        match kv {
            KvType::F32 => &self.f32,
            KvType::BF16 => &self.bf16,
        }
    }
}

/// Attention of many rows of a sequence.
pub(super) struct Flash<R: Runtime> {
    pub(super) portable: ForKv<R>,
    /// By matrix instructions, for bf16 pages, and the bytes of shared memory it is launched with.
    pub(super) mma: Option<(Function<R>, usize)>,
}

impl<R: Runtime> Flash<R> {
    /// `None` for heads that it does not take, or where there is too little shared memory.
    fn new(code: &Code<R>, config: &ModelConfig, precision: Precision) -> Result<Option<Self>, GpuError> {
        let (dim, group) = (config.head_dim, config.heads / config.kv_heads);
        let (shared, mma_shared) = (flash_shared_bytes(dim), flash_mma_shared_bytes(dim));
        if group > FLASH_QUERIES || dim > FLASH_HEAD_DIM {
            return Ok(None);
        }
        let kernel = |kv| code.kernel_that_fits(Kernel::Flash(kv), shared);
        let (Some(f32), Some(bf16)) = (kernel(KvType::F32)?, kernel(KvType::BF16)?) else { return Ok(None) };
        let mma = if precision != Precision::Exact && dim.is_multiple_of(16) {
            code.kernel_that_fits(Kernel::FlashMma(dim), mma_shared)?
        } else {
            None
        };
        Ok(Some(Self { portable: ForKv { f32, bf16, shared }, mma: mma.map(|mma| (mma, mma_shared)) }))
    }

    /// The kernel for a type of cache, its shared memory, and the queries of its tiles.
    pub(super) fn of(&self, kv: KvType) -> (&Function<R>, usize, usize) {
        match &self.mma {
            Some((kernel, shared)) if kv == KvType::BF16 => (kernel, *shared, FLASH_MMA_QUERIES),
            _ => (self.portable.of(kv), self.portable.shared, FLASH_QUERIES),
        }
    }
}

impl<R: Runtime> Kernels<R> {
    pub(super) fn new(code: &Code<R>, config: &ModelConfig, precision: Precision) -> Result<Self, GpuError> {
        let group = config.heads / config.kv_heads;
        let attention_shared = attention_shared_bytes(group, config.head_dim);
        let kernel = |kernel| code.kernel(kernel, 0);
        let router = |kernel| code.kernel(kernel, router_shared(config));
        Ok(Self {
            rms_norm: kernel(Kernel::RmsNorm)?,
            rotary: kernel(Kernel::Rotary)?,
            attention: ForKv::new(code, Kernel::Attention, attention_shared)?,
            merge: kernel(Kernel::Merge)?,
            flash: Flash::new(code, config, precision)?,
            residual: kernel(Kernel::Residual)?,
            route: router(Kernel::Route)?,
            residual_route: router(Kernel::ResidualRoute)?,
            group: kernel(Kernel::Group)?,
            narrow: kernel(Kernel::Narrow)?,
            row_sums: kernel(Kernel::RowSums)?,
            activate: kernel(Kernel::Activate)?,
            combine: kernel(Kernel::Combine)?,
            combine_residual: kernel(Kernel::CombineResidual)?,
            candidates: kernel(Kernel::Candidates)?,
            candidates_merge: kernel(Kernel::CandidatesMerge)?,
            weigh: kernel(Kernel::Weigh)?,
            slabs: code
                .has_blas
                .then(|| {
                    Ok::<_, GpuError>(Slabs {
                        gather: kernel(Kernel::Gather)?,
                        scatter: kernel(Kernel::Scatter)?,
                    })
                })
                .transpose()?,
        })
    }
}

/// Bytes of shared memory that the router's kernels are launched with.
fn router_shared(config: &ModelConfig) -> usize {
    config.experts * size_of::<f32>()
}

impl<R: Runtime> Gpu<R> {
    /// Queues a kernel.
    ///
    /// # Safety
    /// Arguments and grid are as its file says, of buffers that hold as much.
    pub(super) unsafe fn launch<const N: usize>(
        &self,
        function: &Function<R>,
        grid: [usize; 3],
        shared_bytes: usize,
        arguments: [Argument<'_>; N],
    ) -> Result<()> {
        let size = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let launch =
            Launch { grid: grid.map(size), block: [THREADS as u32, 1, 1], shared_bytes: size(shared_bytes) };
        // SAFETY: the caller's.
        Ok(unsafe { self.stream.launch(function, launch, arguments) }?)
    }

    /// Whether products see activations rounded to bf16, as kernels are told.
    pub(super) fn round(&self) -> i32 {
        i32::from(self.precision != Precision::Exact)
    }

    /// RMS norm of `rows` rows of the residual stream; of all, or of those whose numbers are at `source`.
    pub(super) fn norm(
        &self,
        scratch: &Scratch<R>,
        to: &Room<R>, // [rows, width]
        source: DevicePointer,
        rows: usize,
        scale: &Buffer<R>,
        round: i32,
    ) -> Result<()> {
        let (width, epsilon) = (self.config.width as i32, self.config.norm_epsilon);
        let (to, from, scale) = (to.pointer(), scratch.hidden.pointer(), scale.pointer());
        let arguments = [
            (&to).into(),
            (&from).into(),
            (&source).into(),
            (&scale).into(),
            (&width).into(),
            (&epsilon).into(),
            (&round).into(),
        ];
        // SAFETY: `to` has room for `rows` rows, `hidden` holds those that are asked for, and the scale is as wide.
        unsafe { self.launch(&self.kernels.rms_norm, [rows, 1, 1], 0, arguments) }
    }

    /// Post-norm of the branch, added to the residual stream.
    pub(super) fn add_branch(&self, scale: &Buffer<R>, scratch: &Scratch<R>) -> Result<()> {
        let (hidden, branch, scale) = (scratch.hidden.pointer(), scratch.branch.pointer(), scale.pointer());
        let (width, epsilon) = (self.config.width as i32, self.config.norm_epsilon);
        let arguments =
            [(&hidden).into(), (&branch).into(), (&scale).into(), (&width).into(), (&epsilon).into()];
        // SAFETY: both hold `rows` rows, and the scale is as wide.
        unsafe { self.launch(&self.kernels.residual, [scratch.rows, 1, 1], 0, arguments) }
    }

    fn router(&self, layer: &Layer<R>) -> Router {
        let config = &self.config;
        Router {
            norm: layer.moe_norm.pointer().0,
            weights: layer.router.pointer().0,
            width: config.width as i32,
            experts: config.experts as i32,
            selected: config.selected_experts as i32,
            epsilon: config.norm_epsilon,
            cap: config.router_cap.unwrap_or(0.0),
            renormalise: i32::from(config.renormalise_gates),
        }
    }

    /// Makes room for what the router decides.
    fn routed(&self, scratch: &mut Scratch<R>) -> Result<Routed> {
        let config = &self.config;
        let bytes = |width: usize| scratch.rows * width * size_of::<f32>();
        scratch.normed.make(&self.device, bytes(config.width))?;
        scratch.probabilities.make(&self.device, bytes(config.experts))?;
        scratch.selection.make(&self.device, bytes(config.selected_experts))?;
        scratch.gates.make(&self.device, bytes(config.selected_experts))?;
        Ok(Routed {
            input: scratch.normed.pointer().0,
            probabilities: scratch.probabilities.pointer().0,
            selection: scratch.selection.pointer().0,
            gates: scratch.gates.pointer().0,
        })
    }

    /// Pre-MoE norm, router softmax, selection.
    pub(super) fn route_rows(&self, layer: &Layer<R>, scratch: &mut Scratch<R>) -> Result<()> {
        let (routed, router, round) = (self.routed(scratch)?, self.router(layer), self.round());
        let hidden = scratch.hidden.pointer();
        let arguments = [(&routed).into(), (&hidden).into(), (&router).into(), (&round).into()];
        let shared = router_shared(&self.config);
        // SAFETY: all of them hold `rows` rows.
        unsafe { self.launch(&self.kernels.route, [scratch.rows, 1, 1], shared, arguments) }
    }

    /// Attention's residual, and [`route_rows`](Self::route_rows); then rows by expert.
    pub(super) fn add_and_route(&self, layer: &Layer<R>, scratch: &mut Scratch<R>) -> Result<Groups> {
        let (routed, router, round) = (self.routed(scratch)?, self.router(layer), self.round());
        let groups = self.make_groups(scratch)?;
        let (hidden, branch) = (scratch.hidden.pointer(), scratch.branch.pointer());
        let scale = layer.post_attention_norm.pointer();
        let [group_experts, starts, pairs] = [groups.experts, groups.starts, groups.pairs].map(DevicePointer);
        let arguments = [
            (&hidden).into(),
            (&branch).into(),
            (&scale).into(),
            (&routed).into(),
            (&router).into(),
            (&group_experts).into(),
            (&starts).into(),
            (&pairs).into(),
            (&round).into(),
        ];
        let (kernel, shared) = (&self.kernels.residual_route, router_shared(&self.config));
        // SAFETY: all of them hold `rows` rows, or their pairs.
        unsafe { self.launch(kernel, [scratch.rows, 1, 1], shared, arguments) }?;
        if scratch.rows > 1 {
            self.group(&groups, scratch)?;
        }
        Ok(groups)
    }

    /// Groups that a batch has at most.
    pub(super) fn groups(&self, rows: usize) -> usize {
        self.config.experts.min(rows * self.config.selected_experts)
    }

    /// Makes room for rows by expert.
    pub(super) fn make_groups(&self, scratch: &mut Scratch<R>) -> Result<Groups> {
        let (groups, number) = (self.groups(scratch.rows), size_of::<i32>());
        let pairs = scratch.rows * self.config.selected_experts;
        scratch.group_experts.make(&self.device, groups * number)?;
        scratch.group_starts.make(&self.device, (groups + 1) * number)?;
        scratch.group_pairs.make(&self.device, pairs * number)?;
        Ok(Groups {
            experts: scratch.group_experts.pointer().0,
            starts: scratch.group_starts.pointer().0,
            pairs: scratch.group_pairs.pointer().0,
        })
    }

    /// Rows by expert.
    pub(super) fn group(&self, groups: &Groups, scratch: &Scratch<R>) -> Result<()> {
        let count = (scratch.rows * self.config.selected_experts) as i32;
        let experts = self.config.experts as i32;
        let [group_experts, starts, pairs] = [groups.experts, groups.starts, groups.pairs].map(DevicePointer);
        let selection = scratch.selection.pointer();
        let arguments = [
            (&group_experts).into(),
            (&starts).into(),
            (&pairs).into(),
            (&selection).into(),
            (&count).into(),
            (&experts).into(),
        ];
        // SAFETY: all of them have room for the pairs of the batch, and `selection` holds them.
        unsafe { self.launch(&self.kernels.group, [1, 1, 1], 0, arguments) }
    }

    /// The gates' weighted sum.
    pub(super) fn combine(&self, scratch: &Scratch<R>) -> Result<()> {
        let [branch, down, gates] = [&scratch.branch, &scratch.down, &scratch.gates].map(Room::pointer);
        let (width, selected) = (self.config.width as i32, self.config.selected_experts as i32);
        let arguments =
            [(&branch).into(), (&down).into(), (&gates).into(), (&width).into(), (&selected).into()];
        let grid = [self.config.width.div_ceil(THREADS), scratch.rows, 1];
        // SAFETY: all of them hold `rows` rows, or their pairs.
        unsafe { self.launch(&self.kernels.combine, grid, 0, arguments) }
    }

    /// The gates' weighted sum, the experts' residual, and the norm that comes next, if one does.
    pub(super) fn combine_and_add(
        &self,
        layer: &Layer<R>,
        next: Option<&Buffer<R>>,
        scratch: &Scratch<R>,
    ) -> Result<()> {
        let [hidden, branch, normed, down, gates] =
            [&scratch.hidden, &scratch.branch, &scratch.normed, &scratch.down, &scratch.gates]
                .map(Room::pointer);
        let (scale, next) = (layer.post_moe_norm.pointer(), next.map_or(DevicePointer(0), Buffer::pointer));
        let (width, selected) = (self.config.width as i32, self.config.selected_experts as i32);
        let (epsilon, round) = (self.config.norm_epsilon, self.round());
        let arguments = [
            (&hidden).into(),
            (&branch).into(),
            (&normed).into(),
            (&down).into(),
            (&gates).into(),
            (&scale).into(),
            (&next).into(),
            (&width).into(),
            (&selected).into(),
            (&epsilon).into(),
            (&round).into(),
        ];
        // SAFETY: all of them hold `rows` rows, or their pairs, and the scales are as wide.
        unsafe { self.launch(&self.kernels.combine_residual, [scratch.rows, 1, 1], 0, arguments) }
    }
}
