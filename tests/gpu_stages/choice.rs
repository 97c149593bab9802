//! Which device a model is loaded on, which kernels its products take, and why not others.

use std::sync::Mutex;

use grok1::backend::gpu::{GpuError, Runtime};
use grok1::{Control, DType, Device, ErrorKind, Layout, Model};

use crate::support::models::{standard, tiny, tiny_path};
use crate::support::random::Random;
use crate::support::stages::{self, STANDARD, SUPER_BLOCKS, Shape, Stored};
use crate::{conformance, first};

/// What the library has logged.
struct Logged(Mutex<Vec<String>>);

static LOGGED: Logged = Logged(Mutex::new(Vec::new()));

impl log::Log for Logged {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// Has the library log from now on.
fn listen() {
    log::set_logger(&LOGGED).unwrap();
    log::set_max_level(log::LevelFilter::Info);
}

/// The device that is chosen, and what speaks against those before it.
fn automatic<R: Runtime>() -> (String, Vec<String>) {
    let model = tiny(first::<R>(standard()).device(Device::Auto));
    let mut reasons = model.passed_over().to_vec();
    // Of this runtime: the other is not there.
    reasons.retain(|reason| reason.contains(R::NAME));
    (model.device().split(' ').next().unwrap().to_owned(), reasons)
}

fn room<R: Runtime>() {
    assert_eq!(automatic::<R>(), (format!("{}:0", R::NAME), vec![]));
}

#[test]
fn auto_is_the_first_gpu_with_room_for_all_of_the_model() {
    if std::env::var("GROK1_GPU").is_err() {
        on_each_runtime!(room, "STANDIN_DEVICES" = "2");
    }
}

fn no_room<R: Runtime>() {
    let (device, lines) = automatic::<R>();
    assert_eq!(device, "cpu");
    let start = |ordinal| format!("not {}:{ordinal}: out of device memory: ", R::NAME);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (ordinal, line) in lines.iter().enumerate() {
        assert!(
            line.starts_with(&start(ordinal)) && line.contains(" bytes for all of the model, "),
            "{line}"
        );
    }
}

#[test]
fn auto_is_the_processor_where_no_gpu_has_room_and_the_model_says_why() {
    if std::env::var("GROK1_GPU").is_err() {
        on_each_runtime!(no_room, "STANDIN_DEVICES" = "2", "STANDIN_MEMORY" = "4000000");
    }
}

fn refused<R: Runtime>() {
    let load = |device: Device| {
        Model::open_with(tiny_path(), first::<R>(standard()).device(device), &Control::new()).unwrap_err()
    };
    let error = load(format!("{}:5", R::NAME).parse().unwrap());
    assert_eq!(error.to_string(), format!("no device {}:5: there are 1", R::NAME));
    assert_eq!(error.kind(), ErrorKind::Argument);
    let error = load(format!("{}:0", R::NAME).parse().unwrap());
    assert!(error.downcast_ref::<GpuError>().unwrap().missing_bytes().unwrap() > 0, "{error}");
    assert_eq!(error.kind(), ErrorKind::Resource);
}

#[test]
fn a_device_that_is_not_there_or_too_small_is_an_error() {
    if std::env::var("GROK1_GPU").is_err() {
        on_each_runtime!(refused, "STANDIN_MEMORY" = "4000000");
    }
}

fn tiles_that_do_not_fit<R: Runtime>() {
    listen();
    let shape = Shape { vocab: 144, ..SUPER_BLOCKS };
    let [four, eight] = [DType::Q4K, DType::Q8_0].map(|dtype| Stored::Plain(dtype, Layout::OutIn));
    let mut checkpoint = stages::checkpoint(stages::config(&shape), 1, four, four);
    let layer = &mut checkpoint.layers[0];
    let random = &mut Random(7);
    for matrix in layer.down.iter_mut().chain([&mut layer.key]) {
        *matrix = stages::matrix(random, eight, [matrix.inputs, matrix.outputs], 1);
    }
    conformance::conforms::<R>("keys and down of eight bits", &checkpoint, STANDARD[1]);
    let mut lines = LOGGED.0.lock().unwrap().clone();
    lines.retain(|line| line.starts_with("not used: "));
    let line = |kernel| {
        format!("not used: {kernel}_q8_0_packed wants 102400 bytes of shared memory, and blocks get 101376")
    };
    let expected = ["linear_tiled_mma", "expert_linear_tiled_mma"].map(line);
    assert_eq!(lines, if R::NAME == "cuda" { &expected[..] } else { &[] });
}

#[test]
fn of_many_rows_only_products_whose_tiles_do_not_fit_go_without_matrix_instructions() {
    if std::env::var("GROK1_GPU").is_err() {
        // What sm_86 has.
        on_each_runtime!(tiles_that_do_not_fit, "STANDIN_SHARED" = "101376");
    }
}
