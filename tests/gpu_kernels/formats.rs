//! Every format of weights: how it is unpacked, to the bit, and its products.

use grok1::backend::gpu::kernels::{Kernel, Rows, TILE_INPUTS, TILE_OUTPUTS, TILED_OUTPUTS, TILED_ROWS};
use grok1::{DType, Layout};
use half::bf16;

use crate::machine::{Kind, Machine, assert_close, bits, buffer, formats, packed, random};
use crate::simt::{Argument, Buffer};
use crate::weights::Weights;

/// Inputs of a test matrix: more than a warp takes at once, and, where weights stand by themselves, no multiple of anything.
fn inputs(dtype: DType) -> usize {
    match dtype.block() {
        1 => 547,
        32 => 544,
        _ => 768,
    }
}

#[test]
fn embedding_rows_have_the_bits_of_the_definition() {
    let (tokens, vocab, scale) = ([5_i32, 0, 36, 5], 37, 78.383_67_f32);
    for (dtype, layout, format) in formats().filter(|(_, layout, _)| *layout == Layout::OutIn) {
        for width in [inputs(dtype), 768] {
            let table = Weights::new(1, Kind::stored(dtype, layout), [width, vocab], 1, [100, 3]);
            let rows = tokens.iter().flat_map(|&token| table.row(0, token as usize));
            let expected: Vec<f32> = rows.map(|x| x * scale).collect();
            for machine in Machine::both() {
                let out = Buffer::<f32>::new(expected.len());
                let ids = Buffer::of(&tokens);
                let grid = [tokens.len(), 1, 1];
                machine.launch(
                    Kernel::Embed(format),
                    grid,
                    0,
                    &[&out, &ids, &table.matrix(&machine), &scale],
                );
                assert_eq!(bits(out.values()), bits(&expected), "{dtype}, width {width}");
            }
        }
    }
}

#[test]
fn products_with_every_format_conform() {
    let (rows, outputs) = (3_usize, 45);
    for (dtype, layout, format) in formats() {
        for inputs in [inputs(dtype), 768] {
            let weights = Weights::new(2, Kind::stored(dtype, layout), [inputs, outputs], 1, [100, 3]);
            let x = random(3, rows * inputs, 1.0);
            let expected: Vec<f64> = x.chunks(inputs).flat_map(|x| weights.product(0, x)).collect();
            let results: Vec<_> = Machine::both()
                .map(|machine| {
                    let out = Buffer::<f32>::new(rows * outputs);
                    let grid = [outputs.div_ceil(format.strip()), 1, 1];
                    machine.launch(
                        Kernel::Linear(format, Rows::Four),
                        grid,
                        0,
                        &[&out, &buffer(&x), &weights.matrix(&machine), &(rows as i32), &1_f32, &0_f32],
                    );
                    out.values().to_vec()
                })
                .collect();
            assert_close(&format!("{dtype} {layout:?}, {inputs} inputs"), &results, &expected, 2e-6);
        }
    }
}

#[test]
fn products_of_many_rows_with_every_format_conform() {
    let (rows, outputs) = (TILED_ROWS + 9, TILED_OUTPUTS + 37);
    for (dtype, layout, format) in formats() {
        let inputs = inputs(dtype);
        let weights = Weights::new(2, Kind::stored(dtype, layout), [inputs, outputs], 1, [100, 3]);
        let x = random(3, rows * inputs, 1.0);
        let run = |machine: &Machine, rows: usize| {
            let out = Buffer::<f32>::new(rows * outputs);
            let arguments: [&dyn crate::simt::Argument; 6] =
                [&out, &buffer(&x), &weights.matrix(machine), &(rows as i32), &0.5_f32, &3_f32];
            let grid = [outputs.div_ceil(TILED_OUTPUTS), rows.div_ceil(TILED_ROWS), 1];
            machine.launch(Kernel::LinearTiled(format), grid, 0, &arguments);
            out.values().to_vec()
        };
        let expected: Vec<f64> = x.chunks(inputs).flat_map(|x| weights.product(0, x)).collect();
        let expected: Vec<f64> = expected.into_iter().map(|x| 3.0 * (x * 0.5 / 3.0).tanh()).collect();
        let found: Vec<_> = Machine::both().map(|machine| run(&machine, rows)).collect();
        assert_close(&format!("{dtype} {layout:?}"), &found, &expected, 5e-6);
        for (machine, found) in Machine::both().zip(&found) {
            assert_eq!(bits(&run(&machine, 1)), bits(&found[..outputs]), "one row, {dtype} {layout:?}");
        }
    }
}

/// The weights of outputs `first..first + count`, rounded to bf16, in the order that they are stored in.
fn rounded(weights: &Weights, expert: usize, [first, count]: [usize; 2], layout: Layout) -> Vec<u16> {
    let bits = |output, input| bf16::from_f32(weights.row(expert, output)[input]).to_bits();
    let outputs = first..first + count;
    if layout == Layout::OutIn {
        outputs.flat_map(|output| (0..weights.inputs).map(move |input| bits(output, input))).collect()
    } else {
        (0..weights.inputs).flat_map(|input| outputs.clone().map(move |output| bits(output, input))).collect()
    }
}

#[test]
fn dequantised_weights_are_those_of_the_definition_rounded_once() {
    let (experts, expert) = (2, 1_i32);
    let stored = formats().flat_map(|(dtype, layout, _)| {
        let kind = Kind::stored(dtype, layout);
        [(kind, inputs(dtype), 45), (kind, 768, 45)]
    });
    for (kind, inputs, outputs) in stored {
        for range in [[7, 30], [8, 24], [0, outputs]] {
            dequantise(&Weights::new(4, kind, [inputs, outputs], experts, [100, 3]), expert, range);
        }
    }
    for kind in packed() {
        let weights =
            Weights::new(4, kind, [5 * TILE_INPUTS, 4 * TILE_OUTPUTS], experts, [2 * TILE_INPUTS, 3]);
        for range in [[TILE_OUTPUTS, 2 * TILE_OUTPUTS], [0, 4 * TILE_OUTPUTS]] {
            dequantise(&weights, expert, range);
        }
    }
}

fn dequantise(weights: &Weights, expert: i32, [first, count]: [usize; 2]) {
    let format = weights.kind.format();
    let expected = rounded(weights, expert as usize, [first, count], format.slab_layout());
    for machine in Machine::both() {
        let out = Buffer::<u16>::new(expected.len());
        let rows = if format.slab_layout() == Layout::OutIn { count } else { weights.inputs };
        let arguments: [&dyn Argument; 5] =
            [&out, &weights.matrix(&machine), &expert, &(first as i32), &(count as i32)];
        machine.launch(Kernel::Dequantise(format), [rows, 1, 1], 0, &arguments);
        assert_eq!(
            out.values(),
            expected,
            "{}, {} inputs, outputs from {first}",
            format.name(),
            weights.inputs
        );
    }
}
