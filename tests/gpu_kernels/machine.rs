//! The machines that kernels run on: both sizes of warps, three orders of threads.

use std::ffi::c_uint;
use std::sync::OnceLock;

use grok1::backend::gpu::kernels::{Format, Kernel, KernelSet, Rows, TILE_INPUTS, TILE_OUTPUTS, source};
use grok1::{DType, Layout};
use half::bf16;

use crate::simt::{Argument, Buffer, Module, ORDERS, WARPS};

/// Every format of weights.
pub(crate) fn formats() -> impl Iterator<Item = (DType, Layout, Format)> {
    let pairs = DType::ALL.into_iter().flat_map(|dtype| [(dtype, Layout::OutIn), (dtype, Layout::InOut)]);
    pairs.filter_map(|(dtype, layout)| Some((dtype, layout, Format::new(dtype, layout)?)))
}

/// How a test's weights lie on the machine.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
    pub(crate) packed: bool,
}

impl Kind {
    pub(crate) const fn stored(dtype: DType, layout: Layout) -> Self {
        Self { dtype, layout, packed: false }
    }

    const fn packed(dtype: DType, layout: Layout) -> Self {
        Self { dtype, layout, packed: true }
    }

    /// As kernels name it.
    pub(crate) fn format(self) -> Format {
        let packed = Format::packed(self.dtype, self.layout, TILE_INPUTS, TILE_OUTPUTS);
        if self.packed { packed.unwrap() } else { Format::new(self.dtype, self.layout).unwrap() }
    }
}

/// Those that can be packed, packed.
pub(crate) fn packed() -> impl Iterator<Item = Kind> {
    let kinds = formats().map(|(dtype, layout, _)| Kind::packed(dtype, layout));
    kinds.filter(|kind| Format::packed(kind.dtype, kind.layout, TILE_INPUTS, TILE_OUTPUTS).is_some())
}

/// Those that there are matrix instructions for.
pub(crate) fn mma() -> impl Iterator<Item = Kind> {
    packed().chain([Kind::stored(DType::BF16, Layout::OutIn)])
}

/// What stages are tested with, besides the tests of all formats: of blocks, plain, of the released checkpoint, and packed ones.
pub(crate) const STAGED: [Kind; 5] = [
    Kind::stored(DType::Q4K, Layout::OutIn),
    Kind::stored(DType::BF16, Layout::OutIn),
    Kind::stored(DType::I8, Layout::InOut),
    Kind::packed(DType::Q4K, Layout::OutIn),
    Kind::packed(DType::I8, Layout::InOut),
];

/// Elements of heads that matrix instructions are tested with.
pub(crate) const MMA_HEAD_DIMS: [usize; 3] = [16, 48, 128];

/// All kernels that tests launch.
fn all(warp: u32) -> Vec<Kernel> {
    let mut kernels = KernelSet::Plain.kernels();
    for (_, layout, format) in formats() {
        if layout == Layout::OutIn {
            kernels.push(Kernel::Embed(format));
        }
        kernels.extend([
            Kernel::Linear(format, Rows::Four),
            Kernel::LinearTiled(format),
            Kernel::Dequantise(format),
        ]);
    }
    for kind in packed() {
        let format = kind.format();
        kernels.extend([Kernel::Pack(format), Kernel::Embed(format), Kernel::Dequantise(format)]);
        kernels.extend([Kernel::Linear(format, Rows::Four), Kernel::LinearTiled(format)]);
    }
    for kind in STAGED {
        let format = kind.format();
        kernels.extend([Kernel::GateUpTiled(format), Kernel::ExpertLinearTiled(format)]);
        for rows in Rows::ALL {
            kernels.extend([
                Kernel::Qkv(format, rows),
                Kernel::GateUp(format, rows),
                Kernel::ExpertLinear(format, rows),
            ]);
            if rows != Rows::Four {
                kernels.push(Kernel::Linear(format, rows));
            }
        }
    }
    if warp == 32 {
        kernels.extend(MMA_HEAD_DIMS.map(Kernel::FlashMma));
        kernels.extend(mma().map(|kind| Kernel::LinearTiledMma(kind.format())));
        for format in STAGED.map(Kind::format).into_iter().filter(|format| format.has_tiled_mma()) {
            kernels.extend([Kernel::GateUpTiledMma(format), Kernel::ExpertLinearTiledMma(format)]);
        }
        let products = |kind: Kind| {
            let format = kind.format().with_mma().unwrap();
            Rows::ALL.into_iter().map(move |rows| (format, rows))
        };
        kernels.extend(packed().flat_map(products).map(|(format, rows)| Kernel::Linear(format, rows)));
        for (format, rows) in STAGED.into_iter().filter(|kind| kind.packed).flat_map(products) {
            kernels.extend([
                Kernel::Qkv(format, rows),
                Kernel::GateUp(format, rows),
                Kernel::ExpertLinear(format, rows),
            ]);
        }
    }
    kernels
}

