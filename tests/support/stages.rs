//! Every stage of a backend against the scalar one that defines it: the models, the batches, and how far apart they may be.

use std::sync::Arc;

use grok1::backend::scalar::Scalar;
use grok1::backend::{
    Asked, Backend, Batch, Branch, Candidates, Observer, PAGE, PageId, Routing, Row, Sequence,
};
use grok1::checkpoint::{self, Checkpoint};
use grok1::quant::dequantise;
use grok1::{
    Blob, Control, DType, KvType, Layout, Matrix, MemorySource, ModelConfig, Precision, Scales, Vector,
};
use half::{bf16, f16};

use crate::support::blocks::{FORMATS, blocks};
use crate::support::models::fixtures;
use crate::support::random::Random;

/// A model of one layer: what a row's routing decides then reaches no other row.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) width: usize,
    pub(crate) heads: [usize; 2], // query, key/value
    pub(crate) head_dim: usize,
    pub(crate) experts: [usize; 2], // all, selected
    pub(crate) ffn_width: usize,
    pub(crate) vocab: usize,
    pub(crate) groups: usize,
}

/// Rows of whole blocks of 32 elements, an odd number of them.
pub(crate) const BLOCKS: Shape =
    Shape { width: 96, heads: [3, 1], head_dim: 32, experts: [5, 2], ffn_width: 160, vocab: 131, groups: 1 };

/// Rows of whole super-blocks.
pub(crate) const SUPER_BLOCKS: Shape =
    Shape { width: 256, heads: [8, 2], experts: [3, 1], ffn_width: 512, ..BLOCKS };

pub(crate) const ODD: Shape =
    Shape { width: 40, heads: [7, 1], head_dim: 10, experts: [8, 2], ffn_width: 24, vocab: 131, groups: 1 };

pub(crate) const GROUPED: Shape =
    Shape { width: 96, heads: [6, 3], head_dim: 16, experts: [8, 2], ffn_width: 136, vocab: 515, groups: 8 };

const SHAPES: &[Shape] = &[
    ODD,
    GROUPED,
    Shape { heads: [4, 4], head_dim: 18, groups: 2, ..GROUPED },
    Shape { width: 64, heads: [4, 2], head_dim: 24, ffn_width: 344, ..GROUPED },
    Shape { width: 72, heads: [3, 1], head_dim: 32, experts: [3, 3], ..ODD },
    Shape { width: 384, heads: [2, 1], head_dim: 128, groups: 2, ..GROUPED },
    // More query heads to a key/value head than are worked on together.
    Shape { heads: [20, 1], experts: [5, 1], ..ODD },
    // Wider parts of a region.
    Shape { vocab: 4131, experts: [2, 1], ffn_width: 4100, ..ODD },
];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Stored {
    /// int8 with scales, as in the release.
    Quantised,
    Plain(DType, Layout),
    /// fp8 with a scale for so many inputs and outputs, as in safetensors.
    Scaled {
        dtype: DType,
        layout: Layout,
        inputs: usize,
        outputs: usize,
    },
}

pub(crate) const STORED: &[Stored] = &[
    Stored::Plain(DType::F32, Layout::InOut),
    Stored::Plain(DType::F32, Layout::OutIn),
    Stored::Plain(DType::BF16, Layout::InOut),
    Stored::Plain(DType::BF16, Layout::OutIn),
    Stored::Plain(DType::F16, Layout::OutIn),
    Stored::Plain(DType::F8E4M3, Layout::OutIn),
];

const ALL: usize = usize::MAX;

const SCALED: &[Stored] = &[
    // One for the whole matrix.
    Stored::Scaled { dtype: DType::F32, layout: Layout::OutIn, inputs: ALL, outputs: ALL },
    // One for each output.
    Stored::Scaled { dtype: DType::BF16, layout: Layout::InOut, inputs: ALL, outputs: 1 },
    Stored::Scaled { dtype: DType::F32, layout: Layout::OutIn, inputs: 128, outputs: 128 },
    // Tiles that end anywhere.
    Stored::Scaled { dtype: DType::F16, layout: Layout::InOut, inputs: 100, outputs: 3 },
];

