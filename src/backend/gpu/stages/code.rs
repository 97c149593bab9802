//! The kernels of a device, compiled when they are first asked for. Uses `kernels`, `compile` and `device`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::gpu::kernels::{Format, Kernel, KernelSet, Rows, files, source};
use crate::backend::gpu::{CompileOptions, Device, Function, GpuError, Module, Program, Runtime, compile};

/// Compiled kernels.
pub(super) struct Code<R: Runtime> {
    device: Device<R>,
    options: CompileOptions,
    /// Whether activations are bf16 values, which matrix instructions take.
    rounds: bool,
    /// Whether the vendor's library is there to take unpacked weights.
    pub(super) has_blas: bool,
    sets: Mutex<HashMap<KernelSet, Module<R>>>,
}

impl<R: Runtime> Code<R> {
    pub(super) fn new(device: Device<R>, options: CompileOptions, rounds: bool, has_blas: bool) -> Self {
        Self { device, options, rounds, has_blas, sets: Mutex::default() }
    }

    /// A kernel that is launched with up to `shared` bytes of dynamic shared memory.
    pub(super) fn kernel(&self, kernel: Kernel, shared: usize) -> Result<Function<R>, GpuError> {
        let (set, name, shared) =
            (KernelSet::of(kernel), kernel.name(), u32::try_from(shared).unwrap_or(u32::MAX));
        // What it has beside that is known when it was compiled.
        self.device.check_shared(&name, shared)?;
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match sets.get(&set) {
            Some(module) => module,
            None => {
                let module = self.module(set)?;
                sets.entry(set).or_insert(module)
            }
        };
        module.function(&name, shared)
    }

    /// The same; `None` where the device has not the instructions or the shared memory for it.
    pub(super) fn kernel_that_fits(
        &self,
        kernel: Kernel,
        shared: usize,
    ) -> Result<Option<Function<R>>, GpuError> {
        if !self.has_instructions(kernel) {
            return Ok(None);
        }
        match self.kernel(kernel, shared) {
            Err(reason @ GpuError::SharedMemory { .. }) => {
                log::info!("not used: {reason}");
                Ok(None)
            }
            found => found.map(Some),
        }
    }

    fn has_instructions(&self, kernel: Kernel) -> bool {
        kernel.runs_on(&self.device.properties().architecture)
    }

    /// A kernel for each size of tile.
    pub(super) fn tiles(
        &self,
        kernel: impl Fn(Format, Rows) -> Kernel,
        format: Format,
    ) -> Result<Tiles<R>, GpuError> {
        // The same for one row and for several, which then have the same bits.
        let mma =
            format.with_mma().filter(|mma| self.rounds && self.has_instructions(kernel(*mma, Rows::One)));
        let format = mma.unwrap_or(format);
        let [one, four, sixteen] = Rows::ALL.map(|rows| self.kernel(kernel(format, rows), 0));
        Ok(Tiles { functions: Arc::new([one?, four?, sixteen?]), format })
    }

    /// The kernels of a product.
    pub(super) fn products(
        &self,
        (few, tiled, mma): ProductKernels,
        format: Format,
        inputs: usize,
    ) -> Result<Products<R>, GpuError> {
        let mma = if self.rounds && format.tiled_mma_fits(inputs) {
            self.kernel_that_fits(mma(format), format.tiled_mma_shared_bytes())?
        } else {
            None
        };
        Ok(Products {
            few: self.tiles(few, format)?,
            tiled: Arc::new(self.kernel(tiled(format), 0)?),
            mma: mma.map(Arc::new),
            dequantise: self
                .has_blas
                .then(|| self.kernel(Kernel::Dequantise(format), 0).map(Arc::new))
                .transpose()?,
        })
    }

    fn module(&self, set: KernelSet) -> Result<Module<R>, GpuError> {
        let properties = self.device.properties();
        let mut kernels = set.kernels();
        kernels.retain(|kernel| self.has_instructions(*kernel));
        let files = files();
        let headers: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_ref())).collect();
        let (name, text) = (format!("{}.cu", set.name()), source(properties.warp, &kernels));
        let program = Program::new(&name, &text).headers(&headers);
        let code = compile(&**self.device.runtime(), &program, &properties.architecture, &self.options)?;
        self.device.load(code)
    }
}

/// The kernels of a product: for a few rows, for many, and for many by matrix instructions.
type ProductKernels = (fn(Format, Rows) -> Kernel, fn(Format) -> Kernel, fn(Format) -> Kernel);

/// Those of [`Kernel::Linear`].
pub(super) const LINEAR: ProductKernels = (Kernel::Linear, Kernel::LinearTiled, Kernel::LinearTiledMma);
/// Those of [`Kernel::GateUp`].
pub(super) const GATE_UP: ProductKernels = (Kernel::GateUp, Kernel::GateUpTiled, Kernel::GateUpTiledMma);
/// Those of [`Kernel::ExpertLinear`].
pub(super) const EXPERT_LINEAR: ProductKernels =
    (Kernel::ExpertLinear, Kernel::ExpertLinearTiled, Kernel::ExpertLinearTiledMma);

/// Kernels that multiply a few rows with weights of one format, for each size of tile.
pub(super) struct Tiles<R: Runtime> {
    functions: Arc<[Function<R>; Rows::ALL.len()]>,
    pub(super) format: Format,
}

impl<R: Runtime> Tiles<R> {
    /// The kernel for a batch of `rows`, and how many rows of blocks the batch takes.
    pub(super) fn of(&self, rows: usize) -> (&Function<R>, usize) {
        let tile = Rows::of(rows);
        (&self.functions[tile as usize], rows.div_ceil(tile.count()))
    }

    /// Blocks that compute `outputs`.
    pub(super) fn strips(&self, outputs: usize) -> usize {
        outputs.div_ceil(self.format.strip())
    }
}

impl<R: Runtime> Clone for Tiles<R> {
    fn clone(&self) -> Self {
        Self { functions: Arc::clone(&self.functions), format: self.format }
    }
}

/// Kernels of a product with weights of one format.
pub(super) struct Products<R: Runtime> {
    pub(super) few: Tiles<R>,
    pub(super) tiled: Arc<Function<R>>,
    /// Where the device and the format have it.
    pub(super) mma: Option<Arc<Function<R>>>,
    /// What unpacks weights for the vendor's library, if that is used.
    pub(super) dequantise: Option<Arc<Function<R>>>,
}

impl<R: Runtime> Clone for Products<R> {
    fn clone(&self) -> Self {
        Self {
            few: self.few.clone(),
            tiled: Arc::clone(&self.tiled),
            mma: self.mma.clone(),
            dequantise: self.dequantise.clone(),
        }
    }
}
