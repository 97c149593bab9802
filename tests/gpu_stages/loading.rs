//! Weights on their way to a device.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use grok1::backend::gpu::{Device, GpuError, Runtime};
use grok1::backend::{Backend, Batch, Observer, PageId, Row, Sequence};
use grok1::checkpoint::{self, Checkpoint, Synthetic};
use grok1::{
    Blob, Cancel, Control, DType, ErrorKind, Layout, MemorySource, Model, ModelOptions, Outcome, Result,
    Source,
};

use crate::open;
use crate::support::models::{logits, tiny_path};
use crate::support::stages::{BLOCKS, Stored, checkpoint, config};

fn blob(bytes: Vec<u8>) -> Blob {
    let len = bytes.len() as u64;
    Blob::new(Arc::new(MemorySource::new("memory", bytes)), 0..len).unwrap()
}

fn tiny() -> Checkpoint {
    checkpoint::open(tiny_path(), None).unwrap()
}

fn load<R: Runtime>(runtime: &Arc<R>, checkpoint: Checkpoint, control: &Control) -> Result<Model> {
    let gpu = open(runtime, &checkpoint.config);
    Model::load_on(gpu, checkpoint, ModelOptions::new(), control)
}

fn free<R: Runtime>(runtime: &Arc<R>) -> usize {
    Device::open(runtime, 0).unwrap().memory().unwrap().free
}

#[test]
fn a_tensor_of_several_blocks_lies_on_the_device_as_it_is_stored() {
    #[derive(Default)]
    struct Hidden(Vec<f32>);
    impl Observer for Hidden {
        fn hidden(&mut self, _: usize, hidden: &[f32]) {
            hidden.clone_into(&mut self.0);
        }
    }
    fn claim<R: Runtime>() {
        // 18 MiB.
        let (width, vocab) = (96, 49_157);
        let mut config = config(&BLOCKS);
        config.vocab = vocab;
        let plain = Stored::Plain(DType::F32, Layout::OutIn);
        let mut checkpoint = checkpoint(config.clone(), 1, plain, plain);
        let values: Vec<f32> = (0..vocab * width).map(|index| index as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let embedding = &mut checkpoint.head.embedding;
        (embedding.inputs, embedding.outputs) = (width, vocab);
        embedding.data = blob(bytes);

        let gpu = open(&Arc::new(R::load().unwrap()), &config);
        let control = Control::new();
        let head = gpu.load_head(&checkpoint.head, &control).unwrap();
        let (mut scratch, mut seen) = (gpu.scratch(), Hidden::default());
        let rows: Vec<Row> =
            (0..vocab).step_by(997).map(|token| Row { token: token as u32, position: 0 }).collect();
        let sequences: Vec<_> =
            (0..rows.len()).map(|row| Sequence { rows: row..row + 1, pages: 0..1 }).collect();
        let batch = Batch::new(&rows, &sequences, &[PageId(0)], &control).unwrap();
        gpu.embed(&head, &batch, &mut scratch).unwrap();
        gpu.observe_hidden(&scratch, 0, &mut seen).unwrap();
        for (row, hidden) in rows.iter().zip(seen.0.chunks_exact(width)) {
            let stored = &values[row.token as usize * width..][..width];
            let scaled: Vec<f32> = stored.iter().map(|value| value * config.embedding_scale).collect();
            assert_eq!(hidden, scaled, "token {}", row.token);
        }
    }
    on_each_runtime!(claim);
}

#[test]
fn progress_grows_to_the_bytes_there_are() {
    fn claim<R: Runtime>() {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&reports);
        let control = Control::new().progress(move |progress| heard.lock().unwrap().push(progress));
        let model = load(&Arc::new(R::load().unwrap()), tiny(), &control).unwrap();
        let reports = reports.lock().unwrap();
        let total = model.checkpoint().bytes();
        assert!(reports.iter().all(|progress| progress.total == total));
        assert!(reports.is_sorted_by_key(|progress| progress.done));
        assert_eq!(reports.last().unwrap().done, total);
        // More often than once for each layer.
        assert!(reports.len() > 4 * model.config().layers);
    }
    on_each_runtime!(claim);
}

#[test]
fn a_cancelled_load_leaves_nothing_on_the_device() {
    fn claim<R: Runtime>() {
        let runtime = Arc::new(R::load().unwrap());
        let before = free(&runtime);
        let cancel = Cancel::new();
        let midway = cancel.clone();
        let control = Control::new().cancel(&cancel).progress(move |progress| {
            if progress.done > progress.total / 2 {
                midway.set();
            }
        });
        let error = load(&runtime, tiny(), &control).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Outcome(Outcome::Cancelled));
        assert_eq!(free(&runtime), before);
    }
    on_each_runtime!(claim);
}

/// Bytes that cannot be read.
struct Unreadable(u64);

