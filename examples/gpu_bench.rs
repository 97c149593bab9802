//! How fast the kernels of decoding read weights, beside how fast the device copies: JSON, a line for the device and one for each kernel.
//!
//! `cargo run --release --features cuda --example gpu_bench -- cuda:0 [SHAPE] [TYPE…]`, where the shape is as for
//! `grok1 bench --synthetic`, `grok1` for Grok-1's. Every launch reads other matrices than the one before: of other experts, or of other
//! layers. Where there are kernels for matrix instructions, which the backend then uses, both are measured.

use std::error::Error;
use std::sync::Arc;

use grok1::backend::PAGE;
use grok1::backend::gpu::kernels::{
    self, Format, Groups, Kernel, KernelSet, Rows, THREADS, TILE_INPUTS, TILE_OUTPUTS, files, source,
};
use grok1::backend::gpu::{
    Blas, Buffer, CompileOptions, Device, Function, Gemm, Launch, Module, Program, Runtime, Stream, compile,
    copy_bandwidth,
};
use grok1::checkpoint::{self, Synthetic};
use grok1::{Layout, Matrix, ModelConfig};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What is measured, unless the arguments say otherwise.
const TYPES: [&str; 9] = ["i8", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0", "iq4_xs", "q3_k", "iq3_xxs"];

/// Matrices of a kind. Two of them are far more than caches hold, or there are enough of them.
const MATRICES: usize = 8;

/// Launches that are timed together.
const LAUNCHES: usize = 32;

/// Tokens: as most are decoded, and as many as share a read of the weights.
const TOKENS: [usize; 2] = [1, 16];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let device: grok1::Device = arguments.next().ok_or("usage: gpu_bench DEVICE [SHAPE] [TYPE…]")?.parse()?;
    let shape =
        arguments.next().filter(|shape| shape != "grok1").map_or(String::new(), |shape| format!(",{shape}"));
    let types: Vec<String> = arguments.collect();
    let types = if types.is_empty() { TYPES.map(str::to_owned).to_vec() } else { types };
    match device {
        #[cfg(feature = "cuda")]
        grok1::Device::Cuda(ordinal) => run::<grok1::backend::gpu::Cuda>(ordinal, &shape, &types),
        #[cfg(feature = "hip")]
        grok1::Device::Hip(ordinal) => run::<grok1::backend::gpu::Hip>(ordinal, &shape, &types),
        other => Err(format!("{other} is no GPU that this program has code for").into()),
    }
}

fn run<R: Runtime>(ordinal: usize, shape: &str, types: &[String]) -> Result<()> {
    let device = Device::open(&Arc::new(R::load()?), ordinal)?;
    let bandwidth = copy_bandwidth(&device)?;
    let matrix_flops = matrix_flops(&device).map_err(|error| eprintln!("no matrix rate: {error}")).ok();
    let properties = device.properties();
    let line = json!({
        "device": properties.name, "architecture": properties.architecture, "driver": properties.driver.to_string(),
        "copy_bandwidth": bandwidth, "link_bandwidth": link_bandwidth(&device)?, "matrix_flops": matrix_flops,
    });
    println!("{line}");
    for dtype in types {
        let model: Synthetic = format!("layers=1,vocab=256,type={dtype},head_type=f32{shape}").parse()?;
        Bench::new(device.clone(), &model, bandwidth)?.run()?;
    }
    Ok(())
}

/// Bytes per second that come to the device from pinned memory.
fn link_bandwidth<R: Runtime>(device: &Device<R>) -> Result<f64> {
    let from = device.pinned(256 << 20)?;
    let to = device.allocate(from.len(), "a copy that is timed")?;
    let stream = device.stream()?;
    let mut fastest = f32::INFINITY;
    for _ in 0..4 {
        let [start, end] = [device.timed_event()?, device.timed_event()?];
        stream.record(&start)?;
        // SAFETY: nobody writes to it, and dropping it waits.
        unsafe { stream.queue_write(&to, 0, &from) }?;
        stream.record(&end)?;
        fastest = fastest.min(end.milliseconds_since(&start)?);
    }
    Ok(from.len() as f64 / (f64::from(fastest) / 1e3))
}

