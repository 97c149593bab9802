//! How fast the parts are: `cargo bench --bench speed`. Model and tokenizer are the tiny ones of this repository.
#![allow(missing_docs, reason = "criterion_group makes a public function")]

use std::cell::OnceCell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use grok1::backend::cpu::Cpu;
use grok1::backend::{Backend, Batch, PageId, Row, Sequence};
use grok1::checkpoint::Synthetic;
use grok1::{
    Control, DType, Entry, Model, ModelConfig, Precision, Sampler, Session, Threads, Tokenizer,
    WeightStorage, checkpoint, quant,
};
use memmap2::MmapMut;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny");

fn tiny() -> Model {
    Model::open(TINY).expect("the tiny model")
}

fn tokens(model: &Model, count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * 7919 % model.config().vocab) as u32).collect()
}

fn forward(c: &mut Criterion) {
    let model = tiny();
    let control = Control::new();
    let mut group = c.benchmark_group("forward");

    let prompt = tokens(&model, 512);
    group.throughput(Throughput::Elements(512));
    group.bench_function("prefill 512", |b| {
        b.iter_batched_ref(
            || model.session().expect("a session"),
            |session| session.feed(&prompt, &control).map(<[f32]>::len),
            BatchSize::SmallInput,
        );
    });

    for sessions in [1, 8] {
        group.throughput(Throughput::Elements(sessions as u64));
        let mut batch: Vec<Session> = (0..sessions)
            .map(|_| {
                let mut session = model.session().expect("a session");
                session.feed(&prompt[..256], &control).expect("a prompt");
                session
            })
            .collect();
        group.bench_function(format!("decode {sessions} at 256"), |b| {
            b.iter(|| {
                let mut entries: Vec<_> =
                    batch.iter_mut().map(|session| Entry::new(session, &prompt[..1])).collect();
                model.run(&mut entries, &control).expect("a run");
                drop(entries);
                batch.iter_mut().for_each(|session| session.truncate(256));
            });
        });
    }
}

/// Products of one row with two experts' matrices, by one thread: bytes of weights per second, beside those of nothing but reading.
fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(1));

    const READ: usize = 512 << 20;
    group.throughput(Throughput::Bytes(READ as u64));
    let memory = OnceCell::new();
    group.bench_function("plain read", |b| {
        let memory = memory.get_or_init(|| {
            let mut memory = MmapMut::map_anon(READ).expect("memory");
            #[cfg(target_os = "linux")]
            // A hint; small pages do.
            let _ = memory.advise(memmap2::Advice::HugePage);
            // Not zeros: pages that were never written are all one page, and in the cache.
            memory.fill(1);
            memory
        });
        b.iter(|| read(memory));
    });
    drop(memory);

    // Grok-1's width, and an expert's as much smaller as caches allow.
    let mut config = ModelConfig::grok1();
    (config.layers, config.vocab, config.ffn_width) = (1, 256, 16384);
    (config.experts, config.selected_experts) = (2, 2);
    let control = Control::new();
    let mut sets = Cpu::instruction_sets();
    // Few rows are computed without tiles.
    sets.retain(|set| !["scalar", "amx"].contains(set));
    let backends = sets.iter().map(|set| {
        let pool = Arc::new(Threads::new(1).expect("a thread"));
        Cpu::new(config.clone(), Precision::Standard, WeightStorage::Owned, pool).with_instruction_set(set)
    });
    let backends: Vec<Cpu> = backends.collect();
    for dtype in DType::ALL {
        let options = Synthetic::new().config(config.clone()).dtype(dtype).head_dtype(DType::F32);
        let Ok(model) = checkpoint::synthetic(&options) else { continue };
        let weights = (config.selected_experts * 3 * config.width * config.ffn_width) as u64;
        group.throughput(Throughput::Bytes(dtype.bytes_of(weights).expect("whole blocks")));
        // Only made if it is asked for.
        let loaded = OnceCell::new();
        for (set, backend) in sets.iter().zip(&backends) {
            group.bench_function(format!("{dtype}, {set}"), |b| {
                let (head, layer) = loaded.get_or_init(|| {
                    let head = backend.load_head(&model.head, &control).expect("an embedding");
                    (head, backend.load_layer(&model.layers[0], &control).expect("a layer"))
                });
                let rows = [Row { token: 7, position: 0 }];
                let sequences = [Sequence { rows: 0..1, pages: 0..1 }];
                let batch = Batch::new(&rows, &sequences, &[PageId(0)], &control).expect("a batch");
                let mut scratch = backend.scratch();
                backend.embed(head, &batch, &mut scratch).expect("an embedded row");
                backend.route(layer, &batch, &mut scratch).expect("selected experts");
                b.iter(|| backend.experts(layer, &batch, &mut scratch).expect("products"));
            });
        }
    }
}