/// How activations and cache are rounded, and how far the worst row may be from the definition's: sums in f32 and f64 differ in
/// their last bits, and where one is rounded to bf16 now and then by one of bf16's.
pub(crate) type Numbers = (Precision, KvType, f64);

pub(crate) const EXACT: [Numbers; 2] =
    [(Precision::Exact, KvType::F32, 5e-6), (Precision::Exact, KvType::BF16, 5e-3)];

pub(crate) const STANDARD: [Numbers; 2] =
    [(Precision::Standard, KvType::F32, 2e-2), (Precision::Standard, KvType::BF16, 2e-2)];

/// How far the best tenth of rows may be, which no such bit has reached.
const UNTOUCHED: f64 = 2e-6;

/// The same where matrix tiles round to bf16 what the definition does not: the weights of values, in attention.
const TILED: f64 = 4e-3;

/// Closer probabilities than this may be ordered by the rounding of a sum.
const TIE: f32 = 1e-3;

/// The same for those that round weights to bf16, which moves every row.
const ROUNDED: f64 = 6e-3;
const ROUNDED_TIE: f32 = 1e-2;

/// Rows of three sequences in each batch.
pub(crate) type Batches<'a> = &'a [[usize; 3]];

fn blob(bytes: &[u8]) -> Blob {
    // Payloads of the release lie at any address.
    let padding = [0xff; 3];
    let source = MemorySource::new("random", [&padding, bytes].concat());
    Blob::new(Arc::new(source), 3..3 + bytes.len() as u64).unwrap()
}

fn store(dtype: DType, values: impl Iterator<Item = f32>) -> Blob {
    let bytes: Vec<u8> = match dtype {
        DType::BF16 => values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        DType::F16 => values.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
        DType::F8E4M3 => {
            let mut numbers = [0.0; 127];
            dequantise(dtype, &std::array::from_fn::<u8, 127, _>(|code| code as u8), &mut numbers).unwrap();
            // The code of the next larger magnitude.
            let above = |x: f32| numbers.partition_point(|number| *number < x.abs()) as u8;
            values.map(|x| above(x) | if x < 0.0 { 0x80 } else { 0 }).collect()
        }
        _ => values.flat_map(f32::to_le_bytes).collect(),
    };
    blob(&bytes)
}

/// Weights and activations of about 1.
pub(crate) fn matrix(
    random: &mut Random,
    stored: Stored,
    [inputs, outputs]: [usize; 2],
    groups: usize,
) -> Matrix {
    let size = 1.7 / (inputs as f32).sqrt();
    let (dtype, layout) = match stored {
        Stored::Quantised => (DType::I8, Layout::InOut),
        Stored::Plain(dtype, layout) => (dtype, layout),
        Stored::Scaled { .. } => (DType::F8E4M3, Layout::OutIn),
    };
    let (data, scales) = match stored {
        Stored::Quantised => {
            let bytes: Vec<u8> = (0..inputs * outputs).map(|_| random.next() as u8).collect();
            let scales = (0..groups * outputs).map(|_| random.float(0.2, 1.0) * size / 64.0);
            let data = store(DType::BF16, scales);
            let (dtype, layout, inputs, outputs) = (DType::BF16, Layout::InOut, inputs / groups, 1);
            (blob(&bytes), Some(Scales { dtype, layout, inputs, outputs, data }))
        }
        Stored::Scaled { dtype, layout, inputs: shared_inputs, outputs: shared_outputs } => {
            let elements = store(DType::F8E4M3, (0..inputs * outputs).map(|_| random.float(-1.0, 1.0)));
            let mut scales =
                Scales { dtype, layout, inputs: shared_inputs, outputs: shared_outputs, data: blob(&[]) };
            let count: usize = scales.counts(inputs, outputs).into_iter().product();
            scales.data = store(dtype, (0..count).map(|_| random.float(0.4, 1.6) * size));
            (elements, Some(scales))
        }
        Stored::Plain(dtype, _) if dtype.block() > 1 => {
            (blob(&blocks(random, dtype, inputs * outputs, 0.6 * size)), None)
        }
        Stored::Plain(dtype, _) => {
            (store(dtype, (0..inputs * outputs).map(|_| random.float(-size, size))), None)
        }
    };
    Matrix { name: "matrix".to_owned(), dtype, layout, inputs, outputs, data, scales }
}

