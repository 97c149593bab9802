//! Q2_K to Q6_K. Uses `super_block`.

use super::codebook::{Codebook, Integers, codes};
use super::fit::{OffsetStarts, ScaleStarts};
use super::lanes::side_by_side;
use super::legacy::{FIVE_BITS, FOUR_BITS};
use super::put;
use super::super_block::{self, Products};

const Q2_K: OffsetStarts =
    [(-0.6, 2.9), (-0.6, 3.1), (-0.4, 3.2), (-0.3, 3.3), (-0.2, 3.4), (-0.1, 3.6), (0.1, 3.1), (0.1, 3.6)];
const Q3_K: ScaleStarts = [-4.9, -4.6, -4.3, -4.0, -3.8, -3.4, -3.2, -2.9];
const Q6_K: ScaleStarts = [-32.4, -32.0, -31.0, -30.0, -29.0, -28.0, -27.0, -26.0];

/// Codes of a super-block.
#[inline(always)]
fn all_codes<B: Codebook, const RUNS: usize, const N: usize>(
    values: &[f32; 256],
    scales: &[f32; RUNS],
    mins: &[f32; RUNS],
) -> [u8; 256] {
    const { assert!(RUNS * N == 256) };
    let mut out = [0; 256];
    let runs = values.as_chunks().0.iter().zip(out.as_chunks_mut().0);
    for (run, (values, out)) in runs.enumerate() {
        *out = codes::<B, N>(values, scales[run], -mins[run]);
    }
    out
}

/// Two bits of codes, from bit `BIT` on: a byte holds those of elements 32 apart.
#[inline(always)]
fn two_bits<const BIT: u8>(codes: &[u8; 256]) -> [u8; 64] {
    let mut out = [0; 64];
    for half in 0..2 {
        for pair in 0..4 {
            for i in 0..32 {
                out[half * 32 + i] |= (codes[half * 128 + pair * 32 + i] >> BIT & 3) << (2 * pair);
            }
        }
    }
    out
}

/// Bit `BIT` of codes: a byte holds those of elements 32 apart.
#[inline(always)]
fn one_bit<const BIT: u8>(codes: &[u8; 256]) -> [u8; 32] {
    let mut out = [0; 32];
    for run in 0..8 {
        for i in 0..32 {
            out[i] |= (codes[run * 32 + i] >> BIT & 1) << run;
        }
    }
    out
}

/// The lowest four bits of codes: a byte holds those of elements `APART` apart.
#[inline(always)]
fn four_bits<const APART: usize>(codes: &[u8; 256]) -> [u8; 128] {
    let mut out = [0; 128];
    for (i, out) in out.iter_mut().enumerate() {
        let first = i / APART * 2 * APART + i % APART;
        *out = codes[first] & 15 | codes[first + APART] << 4;
    }
    out
}

#[inline(always)]
pub(super) fn q2_k(values: &[[f32; 256]], out: &mut [[u8; 84]]) {
    let x = side_by_side(values.as_flattened().as_chunks().0);
    let (scales, mins) = super_block::scales_and_mins::<4, 15, 16, 16>(&x, &Q2_K);
    for (block, (values, out)) in values.iter().zip(out).enumerate() {
        let (d, scale_integers, scales) = scales.of_block::<16>(block);
        let (m, min_integers, mins) = mins.of_block::<16>(block);
        let mut packed = [0; 16];
        for run in 0..16 {
            packed[run] = scale_integers[run] | min_integers[run] << 4;
        }
        put::<0, _, _>(out, packed);
        put::<16, _, _>(out, two_bits::<0>(&all_codes::<Integers<0, 4>, 16, 16>(values, &scales, &mins)));
        put::<80, _, _>(out, d.to_le_bytes());
        put::<82, _, _>(out, m.to_le_bytes());
    }
}

