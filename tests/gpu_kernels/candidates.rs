//! The best tokens of logits and what all of them weigh, against the definition.

use std::f64::consts::LOG2_E;

use grok1::backend::gpu::kernels::{CANDIDATES_BLOCK, Kernel};
use grok1::backend::{Asked, Candidates};

use crate::machine::{Machine, bits, buffer, random, results};
use crate::simt::{Argument, Buffer};

const TEMPERATURE: f32 = 0.7;

/// The best of each row of logits, and the totals at both scales, as halves of the kernels' words.
fn run(machine: &Machine, logits: &[f32], vocab: usize, count: usize) -> Vec<f32> {
    let (rows, blocks) = (logits.len() / vocab, vocab.div_ceil(CANDIDATES_BLOCK));
    let (logits, vocab, wanted) = (buffer(logits), vocab as i32, count as i32);
    let mut best = Buffer::<u64>::new(rows * blocks * count);
    let arguments: [&dyn Argument; 4] = [&best, &logits, &vocab, &wanted];
    machine.launch(Kernel::Candidates, [blocks, rows, 1], 0, &arguments);
    let mut len = blocks * count;
    while len > count {
        let blocks = len.div_ceil(CANDIDATES_BLOCK);
        let fewer = Buffer::<u64>::new(rows * blocks * count);
        let arguments: [&dyn Argument; 4] = [&fewer, &best, &(len as i32), &wanted];
        machine.launch(Kernel::CandidatesMerge, [blocks, rows, 1], 0, &arguments);
        (best, len) = (fewer, blocks * count);
    }
    let scales = [1.0, TEMPERATURE].map(|temperature| LOG2_E / f64::from(temperature)).repeat(rows);
    let totals = Buffer::<u64>::new(rows * blocks * 2);
    let arguments: [&dyn Argument; 6] = [&totals, &logits, &best, &Buffer::of(&scales), &vocab, &wanted];
    machine.launch(Kernel::Weigh, [blocks, rows, 1], 0, &arguments);
    let sums = totals
        .values()
        .chunks(2 * blocks)
        .flat_map(|row| [0, 1].map(|scale| row.iter().skip(scale).step_by(2).sum::<u64>()));
    let words = best.values().iter().copied().chain(sums);
    words.flat_map(|word| [word >> 32, word]).map(|half| f32::from_bits(half as u32)).collect()
}

/// The same by definition.
fn expected(logits: &[f32], vocab: usize, count: usize) -> Vec<f32> {
    let (mut ranks, mut totals) = (Vec::new(), Vec::new());
    for logits in logits.chunks(vocab) {
        let mut row = Candidates { asked: Asked::new(count, TEMPERATURE), ..Candidates::default() };
        row.fill(logits);
        // What the definition leaves out comes last.
        let left_out = (0..).zip(logits).filter(|(_, logit)| **logit == f32::NEG_INFINITY);
        let best = row.best.iter().map(|best| (best.token, best.logit));
        let best = best.chain(left_out.map(|(token, logit)| (token, *logit)));
        let words = best.map(|(token, logit)| [ordered(logit), !token]).chain(std::iter::repeat([0, 0]));
        ranks.extend(words.take(count).flatten());
        let words = [row.total, row.total_at_temperature];
        totals.extend(words.into_iter().flat_map(|word| [word >> 32, word]).map(|half| half as u32));
    }
    ranks.into_iter().chain(totals).map(f32::from_bits).collect()
}

/// Bits that are ordered as the logits are.
fn ordered(logit: f32) -> u32 {
    match logit {
        _ if logit.is_nan() => u32::MAX,
        0.0 => 1 << 31,
        _ if logit > 0.0 => logit.to_bits() | 1 << 31,
        _ => !logit.to_bits(),
    }
}

#[track_caller]
fn assert_found(logits: &[f32], vocab: usize, count: usize) {
    let expected = bits(&expected(logits, vocab, count));
    for found in results(|machine| run(machine, logits, vocab, count)) {
        assert!(bits(&found) == expected, "the {count} best of {vocab}");
    }
}

#[test]
fn the_best_of_any_vocabulary_are_found_and_what_all_weigh() {
    for (vocab, counts) in [
        (1, [1, 2].as_slice()),
        (131, &[1, 7, 131, 256]),
        (CANDIDATES_BLOCK, &[1, 40]),
        // Lists of several blocks, the last of which is not full.
        (CANDIDATES_BLOCK + 1, &[1, 2, 256]),
        // More than one merge.
        (9 * CANDIDATES_BLOCK + 77, &[1, 255, 256]),
    ] {
        let logits = random(vocab as u64, 2 * vocab, 9.0);
        for &count in counts {
            assert_found(&logits, vocab, count);
        }
    }
}

#[test]
fn of_equal_logits_those_with_lower_ids_are_best() {
    for levels in [1.0, 3.0, 40.0] {
        let vocab = 2 * CANDIDATES_BLOCK + 5;
        // Zeros of both signs are equal, too.
        let logits: Vec<f32> = random(1, vocab, levels).iter().map(|logit| logit.trunc()).collect();
        for count in [1, 20, 256] {
            assert_found(&logits, vocab, count);
        }
    }
}

#[test]
fn infinities_and_nans_have_their_places() {
    let vocab = CANDIDATES_BLOCK + 300;
    let mut logits = random(1, vocab, 5.0);
    for (token, logit) in logits.iter_mut().enumerate().filter(|(token, _)| token % 17 != 3) {
        *logit = if token % 2 == 0 { f32::NEG_INFINITY } else { *logit };
    }
    assert_found(&logits, vocab, 256);
    let all_but_few: Vec<f32> =
        (0..vocab).map(|token| if token % 400 == 7 { 1.0 } else { f32::NEG_INFINITY }).collect();
    assert_found(&all_but_few, vocab, 20);
    assert_found(&vec![f32::NEG_INFINITY; vocab], vocab, 3);
    for bad in [f32::INFINITY, f32::NAN, -f32::NAN] {
        (logits[2300], logits[1700]) = (bad, bad);
        assert_found(&logits, vocab, 5);
    }
}
