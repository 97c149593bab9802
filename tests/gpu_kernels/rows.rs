//! Kernels that see rows of the residual stream: norms, products, the router.

use grok1::backend::gpu::kernels::{self, Kernel, Routed, Rows, THREADS};
use half::bf16;

use crate::machine::{Machine, STAGED, assert_close, bits, buffer, random, results, to_bf16};
use crate::simt::Buffer;
use crate::weights::{Weights, dot};

const EPSILON: f32 = 1e-5;

/// By definition.
fn norm(x: &[f32], scale: &[f32]) -> Vec<f64> {
    let factor = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(EPSILON)).sqrt();
    x.iter().zip(scale).map(|(&x, &scale)| f64::from(scale) * f64::from(x) * factor).collect()
}

#[test]
fn norms_of_chosen_rows_conform() {
    for width in [40, 547] {
        let (x, scale) = (random(1, 7 * width, 2.0), random(2, width, 1.5));
        let source = [6, 0, 3];
        let run = |machine: &Machine, round: i32| {
            let out = Buffer::<f32>::new(source.len() * width);
            let (x, source, scale) = (buffer(&x), Buffer::of(&source), buffer(&scale));
            let width = width as i32;
            machine.launch(
                Kernel::RmsNorm,
                [3, 1, 1],
                0,
                &[&out, &x, &source, &scale, &width, &EPSILON, &round],
            );
            out.values().to_vec()
        };
        let expected: Vec<f64> =
            source.iter().flat_map(|&row| norm(&x[row as usize * width..][..width], &scale)).collect();
        let exact = results(|machine| run(machine, 0));
        assert_close("norm", &exact, &expected, 1e-6);
        for (exact, rounded) in exact.iter().zip(results(|machine| run(machine, 1))) {
            assert_eq!(bits(&rounded), bits(&to_bf16(exact)));
        }
    }
}

#[test]
fn a_norm_without_a_choice_takes_all_rows() {
    let (width, x) = (40, random(1, 3 * 40, 2.0));
    let scale = random(2, width, 1.5);
    let found = results(|machine| {
        let out = Buffer::<f32>::new(x.len());
        let (x, scale, width) = (buffer(&x), buffer(&scale), width as i32);
        machine.launch(Kernel::RmsNorm, [3, 1, 1], 0, &[&out, &x, &0_u64, &scale, &width, &EPSILON, &0_i32]);
        out.values().to_vec()
    });
    let expected: Vec<f64> = x.chunks(width).flat_map(|x| norm(x, &scale)).collect();
    assert_close("norm", &found, &expected, 1e-6);
}

#[test]
fn residuals_conform() {
    for width in [40, 547] {
        let [hidden, branch] = [1, 2].map(|seed| random(seed, 3 * width, 2.0));
        let scale = random(3, width, 1.5);
        let found = results(|machine| {
            let sum = buffer(&hidden);
            let arguments: [&dyn crate::simt::Argument; 5] =
                [&sum, &buffer(&branch), &buffer(&scale), &(width as i32), &EPSILON];
            machine.launch(Kernel::Residual, [3, 1, 1], 0, &arguments);
            sum.values().to_vec()
        });
        let normed = branch.chunks(width).flat_map(|x| norm(x, &scale));
        let expected: Vec<f64> = hidden.iter().zip(normed).map(|(&x, y)| f64::from(x) + y).collect();
        assert_close("residual", &found, &expected, 1e-6);
    }
}

/// Products of `x` with `weights`, which are of the kind that stages are tested with.
fn linear(machine: &Machine, kind: usize, weights: &Weights, x: &[f32], scale: f32, cap: f32) -> Vec<f32> {
    let format = STAGED[kind].format();
    let count = x.len() / weights.inputs;
    let rows = Rows::of(count);
    let out = Buffer::<f32>::new(count * weights.outputs);
    machine.launch(
        Kernel::Linear(format, rows),
        [weights.outputs.div_ceil(format.strip()), count.div_ceil(rows.count()), 1],
        0,
        &[&out, &buffer(x), &weights.matrix(machine), &(count as i32), &scale, &cap],
    );
    out.values().to_vec()
}

