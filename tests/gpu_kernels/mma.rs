//! Products of many rows by matrix instructions.

use grok1::backend::gpu::kernels::{Format, Kernel, MMA_OUTPUTS, MMA_ROWS, THREADS};
use half::bf16;

use crate::experts::{EXPERTS, Experts, Grouped, SELECTED};
use crate::machine::{Kind, Machine, STAGED, assert_close, bits, buffer, mma, mma_results, random, to_bf16};
use crate::simt::{Argument, Buffer};
use crate::weights::Weights;

/// Activations as the kernels take them.
struct Narrow {
    x: Buffer<bf16>,
    sums: Buffer<f32>, // or nothing, where the format has no minima
}

impl Narrow {
    fn new(machine: &Machine, format: Format, x: &[f32]) -> Self {
        let narrow = Buffer::<bf16>::new(x.len());
        let grid = [x.len().div_ceil(THREADS), 1, 1];
        machine.launch(Kernel::Narrow, grid, 0, &[&narrow, &buffer(x), &(x.len() as i32)]);
        Self::of(machine, format, narrow)
    }

    fn of(machine: &Machine, format: Format, x: Buffer<bf16>) -> Self {
        let count = if format.has_minima() { x.values().len() / 32 } else { 0 };
        let sums = Buffer::new(count);
        if count > 0 {
            let grid = [count.div_ceil(THREADS), 1, 1];
            machine.launch(Kernel::RowSums, grid, 0, &[&sums, &x, &(count as i32)]);
        }
        Self { x, sums }
    }
}

/// The product of some rows with a matrix, halved and capped at 3.
fn linear(machine: &Machine, kind: Kind, weights: &Weights, x: &[f32]) -> Vec<f32> {
    let (format, rows) = (kind.format(), x.len() / weights.inputs);
    let out = Buffer::<f32>::new(rows * weights.outputs);
    let narrow = Narrow::new(machine, format, x);
    machine.launch(
        Kernel::LinearTiledMma(format),
        [rows.div_ceil(MMA_ROWS), weights.outputs.div_ceil(MMA_OUTPUTS), 1],
        format.tiled_mma_shared_bytes(),
        &[&out, &narrow.x, &narrow.sums, &weights.matrix(machine), &(rows as i32), &0.5_f32, &3_f32],
    );
    out.values().to_vec()
}

#[test]
fn products_by_matrix_instructions_conform_and_do_not_depend_on_the_batch() {
    let rows = MMA_ROWS + 9;
    for kind in mma() {
        // What does not fill a tile of outputs or, where weights stand by themselves, anything.
        let [inputs, outputs] = if kind.packed { [768, MMA_OUTPUTS + 48] } else { [440, MMA_OUTPUTS + 43] };
        let weights = Weights::new(2, kind, [inputs, outputs], 1, [256, 3]);
        let x = to_bf16(&random(3, rows * inputs, 1.0));
        let product = x.chunks(inputs).flat_map(|x| weights.product(0, x));
        let expected: Vec<f64> = product.map(|x| 3.0 * (x * 0.5 / 3.0).tanh()).collect();
        let machine = || Machine::both().take(1);
        let found: Vec<_> = machine().map(|machine| linear(&machine, kind, &weights, &x)).collect();
        assert_close(&kind.format().name(), &found, &expected, 5e-6);
        let last = machine().map(|machine| linear(&machine, kind, &weights, &x[(rows - 1) * inputs..]));
        for (last, all) in last.zip(&found) {
            assert_eq!(bits(&last), bits(&all[(rows - 1) * outputs..]), "{}", kind.format().name());
        }
    }
}

/// Activated values of all pairs, then the weighted sums of all rows.
fn run(
    machine: &Machine,
    experts: &Experts,
    format: Format,
    x: &[f32],
    selection: &[i32],
    gates: &[f32],
) -> Vec<f32> {
    let (width, ffn_width, pairs) = (experts.gate.inputs, experts.gate.outputs, selection.len());
    let grouped = Grouped::new(machine, selection, EXPERTS);
    let (groups, count) = (grouped.groups(), grouped.count() as i32);
    let tiles = pairs / MMA_ROWS + grouped.count();
    let narrow = Narrow::new(machine, format, x);
    let [gate, up, down] = [&experts.gate, &experts.up, &experts.down].map(|weights| weights.matrix(machine));
    let activated = Buffer::<bf16>::new(pairs * ffn_width);
    let share = SELECTED as i32;
    let arguments: [&dyn Argument; 8] =
        [&activated, &narrow.x, &narrow.sums, &gate, &up, &groups, &count, &share];
    let grid = [tiles, ffn_width.div_ceil(MMA_OUTPUTS / 2), 1];
    machine.launch(Kernel::GateUpTiledMma(format), grid, format.tiled_mma_shared_bytes(), &arguments);
    let values: Vec<f32> = activated.values().iter().map(|x| x.to_f32()).collect();
    let narrow = Narrow::of(machine, format, activated);
    let out = Buffer::<f32>::new(pairs * width);
    let arguments: [&dyn Argument; 7] = [&out, &narrow.x, &narrow.sums, &down, &groups, &count, &1_i32];
    let grid = [tiles, width.div_ceil(MMA_OUTPUTS), 1];
    machine.launch(Kernel::ExpertLinearTiledMma(format), grid, format.tiled_mma_shared_bytes(), &arguments);
    let branch = Buffer::<f32>::new(x.len());
    machine.launch(
        Kernel::Combine,
        [width.div_ceil(THREADS), pairs / SELECTED, 1],
        0,
        &[&branch, &out, &buffer(gates), &(width as i32), &share],
    );
    [&values, branch.values()].concat()
}

#[test]
fn experts_by_matrix_instructions_conform() {
    let kinds = STAGED.into_iter().enumerate().filter(|(_, kind)| kind.format().has_tiled_mma());
    for (index, kind) in kinds {
        let [width, ffn_width] = if kind.packed { [512, 512] } else { [72, 136] };
        let experts = Experts::new(index, width, ffn_width);
        // One expert gets two tiles, another none.
        let rows = MMA_ROWS + 5;
        let selection: Vec<i32> =
            (0..rows as i32).flat_map(|row| [2, row * row % 4 + row * row % 4 / 2]).collect();
        let x = to_bf16(&random(4, rows * width, 1.0));
        let gates = vec![0.5; selection.len()];
        let found = mma_results(|machine| run(machine, &experts, kind.format(), &x, &selection, &gates));
        let expected = experts.expected_values(&x, &selection);
        for found in &found {
            let (values, sums) = found.split_at(expected.len());
            for (&found, expected) in values.iter().zip(&expected) {
                let allowed = expected.abs() / 256.0 + 1e-5;
                assert!((f64::from(found) - expected).abs() < allowed, "{found}, expected {expected}");
            }
            let expected = experts.expected_sums(values, &selection, &gates);
            assert_close(&kind.format().name(), &[sums.to_vec()], &expected, 5e-6);
        }
    }
}
