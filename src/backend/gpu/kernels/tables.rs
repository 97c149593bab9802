//! What both sides must agree on, as headers of the kernels: constants and the tables of formats. Uses `quant` and `softmax`.

use std::fmt::{Display, Write};

use super::{
    CANDIDATES_BLOCK, FLASH_HEAD_DIM, FLASH_MMA_QUERIES, FLASH_QUERIES, FLASH_STEP, IN_OUT_STRIP,
    MAX_EXPERTS, MMA_INPUTS, MMA_OUTPUTS, MMA_ROWS, OUT_IN_STRIP, SPAN, THREADS, TILE_INPUTS, TILE_OUTPUTS,
    TILED_OUTPUTS, TILED_ROWS, UNIT,
};
use crate::backend::PAGE;
use crate::quant::{grids, iq4};
use crate::softmax;

/// `generated.h`.
pub(super) fn constants() -> String {
    let constants = [
        ("THREADS", THREADS),
        ("MAX_EXPERTS", MAX_EXPERTS),
        ("UNIT", UNIT),
        ("OUT_IN_STRIP", OUT_IN_STRIP),
        ("IN_OUT_STRIP", IN_OUT_STRIP),
        ("TILE_OUTPUTS", TILE_OUTPUTS),
        ("TILE_INPUTS", TILE_INPUTS),
        ("PAGE", PAGE),
        ("SPAN", SPAN),
        ("MMA_ROWS", MMA_ROWS),
        ("MMA_OUTPUTS", MMA_OUTPUTS),
        ("MMA_INPUTS", MMA_INPUTS),
        ("TILED_ROWS", TILED_ROWS),
        ("TILED_OUTPUTS", TILED_OUTPUTS),
        ("FLASH_QUERIES", FLASH_QUERIES),
        ("FLASH_MMA_QUERIES", FLASH_MMA_QUERIES),
        ("FLASH_HEAD_DIM", FLASH_HEAD_DIM),
        ("FLASH_STEP", FLASH_STEP),
        ("CANDIDATES_BLOCK", CANDIDATES_BLOCK),
        ("SOFTMAX_BITS", softmax::BITS as usize),
    ];
    let lines = constants.map(|(name, value)| format!("#define {name} {value}\n"));
    // Written so that they are read as the same bits.
    let coefficients = softmax::EXP2.map(|coefficient| format!("{coefficient:e}")).join(", ");
    format!("#pragma once\n{}#define SOFTMAX_COEFFICIENTS {coefficients}\n", lines.concat())
}

/// `tables.h`: the lattices with the first coordinate in the lowest byte, and the values of IQ4.
pub(super) fn tables() -> String {
    let mut out = "#pragma once\n#include \"portable.h\"\n".to_owned();
    for (name, grid) in [("IQ3_XXS", &grids::IQ3_XXS[..]), ("IQ3_S", &grids::IQ3_S)] {
        table(&mut out, "u32", name, grid.iter().map(|point| format!("{:#x}u", u32::from_le_bytes(*point))));
    }
    let grids = [
        ("IQ2_XXS", &grids::IQ2_XXS[..]),
        ("IQ2_XS", &grids::IQ2_XS),
        ("IQ2_S", &grids::IQ2_S),
        ("IQ1", &grids::IQ1),
    ];
    for (name, grid) in grids {
        table(
            &mut out,
            "u64",
            name,
            grid.iter().map(|point| format!("{:#x}ull", u64::from_le_bytes(*point))),
        );
    }
    table(&mut out, "float", "IQ4", iq4::VALUES.iter());
    out
}

fn table<T: Display>(out: &mut String, element: &str, name: &str, values: impl ExactSizeIterator<Item = T>) {
    // Writing to a string does not fail.
    _ = writeln!(out, "TABLE({element}, {name}, {}) = {{", values.len());
    values.for_each(|value| _ = writeln!(out, "{value},"));
    out.push_str("};\n");
}
