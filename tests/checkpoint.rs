//! Checkpoints in xAI's format are opened as what they are, and quickly.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use grok1::checkpoint::pickle::{self, Content};
use grok1::checkpoint::{self, Checkpoint, TensorInfo};
use grok1::{DType, FileFolder, FileSource, Folder, Layout, Matrix, MemorySource, ModelConfig, Source};

mod support {
    pub(crate) mod oracle;
    pub(crate) mod xai;
}
use support::oracle::oracle;
use support::xai;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny");

fn open(path: impl AsRef<Path>) -> Checkpoint {
    checkpoint::open(path, None).unwrap_or_else(|error| panic!("{}", grok1::Error::from(error).chain()))
}

/// The file as the writer of these tests makes it from its arrays.
fn rewritten(source: &FileSource) -> xai::Image {
    let array = |array: &pickle::Array| {
        let mut data = vec![0; (array.payload.end - array.payload.start) as usize];
        source.read_at(array.payload.start, &mut data).unwrap();
        xai::Array { dtype: array.dtype, shape: array.shape.clone(), data: Some(data) }
    };
    match pickle::read(source).unwrap() {
        Content::Plain(plain) => xai::plain(&array(&plain)),
        Content::Quantised { weight, scales } => xai::quantised(&array(&weight), &array(&scales)),
    }
}

#[test]
fn the_tiny_model_opens_from_its_folder_and_from_ckpt_0() {
    let outer = open(TINY);
    let inner = open(Path::new(TINY).join("ckpt-0"));
    for checkpoint in [&outer, &inner] {
        assert_eq!(checkpoint.layers.len(), 4);
        assert_eq!(checkpoint.tensors.len(), 50);
        let expected =
            ModelConfig::from_json(&fs::read_to_string(format!("{TINY}/config.json")).unwrap()).unwrap();
        assert_eq!(checkpoint.config, expected);
    }
    assert_eq!(outer.tensors, inner.tensors);
}

#[test]
fn a_matrix_lies_where_its_layout_says() {
    let tiny = open(TINY);
    let embedding = &tiny.head.embedding;
    assert_eq!((embedding.layout, embedding.dtype), (Layout::OutIn, DType::F32));
    assert_eq!((embedding.inputs, embedding.outputs, embedding.data.len()), (256, 2048, 4 * 256 * 2048));

    let key = &tiny.layers[0].key;
    assert_eq!((key.layout, key.dtype), (Layout::InOut, DType::I8));
    assert_eq!((key.inputs, key.outputs, key.data.len()), (256, 64, 256 * 64));
    let scales = key.scales.as_ref().unwrap();
    assert_eq!((scales.inputs, scales.outputs, scales.data.len()), (256, 1, 2 * 64));
    // The mapped bytes are those of the file.
    let file = fs::read(format!("{TINY}/ckpt-0/tensor00005_000")).unwrap();
    assert_eq!(key.data.slice().unwrap().unwrap(), &file[198..][..256 * 64]);

    let router = &tiny.layers[0].router;
    assert_eq!(
        (router.layout, router.dtype, router.inputs, router.outputs),
        (Layout::InOut, DType::F32, 256, 8)
    );
}

#[test]
fn experts_are_cut_out_of_their_file_one_after_the_other() {
    let tiny = open(TINY);
    let file = fs::read(&tiny.tensors[3].file).unwrap();
    let down = &tiny.layers[0].down;
    assert_eq!(down.len(), 8);
    assert_eq!(down[5].name, "transformer/decoder_layer_0/moe/linear_1[5]");
    let (first, last) = (down[0].data.slice().unwrap().unwrap(), down[7].data.slice().unwrap().unwrap());
    let weights = [first, last].map(|part| part.as_ptr() as usize);
    assert_eq!(weights[1] - weights[0], 7 * 256 * 256);
    let scales = down[7].scales.as_ref().unwrap().data.slice().unwrap().unwrap();
    assert!(file.ends_with(&[scales, b"\x94t\x94bub."].concat()));
}

#[test]
fn every_checkpoint_of_the_oracle_opens_with_the_shapes_of_its_manifest() {
    let Some(oracle) = oracle() else { return };
    for (folder, row_groups) in [
        ("tiny", 1),
        ("tiny_g2", 2),
        ("tiny_g8", 8),
        ("random/r1_gqa2_vocab515", 1),
        ("random/r2_onelayer_odd", 1),
        ("random/r3_groups8", 8),
    ] {
        let folder = oracle.join(folder);
        let checkpoint = open(&folder);
        let manifest = fs::read(folder.join("manifest.json")).unwrap();
        let manifest: Vec<serde_json::Value> = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(checkpoint.tensors.len(), manifest.len());
        for (info, expected) in checkpoint.tensors.iter().zip(&manifest) {
            assert_described(info, expected);
        }
        for layer in &checkpoint.layers {
            let row_cut = [&layer.output].into_iter().chain(&layer.down);
            assert!(row_cut.into_iter().all(|matrix| groups(matrix) == row_groups));
            let column_cut =
                [&layer.query, &layer.key, &layer.value].into_iter().chain(&layer.gate).chain(&layer.up);
            assert!(column_cut.into_iter().all(|matrix| groups(matrix) == 1));
        }
    }
}