/// Operations per second of the vendor's product of bf16 matrices: of Grok-1's sides with 4096 rows.
fn matrix_flops<R: Runtime>(device: &Device<R>) -> Result<f64> {
    let [rows, outputs, inputs] =
        if device.memory()?.total < 8 << 30 { [64; 3] } else { [4096, 32768, 6144] };
    let [out, x, weights] = [4 * rows * outputs, 2 * rows * inputs, 2 * outputs * inputs]
        .map(|bytes| device.allocate(bytes, "a product"));
    let (out, x, weights) = (out?, x?, weights?);
    let stream = device.stream()?;
    // Random enough to take the power that others take.
    let noise: Vec<u8> =
        (0..1 << 16_u32).map(|i: u32| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8 & 0xbf).collect();
    for buffer in [&x, &weights] {
        for at in (0..buffer.len()).step_by(noise.len()) {
            let bytes = noise.len().min(buffer.len() - at);
            // SAFETY: the bytes outlive the stream's work, which is waited for below.
            unsafe { stream.queue_write(buffer, at, &noise[..bytes]) }?;
        }
    }
    stream.synchronize()?;
    let mut blas = Blas::load(device)?;
    let shape = Gemm::new(rows, outputs, inputs, Layout::OutIn);
    let mut queue = || blas.gemm(&stream, (&out, 0), (&x, 0), (&weights, 0), &shape);
    queue()?;
    let [start, end] = [device.timed_event()?, device.timed_event()?];
    stream.record(&start)?;
    (0..LAUNCHES).try_for_each(|_| queue())?;
    stream.record(&end)?;
    let seconds = f64::from(end.milliseconds_since(&start)?) / 1e3;
    Ok((LAUNCHES * 2 * rows * outputs * inputs) as f64 / seconds)
}

/// Matrices of one role, one after another.
struct Weights<R: Runtime> {
    format: Format,
    /// As kernels see the first.
    matrix: kernels::Matrix,
    /// Of each.
    bytes: usize,
    scale_bytes: usize,
    _buffers: [Buffer<R>; 2],
}

impl<R: Runtime> Weights<R> {
    fn nth(&self, index: usize) -> kernels::Matrix {
        let scales =
            if self.matrix.scales == 0 { 0 } else { self.matrix.scales + (index * self.scale_bytes) as u64 };
        kernels::Matrix { data: self.matrix.data + (index * self.bytes) as u64, scales, ..self.matrix }
    }
}

/// The kernels of a type, and what they work on.
struct Bench<R: Runtime> {
    device: Device<R>,
    stream: Stream<R>,
    config: ModelConfig,
    dtype: String,
    bandwidth: f64,
    /// Queries, keys, values, output; gate, up, down.
    weights: [Weights<R>; 7],
    /// More than any kernel reads or writes of activations.
    input: Buffer<R>,
    output: Buffer<R>,
}

impl<R: Runtime> Bench<R> {
    fn new(device: Device<R>, model: &Synthetic, bandwidth: f64) -> Result<Self> {
        let mut checkpoint = checkpoint::synthetic(model)?;
        let layer = checkpoint.layers.remove(0);
        let stream = device.stream()?;
        let plain = module(&device, KernelSet::Plain)?.function(&Kernel::Generate.name(), 0)?;
        let roles = [
            &layer.query,
            &layer.key,
            &layer.value,
            &layer.output,
            &layer.gate[0],
            &layer.up[0],
            &layer.down[0],
        ];
        let mut weights = Vec::new();
        for matrix in roles {
            weights.push(load(&device, &stream, &plain, matrix)?);
        }
        let weights = weights.try_into().map_err(|_| "seven roles")?;
        let config = checkpoint.config;
        let values =
            64 * config.ffn_width.max(config.query_width()).max(config.width) * config.selected_experts;
        let input = device.allocate(4 * values, "activations")?;
        let output = device.allocate(4 * values, "activations")?;
        // About 0.0117 each, and exact in bf16.
        stream.fill(&input, 0, input.len(), 0x3c)?;
        let dtype = layer.gate[0].dtype.to_string();
        Ok(Self { device, stream, config, dtype, bandwidth, weights, input, output })
    }