#[inline(always)]
pub(super) fn q3_k(values: &[[f32; 256]], out: &mut [[u8; 110]]) {
    let x = side_by_side(values.as_flattened().as_chunks().0);
    let scales = super_block::scales::<Integers<4, 8>, -32, 16, 16>(&x, &Q3_K);
    for (block, (values, out)) in values.iter().zip(out).enumerate() {
        let (d, integers, scales) = scales.of_block::<16>(block);
        let codes = all_codes::<Integers<4, 8>, 16, 16>(values, &scales, &[0.0; 16]);
        let mut packed = [0; 12];
        for run in 0..16 {
            let integer = integers[run].wrapping_add(32);
            packed[run % 8] |= (integer & 15) << (run / 8 * 4);
            packed[8 + run % 4] |= integer >> 4 << (run / 4 * 2);
        }
        put::<0, _, _>(out, one_bit::<2>(&codes));
        put::<32, _, _>(out, two_bits::<0>(&codes));
        put::<96, _, _>(out, packed);
        put::<108, _, _>(out, d.to_le_bytes());
    }
}

/// What Q4_K and Q5_K begin with, and the codes, of super-block `block`.
#[inline(always)]
fn six_bit_scales<const TOTAL: u8>(
    values: &[f32; 256],
    (scales, mins): &(Products, Products),
    block: usize,
) -> ([u8; 16], [u8; 256]) {
    let (d, s, scales) = scales.of_block::<8>(block);
    let (m, n, mins) = mins.of_block::<8>(block);
    let mut start = [0; 16];
    put::<0, _, _>(&mut start, d.to_le_bytes());
    put::<2, _, _>(&mut start, m.to_le_bytes());
    for i in 0..4 {
        start[4 + i] = s[i] | s[4 + i] >> 4 << 6;
        start[8 + i] = n[i] | n[4 + i] >> 4 << 6;
        start[12 + i] = s[4 + i] & 15 | n[4 + i] << 4;
    }
    (start, all_codes::<Integers<0, TOTAL>, 8, 32>(values, &scales, &mins))
}

#[inline(always)]
pub(super) fn q4_k(values: &[[f32; 256]], out: &mut [[u8; 144]]) {
    let x = side_by_side(values.as_flattened().as_chunks().0);
    let fitted = super_block::scales_and_mins::<16, 63, 8, 32>(&x, &FOUR_BITS);
    for (block, (values, out)) in values.iter().zip(out).enumerate() {
        let (start, codes) = six_bit_scales::<16>(values, &fitted, block);
        put::<0, _, _>(out, start);
        put::<16, _, _>(out, four_bits::<32>(&codes));
    }
}

#[inline(always)]
pub(super) fn q5_k(values: &[[f32; 256]], out: &mut [[u8; 176]]) {
    let x = side_by_side(values.as_flattened().as_chunks().0);
    let fitted = super_block::scales_and_mins::<32, 63, 8, 32>(&x, &FIVE_BITS);
    for (block, (values, out)) in values.iter().zip(out).enumerate() {
        let (start, codes) = six_bit_scales::<32>(values, &fitted, block);
        put::<0, _, _>(out, start);
        put::<16, _, _>(out, one_bit::<4>(&codes));
        put::<48, _, _>(out, four_bits::<32>(&codes));
    }
}

#[inline(always)]
pub(super) fn q6_k(values: &[[f32; 256]], out: &mut [[u8; 210]]) {
    let x = side_by_side(values.as_flattened().as_chunks().0);
    let scales = super_block::scales::<Integers<32, 64>, -128, 16, 16>(&x, &Q6_K);
    for (block, (values, out)) in values.iter().zip(out).enumerate() {
        let (d, integers, scales) = scales.of_block::<16>(block);
        let codes = all_codes::<Integers<32, 64>, 16, 16>(values, &scales, &[0.0; 16]);
        put::<0, _, _>(out, four_bits::<64>(&codes));
        put::<128, _, _>(out, two_bits::<4>(&codes));
        put::<192, _, _>(out, integers);
        put::<208, _, _>(out, d.to_le_bytes());
    }
}
