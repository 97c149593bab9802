//! Whole passes through the layers: fused, and captured as graphs.

use std::sync::Arc;
use std::thread;

use grok1::backend::gpu::{CompileOptions, Gpu, GpuOptions, Runtime};
use grok1::backend::{Backend, Batch, Observer, PAGE, PageId, Routing, Row, Sequence};
use grok1::checkpoint::{self, Checkpoint};
use grok1::{Control, KvType};

use crate::stand_in;
use crate::support::models::tiny_path;

/// With one attached, a pass goes stage by stage.
struct Blind;

impl Observer for Blind {}

fn open<R: Runtime>(checkpoint: &Checkpoint, options: GpuOptions) -> Gpu<R> {
    let options = options.compile(CompileOptions::new().cache(stand_in::cache()));
    Gpu::open(&Arc::new(R::load().unwrap()), 0, checkpoint.config.clone(), options).unwrap()
}

fn load<R: Runtime>(gpu: &Gpu<R>, checkpoint: &Checkpoint) -> (Vec<Layer<R>>, Head<R>) {
    let control = Control::new();
    let layers = checkpoint.layers.iter().map(|layer| gpu.load_layer(layer, &control).unwrap()).collect();
    (layers, gpu.load_head(&checkpoint.head, &control).unwrap())
}

type Layer<R> = <Gpu<R> as Backend>::Layer;
type Head<R> = <Gpu<R> as Backend>::Head;

/// Logits of the last row of each batch of one sequence; whether somebody watches.
fn logits<R: Runtime>(
    checkpoint: &Checkpoint,
    options: GpuOptions,
    batches: &[usize],
    watched: bool,
) -> Vec<Vec<f32>> {
    let gpu = open::<R>(checkpoint, options);
    let (layers, head) = load(&gpu, checkpoint);
    run(&gpu, &layers, &head, batches, watched)
}

/// The same, on a model that is loaded.
fn run<R: Runtime>(
    gpu: &Gpu<R>,
    layers: &[Layer<R>],
    head: &Head<R>,
    batches: &[usize],
    watched: bool,
) -> Vec<Vec<f32>> {
    let control = Control::new();
    let (mut cache, mut scratch) = (gpu.cache(KvType::BF16), gpu.scratch());
    let mut position = 0;
    let run = |&count: &usize| {
        let rows: Vec<Row> = (position..position + count as u32)
            .map(|position| Row { token: position * 7 % 500, position })
            .collect();
        position += count as u32;
        let pages: Vec<PageId> = (0..position.div_ceil(PAGE as u32)).map(PageId).collect();
        pages.iter().for_each(|&page| gpu.allocate_page(&mut cache, page).unwrap());
        let sequences = [Sequence { rows: 0..count, pages: 0..pages.len() }];
        let batch = Batch::new(&rows, &sequences, &pages, &control).unwrap();
        gpu.embed(head, &batch, &mut scratch).unwrap();
        let mut blind = Blind;
        let observer: Option<&mut dyn Observer> = if watched { Some(&mut blind) } else { None };
        let mut layers_done = 0;
        let done = &mut || {
            layers_done += 1;
            Ok(())
        };
        gpu.forward(layers, &batch, &mut cache, &mut scratch, observer, done).unwrap();
        assert_eq!(layers_done, layers.len());
        let mut logits = vec![f32::NAN; VOCAB];
        gpu.head(head, &batch, &[count as u32 - 1], &mut scratch, &mut logits).unwrap();
        logits
    };
    batches.iter().map(run).collect()
}

/// Of the tiny model.
const VOCAB: usize = 2048;

fn bits(logits: Vec<Vec<f32>>) -> Vec<u32> {
    logits.into_iter().flatten().map(f32::to_bits).collect()
}

fn fused<R: Runtime>() {
    let checkpoint = checkpoint::open(tiny_path(), None).unwrap();
    // Prefill by tiles, a few rows, then token by token.
    let run =
        |watched| bits(logits::<R>(&checkpoint, GpuOptions::new().graphs(false), &[40, 5, 1, 1], watched));
    assert_eq!(run(false), run(true));
}

#[test]
fn a_pass_has_the_bits_of_its_stages() {
    on_each_runtime!(fused);
}

fn captured<R: Runtime>() {
    let checkpoint = checkpoint::open(tiny_path(), None).unwrap();
    // Each shape more than twice, with a larger batch in between that moves buffers; then a page and a span more.
    let batches = [1, 1, 1, 3, 1, 40, 1, 1, 3, 3, 15, 1, 60, 1, 1, 1];
    let run = |graphs| bits(logits::<R>(&checkpoint, GpuOptions::new().graphs(graphs), &batches, false));
    assert_eq!(run(true), run(false));
}

