//! Kernels of the experts: rows by expert, their products, the weighted sum.

use grok1::backend::gpu::kernels::{Format, Groups, Kernel, Rows, THREADS, TILED_OUTPUTS, TILED_ROWS};

use crate::machine::{Machine, STAGED, assert_close, bits, buffer, mma_results, random, results, to_bf16};
use crate::random::Random;
use crate::simt::Buffer;
use crate::weights::Weights;

/// What `group` makes of a selection.
pub(crate) struct Grouped {
    experts: Buffer<i32>,
    starts: Buffer<i32>,
    pairs: Buffer<i32>,
}

impl Grouped {
    pub(crate) fn new(machine: &Machine, selection: &[i32], experts: usize) -> Self {
        let (count, groups) = (selection.len(), selection.len().min(experts));
        let [group_experts, starts, pairs] = [groups, groups + 1, count].map(Buffer::<i32>::new);
        machine.launch(
            Kernel::Group,
            [1, 1, 1],
            0,
            &[&group_experts, &starts, &pairs, &Buffer::of(selection), &(count as i32), &(experts as i32)],
        );
        Self { experts: group_experts, starts, pairs }
    }

    pub(crate) fn groups(&self) -> Groups {
        Groups { experts: self.experts.address(), starts: self.starts.address(), pairs: self.pairs.address() }
    }

    /// How many there may be.
    pub(crate) fn count(&self) -> usize {
        self.experts.values().len()
    }
}

/// `selected` different experts for each row.
fn selection(rows: usize, experts: usize, selected: usize) -> Vec<i32> {
    let mut random = Random(9);
    let mut out = Vec::new();
    for _ in 0..rows {
        let first = random.below(experts);
        out.extend((0..selected).map(|slot| ((first + slot * 2) % experts) as i32));
    }
    out
}

#[test]
fn every_pair_is_in_the_group_of_its_expert() {
    for (rows, experts, selected) in
        [(1, 8, 2), (5, 8, 2), (19, 5, 2), (3, 300, 1), (64, 4, 1), (401, 8, 2), (250, 4096, 3)]
    {
        let selection = selection(rows, experts, selected);
        let found = results(|machine| {
            let grouped = Grouped::new(machine, &selection, experts);
            let used = grouped.experts.values().iter().filter(|&&expert| expert >= 0).count();
            // What starts where, beyond the last group, is not said.
            let starts = &grouped.starts.values()[..=used];
            let all = [grouped.experts.values(), starts, grouped.pairs.values()].concat();
            all.into_iter().map(|x| x as f32).collect()
        });
        let (mut group_experts, mut starts, mut pairs) = (Vec::new(), vec![0], Vec::new());
        for expert in 0..experts as i32 {
            pairs.extend((0..selection.len()).filter(|&pair| selection[pair] == expert));
            if pairs.len() > starts[starts.len() - 1] {
                group_experts.push(expert);
                starts.push(pairs.len());
            }
        }
        group_experts.resize(selection.len().min(experts), -1);
        let numbers = group_experts.iter().map(|&expert| expert as f32);
        let expected: Vec<f32> =
            numbers.chain(starts.iter().chain(&pairs).map(|&number| number as f32)).collect();
        assert!(found.iter().all(|found| *found == expected), "{found:?}, expected {expected:?}");
    }
}

pub(crate) const EXPERTS: usize = 5;
pub(crate) const SELECTED: usize = 2;

/// The experts of a layer.
pub(crate) struct Experts {
    kind: usize,
    pub(crate) gate: Weights,
    pub(crate) up: Weights,
    pub(crate) down: Weights,
    round: bool,
}

/// By which kernels.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Gate and up at once.
    Fused,
    /// Gate and up one after another, as they have to be where their formats differ.
    Apart,
    /// Those for many rows.
    Tiled,
}

impl Experts {
    pub(crate) fn new(kind: usize, width: usize, ffn_width: usize) -> Self {
        let matrices = |seed, [inputs, outputs]: [usize; 2]| {
            Weights::new(seed, STAGED[kind], [inputs, outputs], EXPERTS, [inputs.div_ceil(2), 1])
        };
        Self {
            kind,
            gate: matrices(1, [width, ffn_width]),
            up: matrices(2, [width, ffn_width]),
            down: matrices(3, [ffn_width, width]),
            round: false,
        }
    }

