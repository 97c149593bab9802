//! The kernels of a device, compiled when they are first asked for. Uses `kernels`, `compile` and `device`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::gpu::kernels::{Format, Kernel, KernelSet, Rows, files, source};
use crate::backend::gpu::{CompileOptions, Device, Function, GpuError, Module, Program, Runtime, compile};

/// Compiled kernels.
pub(super) struct Code<R: Runtime> {
    device: Device<R>,
    options: CompileOptions,
    sets: Mutex<HashMap<KernelSet, Module<R>>>,
}

impl<R: Runtime> Code<R> {
    pub(super) fn new(device: Device<R>, options: CompileOptions) -> Self {
        Self { device, options, sets: Mutex::default() }
    }

    /// A kernel that is launched with up to `shared` bytes of dynamic shared memory.
    pub(super) fn kernel(&self, kernel: Kernel, shared: usize) -> Result<Function<R>, GpuError> {
        let set = KernelSet::of(kernel);
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match sets.get(&set) {
            Some(module) => module,
            None => {
                let module = self.module(set)?;
                sets.entry(set).or_insert(module)
            }
        };
        module.function(&kernel.name(), u32::try_from(shared).unwrap_or(u32::MAX))
    }

    /// A kernel for each size of tile.
    pub(super) fn tiles(
        &self,
        kernel: impl Fn(Format, Rows) -> Kernel,
        format: Format,
    ) -> Result<Tiles<R>, GpuError> {
        let [one, four, sixteen] = Rows::ALL.map(|rows| self.kernel(kernel(format, rows), 0));
        Ok(Tiles { functions: Arc::new([one?, four?, sixteen?]), strip: format.strip() })
    }

    fn module(&self, set: KernelSet) -> Result<Module<R>, GpuError> {
        let properties = self.device.properties();
        let mut kernels = set.kernels();
        kernels.retain(|kernel| kernel.runs_on(&properties.architecture));
        let files = files();
        let headers: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_ref())).collect();
        let (name, text) = (format!("{}.cu", set.name()), source(properties.warp, &kernels));
        let program = Program::new(&name, &text).headers(&headers);
        let code = compile(&**self.device.runtime(), &program, &properties.architecture, &self.options)?;
        self.device.load(code)
    }
}

/// A kernel that multiplies with weights of one format, for each size of tile.
pub(super) struct Tiles<R: Runtime> {
    functions: Arc<[Function<R>; Rows::ALL.len()]>,
    /// Outputs that a block computes.
    strip: usize,
}

impl<R: Runtime> Tiles<R> {
    /// The kernel for a batch of `rows`, and how many rows of blocks the batch takes.
    pub(super) fn of(&self, rows: usize) -> (&Function<R>, usize) {
        let tile = Rows::of(rows);
        (&self.functions[tile as usize], rows.div_ceil(tile.count()))
    }

    /// Blocks that compute `outputs`.
    pub(super) fn strips(&self, outputs: usize) -> usize {
        outputs.div_ceil(self.strip)
    }
}

impl<R: Runtime> Clone for Tiles<R> {
    fn clone(&self) -> Self {
        Self { functions: Arc::clone(&self.functions), strip: self.strip }
    }
}
