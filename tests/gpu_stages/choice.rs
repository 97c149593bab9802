//! Which device a model is loaded on, and why it is not.

use grok1::backend::gpu::{GpuError, Runtime};
use grok1::{Control, Device, ErrorKind, Model};

use crate::first;
use crate::support::models::{standard, tiny, tiny_path};

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