    fn run(&self) -> Result<()> {
        let format = self.weights[0].format;
        let architecture = &self.device.properties().architecture;
        let mma = format.with_mma().filter(|mma| Kernel::Linear(*mma, Rows::One).runs_on(architecture));
        for format in [Some(format), mma].into_iter().flatten() {
            let module = module(&self.device, KernelSet::Format(format))?;
            for tokens in TOKENS {
                self.attention(format, &module, tokens)?;
                self.experts(format, &module, tokens)?;
            }
        }
        Ok(())
    }

    /// Queries, keys and values; the output projection.
    fn attention(&self, format: Format, module: &Module<R>, tokens: usize) -> Result<()> {
        let [query, key, value, output, ..] = &self.weights;
        let rows = Rows::of(tokens);
        let kernel = Kernel::Qkv(format, rows);
        let [heads, kv_heads, head_dim] =
            [self.config.heads, self.config.kv_heads, self.config.head_dim].map(|size| size as i32);
        let page = self.device.allocate(2 * self.config.kv_width() * PAGE * 2, "a page")?;
        let pages = self.buffer([page.pointer().0.to_le_bytes()])?;
        let first = self.buffer([0_i32; TOKENS[1]].map(i32::to_le_bytes))?;
        let positions = self.buffer((0..TOKENS[1] as i32).map(i32::to_le_bytes))?;
        let rotary = self.buffer((0..PAGE * self.config.head_dim).map(|_| 0.5_f32.to_le_bytes()))?;
        let cache = kernels::Cache {
            pages: pages.pointer().0,
            first: first.pointer().0,
            positions: positions.pointer().0,
            layer: 0,
            kv_heads,
            head_dim,
            is_bf16: 1,
        };
        let grid = [
            self.config.head_dim / 2 / format.strip(),
            (heads + 2 * kv_heads) as usize,
            tokens.div_ceil(rows.count()),
        ];
        let (x, out, angles) = (self.input.pointer(), self.output.pointer(), rotary.pointer());
        let (first_head, count, round) = (0_i32, tokens as i32, 1_i32);
        self.time(
            module,
            kernel,
            tokens,
            query.bytes + key.bytes + value.bytes,
            grid,
            |kernel, launch, index| {
                let [query, key, value] = [query, key, value].map(|weights| weights.nth(index));
                // SAFETY: as the kernel's file has them, of buffers that hold as much and live until the work was waited for.
                Ok(unsafe {
                    self.stream.launch(
                        kernel,
                        launch,
                        [
                            (&out).into(),
                            (&cache).into(),
                            (&x).into(),
                            (&query).into(),
                            (&key).into(),
                            (&value).into(),
                            (&angles).into(),
                            (&heads).into(),
                            (&first_head).into(),
                            (&count).into(),
                            (&round).into(),
                        ],
                    )
                }?)
            },
        )?;
        let grid = [self.config.width.div_ceil(format.strip()), tokens.div_ceil(rows.count()), 1];
        let (scale, cap) = (1_f32, 0_f32);
        self.time(
            module,
            Kernel::Linear(format, rows),
            tokens,
            output.bytes,
            grid,
            |kernel, launch, index| {
                let matrix = output.nth(index);
                // SAFETY: as the kernel's file has them, of buffers that hold as much and live until the work was waited for.
                Ok(unsafe {
                    self.stream.launch(
                        kernel,
                        launch,
                        [
                            (&out).into(),
                            (&x).into(),
                            (&matrix).into(),
                            (&count).into(),
                            (&scale).into(),
                            (&cap).into(),
                        ],
                    )
                }?)
            },
        )
    }

