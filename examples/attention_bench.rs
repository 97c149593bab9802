//! How fast attention is by itself, at the shapes of one layer: `cargo run --release --example attention_bench -- [OPTION=VALUE]…`.
//!
//! Options: `threads=0`, `isa=amx`, `precision=standard`, `kv=bf16`, `heads=48/8`, `runs=9`; `case=512@7680` instead of all. A line for
//! each number of rows and first position: the best time, bytes of cache per second, and operations per second of what each row sees. The model's width is
//! small, so that its projections hardly count.

use std::sync::Arc;
use std::time::Instant;

use grok1::backend::cpu::{Cache, Cpu, Scratch};
use grok1::backend::{Backend, Batch, KvPart, PAGE, PageId, Row, Sequence, page_bytes};
use grok1::checkpoint::{self, Synthetic};
use grok1::{Control, DType, KvType, ModelConfig, Precision, Threads, WeightStorage};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Rows, and the position of the first.
const CASES: [[usize; 2]; 7] =
    [[1, 1023], [1, 8191], [1, 32767], [4, 8188], [512, 0], [512, 3584], [512, 7680]];

struct Options {
    threads: usize,
    isa: String,
    precision: Precision,
    kv: KvType,
    heads: [usize; 2],
    runs: usize,
    cases: Vec<[usize; 2]>,
}

impl Options {
    fn parse() -> Option<Self> {
        let isa = (*Cpu::instruction_sets().first()?).to_owned();
        let (precision, kv) = (Precision::Standard, KvType::BF16);
        let mut options =
            Self { threads: 0, isa, precision, kv, heads: [48, 8], runs: 9, cases: CASES.to_vec() };
        for argument in std::env::args().skip(1) {
            let (key, value) = argument.split_once('=')?;
            match (key, value) {
                ("threads", _) => options.threads = value.parse().ok()?,
                ("isa", _) => options.isa = value.to_owned(),
                ("precision", "exact") => options.precision = Precision::Exact,
                ("precision", "standard") => {}
                ("kv", "f32") => options.kv = KvType::F32,
                ("kv", "bf16") => {}
                ("heads", _) => {
                    let (query, kv) = value.split_once('/')?;
                    options.heads = [query.parse().ok()?, kv.parse().ok()?];
                }
                ("case", _) => {
                    let (rows, position) = value.split_once('@')?;
                    options.cases = vec![[rows.parse().ok()?, position.parse().ok()?]];
                }
                ("runs", _) => options.runs = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(options)
    }
}

/// One layer of a narrow model with a cache of random keys and values.
struct Bench {
    cpu: Cpu,
    config: ModelConfig,
    layer: <Cpu as Backend>::Layer,
    head: <Cpu as Backend>::Head,
    cache: Cache,
    scratch: Scratch,
    pages: Vec<PageId>,
}

impl Bench {
    fn new(options: &Options, positions: usize) -> Result<Self> {
        let mut config = ModelConfig::grok1();
        (config.width, config.layers, config.vocab, config.ffn_width) = (32, 1, 512, 32);
        [config.heads, config.kv_heads] = options.heads;
        let checkpoint = checkpoint::synthetic(&Synthetic::new().config(config.clone()).dtype(DType::F32))?;
        let threads = Arc::new(Threads::new(options.threads)?);
        let cpu = Cpu::new(config.clone(), options.precision, WeightStorage::Owned, threads)
            .with_instruction_set(&options.isa);
        let control = Control::new();
        let layer = cpu.load_layer(&checkpoint.layers[0], &control)?;
        let head = cpu.load_head(&checkpoint.head, &control)?;
        let mut cache = cpu.cache(options.kv);
        let pages: Vec<PageId> = (0..positions.div_ceil(PAGE) as u32).map(PageId).collect();
        let values: Vec<u8> = (0..page_bytes(&config, options.kv) / 2)
            .map(|byte| (byte as u32).wrapping_mul(2_654_435_769).to_le_bytes()[3])
            .enumerate()
            // Exponents of numbers about 1.
            .map(
                |(i, byte)| {
                    if i % options.kv.size() == options.kv.size() - 1 { 0x3e | byte & 0x81 } else { byte }
                },
            )
            .collect();
        for &page in &pages {
            cpu.allocate_page(&mut cache, page)?;
            for part in [KvPart::Key, KvPart::Value] {
                cpu.write_page(&mut cache, page, 0, part, &values)?;
            }
        }
        let scratch = cpu.scratch();
        Ok(Self { cpu, config, layer, head, cache, scratch, pages })
    }

    /// Seconds that `rows` take from `position` on.
    fn run(&mut self, rows: usize, position: usize) -> Result<f64> {
        let control = Control::new();
        let row = |i: usize| Row { token: i as u32, position: (position + i) as u32 };
        let batch_rows: Vec<Row> = (0..rows).map(row).collect();
        let pages = (position + rows).div_ceil(PAGE);
        let sequences = [Sequence { rows: 0..rows, pages: 0..pages }];
        let batch = Batch::new(&batch_rows, &sequences, &self.pages[..pages], &control)?;
        self.cpu.embed(&self.head, &batch, &mut self.scratch)?;
        let start = Instant::now();
        self.cpu.attention(&self.layer, 0, &batch, &mut self.cache, &mut self.scratch)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

fn main() -> Result<()> {
    let Some(options) = Options::parse() else {
        eprintln!(
            "usage: attention_bench [threads=N] [isa=NAME] [precision=exact] [kv=f32] [heads=48/8] [runs=N] [case=ROWS@POSITION]"
        );
        std::process::exit(2);
    };
    let positions = options.cases.iter().map(|[rows, position]| rows + position).max().unwrap_or_default();
    let mut bench = Bench::new(&options, positions)?;
    println!("{}", bench.cpu.name());
    for &[rows, position] in &options.cases {
        let mut best = f64::INFINITY;
        for _ in 0..options.runs {
            best = best.min(bench.run(rows, position)?);
        }
        let bytes = page_bytes(&bench.config, options.kv) / PAGE * (position + rows);
        let seen: usize = (position + 1..=position + rows).sum();
        let operations = 4 * bench.config.query_width() * seen;
        println!(
            "{rows:4} rows at {position:5}: {:8.3} ms, {:5.1} GB/s, {:6.3} TFLOP/s",
            best * 1e3,
            bytes as f64 / best / 1e9,
            operations as f64 / best / 1e12
        );
    }
    Ok(())
}