    /// Activated values of all pairs, then the weighted sums of all rows.
    fn run(&self, machine: &Machine, x: &[f32], selection: &[i32], gates: &[f32], way: Way) -> Vec<f32> {
        let (width, ffn_width) = (self.gate.inputs, self.gate.outputs);
        let (count, pairs) = (x.len() / width, selection.len());
        let (rows, format) = (Rows::of(count), STAGED[self.kind].format());
        let grouped = Grouped::new(machine, selection, EXPERTS);
        let [activated, gate, up, down] =
            [ffn_width, ffn_width, ffn_width, width].map(|width| Buffer::<f32>::new(pairs * width));
        let x = buffer(x);
        let share = SELECTED as i32;
        let (gate_up, linear, outputs) = match way {
            Way::Tiled => (Kernel::GateUpTiled(format), Kernel::ExpertLinearTiled(format), TILED_OUTPUTS),
            _ => (Kernel::GateUp(format, rows), Kernel::ExpertLinear(format, rows), format.strip()),
        };
        let most = grouped.count() as i32;
        let grid = |outputs: usize, per_block: usize| match way {
            Way::Tiled => [outputs.div_ceil(per_block), pairs / TILED_ROWS + grouped.count(), 1],
            _ => [outputs.div_ceil(per_block), grouped.count(), 1],
        };
        let product = |out: &Buffer<f32>, x: &Buffer<f32>, weights: &Weights, share: i32| {
            let (weights, groups) = (weights.matrix(machine), grouped.groups());
            let mut arguments: Vec<&dyn crate::simt::Argument> = vec![out, x, &weights, &groups, &share];
            if way == Way::Tiled {
                arguments.insert(4, &most);
            }
            machine.launch(linear, grid(weights.outputs as usize, outputs), 0, &arguments);
        };
        if way == Way::Apart {
            for (out, weights) in [(&gate, &self.gate), (&up, &self.up)] {
                product(out, &x, weights, share);
            }
            let count = pairs * ffn_width;
            let grid = [count.div_ceil(THREADS), 1, 1];
            machine.launch(Kernel::Activate, grid, 0, &[&activated, &gate, &up, &(count as i32), &0_i32]);
        } else {
            let (gate, up, groups) = (self.gate.matrix(machine), self.up.matrix(machine), grouped.groups());
            let round = i32::from(self.round);
            let mut arguments: Vec<&dyn crate::simt::Argument> =
                vec![&activated, &x, &gate, &up, &groups, &share, &round];
            let mut per_block = outputs;
            if way == Way::Tiled {
                arguments.insert(5, &most);
                per_block = outputs / 2;
            }
            machine.launch(gate_up, grid(ffn_width, per_block), 0, &arguments);
        }
        product(&down, &activated, &self.down, 1);
        let branch = Buffer::<f32>::new(count * width);
        machine.launch(
            Kernel::Combine,
            [width.div_ceil(THREADS), count, 1],
            0,
            &[&branch, &down, &buffer(gates), &(width as i32), &share],
        );
        [activated.values(), branch.values()].concat()
    }

    /// Activated values and weighted sums by definition.
    fn expected(&self, x: &[f32], selection: &[i32], gates: &[f32]) -> Vec<f64> {
        let activated = self.expected_values(x, selection);
        let single: Vec<f32> = activated.iter().map(|&x| x as f32).collect();
        [activated, self.expected_sums(&single, selection, gates)].concat()
    }

    /// Activated values of all pairs.
    pub(crate) fn expected_values(&self, x: &[f32], selection: &[i32]) -> Vec<f64> {
        let gelu = |x: f64| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        };
        let mut out = Vec::new();
        for (pair, &expert) in selection.iter().enumerate() {
            let x = &x[pair / SELECTED * self.gate.inputs..][..self.gate.inputs];
            let [gate, up] = [&self.gate, &self.up].map(|weights| weights.product(expert as usize, x));
            out.extend(gate.iter().zip(up).map(|(&gate, up)| gelu(gate) * up));
        }
        out
    }

    /// Weighted sums of all rows.
    pub(crate) fn expected_sums(&self, activated: &[f32], selection: &[i32], gates: &[f32]) -> Vec<f64> {
        let width = self.down.outputs;
        let mut out = vec![0.0; selection.len() / SELECTED * width];
        for (pair, x) in activated.chunks(self.down.inputs).enumerate() {
            let down = self.down.product(selection[pair] as usize, x);
            let sum = out[pair / SELECTED * width..].iter_mut();
            sum.zip(down).for_each(|(sum, x)| *sum += f64::from(gates[pair]) * x);
        }
        out
    }
}