    /// Gate and up; down.
    fn experts(&self, format: Format, module: &Module<R>, tokens: usize) -> Result<()> {
        let [.., gate, up, down] = &self.weights;
        let rows = Rows::of(tokens);
        let (x, out) = (self.input.pointer(), self.output.pointer());
        let selected = self.config.selected_experts;
        let used = MATRICES.min(tokens * selected);
        // Those of each launch: of one token, other experts than before.
        let mut groups = Vec::new();
        let mut kept = Vec::new();
        for shift in (0..MATRICES).step_by(used) {
            let mut experts: Vec<Vec<i32>> = vec![Vec::new(); MATRICES];
            for pair in 0..tokens * selected {
                experts[(shift + pair) % MATRICES].push(pair as i32);
            }
            let present: Vec<i32> =
                (0..MATRICES as i32).filter(|&expert| !experts[expert as usize].is_empty()).collect();
            let mut starts = vec![0];
            for &expert in &present {
                starts.push(starts[starts.len() - 1] + experts[expert as usize].len() as i32);
            }
            let buffer = |numbers: &[i32]| self.buffer(numbers.iter().map(|number| number.to_le_bytes()));
            let buffers = [buffer(&present)?, buffer(&starts)?, buffer(&experts.concat())?];
            let [experts, starts, pairs] = buffers.each_ref().map(|buffer| buffer.pointer().0);
            groups.push(Groups { experts, starts, pairs });
            kept.push(buffers);
        }
        let (all, round, share) = (selected as i32, 1_i32, 1_i32);
        let (gate_matrix, up_matrix, down_matrix) = (gate.nth(0), up.nth(0), down.nth(0));
        let grid = [self.config.ffn_width.div_ceil(format.strip()), used, 1];
        let bytes = used * (gate.bytes + up.bytes);
        self.time(module, Kernel::GateUp(format, rows), tokens, bytes, grid, |kernel, launch, index| {
            let own = &groups[index % groups.len()];
            // SAFETY: as the kernel's file has them, of buffers that hold as much and live until the work was waited for.
            Ok(unsafe {
                self.stream.launch(
                    kernel,
                    launch,
                    [
                        (&out).into(),
                        (&x).into(),
                        (&gate_matrix).into(),
                        (&up_matrix).into(),
                        own.into(),
                        (&all).into(),
                        (&round).into(),
                    ],
                )
            }?)
        })?;
        let grid = [self.config.width.div_ceil(format.strip()), used, 1];
        self.time(
            module,
            Kernel::ExpertLinear(format, rows),
            tokens,
            used * down.bytes,
            grid,
            |kernel, launch, index| {
                let own = &groups[index % groups.len()];
                // SAFETY: as the kernel's file has them, of buffers that hold as much and live until the work was waited for.
                Ok(unsafe {
                    self.stream.launch(
                        kernel,
                        launch,
                        [(&out).into(), (&x).into(), (&down_matrix).into(), own.into(), (&share).into()],
                    )
                }?)
            },
        )
    }

    /// Times launches of a kernel, each with the matrix of its number, and prints the line.
    fn time(
        &self,
        module: &Module<R>,
        kernel: Kernel,
        tokens: usize,
        bytes: usize,
        grid: [usize; 3],
        queue: impl Fn(&Function<R>, Launch, usize) -> Result<()>,
    ) -> Result<()> {
        let function = module.function(&kernel.name(), 0)?;
        let launch =
            Launch { grid: grid.map(|size| size as u32), block: [THREADS as u32, 1, 1], shared_bytes: 0 };
        let queue = |index: usize| queue(&function, launch, index % MATRICES);
        (0..MATRICES).try_for_each(&queue)?;
        let [start, end] = [self.device.timed_event()?, self.device.timed_event()?];
        self.stream.record(&start)?;
        (0..LAUNCHES).try_for_each(&queue)?;
        self.stream.record(&end)?;
        let seconds = f64::from(end.milliseconds_since(&start)?) / 1e3 / LAUNCHES as f64;
        let rate = bytes as f64 / seconds;
        let line = json!({
            "kernel": kernel.name(), "type": self.dtype, "tokens": tokens, "bytes": bytes,
            "microseconds": seconds * 1e6, "bytes_per_second": rate, "share": rate / self.bandwidth,
        });
        println!("{line}");
        Ok(())
    }