/// How many scales each output has.
fn groups(matrix: &Matrix) -> usize {
    matrix.scales.as_ref().unwrap().counts(matrix.inputs, matrix.outputs)[0]
}

fn assert_described(info: &TensorInfo, expected: &serde_json::Value) {
    let shape = |key: &str| -> Option<Vec<u64>> { serde_json::from_value(expected[key].clone()).unwrap() };
    let file = Path::new(&info.file);
    assert_eq!(file.file_name().unwrap(), expected["file"].as_str().unwrap());
    assert_eq!(fs::metadata(file).unwrap().len(), expected["bytes"].as_u64().unwrap());
    // The manifest adds the parameter's name to its module's.
    assert_eq!(info.name, expected["name"].as_str().unwrap().rsplit_once('/').unwrap().0);
    assert_eq!(Some(&info.shape), shape("shape").as_ref());
    assert_eq!(info.scales, shape("scales_shape"));
    let dtype = match info.dtype {
        DType::F32 => "float32",
        DType::I8 => "int8",
        other => panic!("{other}"),
    };
    assert_eq!(dtype, expected["dtype"].as_str().unwrap());
    let elements: u64 = info.shape.iter().product();
    let scales: u64 = info.scales.iter().flatten().copied().reduce(|a, b| a * b).unwrap_or(0);
    assert_eq!(info.bytes, elements * info.dtype.block_bytes() + 2 * scales);
}

#[test]
fn layers_run_in_numeric_order_though_files_are_sorted_as_strings() {
    let Some(oracle) = oracle() else { return };
    let checkpoint = open(oracle.join("eleven-layers"));
    assert_eq!(checkpoint.config.layers, 11);
    for (number, layer) in checkpoint.layers.iter().enumerate() {
        assert_eq!(
            layer.query.name,
            format!("transformer/decoder_layer_{number}/multi_head_attention/query")
        );
    }
    let golden = fs::read(oracle.join("eleven-layers/golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
    let text = golden.to_string(); // with all names, among much else
    for info in &checkpoint.tensors {
        assert!(text.contains(&info.name), "{}", info.name);
    }
    // Layer 2 comes after layer 10.
    let file = |number: usize| Path::new(&checkpoint.tensors[number].file).file_name().unwrap().to_owned();
    assert_eq!(checkpoint.tensors[26].name, "transformer/decoder_layer_10/moe/linear");
    assert_eq!(file(26), "tensor00026_000");
    assert_eq!(checkpoint.tensors[38].name, "transformer/decoder_layer_2/moe/linear");
}

#[test]
fn the_writer_of_these_tests_writes_what_python_does() {
    for index in 0..50 {
        let path = format!("{TINY}/ckpt-0/tensor{index:05}_000");
        let image = rewritten(&FileSource::open(&path).unwrap());
        assert!(image.bytes() == fs::read(&path).unwrap(), "{path}");
    }
}

/// Sizes and payload offsets of the first files of the release: the two outside layers and those of one layer.
const PUBLISHED: [(u64, &[u64]); 14] = [
    (3_221_225_637, &[151]),
    (24_727, &[146]),
    (1_611_137_347, &[201, 1_610_613_043]),
    (1_611_399_491, &[201, 1_610_613_043]),
    (1_611_137_347, &[201, 1_610_613_043]),
    (6_293_814, &[199, 6_291_759]),
    (37_847_359, &[199, 37_749_039]),
    (37_761_334, &[199, 37_749_039]),
    (6_293_814, &[199, 6_291_759]),
    (24_727, &[146]),
    (24_727, &[146]),
    (24_727, &[146]),
    (24_727, &[146]),
    (196_770, &[148]),
];

#[test]
fn the_writer_of_these_tests_meets_the_sizes_and_offsets_of_the_release() {
    let files = xai::files(&ModelConfig::grok1(), 8);
    assert_eq!(files.len(), 770);
    assert_eq!(files.iter().map(|(_, image)| image.len()).sum::<u64>(), 318_239_886_140);
    for ((name, image), (size, payloads)) in files.iter().zip(PUBLISHED) {
        assert_eq!((image.len(), &*image.payloads), (size, payloads), "{name}");
    }
}

/// Opens a checkpoint with the shapes of the release in a process of its own, where few files may be open and memory can be
/// measured. The test runs itself again with the folder in this variable.
#[cfg(unix)]
#[test]
fn a_full_size_checkpoint_opens_at_once_with_little_memory_and_few_descriptors() {
    const FOLDER: &str = "GROK1_TEST_FULL_SIZE";
    if let Some(folder) = std::env::var_os(FOLDER) {
        return open_full_size(Path::new(&folder));
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("full-size-{}", std::process::id()));
    fs::create_dir_all(folder.join("ckpt-0")).unwrap();
    for (name, image) in xai::files(&ModelConfig::grok1(), 8) {
        image.write_sparse(&folder.join("ckpt-0").join(name)).unwrap();
    }
    let status = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 256 && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_full_size_checkpoint_opens_at_once_with_little_memory_and_few_descriptors",
            "--nocapture",
        ])
        .env(FOLDER, &folder)
        .status();
    fs::remove_dir_all(&folder).unwrap();
    assert!(status.unwrap().success());
}