#[test]
fn a_captured_pass_has_the_bits_of_one_that_is_queued() {
    on_each_runtime!(captured);
}

fn threads<R: Runtime>() {
    let checkpoint = checkpoint::open(tiny_path(), None).unwrap();
    let gpu = open::<R>(&checkpoint, GpuOptions::new().graphs(true));
    let (layers, head) = load(&gpu, &checkpoint);
    // Queued layer by layer, captured, and queued whole.
    let batches = [1, 1, 1, 2, 2, 2];
    let run = || bits(run(&gpu, &layers, &head, &batches, false));
    let expected = run();
    thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(run));
        threads.into_iter().for_each(|thread| assert!(thread.join().unwrap() == expected));
    });
}

#[test]
fn passes_of_two_threads_on_one_device_have_the_bits_of_one() {
    on_each_runtime!(threads, "STANDIN_CAPTURE" = "50");
}

/// Whether the second device is still the calling thread's, as it was made below.
fn is_kept<R: Runtime>(runtime: &R) -> bool {
    let own = runtime.retain(1).unwrap();
    // SAFETY: the context is the runtime's.
    unsafe { runtime.bind(own) }.unwrap().is_none()
}

/// Looks at the thread's device whenever it is called.
struct Host<'a, R: Runtime>(&'a R);

impl<R: Runtime> Observer for Host<'_, R> {
    fn routing(&mut self, _: usize, _: &Routing<'_>) {
        assert!(is_kept(self.0));
    }

    fn hidden(&mut self, _: usize, _: &[f32]) {
        assert!(is_kept(self.0));
    }
}

fn with_a_device_of_its_own<R: Runtime>() {
    let checkpoint = checkpoint::open(tiny_path(), None).unwrap();
    let host = Arc::new(R::load().unwrap());
    let kept = |host: &R| assert!(is_kept(host));
    is_kept(&*host);
    let gpu = open::<R>(&checkpoint, GpuOptions::new().graphs(true));
    kept(&host);
    let progress = Arc::clone(&host);
    let control = Control::new().progress(move |_| kept(&progress));
    let layers: Vec<_> =
        checkpoint.layers.iter().map(|layer| gpu.load_layer(layer, &control).unwrap()).collect();
    let head = gpu.load_head(&checkpoint.head, &control).unwrap();
    gpu.loaded().unwrap();
    kept(&host);
    let (mut cache, mut scratch) = (gpu.cache(KvType::BF16), gpu.scratch());
    gpu.allocate_page(&mut cache, PageId(0)).unwrap();
    kept(&host);
    let (rows, pages) = ([Row { token: 1, position: 0 }], [PageId(0)]);
    let sequences = [Sequence { rows: 0..1, pages: 0..1 }];
    let batch = Batch::new(&rows, &sequences, &pages, &control).unwrap();
    for watched in [false, false, false, true] {
        gpu.embed(&head, &batch, &mut scratch).unwrap();
        kept(&host);
        let mut observer = Host(&*host);
        let observer: Option<&mut dyn Observer> = if watched { Some(&mut observer) } else { None };
        let done = &mut || {
            kept(&host);
            Ok(())
        };
        gpu.forward(&layers, &batch, &mut cache, &mut scratch, observer, done).unwrap();
        kept(&host);
        gpu.head(&head, &batch, &[0], &mut scratch, &mut [0.0; VOCAB]).unwrap();
        kept(&host);
    }
    drop((gpu, layers, head, cache, scratch));
    kept(&host);
}

#[test]
fn a_host_finds_its_own_device_as_it_left_it() {
    if std::env::var("GROK1_GPU").is_err() {
        on_each_runtime!(with_a_device_of_its_own, "STANDIN_DEVICES" = "2");
    }
}

fn by_blas<R: Runtime>() {
    let checkpoint = checkpoint::open(tiny_path(), None).unwrap();
    let run = |options| logits::<R>(&checkpoint, options, &[40], false).remove(0);
    let (found, exact) = (run(GpuOptions::new().blas_from(20)), run(GpuOptions::new()));
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let off = square(&mut found.iter().zip(&exact).map(|(a, b)| a - b)) / square(&mut exact.iter().copied());
    // Weights are rounded, which shows, and not much.
    let off = off.sqrt();
    assert!(off > 0.0 && off < 5e-3, "{off:.1e} off");
}

#[test]
fn many_rows_by_the_vendors_library_are_off_by_the_rounding_of_weights() {
    on_each_runtime!(by_blas);
}