#[test]
fn experts_conform_and_do_not_depend_on_the_batch() {
    for (kind, [width, ffn_width]) in
        [[256, 512], [70, 75], [96, 45], [256, 512], [512, 512]].into_iter().enumerate()
    {
        let mut experts = Experts::new(kind, width, ffn_width);
        // Enough rows that some experts get more than a tile of them.
        let rows = 43;
        let (x, selection) = (random(4, rows * width, 1.0), selection(rows, EXPERTS, SELECTED));
        let gates: Vec<f32> = random(5, selection.len(), 0.5).iter().map(|x| x.abs() + 0.1).collect();
        let run = |count: usize, way| {
            let pairs = count * SELECTED;
            results(|machine| {
                experts.run(machine, &x[..count * width], &selection[..pairs], &gates[..pairs], way)
            })
        };
        let all = run(rows, Way::Fused);
        assert_close("experts", &all, &experts.expected(&x, &selection, &gates), 1e-5);
        for count in [1, 2, 5, 16] {
            for (some, all) in run(count, Way::Fused).iter().zip(&all) {
                let (activated, branch) = (count * SELECTED * ffn_width, rows * SELECTED * ffn_width);
                let expected = [&all[..activated], &all[branch..][..count * width]].concat();
                assert_eq!(bits(some), bits(&expected), "{count} rows of kind {kind}");
            }
        }
        // Where gate and up differ in format they are products of their own.
        for (apart, together) in run(2, Way::Apart).iter().zip(run(2, Way::Fused)) {
            assert_eq!(bits(apart), bits(&together));
        }
        let exact = run(2, Way::Fused);
        experts.round = true;
        let (x, selection, gates) = (&x[..2 * width], &selection[..2 * SELECTED], &gates[..2 * SELECTED]);
        let rounded = results(|machine| experts.run(machine, x, selection, gates, Way::Fused));
        for (rounded, exact) in rounded.iter().zip(&exact) {
            let activated = 2 * SELECTED * ffn_width;
            assert_eq!(bits(&rounded[..activated]), bits(&to_bf16(&exact[..activated])));
        }
    }
}

/// Width and that of hidden values for each of [`STAGED`].
const TILED_WIDTHS: [[usize; 2]; 5] = [[256, 256], [70, 75], [96, 141], [256, 256], [512, 512]];

#[test]
fn experts_of_many_rows_conform_and_do_not_depend_on_the_batch() {
    for (kind, [width, ffn_width]) in TILED_WIDTHS.into_iter().enumerate() {
        let mut experts = Experts::new(kind, width, ffn_width);
        // One expert gets two tiles, another none.
        let rows = 90;
        let selection: Vec<i32> =
            (0..rows as i32).flat_map(|row| [2, row * row % 4 + row * row % 4 / 2]).collect();
        let x = random(4, rows * width, 1.0);
        let gates = vec![0.5; selection.len()];
        let run = |experts: &Experts, rows: usize| {
            let pairs = rows * SELECTED;
            results(|machine| {
                experts.run(machine, &x[..rows * width], &selection[..pairs], &gates[..pairs], Way::Tiled)
            })
        };
        let all = run(&experts, rows);
        assert_close("experts", &all, &experts.expected(&x, &selection, &gates), 2e-5);
        experts.round = true;
        for (some, all) in run(&experts, 3).iter().zip(&all) {
            let activated = 3 * SELECTED * ffn_width;
            assert_eq!(bits(&some[..activated]), bits(&to_bf16(&all[..activated])));
        }
    }
}

#[test]
fn matrix_instructions_give_what_experts_give_without() {
    let (width, ffn_width) = (512, 256);
    for (number, kind) in STAGED.into_iter().enumerate().filter(|(_, kind)| kind.packed) {
        let experts = Experts::new(number, width, ffn_width);
        for count in [1, 3, 40] {
            let x = to_bf16(&random(4, count * width, 1.0));
            let selection = selection(count, EXPERTS, SELECTED);
            let run = |machine: &Machine, format: Format| {
                let grouped = Grouped::new(machine, &selection, EXPERTS);
                let (groups, rows, share) = (grouped.groups(), Rows::of(count), SELECTED as i32);
                let grid = [ffn_width / format.strip(), grouped.count(), 1];
                let [activated, single] = [(); 2].map(|()| Buffer::<f32>::new(selection.len() * ffn_width));
                let (x, gate, up) = (buffer(&x), experts.gate.matrix(machine), experts.up.matrix(machine));
                let both: [&dyn crate::simt::Argument; 7] =
                    [&activated, &x, &gate, &up, &groups, &share, &0_i32];
                machine.launch(Kernel::GateUp(format, rows), grid, 0, &both);
                let one: [&dyn crate::simt::Argument; 5] = [&single, &x, &gate, &groups, &share];
                machine.launch(Kernel::ExpertLinear(format, rows), grid, 0, &one);
                [activated.values(), single.values()].concat()
            };
            let without = mma_results(|machine| run(machine, kind.format()));
            let expected: Vec<f64> = without.iter().flatten().map(|&x| f64::from(x)).collect();
            let found = mma_results(|machine| run(machine, kind.format().with_mma().unwrap()));
            assert_close("experts", &found, &expected, 1e-5);
        }
    }
}

#[test]
fn activations_are_rounded_when_asked() {
    let [gate, up] = [1, 2].map(|seed| random(seed, 300, 3.0));
    let run = |machine: &Machine, round: i32| {
        let out = Buffer::<f32>::new(300);
        let arguments: [&dyn crate::simt::Argument; 5] =
            [&out, &buffer(&gate), &buffer(&up), &300_i32, &round];
        machine.launch(Kernel::Activate, [2, 1, 1], 0, &arguments);
        out.values().to_vec()
    };
    for (exact, rounded) in results(|machine| run(machine, 0)).iter().zip(results(|machine| run(machine, 1)))
    {
        assert_eq!(bits(&rounded), bits(&to_bf16(exact)));
    }
}