impl Source for Unreadable {
    fn name(&self) -> String {
        "a bad disk".to_owned()
    }

    fn len(&self) -> u64 {
        self.0
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::Error::other("bad sector"))
    }

    fn slice(&self, _: Range<u64>) -> io::Result<Option<&[u8]>> {
        Ok(None)
    }
}

#[test]
fn unreadable_bytes_name_their_tensor_and_leave_nothing_on_the_device() {
    fn claim<R: Runtime>() {
        let runtime = Arc::new(R::load().unwrap());
        let before = free(&runtime);
        let mut checkpoint = tiny();
        let layers = checkpoint.layers.len();
        let down = &mut checkpoint.layers[layers - 1].down[1];
        down.data = Blob::new(Arc::new(Unreadable(down.data.len())), 0..down.data.len()).unwrap();
        let name = down.name.clone();
        let error = load(&runtime, checkpoint, &Control::new()).unwrap_err();
        assert_eq!(error.chain(), format!("{name}: cannot read weights: bad sector"));
        assert_eq!(free(&runtime), before);
    }
    on_each_runtime!(claim);
}

#[test]
fn numbers_that_are_not_finite_are_refused_where_they_are_read() {
    fn claim<R: Runtime>() {
        let mut checkpoint = tiny();
        let norm = &mut checkpoint.layers[0].moe_norm;
        let bytes: Vec<u8> = (0..norm.len).flat_map(|_| f32::NAN.to_le_bytes()).collect();
        (norm.dtype, norm.data) = (DType::F32, blob(bytes));
        let name = norm.name.clone();
        let error = load(&Arc::new(R::load().unwrap()), checkpoint, &Control::new()).unwrap_err();
        assert_eq!(error.chain(), format!("{name}: element 0 is NaN, expected a finite number"));
    }
    on_each_runtime!(claim);
}

#[test]
fn a_device_that_is_full_tells_what_is_missing_and_is_empty_afterwards() {
    fn claim<R: Runtime>() {
        let runtime = Arc::new(R::load().unwrap());
        let before = free(&runtime);
        let (large, control) = (tiny(), Control::new());
        let all = || -> Result<_> {
            let gpu = open(&runtime, &large.config);
            let head = gpu.load_head(&large.head, &control)?;
            let layers = large.layers.iter().map(|layer| gpu.load_layer(layer, &control));
            Ok((head, layers.collect::<Result<Vec<_>>>()?))
        };
        let error = all().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Resource);
        let missing = error.downcast_ref::<GpuError>().and_then(GpuError::missing_bytes);
        assert!(missing.is_some_and(|bytes| bytes > 0), "{error}");
        assert_eq!(free(&runtime), before);
        let gpu = open(&runtime, &large.config);
        gpu.load_layer(&large.layers[0], &control).unwrap();
    }
    if std::env::var("GROK1_GPU").is_err() {
        on_each_runtime!(claim, "STANDIN_MEMORY" = "5000000");
    }
}

/// Bytes that nobody can make.
struct Opaque(Blob);

impl Source for Opaque {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn slice(&self, _: Range<u64>) -> io::Result<Option<&[u8]>> {
        Ok(None)
    }
}

#[test]
fn random_weights_that_the_device_makes_are_the_hosts() {
    fn claim<R: Runtime>() {
        // Packed matrices with and without scales, and others that are as stored.
        for text in ["type=i8", "type=q4_k", "type=iq3_xxs", "type=q5_1,head_type=f16"] {
            let options: Synthetic = format!(
                "layers=2,width=256,heads=4,kv_heads=2,head_dim=64,experts=4,ffn=512,vocab=512,{text}"
            )
            .parse()
            .unwrap();
            let made = checkpoint::synthetic(&options).unwrap();
            assert!(made.layers[0].down[0].data.formula().is_some());
            let mut read = checkpoint::synthetic(&options).unwrap();
            let head = &mut read.head.embedding;
            let matrices = read.layers.iter_mut().flat_map(|layer| {
                let one = [&mut layer.query, &mut layer.key, &mut layer.value, &mut layer.output];
                one.into_iter().chain(&mut layer.gate).chain(&mut layer.up).chain(&mut layer.down)
            });
            for matrix in matrices.chain([head]) {
                let data = matrix.data.clone();
                let len = data.len();
                matrix.data = Blob::new(Arc::new(Opaque(data)), 0..len).unwrap();
            }
            let runtime = Arc::new(R::load().unwrap());
            let tokens: Vec<u32> = (0..5).map(|index| index * 97).collect();
            let [made, read] = [made, read].map(|checkpoint| {
                let model = load(&runtime, checkpoint, &Control::new()).unwrap();
                logits(&model, &tokens)
            });
            assert!(made.iter().flatten().all(|logit| logit.is_finite()));
            assert_eq!(made, read, "{text}");
        }
    }
    on_each_runtime!(claim);
}