/// Inputs and outputs that fit what is stored.
const SHAPES: [[usize; 2]; 5] = [[768, 45], [70, 75], [96, 45], [768, 48], [512, 48]];

#[test]
fn products_conform_and_do_not_depend_on_the_batch() {
    for (kind, shape) in SHAPES.into_iter().enumerate() {
        let [inputs, outputs] = shape;
        let weights = Weights::new(1, STAGED[kind], shape, 1, [inputs / 2, 1]);
        // Two tiles, the second not full.
        let x = random(2, 19 * inputs, 1.0);
        let expected: Vec<f64> = x.chunks(inputs).flat_map(|x| weights.product(0, x)).collect();
        let all = results(|machine| linear(machine, kind, &weights, &x, 1.0, 0.0));
        assert_close("product", &all, &expected, 2e-6);
        for count in [1, 2, 5, 16] {
            let some = results(|machine| linear(machine, kind, &weights, &x[..count * inputs], 1.0, 0.0));
            for (some, all) in some.iter().zip(&all) {
                assert_eq!(bits(some), bits(&all[..count * outputs]), "{count} rows of kind {kind}");
            }
        }
        let last = results(|machine| linear(machine, kind, &weights, &x[18 * inputs..], 1.0, 0.0));
        for (last, all) in last.iter().zip(&all) {
            assert_eq!(bits(last), bits(&all[18 * outputs..]), "the last row of kind {kind}");
        }
    }
}

#[test]
fn products_are_scaled_and_then_capped() {
    let weights = Weights::new(1, STAGED[1], SHAPES[1], 1, [1, 1]);
    let x = random(2, 2 * weights.inputs, 1.0);
    let found = results(|machine| linear(machine, 1, &weights, &x, 0.57, 0.4));
    let products = x.chunks(weights.inputs).flat_map(|x| weights.product(0, x));
    let expected: Vec<f64> = products.map(|z| 0.4 * (z * 0.57 / 0.4).tanh()).collect();
    assert_close("capped product", &found, &expected, 2e-6);
}

struct Router {
    width: usize,
    experts: usize,
    selected: usize,
    cap: f32,
    renormalise: bool,
    round: bool,
}

impl Router {
    fn parameter(&self, scale: &Buffer<f32>, weights: &Buffer<f32>) -> kernels::Router {
        let [width, experts, selected] = [self.width, self.experts, self.selected].map(|size| size as i32);
        kernels::Router {
            norm: scale.address(),
            weights: weights.address(),
            width,
            experts,
            selected,
            epsilon: EPSILON,
            cap: self.cap,
            renormalise: i32::from(self.renormalise),
        }
    }

    /// Normed rows, probabilities, selection, gates.
    fn run(&self, machine: &Machine, hidden: &[f32], scale: &[f32], router: &[f32]) -> Vec<f32> {
        let rows = hidden.len() / self.width;
        let [normed, probabilities, gates] =
            [self.width, self.experts, self.selected].map(|width| Buffer::<f32>::new(rows * width));
        let selection = Buffer::<i32>::new(rows * self.selected);
        let (scale, weights) = (buffer(scale), buffer(router));
        let out = Routed {
            input: normed.address(),
            probabilities: probabilities.address(),
            selection: selection.address(),
            gates: gates.address(),
        };
        let router = self.parameter(&scale, &weights);
        machine.launch(
            Kernel::Route,
            [rows, 1, 1],
            self.experts * size_of::<f32>(),
            &[&out, &buffer(hidden), &router, &i32::from(self.round)],
        );
        let selection: Vec<f32> = selection.values().iter().map(|&expert| expert as f32).collect();
        [normed.values(), probabilities.values(), &selection, gates.values()].concat()
    }