fn vector(random: &mut Random, len: usize) -> Vector {
    let data = store(DType::F32, (0..len).map(|_| random.float(0.5, 1.5)));
    Vector { name: "norm".to_owned(), dtype: DType::F32, len, data }
}

pub(crate) fn config(shape: &Shape) -> ModelConfig {
    let mut config = ModelConfig::grok1();
    config.layers = 1;
    config.width = shape.width;
    [config.heads, config.kv_heads] = shape.heads;
    config.head_dim = shape.head_dim;
    [config.experts, config.selected_experts] = shape.experts;
    config.ffn_width = shape.ffn_width;
    config.vocab = shape.vocab;
    config.embedding_scale = (shape.width as f32).sqrt();
    config.attention_scale = (shape.head_dim as f32).powf(-0.5);
    config.validate().unwrap()
}

/// A checkpoint of random weights; `plain` is how the router and the embedding, never int8, are stored.
pub(crate) fn checkpoint(config: ModelConfig, groups: usize, stored: Stored, plain: Stored) -> Checkpoint {
    let random = &mut Random(42);
    // Checkpoints come from files only; the values of this one are replaced.
    let mut checkpoint = checkpoint::open(fixtures().join("r2_onelayer_odd"), None).unwrap();
    let (width, ffn_width) = (config.width, config.ffn_width);
    let (query, kv) = (config.query_width(), config.kv_width());
    let embedding = match plain {
        Stored::Plain(dtype, _) => Stored::Plain(dtype, Layout::OutIn),
        Stored::Quantised | Stored::Scaled { .. } => plain,
    };
    checkpoint.head.embedding = matrix(random, embedding, [width, config.vocab], 1);
    checkpoint.head.norm = vector(random, width);
    let layer = &mut checkpoint.layers[0];
    let norms = [
        &mut layer.attention_norm,
        &mut layer.post_attention_norm,
        &mut layer.moe_norm,
        &mut layer.post_moe_norm,
    ];
    norms.into_iter().for_each(|norm| *norm = vector(random, width));
    layer.query = matrix(random, stored, [width, query], 1);
    layer.key = matrix(random, stored, [width, kv], 1);
    layer.value = matrix(random, stored, [width, kv], 1);
    layer.output = matrix(random, stored, [query, width], groups);
    layer.router = matrix(random, plain, [width, config.experts], 1);
    let mut experts = |shape, groups| -> Vec<Matrix> {
        (0..config.experts).map(|_| matrix(random, stored, shape, groups)).collect()
    };
    layer.gate = experts([width, ffn_width], 1);
    layer.up = experts([width, ffn_width], 1);
    layer.down = experts([ffn_width, width], groups);
    checkpoint.config = config;
    checkpoint
}

/// What each stage made of a batch.
#[derive(Default)]
pub(crate) struct Trace {
    pub(crate) embedded: Vec<f32>,      // [rows, width]
    pub(crate) attended: Vec<f32>,      // [rows, width]
    pub(crate) probabilities: Vec<f32>, // [rows, experts]
    pub(crate) experts: Vec<u32>,       // [rows, selected]
    pub(crate) gates: Vec<f32>,         // [rows, selected]
    pub(crate) hidden: Vec<f32>,        // [rows, width]
    pub(crate) normed: Vec<f32>,        // [rows, width]
    pub(crate) logits: Vec<f32>,        // [rows, vocab]
}

/// Takes what is shown.
#[derive(Default)]
struct Last(Trace);

impl Observer for Last {
    fn routing(&mut self, _layer: usize, routing: &Routing<'_>) {
        self.0.probabilities = routing.probabilities.to_vec();
        self.0.experts = routing.experts.to_vec();
        self.0.gates = routing.gates.to_vec();
    }

    fn hidden(&mut self, _layer: usize, hidden: &[f32]) {
        self.0.hidden = hidden.to_vec();
    }
}