#[cfg(unix)]
fn open_full_size(folder: &Path) {
    use std::time::{Duration, Instant};

    let start = Instant::now();
    let checkpoint = open(folder);
    let elapsed = start.elapsed();
    assert_eq!(checkpoint.config, ModelConfig::grok1());
    assert_eq!(checkpoint.layers[2].gate[7].name, "transformer/decoder_layer_2/moe/linear[7]");
    assert_eq!(groups(&checkpoint.layers[63].down[0]), 8);
    for (tensor, (_, payloads)) in checkpoint.tensors.iter().zip(PUBLISHED) {
        let found = match pickle::read(&FileSource::open(&tensor.file).unwrap()).unwrap() {
            Content::Plain(array) => vec![array.payload.start],
            Content::Quantised { weight, scales } => vec![weight.payload.start, scales.payload.start],
        };
        assert_eq!(found, payloads, "{}", tensor.file);
    }
    // The peak of resident memory, in KiB.
    let peak = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    eprintln!("opened in {elapsed:?}, peak memory {peak:?} KiB");
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    assert!(peak.is_none_or(|peak| peak < 50 * 1024), "{peak:?}");
}

/// Passes on what it is asked for and counts the bytes.
struct Counting {
    inner: FileFolder,
    read: Arc<AtomicU64>,
    opened: Mutex<Vec<String>>,
}

struct CountingSource {
    inner: Arc<dyn Source>,
    read: Arc<AtomicU64>,
}

impl Folder for Counting {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.inner.names()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Source>> {
        let inner = self.inner.open(name)?;
        self.opened.lock().unwrap().push(name.to_owned());
        Ok(Arc::new(CountingSource { inner, read: Arc::clone(&self.read) }))
    }
}

impl Source for CountingSource {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read.fetch_add(out.len() as u64, Ordering::Relaxed);
        self.inner.read_at(offset, out)
    }

    fn slice(&self, _: Range<u64>) -> io::Result<Option<&[u8]>> {
        panic!("opening looks at weights")
    }
}

#[test]
fn opening_reads_headers_only() {
    let read = Arc::new(AtomicU64::new(0));
    let folder = Counting {
        inner: FileFolder::new(format!("{TINY}/ckpt-0")),
        read: Arc::clone(&read),
        opened: Mutex::default(),
    };
    let given = MemorySource::new("given", fs::read(format!("{TINY}/tokenizer.model")).unwrap());
    checkpoint::open_folder(&folder, Some(&FileFolder::new(TINY)), Some(&given)).unwrap();
    assert!(read.load(Ordering::Relaxed) <= 50 * 3 * 512);
    assert_eq!(folder.opened.into_inner().unwrap().len(), 50);
}

#[test]
fn a_checkpoint_needs_no_order_of_its_folder_and_ignores_other_files() {
    struct Untidy(FileFolder);
    impl Folder for Untidy {
        fn name(&self) -> String {
            self.0.name()
        }
        fn names(&self) -> io::Result<Vec<String>> {
            let mut names = self.0.names()?;
            names.reverse();
            names.extend(
                ["README.md", "tensor00000_000.tmp", "tensor1_000", "Tensor00000_000"].map(str::to_owned),
            );
            Ok(names)
        }
        fn open(&self, name: &str) -> io::Result<Arc<dyn Source>> {
            self.0.open(name)
        }
    }
    let tidy = open(TINY);
    let untidy = Untidy(FileFolder::new(Path::new(TINY).join("ckpt-0")));
    let opened = checkpoint::open_folder(&untidy, Some(&FileFolder::new(TINY)), None).unwrap();
    assert_eq!(opened.tensors, tidy.tensors);
}