    fn buffer<const N: usize>(&self, numbers: impl IntoIterator<Item = [u8; N]>) -> Result<Buffer<R>> {
        let bytes: Vec<u8> = numbers.into_iter().flatten().collect();
        let buffer = self.device.allocate(bytes.len(), "numbers")?;
        self.stream.write(&buffer, 0, &bytes)?;
        Ok(buffer)
    }
}

fn module<R: Runtime>(device: &Device<R>, set: KernelSet) -> Result<Module<R>> {
    let properties = device.properties();
    let mut kernels = set.kernels();
    kernels.retain(|kernel| kernel.runs_on(&properties.architecture));
    let files = files();
    let headers: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_ref())).collect();
    let (name, text) = (format!("{}.cu", set.name()), source(properties.warp, &kernels));
    let program = Program::new(&name, &text).headers(&headers);
    let code = compile(&**device.runtime(), &program, &properties.architecture, &CompileOptions::new())?;
    Ok(device.load(code)?)
}

/// Random matrices like this one, made on the device and packed as the backend packs them.
fn load<R: Runtime>(
    device: &Device<R>,
    stream: &Stream<R>,
    generate: &Function<R>,
    matrix: &Matrix,
) -> Result<Weights<R>> {
    let &Matrix { dtype, layout, inputs, outputs, .. } = matrix;
    let shape = || format!("no packed {dtype} of {inputs} x {outputs}");
    let format = Format::packed(dtype, layout, inputs, outputs).ok_or_else(shape)?;
    let pack = module(device, KernelSet::Format(format))?.function(&Kernel::Pack(format).name(), 0)?;
    let bytes = format.bytes(inputs, outputs);
    let data = device.allocate(MATRICES * bytes, "weights")?;
    let stored = device.allocate(matrix.data.len() as usize, "weights to be packed")?;

    let formula = matrix.data.formula().ok_or("weights that the device cannot make")?;
    let masks: Vec<u8> = formula.masks.as_flattened().iter().flat_map(|word| word.to_le_bytes()).collect();
    let table = device.allocate(masks.len(), "random weights")?;
    stream.write(&table, 0, &masks)?;
    let (masks, from, count) = (table.pointer(), stored.pointer(), stored.len() as u64 / 8);
    let block = [THREADS as u32, 1, 1];
    let generating = Launch { grid: [count.div_ceil(THREADS as u64) as u32, 1, 1], block, shared_bytes: 0 };
    let packing = Launch {
        grid: [(inputs / TILE_INPUTS) as u32, (outputs / TILE_OUTPUTS) as u32, 1],
        block,
        shared_bytes: 0,
    };
    let (period, [rows, columns]) = (formula.masks.len() as u32, [inputs, outputs].map(|size| size as i32));
    for index in 0..MATRICES {
        let (key, to) = (formula.key + index as u64, data.pointer().offset(index * bytes));
        let arguments = [(&from).into(), (&masks).into(), (&key).into(), (&count).into(), (&period).into()];
        // SAFETY: one holds the matrix as it is stored, the other all masks.
        unsafe { stream.launch(generate, generating, arguments) }?;
        let arguments = [(&to).into(), (&from).into(), (&rows).into(), (&columns).into()];
        // SAFETY: one has room for the packed matrix, the other holds the stored one.
        unsafe { stream.launch(&pack, packing, arguments) }?;
    }
    stream.synchronize()?;

    let counts = matrix.scales.as_ref().map_or([0, 0], |scales| scales.counts(inputs, outputs));
    let scale_bytes = 4 * counts[0] * counts[1];
    let scales = device.allocate(MATRICES * scale_bytes, "scales")?;
    stream.fill(&scales, 0, scales.len(), 0x3c)?;
    let grain = matrix
        .scales
        .as_ref()
        .map_or([1, 1], |scales| [scales.inputs.min(inputs), scales.outputs.min(outputs)]);
    let described = kernels::Matrix {
        data: data.pointer().0,
        scales: if scale_bytes == 0 { 0 } else { scales.pointer().0 },
        scale_inputs: grain[0] as i32,
        scale_outputs: grain[1] as i32,
        inputs: rows,
        outputs: columns,
    };
    Ok(Weights { format, matrix: described, bytes, scale_bytes, _buffers: [data, scales] })
}