/// Runs batches of random tokens stage by stage.
pub(crate) fn traces<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    kv: KvType,
    batches: Batches<'_>,
) -> Vec<Trace> {
    let control = Control::new();
    let layer = backend.load_layer(&checkpoint.layers[0], &control).unwrap();
    let head = backend.load_head(&checkpoint.head, &control).unwrap();
    let (mut cache, mut scratch) = (backend.cache(kv), backend.scratch());
    let mut random = Random(7);
    let mut positions = [0; 3];
    let pages_of = |sequence: usize| (0..5).map(move |page| PageId((4 - page) * 3 + sequence as u32));
    let traces = batches.iter().map(|counts| {
        let (mut rows, mut sequences, mut pages) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (start, first_page) = (rows.len(), pages.len());
            let position = &mut positions[sequence];
            rows.extend((*position..*position + count).map(|position| Row {
                token: random.below(checkpoint.config.vocab) as u32,
                position: position as u32,
            }));
            *position += count;
            pages.extend(pages_of(sequence).take(position.div_ceil(PAGE)));
            sequences.push(Sequence { rows: start..rows.len(), pages: first_page..pages.len() });
        }
        for &page in &pages {
            backend.allocate_page(&mut cache, page).unwrap();
        }
        let batch = Batch::new(&rows, &sequences, &pages, &control).unwrap();
        let mut seen = Last::default();
        backend.embed(&head, &batch, &mut scratch).unwrap();
        backend.observe_hidden(&scratch, 0, &mut seen).unwrap();
        seen.0.embedded = std::mem::take(&mut seen.0.hidden);
        backend.attention(&layer, 0, &batch, &mut cache, &mut scratch).unwrap();
        backend.residual(&layer, Branch::Attention, &batch, &mut scratch).unwrap();
        backend.observe_hidden(&scratch, 0, &mut seen).unwrap();
        seen.0.attended = std::mem::take(&mut seen.0.hidden);
        backend.route(&layer, &batch, &mut scratch).unwrap();
        backend.observe_routing(&scratch, 0, &mut seen).unwrap();
        backend.experts(&layer, &batch, &mut scratch).unwrap();
        backend.residual(&layer, Branch::Experts, &batch, &mut scratch).unwrap();
        backend.observe_hidden(&scratch, 0, &mut seen).unwrap();
        let Last(mut trace) = seen;
        let all: Vec<u32> = (0..rows.len() as u32).collect();
        trace.normed.resize(rows.len() * checkpoint.config.width, f32::NAN);
        backend.normed(&head, &batch, &all, &mut scratch, &mut trace.normed).unwrap();
        trace.logits.resize(rows.len() * checkpoint.config.vocab, f32::NAN);
        backend.head(&head, &batch, &all, &mut scratch, &mut trace.logits).unwrap();
        assert_candidates(backend, &head, &batch, &mut scratch, &trace.logits);
        trace
    });
    traces.collect()
}

/// Some rows' candidates are those of their logits, to the bit.
fn assert_candidates<B: Backend>(
    backend: &B,
    head: &B::Head,
    batch: &Batch<'_>,
    scratch: &mut B::Scratch,
    logits: &[f32], // [rows, vocab]
) {
    let vocab = logits.len() / batch.rows().len();
    let last = batch.rows().len() as u32 - 1;
    let rows = [last, 0, last / 2];
    let asked = [Asked::new(1, 1.0), Asked::new(40, 0.7), Asked::new(256, 1.3)];
    let of = |asked| Candidates { asked, ..Candidates::default() };
    let (mut found, mut room) = (asked.map(of), vec![f32::NAN; vocab]);
    backend.candidates(head, batch, &rows, scratch, &mut room, &mut found).unwrap();
    for (index, (found, row)) in found.iter().zip(rows).enumerate() {
        backend.logits_of_candidates(head, batch, (index, row), scratch, &mut room).unwrap();
        if backend.keeps_logits() && batch.rows().len() == rows.len() {
            assert_eq!(room, logits[row as usize * vocab..][..vocab]);
        }
        let mut expected = of(found.asked);
        expected.fill(&room);
        assert_eq!(*found, expected);
    }
}