/// A size of warps and an order of threads.
#[derive(Clone, Copy)]
pub(crate) struct Machine {
    module: &'static Module,
    order: c_uint,
}

impl Machine {
    /// One for each size of warps; none, which is said, without a compiler.
    pub(crate) fn both() -> impl Iterator<Item = Self> {
        static MODULES: [OnceLock<Option<Module>>; 2] = [const { OnceLock::new() }; 2];
        let modules = MODULES.iter().zip(WARPS);
        let module = |(module, warp): (&'static OnceLock<Option<Module>>, u32)| {
            module.get_or_init(|| Module::new(warp, &source(warp, &all(warp)))).as_ref()
        };
        modules.filter_map(module).map(|module| Self { module, order: ORDERS[0] })
    }

    /// Runs a kernel that makes no mistake.
    pub(crate) fn launch(
        &self,
        kernel: Kernel,
        grid: [usize; 3],
        shared: usize,
        arguments: &[&dyn Argument],
    ) {
        let result = self.module.try_launch(&kernel.name(), grid, shared, self.order, arguments);
        if let Err(complaint) = result {
            panic!("warps of {}, order {}: {complaint}", self.module.warp, self.order);
        }
    }
}

/// What `run` gives on each size of warps, having made sure that it is the same in every order of threads.
pub(crate) fn results(run: impl Fn(&Machine) -> Vec<f32>) -> Vec<Vec<f32>> {
    results_of(Machine::both(), run)
}

/// The same on warps of 32 only, for which there are matrix instructions.
pub(crate) fn mma_results(run: impl Fn(&Machine) -> Vec<f32>) -> Vec<Vec<f32>> {
    results_of(Machine::both().filter(|machine| machine.module.warp == 32), run)
}

fn results_of(machines: impl Iterator<Item = Machine>, run: impl Fn(&Machine) -> Vec<f32>) -> Vec<Vec<f32>> {
    let in_all_orders = |machine: Machine| {
        let mut results = ORDERS.map(|order| run(&Machine { order, ..machine })).into_iter();
        let first = results.next().unwrap();
        for other in results {
            assert_eq!(bits(&first), bits(&other), "warps of {}: orders differ", machine.module.warp);
        }
        first
    };
    machines.map(in_all_orders).collect()
}

/// What `Standard` precision makes of activations.
pub(crate) fn to_bf16(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// The largest error relative to the root mean square of what is expected.
pub(crate) fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square: f64 = expected.iter().map(|x| x * x).sum();
    let size = (square / expected.len() as f64).sqrt();
    let errors = found.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - b).abs());
    // A NaN is no maximum: it has to be looked for.
    errors.fold(0.0, |largest: f64, error| if error > largest || error.is_nan() { error } else { largest })
        / size
}

/// Every result is as expected, within `bound` of its size.
#[track_caller]
pub(crate) fn assert_close(what: &str, results: &[Vec<f32>], expected: &[f64], bound: f64) {
    for (found, warp) in results.iter().zip(WARPS) {
        let error = error(found, expected);
        assert!(error <= bound, "{what}, warps of {warp}: {error:.1e} off");
    }
}

/// Values of both signs up to `size`.
pub(crate) fn random(seed: u64, len: usize, size: f32) -> Vec<f32> {
    let mut random = crate::random::Random(seed);
    (0..len).map(|_| random.float(-size, size)).collect()
}

pub(crate) fn buffer(values: &[f32]) -> Buffer<f32> {
    Buffer::of(values)
}