    /// By definition.
    fn expected(&self, hidden: &[f32], scale: &[f32], router: &[f32]) -> Vec<f64> {
        let mut out: [Vec<f64>; 4] = Default::default();
        for x in hidden.chunks(self.width) {
            let x = norm(x, scale);
            let score = |row: &[f32]| {
                let z: f64 = row.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum();
                let cap = f64::from(self.cap);
                if cap > 0.0 { cap * (z / cap).tanh() } else { z }
            };
            let exps: Vec<f64> = router.chunks(self.width).map(|row| score(row).exp()).collect();
            let sum: f64 = exps.iter().sum();
            let probabilities: Vec<f64> = exps.iter().map(|exp| exp / sum).collect();
            let mut order: Vec<usize> = (0..self.experts).collect();
            order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
            order.truncate(self.selected);
            let kept: f64 = order.iter().map(|&expert| probabilities[expert]).sum();
            let divisor = if self.renormalise { kept } else { 1.0 };
            out[3].extend(order.iter().map(|&expert| probabilities[expert] / divisor));
            out[2].extend(order.iter().map(|&expert| expert as f64));
            out[1].extend(probabilities);
            out[0].extend(x);
        }
        out.concat()
    }
}

#[test]
fn routing_conforms() {
    let routers = [
        Router { width: 40, experts: 8, selected: 2, cap: 0.0, renormalise: false, round: false },
        Router { width: 547, experts: 5, selected: 3, cap: 0.5, renormalise: true, round: false },
        Router { width: 96, experts: 70, selected: 1, cap: 0.0, renormalise: false, round: false },
    ];
    for router in routers {
        let hidden = random(1, 5 * router.width, 2.0);
        let scale = random(2, router.width, 1.5);
        let weights = random(3, router.experts * router.width, 0.1);
        let found = results(|machine| router.run(machine, &hidden, &scale, &weights));
        let expected = router.expected(&hidden, &scale, &weights);
        assert_close("routing", &found, &expected, 2e-6);
        // Experts see rounded rows, the router does not.
        let rounded = Router { round: true, ..router };
        for (rounded, exact) in
            results(|machine| rounded.run(machine, &hidden, &scale, &weights)).iter().zip(&found)
        {
            let (normed, routed) = exact.split_at(hidden.len());
            assert_eq!(bits(rounded), bits(&[&to_bf16(normed), routed].concat()));
        }
    }
}

#[test]
fn of_equal_experts_the_lower_one_comes_first() {
    let router = Router { width: 40, experts: 6, selected: 3, cap: 0.0, renormalise: false, round: false };
    let hidden = random(1, router.width, 2.0);
    // All experts are alike.
    let weights = random(3, router.width, 0.1).repeat(router.experts);
    for found in results(|machine| router.run(machine, &hidden, &[1.0; 40], &weights)) {
        assert_eq!(found[46..49], [0.0, 1.0, 2.0]);
    }
}