/// How far the rows of one stage are from the definition's: error relative to the row's length.
#[derive(Clone, Default)]
struct Distances(Vec<f64>);

impl Distances {
    /// Adds those rows of a batch that count.
    fn add(&mut self, found: &[f32], truth: &[f32], counts: &[bool]) {
        assert_eq!(found.len(), truth.len());
        let width = truth.len() / counts.len();
        let rows = found.chunks_exact(width).zip(truth.chunks_exact(width)).zip(counts);
        self.0.extend(rows.filter(|(_, counts)| **counts).map(|((found, truth), _)| {
            let error: f64 =
                found.iter().zip(truth).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            let length: f64 = truth.iter().map(|b| f64::from(*b).powi(2)).sum();
            (error / length).sqrt()
        }));
    }

    /// The best tenth of rows and the worst.
    fn summary(mut self) -> [f64; 2] {
        assert!(self.0.iter().all(|distance| distance.is_finite()));
        self.0.sort_by(f64::total_cmp);
        [self.0[self.0.len() / 10], self.0[self.0.len() - 1]]
    }
}

/// Whether rounding may decide which experts a row goes to, or in which order.
fn is_tied(probabilities: &[f32], selected: usize, tie: f32) -> bool {
    let mut sorted = probabilities.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted.windows(2).take(selected).any(|pair| pair[0] - pair[1] < tie)
}

const STAGES: [&str; 6] = ["attention", "router", "gates", "experts", "normed", "head"];

/// How far each stage of a run is from the definition's.
fn distances(
    case: &str,
    config: &ModelConfig,
    tie: f32,
    found: &[Trace],
    truth: &[Trace],
) -> [[f64; 2]; STAGES.len()] {
    let mut distances: [Distances; STAGES.len()] = Default::default();
    let (mut rows, mut flipped) = (0, 0);
    for (batch, (found, truth)) in found.iter().zip(truth).enumerate() {
        assert_eq!(found.embedded, truth.embedded, "{case}, batch {batch}: embed");
        let selected = config.selected_experts;
        let experts = found.experts.chunks_exact(selected).zip(truth.experts.chunks_exact(selected));
        let same: Vec<bool> = experts.map(|(found, truth)| found == truth).collect();
        for row in (0..same.len()).filter(|&row| !same[row]) {
            let probabilities = &truth.probabilities[row * config.experts..][..config.experts];
            assert!(
                is_tied(probabilities, selected, tie),
                "{case}, batch {batch}, row {row}: {probabilities:?}"
            );
        }
        rows += same.len();
        flipped += same.iter().filter(|same| !**same).count();
        let all = vec![true; same.len()];
        let stages: [(&[f32], &[f32], &[bool]); STAGES.len()] = [
            (&found.attended, &truth.attended, &all),
            (&found.probabilities, &truth.probabilities, &all),
            (&found.gates, &truth.gates, &same),
            (&found.hidden, &truth.hidden, &same),
            (&found.normed, &truth.normed, &same),
            (&found.logits, &truth.logits, &same),
        ];
        for (distance, (found, truth, counts)) in distances.iter_mut().zip(stages) {
            distance.add(found, truth, counts);
        }
    }
    let flips = if tie > TIE { 10 } else { 50 };
    assert!(flipped * flips <= rows, "{case}: {flipped} of {rows} rows went to other experts");
    distances.map(Distances::summary)
}

fn is_in_blocks(checkpoint: &Checkpoint) -> bool {
    checkpoint.layers.iter().any(|layer| layer.gate[0].dtype.block() > 1)
}

/// One line of the table for the processor or device that `found` runs the batches on.
pub(crate) fn conforms(
    case: &str,
    checkpoint: &Checkpoint,
    (precision, kv, bound): Numbers,
    batches: Batches<'_>,
    backends: impl IntoIterator<Item = (String, Vec<Trace>)>,
) {
    let config = &checkpoint.config;
    let truth = traces(&Scalar::new(config.clone(), precision), checkpoint, kv, batches);
    for (backend, found) in backends {
        let (untouched, tie) = match (precision, kv, backend.as_str()) {
            (Precision::Standard, _, "amx") if is_in_blocks(checkpoint) => (ROUNDED, ROUNDED_TIE),
            (Precision::Standard, KvType::BF16, "amx") => (TILED, TIE),
            _ => (UNTOUCHED, TIE),
        };
        let case = format!("{case}, {precision:?}, {}, {backend}", kv.name());
        for (stage, [best, worst]) in STAGES.iter().zip(distances(&case, config, tie, &found, &truth)) {
            assert!(best <= untouched, "{case}, {stage}: even the best rows are {best:.1e} off");
            assert!(worst <= bound, "{case}, {stage}: the worst row is {worst:.1e} off");
        }
    }
}

