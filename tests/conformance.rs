//! Every stage, on the processor with each instruction set, against the scalar backend that defines it: odd shapes, every type
//! and layout of weights, both precisions, both types of cache.

mod support {
    pub(crate) mod blocks;
    pub(crate) mod models;
    pub(crate) mod random;
    pub(crate) mod stages;
}

use std::sync::Arc;

use grok1::backend::cpu::Cpu;
use grok1::backend::scalar::Scalar;
use grok1::backend::{Backend, Batch, PageId, Row, Sequence};
use grok1::checkpoint::Checkpoint;
use grok1::{Control, DType, KvType, Layout, Precision, Threads, WeightStorage};
use support::random::Random;
use support::stages::{
    self, BLOCKS, Batches, EXACT, GROUPED, Numbers, STANDARD, STORED, Stored, checkpoint, config, matrix,
    traces,
};

/// Few and many, new sequences beside old ones, one that crosses position 256.
const BATCHES: Batches<'_> = &[
    [1, 0, 0],
    [2, 0, 0],
    [5, 0, 0],
    [6, 0, 0],
    [7, 0, 0],
    [33, 0, 0],
    [200, 3, 0],
    [1, 64, 0],
    [6, 1, 33],
    [39, 7, 2],
    [1, 1, 1],
];

/// For types of weights, which see rows and nothing else of a batch.
const ROWS: Batches<'_> = &[[1, 0, 0], [2, 0, 0], [5, 0, 0], [6, 0, 0], [7, 0, 0], [33, 0, 0], [39, 7, 2]];

/// One line of the table, on every instruction set.
fn conforms(name: &str, checkpoint: &Checkpoint, numbers: Numbers) {
    conforms_in(BATCHES, name, checkpoint, numbers);
}

fn weights_conform(name: &str, checkpoint: &Checkpoint, numbers: Numbers) {
    conforms_in(ROWS, name, checkpoint, numbers);
}

fn conforms_in(batches: Batches<'_>, name: &str, checkpoint: &Checkpoint, numbers: Numbers) {
    let (precision, kv, _) = numbers;
    let found = Cpu::instruction_sets().into_iter().map(|isa| {
        let threads = Arc::new(Threads::new(2).unwrap());
        let cpu = Cpu::new(checkpoint.config.clone(), precision, WeightStorage::Mapped, threads);
        (isa.to_owned(), traces(&cpu.with_instruction_set(isa), checkpoint, kv, batches))
    });
    stages::conforms(name, checkpoint, numbers, batches, found);
}

#[test]
fn every_stage_of_every_shape_conforms_in_exact_precision() {
    stages::shapes(EXACT, &conforms);
}

#[test]
fn every_stage_of_every_shape_conforms_in_standard_precision() {
    stages::shapes(STANDARD, &conforms);
}

#[test]
fn every_type_and_layout_of_weights_conforms() {
    stages::plain_types(&weights_conform);
}

#[test]
fn fp8_with_scales_of_every_grain_conforms() {
    stages::scaled_types(&weights_conform);
}

#[test]
fn every_format_of_blocks_conforms() {
    stages::block_formats(&weights_conform);
}

#[test]
fn rows_that_are_not_whole_blocks_are_refused() {
    let random = &mut Random(3);
    let mut checkpoint = checkpoint(config(&BLOCKS), 1, STORED[0], Stored::Plain(DType::BF16, Layout::OutIn));
    // As many elements, but each row ends within a block.
    let mut embedding = matrix(random, Stored::Plain(DType::Q4_0, Layout::OutIn), [96, 131], 1);
    [embedding.inputs, embedding.outputs] = [131, 96];
    checkpoint.head.embedding = embedding;
    let config = checkpoint.config.clone();
    let threads = Arc::new(Threads::new(1).unwrap());
    let control = Control::new();
    let cpu = Cpu::new(config.clone(), Precision::Exact, WeightStorage::Mapped, threads);
    let refusals = [
        cpu.load_head(&checkpoint.head, &control).err().unwrap(),
        Scalar::new(config, Precision::Exact).load_head(&checkpoint.head, &control).err().unwrap(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.to_string(), "matrix: rows of 131 elements are not whole blocks of q4_0");
    }
}

#[test]
fn caps_and_renormalised_gates_conform() {
    stages::other_options(&conforms);
}

#[test]
fn weights_in_memory_give_the_same_bits_as_mapped_ones() {
    let plain = Stored::Plain(DType::BF16, Layout::InOut);
    let checkpoint = checkpoint(config(&GROUPED), GROUPED.groups, Stored::Quantised, plain);
    let run = |storage| {
        let threads = Arc::new(Threads::new(1).unwrap());
        let cpu = Cpu::new(checkpoint.config.clone(), Precision::Standard, storage, threads);
        let traces = traces(&cpu, &checkpoint, KvType::BF16, BATCHES);
        traces.into_iter().flat_map(|trace| trace.logits).map(f32::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(run(WeightStorage::Mapped), run(WeightStorage::Owned));
}

#[test]
fn a_batch_whose_parts_do_not_fit_together_is_refused() {
    let row = |position| Row { token: 0, position };
    let control = Control::new();
    let cases: [(&[Row], Vec<Sequence>); 6] = [
        (&[row(0), row(2)], vec![Sequence { rows: 0..2, pages: 0..1 }]),
        (&[row(u32::MAX), row(0)], vec![Sequence { rows: 0..2, pages: 0..1 }]),
        (&[row(64)], vec![Sequence { rows: 0..1, pages: 0..1 }]),
        (&[row(0)], vec![Sequence { rows: 0..1, pages: 0..2 }]),
        (&[row(0), row(1)], vec![Sequence { rows: 0..1, pages: 0..1 }]),
        (&[row(0)], vec![Sequence { rows: 0..1, pages: 0..1 }, Sequence { rows: 0..1, pages: 0..1 }]),
    ];
    for (rows, sequences) in cases {
        assert!(Batch::new(rows, &sequences, &[PageId(0)], &control).is_err(), "{rows:?} {sequences:?}");
    }
}