/// Looks at every byte, in four places at a time: one alone does not get all that the memory gives.
fn read(memory: &[u8]) -> u64 {
    let (lines, _) = memory.as_chunks::<64>();
    let (first, last) = lines.split_at(lines.len() / 2);
    let ((a, b), (c, d)) = (first.split_at(first.len() / 2), last.split_at(last.len() / 2));
    let mut sums = [0; 8];
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        for line in [a, b, c, d] {
            for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                *sum ^= u64::from_ne_bytes(*word);
            }
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

fn sample(c: &mut Criterion) {
    let mut group = c.benchmark_group("sample");
    for vocab in [2048, 131_072] {
        // A sum of uniform numbers is close enough to logits' bell.
        let mut state = 1_u32;
        let mut uniform = || {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let logits: Vec<f32> =
            (0..vocab).map(|_| 8.0 * (uniform() + uniform() + uniform() + uniform())).collect();
        let samplers = [
            ("greedy", Sampler::new().greedy()),
            ("temperature", Sampler::new()),
            ("top-p 0.95", Sampler::new().temperature(0.7).top_p(0.95)),
            ("top-k 40", Sampler::new().top_k(40)),
        ];
        for (name, mut sampler) in samplers {
            group.bench_function(format!("{name} of {vocab}"), |b| {
                b.iter(|| sampler.sample(black_box(&logits), &[]).map(|sampled| sampled.token));
            });
        }
    }
}

fn text(c: &mut Criterion) {
    let mut group = c.benchmark_group("text");
    let path = format!("{TINY}/tokenizer.model");
    group.bench_function("load tokenizer", |b| {
        b.iter(|| Tokenizer::new(checkpoint::tokenizer(&path).expect("a vocabulary")));
    });

    let tokenizer = tiny().tokenizer().expect("a tokenizer").clone();
    let prose = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n";
    for (name, unit) in [("prose", prose), ("one letter", "a"), ("spaces", " "), ("CJK", "日本語")] {
        let text = unit.repeat((1 << 20) / unit.len());
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.sample_size(10);
        group.bench_function(format!("encode 1 MiB of {name}"), |b| b.iter(|| tokenizer.encode(&text)));
    }
}

fn synthetic(c: &mut Criterion) {
    let mut group = c.benchmark_group("synthetic");
    let mut out = vec![0; 1 << 20];
    group.throughput(Throughput::Bytes(out.len() as u64));
    for dtype in [DType::I8, DType::Q4K, DType::Q6K] {
        let model = checkpoint::synthetic(&Synthetic::new().layers(1).dtype(dtype)).expect("a model");
        let data = &model.layers[0].gate[0].data;
        group.bench_function(format!("1 MiB of {dtype}"), |b| b.iter(|| data.read_at(12_345, &mut out)));
    }
}

fn quantise(c: &mut Criterion) {
    let mut group = c.benchmark_group("quantise");
    // Uniform numbers: the time hardly depends on the values.
    let values: Vec<f32> =
        (0..1_u32 << 18).map(|i| i.wrapping_mul(2_654_435_769) as i32 as f32 * 1e-11).collect();
    group.throughput(Throughput::Elements(values.len() as u64));
    group.sample_size(10);
    for dtype in DType::ALL.into_iter().filter(|&dtype| quant::can_quantise(dtype)) {
        let bytes = dtype.bytes_of(values.len() as u64).expect("whole blocks");
        let mut out = vec![0; bytes as usize];
        group.bench_function(dtype.name(), |b| {
            b.iter(|| quant::quantise(dtype, black_box(&values), &mut out))
        });
    }
}

criterion_group!(benches, forward, decode, sample, text, synthetic, quantise);
criterion_main!(benches);
