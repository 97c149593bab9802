//! Packed matrices: how they are made and unpacked, to the bit, and their products.

use grok1::backend::gpu::kernels::{
    Format, Kernel, Rows, TILE_INPUTS, TILE_OUTPUTS, TILED_OUTPUTS, TILED_ROWS,
};
use grok1::{DType, Layout};

use crate::machine::{
    Kind, Machine, assert_close, bits, buffer, mma_results, packed, random, results, to_bf16,
};
use crate::simt::Buffer;
use crate::weights::Weights;

/// More tiles than teams share in one turn, one team with more than the others.
const INPUTS: usize = 9 * TILE_INPUTS;
const OUTPUTS: usize = 3 * TILE_OUTPUTS;

#[test]
fn packed_weights_have_the_bits_of_the_definition() {
    let (tokens, scale) = ([5_i32, 0, 47, 18], 78.383_67_f32);
    for kind in packed().filter(|kind| kind.layout == Layout::OutIn) {
        let table = Weights::new(1, kind, [INPUTS, OUTPUTS], 1, [2 * TILE_INPUTS, 3]);
        let rows = tokens.iter().flat_map(|&token| table.row(0, token as usize));
        let expected: Vec<f32> = rows.map(|x| x * scale).collect();
        let found = results(|machine| {
            let out = Buffer::<f32>::new(expected.len());
            let table = table.matrix(machine);
            let grid = [tokens.len(), 1, 1];
            machine.launch(
                Kernel::Embed(kind.format()),
                grid,
                0,
                &[&out, &Buffer::of(&tokens), &table, &scale],
            );
            out.values().to_vec()
        });
        for found in found {
            assert_eq!(bits(&found), bits(&expected), "{}", kind.format().name());
        }
    }
}

#[test]
fn packing_writes_every_byte_and_the_same_on_every_machine() {
    for kind in packed() {
        let weights = Weights::new(1, kind, [2 * TILE_INPUTS, OUTPUTS], 2, [TILE_INPUTS, 1]);
        let bytes =
            |machine: &_| weights.pack(machine).values().iter().map(|&byte| f32::from(byte)).collect();
        let all = results(bytes);
        assert!(all.iter().all(|other| *other == all[0]), "{}", kind.format().name());
    }
}

#[test]
fn products_with_every_packed_format_conform() {
    let rows = 3;
    for kind in packed() {
        let weights = Weights::new(2, kind, [INPUTS, OUTPUTS], 1, [2 * TILE_INPUTS, 3]);
        let x = random(3, rows * INPUTS, 1.0);
        let expected: Vec<f64> = x.chunks(INPUTS).flat_map(|x| weights.product(0, x)).collect();
        let found = results(|machine| {
            let out = Buffer::<f32>::new(rows * OUTPUTS);
            machine.launch(
                Kernel::Linear(kind.format(), Rows::Four),
                [OUTPUTS / TILE_OUTPUTS, 1, 1],
                0,
                &[&out, &buffer(&x), &weights.matrix(machine), &(rows as i32), &1_f32, &0_f32],
            );
            out.values().to_vec()
        });
        assert_close(&kind.format().name(), &found, &expected, 2e-6);
        // Teams are of 32 lanes whatever a warp is.
        assert!(found.iter().all(|other| bits(other) == bits(&found[0])));
    }
}

/// Products of all rows by matrix instructions.
fn mma_products(machine: &Machine, kind: Kind, weights: &Weights, x: &[f32]) -> Vec<f32> {
    let count = x.len() / INPUTS;
    let rows = Rows::of(count);
    let out = Buffer::<f32>::new(count * OUTPUTS);
    machine.launch(
        Kernel::Linear(kind.format().with_mma().unwrap(), rows),
        [OUTPUTS / TILE_OUTPUTS, count.div_ceil(rows.count()), 1],
        0,
        &[&out, &buffer(x), &weights.matrix(machine), &(count as i32), &1_f32, &0_f32],
    );
    out.values().to_vec()
}

#[test]
fn matrix_instructions_conform_and_do_not_depend_on_the_batch() {
    for kind in packed() {
        let weights = Weights::new(2, kind, [INPUTS, OUTPUTS], 1, [2 * TILE_INPUTS, 3]);
        let x = to_bf16(&random(3, 17 * INPUTS, 1.0));
        let expected: Vec<f64> = x.chunks(INPUTS).flat_map(|x| weights.product(0, x)).collect();
        let all = mma_results(|machine| mma_products(machine, kind, &weights, &x));
        let name = kind.format().name();
        assert_close(&name, &all, &expected, 2e-6);
        for count in [1, 3, 9] {
            let some = mma_results(|machine| mma_products(machine, kind, &weights, &x[..count * INPUTS]));
            for (some, all) in some.iter().zip(&all) {
                assert_eq!(bits(some), bits(&all[..count * OUTPUTS]), "{count} rows of {name}");
            }
        }
    }
}

#[test]
fn products_of_many_rows_with_every_packed_format_conform() {
    let rows = TILED_ROWS + 3;
    let inputs = 2 * TILE_INPUTS;
    for kind in packed() {
        let weights = Weights::new(2, kind, [inputs, OUTPUTS], 1, [TILE_INPUTS, 3]);
        let x = random(3, rows * inputs, 1.0);
        let expected: Vec<f64> = x.chunks(inputs).flat_map(|x| weights.product(0, x)).collect();
        let run = |machine: Machine| {
            let out = Buffer::<f32>::new(rows * OUTPUTS);
            machine.launch(
                Kernel::LinearTiled(kind.format()),
                [OUTPUTS.div_ceil(TILED_OUTPUTS), rows.div_ceil(TILED_ROWS), 1],
                0,
                &[&out, &buffer(&x), &weights.matrix(&machine), &(rows as i32), &1_f32, &0_f32],
            );
            out.values().to_vec()
        };
        let found: Vec<_> = Machine::both().map(run).collect();
        assert_close(&kind.format().name(), &found, &expected, 5e-6);
    }
}

#[test]
fn what_does_not_fill_tiles_is_not_packed() {
    let packed = |inputs, outputs| Format::packed(DType::Q4_0, Layout::OutIn, inputs, outputs);
    assert!(packed(512, 16).is_some());
    assert!(packed(544, 16).is_none() && packed(512, 24).is_none());
    assert!(Format::packed(DType::Q2K, Layout::OutIn, 512, 16).is_none());
    let bytes = Format::packed(DType::I8, Layout::InOut, 512, 16).unwrap();
    assert!(bytes.scales_fit(256, 512) && bytes.scales_fit(600, 512) && !bytes.scales_fit(128, 512));
}
