//! How fast the processor multiplies many rows by the experts' weights, by type of weights and instruction set: TFLOP/s.
//!
//! `cargo run --release --example cpu_products -- [THREADS [TYPE…]]`. Runs of the instruction sets alternate, and the fastest counts: machines
//! are shared.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use grok1::backend::cpu::Cpu;
use grok1::backend::{Backend, Batch, PAGE, PageId, Row, Sequence};
use grok1::checkpoint::{self, Synthetic};
use grok1::{Control, DType, ModelConfig, Precision, Threads, WeightStorage};

const TYPES: [&str; 9] = ["i8", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0", "q3_k", "q2_k", "bf16"];

/// Rows that go to each expert.
const ROWS: [usize; 3] = [16, 128, 512];

/// Times each is measured.
const REPEATS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let threads: usize = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    let types: Vec<String> = arguments.collect();
    let types = if types.is_empty() { TYPES.map(str::to_owned).to_vec() } else { types };
    // Grok-1's width, and two experts, narrower than its, which every row goes to.
    let mut config = ModelConfig::grok1();
    (config.layers, config.vocab, config.ffn_width) = (1, 256, 8192);
    (config.experts, config.selected_experts) = (2, 2);
    let control = Control::new();
    let mut names = Cpu::instruction_sets();
    names.retain(|name| *name != "scalar");
    let backends = names.iter().map(|name| {
        let pool = Arc::new(Threads::new(threads)?);
        let cpu = Cpu::new(config.clone(), Precision::Standard, WeightStorage::Owned, pool);
        Ok(cpu.with_instruction_set(name))
    });
    let backends = backends.collect::<std::io::Result<Vec<Cpu>>>()?;
    for name in types {
        let dtype = DType::ALL.into_iter().find(|dtype| dtype.name() == name);
        let dtype = dtype.ok_or_else(|| format!("{name} is no type of weights"))?;
        let model = checkpoint::synthetic(&Synthetic::new().config(config.clone()).dtype(dtype))?;
        let layer = backends[0].load_layer(&model.layers[0], &control)?;
        let head = backends[0].load_head(&model.head, &control)?;
        for count in ROWS {
            let rows: Vec<Row> = (0..count as u32).map(|i| Row { token: i * 7 % 256, position: i }).collect();
            let pages: Vec<PageId> = (0..count.div_ceil(PAGE) as u32).map(PageId).collect();
            let sequences = [Sequence { rows: 0..count, pages: 0..pages.len() }];
            let batch = Batch::new(&rows, &sequences, &pages, &control)?;
            let mut scratches = Vec::new();
            for backend in &backends {
                let mut scratch = backend.scratch();
                backend.embed(&head, &batch, &mut scratch)?;
                backend.route(&layer, &batch, &mut scratch)?;
                scratches.push(scratch);
            }
            let mut fastest = vec![f64::INFINITY; backends.len()];
            for _ in 0..REPEATS {
                for ((backend, scratch), fastest) in backends.iter().zip(&mut scratches).zip(&mut fastest) {
                    let started = Instant::now();
                    backend.experts(&layer, &batch, scratch)?;
                    *fastest = fastest.min(started.elapsed().as_secs_f64());
                }
            }
            let operations =
                (2 * count * config.selected_experts * 3 * config.width * config.ffn_width) as f64;
            print!("{name:6} {count:4} rows");
            for (name, seconds) in names.iter().zip(fastest) {
                print!("  {name} {:.2}", operations / seconds / 1e12);
            }
            println!();
        }
    }
    Ok(())
}