#[test]
fn what_is_done_in_one_launch_has_the_bits_of_its_parts() {
    let (width, experts, selected) = (300, 8, 2);
    for rows in [1, 3] {
        let [hidden, branch] = [1, 2].map(|seed| random(seed, rows * width, 2.0));
        let [scale, next] = [3, 4].map(|seed| random(seed, width, 1.0));
        let weights = random(5, experts * width, 0.1);
        let router = Router { width, experts, selected, cap: 0.0, renormalise: false, round: true };
        let (rows_grid, width_i32) = ([rows, 1, 1], width as i32);
        let residual = |machine: &Machine, hidden: &Buffer<f32>, branch: &Buffer<f32>| {
            let arguments: [&dyn crate::simt::Argument; 5] =
                [hidden, branch, &buffer(&scale), &width_i32, &EPSILON];
            machine.launch(Kernel::Residual, rows_grid, 0, &arguments);
        };

        let apart = results(|machine| {
            let sum = buffer(&hidden);
            residual(machine, &sum, &buffer(&branch));
            let routed = router.run(machine, sum.values(), &next, &weights);
            [sum.values(), &routed].concat()
        });
        let together = results(|machine| {
            let (sum, scale, norm, weights) =
                (buffer(&hidden), buffer(&scale), buffer(&next), buffer(&weights));
            let [normed, probabilities, gates] =
                [width, experts, selected].map(|width| Buffer::<f32>::new(rows * width));
            let [selection, group_experts, starts, pairs] =
                [rows * selected, selected, selected + 1, selected].map(Buffer::<i32>::new);
            let out = Routed {
                input: normed.address(),
                probabilities: probabilities.address(),
                selection: selection.address(),
                gates: gates.address(),
            };
            let arguments: [&dyn crate::simt::Argument; 9] = [
                &sum,
                &buffer(&branch),
                &scale,
                &out,
                &router.parameter(&norm, &weights),
                &group_experts,
                &starts,
                &pairs,
                &1_i32,
            ];
            machine.launch(Kernel::ResidualRoute, rows_grid, experts * size_of::<f32>(), &arguments);
            if rows == 1 {
                assert_eq!(group_experts.values(), selection.values());
                assert_eq!((starts.values(), pairs.values()), (&[0, 1, 2][..], &[0, 1][..]));
            }
            let selection: Vec<f32> = selection.values().iter().map(|&expert| expert as f32).collect();
            [sum.values(), normed.values(), probabilities.values(), &selection, gates.values()].concat()
        });
        for (apart, together) in apart.iter().zip(&together) {
            assert_eq!(bits(apart), bits(together), "residual and route of {rows} rows");
        }

        let (down, gates) = (random(6, rows * selected * width, 1.0), random(7, rows * selected, 1.0));
        let apart = results(|machine| {
            let (sum, branch, normed) =
                (buffer(&hidden), Buffer::<f32>::new(rows * width), Buffer::<f32>::new(rows * width));
            let grid = [width.div_ceil(THREADS), rows, 1];
            let arguments: [&dyn crate::simt::Argument; 5] =
                [&branch, &buffer(&down), &buffer(&gates), &width_i32, &(selected as i32)];
            machine.launch(Kernel::Combine, grid, 0, &arguments);
            residual(machine, &sum, &branch);
            let arguments: [&dyn crate::simt::Argument; 7] =
                [&normed, &sum, &0_u64, &buffer(&next), &width_i32, &EPSILON, &1_i32];
            machine.launch(Kernel::RmsNorm, rows_grid, 0, &arguments);
            [sum.values(), branch.values(), normed.values()].concat()
        });
        let together = results(|machine| {
            let (sum, branch, normed) =
                (buffer(&hidden), Buffer::<f32>::new(rows * width), Buffer::<f32>::new(rows * width));
            let arguments: [&dyn crate::simt::Argument; 11] = [
                &sum,
                &branch,
                &normed,
                &buffer(&down),
                &buffer(&gates),
                &buffer(&scale),
                &buffer(&next),
                &width_i32,
                &(selected as i32),
                &EPSILON,
                &1_i32,
            ];
            machine.launch(Kernel::CombineResidual, rows_grid, 0, &arguments);
            [sum.values(), branch.values(), normed.values()].concat()
        });
        for (apart, together) in apart.iter().zip(&together) {
            assert_eq!(bits(apart), bits(together), "combine, residual and norm of {rows} rows");
        }
    }
}

#[test]
fn gathered_rows_are_rounded_once_and_scattered_ones_as_they_were() {
    let (pairs, share) = ([5_i32, 0, 3, 4], 2_i32);
    for width in [40, 547] {
        let x = random(1, 3 * width, 2.0);
        let rows: Vec<&[f32]> = x.chunks(width).collect();
        for machine in Machine::both() {
            let gathered = Buffer::<u16>::new(pairs.len() * width);
            let (grid, on_device) = ([pairs.len(), 1, 1], Buffer::of(&pairs));
            let arguments: [&dyn crate::simt::Argument; 5] =
                [&gathered, &buffer(&x), &on_device, &share, &(width as i32)];
            machine.launch(Kernel::Gather, grid, 0, &arguments);
            let sources = pairs.iter().flat_map(|pair| rows[(pair / share) as usize]);
            let expected: Vec<u16> = sources.map(|&x| bf16::from_f32(x).to_bits()).collect();
            assert_eq!(gathered.values(), expected);

            let mut out = Buffer::<f32>::new(6 * width);
            out.values_mut().fill(0.0);
            let (grid, places) = ([3, 1, 1], &pairs[..3]);
            machine.launch(
                Kernel::Scatter,
                grid,
                0,
                &[&out, &buffer(&x), &Buffer::of(places), &(width as i32)],
            );
            let mut expected = vec![0.0; 6 * width];
            for (row, &place) in rows.iter().zip(places) {
                expected[place as usize * width..][..width].copy_from_slice(row);
            }
            assert_eq!(bits(out.values()), bits(&expected));
        }
    }
}