fn name(shape: &Shape) -> String {
    let Shape {
        width,
        heads: [heads, kv_heads],
        head_dim,
        experts: [all, selected],
        ffn_width,
        vocab,
        groups,
    } = shape;
    format!(
        "width {width}, {heads}/{kv_heads} heads of {head_dim}, {selected} of {all} experts of {ffn_width}, vocab {vocab}, \
        {groups} groups"
    )
}

/// What a line of the table is checked with.
pub(crate) type Check<'a> = &'a dyn Fn(&str, &Checkpoint, Numbers);

/// Every shape, in some numbers.
pub(crate) fn shapes(numbers: [Numbers; 2], check: Check<'_>) {
    for shape in SHAPES {
        let plain = Stored::Plain(DType::F32, Layout::InOut);
        let checkpoint = checkpoint(config(shape), shape.groups, Stored::Quantised, plain);
        numbers.into_iter().for_each(|numbers| check(&name(shape), &checkpoint, numbers));
    }
}

/// Every type and layout of weights that stand by themselves.
pub(crate) fn plain_types(check: Check<'_>) {
    for stored in STORED {
        let checkpoint = checkpoint(config(&ODD), 1, *stored, *stored);
        for numbers in [EXACT[0], STANDARD[1]] {
            check(&format!("{stored:?}"), &checkpoint, numbers);
        }
    }
}

/// Fp8 with scales of every grain.
pub(crate) fn scaled_types(check: Check<'_>) {
    let shape = Shape { width: 300, heads: [2, 1], head_dim: 128, ffn_width: 136, ..BLOCKS };
    for stored in SCALED {
        let checkpoint = checkpoint(config(&shape), 1, *stored, *stored);
        check(&format!("{stored:?}"), &checkpoint, EXACT[0]);
    }
}

/// Every format of blocks.
pub(crate) fn block_formats(check: Check<'_>) {
    for dtype in FORMATS {
        let shape = if dtype.block() == 32 { &BLOCKS } else { &SUPER_BLOCKS };
        let stored = Stored::Plain(dtype, Layout::OutIn);
        let checkpoint = checkpoint(config(shape), 1, stored, stored);
        for numbers in [EXACT[0], STANDARD[0]] {
            check(dtype.name(), &checkpoint, numbers);
        }
    }
}

/// Every format, in shapes of whole tiles of packed matrices.
#[allow(dead_code, reason = "not every device packs")]
pub(crate) fn tiled_formats(check: Check<'_>) {
    let shape = Shape { vocab: 144, ..SUPER_BLOCKS };
    let plain = Stored::Plain(DType::F32, Layout::OutIn);
    let quantised = checkpoint(config(&shape), 2, Stored::Quantised, plain);
    check("int8 of 2 groups", &quantised, EXACT[0]);
    for dtype in FORMATS {
        let stored = Stored::Plain(dtype, Layout::OutIn);
        let checkpoint = checkpoint(config(&shape), 1, stored, stored);
        check(dtype.name(), &checkpoint, EXACT[0]);
    }
}

/// Caps and gates that Grok-1 does not have.
pub(crate) fn other_options(check: Check<'_>) {
    let mut config = config(&GROUPED);
    (config.attention_cap, config.router_cap, config.output_cap) = (None, Some(0.5), Some(2.0));
    config.renormalise_gates = true;
    let plain = Stored::Plain(DType::F32, Layout::InOut);
    let checkpoint = checkpoint(config, GROUPED.groups, Stored::Quantised, plain);
    check("other options", &checkpoint, EXACT[0]);
}
