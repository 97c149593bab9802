//! Tensors, plans and conversions: what C is told is what Rust is told.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use grok1::capi::*;
use grok1::checkpoint::{Synthetic, synthetic};
use grok1::convert::{Conversion, Recipe};
use grok1::plan::{Device, KNOWN_DEVICES, PlanOptions};
use grok1::{Checkpoint, Control};

use super::c::scratch;
use super::handles::{fails, ok};

const SPEC: &str = "layers=2,width=64,heads=4,kv_heads=2,head_dim=16,experts=4,ffn=96,vocab=64,context=64";

fn open() -> (Checkpoint, *mut grok1_checkpoint) {
    let mut checkpoint = ptr::null_mut();
    let spec = CString::new(SPEC).unwrap();
    // SAFETY: a spec, and a place for the checkpoint.
    ok(|error| unsafe { grok1_checkpoint_synthetic(spec.as_ptr(), &mut checkpoint, error) });
    (synthetic(&SPEC.parse::<Synthetic>().unwrap()).unwrap(), checkpoint)
}

/// A struct that a function fills.
fn filled<T>(fill: impl FnOnce(*mut T, usize, *mut *mut grok1_error) -> grok1_status) -> T {
    // SAFETY: structs of numbers and pointers, all of which may be zero.
    let mut value = unsafe { std::mem::zeroed() };
    ok(|error| fill(&mut value, size_of::<T>(), error));
    value
}

/// # Safety
/// `text` is of the library, and alive.
unsafe fn text(text: *const c_char) -> &'static str {
    // SAFETY: as this function asks, for as long as it is looked at.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap()
}

#[test]
fn tensors_and_hyperparameters_are_those_of_rust() {
    let (expected, checkpoint) = open();
    // SAFETY: a checkpoint of this test.
    unsafe {
        let info = filled(|info, size, error| grok1_checkpoint_get_info(checkpoint, info, size, error));
        assert_eq!(text(info.format), "synthetic");
        assert_eq!(text(info.location), expected.location);
        assert_eq!((info.bytes, info.bytes_per_token), (expected.bytes(), expected.bytes_per_token()));
        assert_eq!((info.tensors, info.vocabulary), (expected.tensors.len(), 0));
        for (index, stored) in expected.tensors.iter().enumerate() {
            let tensor = filled(|tensor, size, error| {
                grok1_checkpoint_get_tensor(checkpoint, index, tensor, size, error)
            });
            assert_eq!(text(tensor.name), stored.name);
            assert_eq!((text(tensor.dtype), tensor.bytes), (stored.dtype.name(), stored.bytes));
            assert_eq!(std::slice::from_raw_parts(tensor.shape, tensor.n_shape), stored.shape);
            let scales = stored.scales.as_deref();
            assert_eq!(tensor.scales.is_null(), scales.is_none());
            assert_eq!(tensor.n_scales, scales.map_or(0, <[u64]>::len));
        }
        let config =
            filled(|config, size, error| grok1_checkpoint_get_config(checkpoint, config, size, error));
        assert_eq!((config.layers, config.ffn_width, config.vocab), (2, 96, 64));
        assert_eq!((config.attention_cap, config.output_cap), (30.0, 0.0));
        grok1_checkpoint_free(checkpoint);
    }
}

#[test]
fn a_plan_is_that_of_rust() {
    let (expected, checkpoint) = open();
    let devices = [c"2xh100".as_ptr(), c"mine:1GB:2GB/s".as_ptr()];
    let options =
        grok1_plan_options { devices: devices.as_ptr(), n_devices: 2, sessions: 3, ..Default::default() };
    let rust = PlanOptions::new().sessions(3).devices(Device::parse("2xh100").unwrap());
    let expected = expected.plan(&rust.devices(Device::parse("mine:1GB:2GB/s").unwrap()));
    let mut plan = ptr::null_mut();
    // SAFETY: handles of this test.
    unsafe {
        ok(|error| grok1_checkpoint_plan(checkpoint, &options, &mut plan, error));
        grok1_checkpoint_free(checkpoint);
        let info = filled(|info, size, error| grok1_plan_get_info(plan, info, size, error));
        assert_eq!((info.weights, info.kv_per_session), (expected.weights, expected.kv_per_session));
        assert_eq!((info.sessions, info.context, info.fits), (3, 64, 1));
        assert_eq!(info.layer_split_empty, expected.layer_split.unwrap().empty);
        assert_eq!((info.shares, info.places), (expected.shares.len(), expected.places.len()));
        for (index, expected) in expected.places.iter().enumerate() {
            let place = filled(|place, size, error| grok1_plan_get_place(plan, index, place, size, error));
            assert_eq!(text(place.name), expected.device.name);
            assert_eq!(place.first_layer..place.first_layer + place.layers, expected.layers);
            assert_eq!((place.weights, place.used != 0), (expected.weights, expected.is_used()));
        }
        for (index, expected) in expected.shares.iter().enumerate() {
            let share = filled(|share, size, error| grok1_plan_get_share(plan, index, share, size, error));
            assert_eq!((text(share.component), share.bytes), (expected.component.name(), expected.bytes));
        }
        grok1_plan_free(plan);
    }
}

#[test]
fn known_devices_are_those_of_rust() {
    for (index, known) in KNOWN_DEVICES.iter().enumerate() {
        // SAFETY: a place for the device.
        unsafe {
            let device = filled(|device, size, error| grok1_known_device(index, device, size, error));
            assert_eq!((text(device.name), device.memory), (known.names[0], known.memory));
            assert_eq!((text(device.source), device.bandwidth), (known.source, known.bandwidth.unwrap_or(0)));
        }
    }
}

#[test]
fn recipes_are_those_of_rust() {
    let names = (0..).map(|index| grok1_recipe_name(index)).take_while(|name| !name.is_null());
    // SAFETY: names live as long as the process.
    assert!(names.map(|name| unsafe { text(name) }).eq(Recipe::names()));
}

#[test]
fn a_conversion_writes_the_bytes_that_rust_writes() {
    let (expected, checkpoint) = open();
    let folder = scratch("convert");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let [rust, c] = ["rust.gguf", "c.gguf"].map(|name| folder.join(name));
    let recipe = Recipe::named("q4_0").unwrap().except("ffn_down=q8_0").unwrap();
    let report = Conversion::to_gguf(&expected, recipe).run(&rust, &Control::new()).unwrap();

    let exceptions = [c"ffn_down=q8_0".as_ptr()];
    let options = grok1_conversion_options {
        recipe: c"Q4_0".as_ptr(),
        exceptions: exceptions.as_ptr(),
        n_exceptions: 1,
        ..Default::default()
    };
    let path = CString::new(c.to_str().unwrap()).unwrap();
    let mut conversion = ptr::null_mut();
    // SAFETY: handles of this test.
    unsafe {
        ok(|error| grok1_conversion_new(checkpoint, &options, &mut conversion, error));
        grok1_checkpoint_free(checkpoint);
        let (path, control) = (path.as_ptr(), ptr::null());
        let written =
            filled(|out, size, error| grok1_conversion_run(conversion, path, control, out, size, error));
        assert_eq!((written.tensors, written.bytes), (report.tensors, report.bytes));
        assert_eq!((written.files, written.int8_blocks), (1, report.int8.blocks));
        assert_eq!(text(grok1_conversion_file(conversion, 0)), c.to_str().unwrap());
        assert!(grok1_conversion_file(conversion, 1).is_null());
        let verified =
            filled(|out, size, error| grok1_conversion_verify(conversion, path, control, out, size, error));
        let (mut dtype, mut deviation) = (ptr::null(), 0.0);
        for index in 0..verified.types {
            ok(|error| grok1_conversion_deviation(conversion, index, &mut dtype, &mut deviation, error));
            assert!(deviation < 0.2, "{} {deviation}", text(dtype));
        }
        let mut report: grok1_conversion_report = std::mem::zeroed();
        let message = fails(GROK1_ERR_ARGUMENT, |error| {
            grok1_conversion_run(conversion, path, control, &mut report, size_of_val(&report), error)
        });
        assert!(message.contains("c.gguf"), "{message}");
        grok1_conversion_free(conversion);
    }
    assert!(std::fs::read(rust).unwrap() == std::fs::read(c).unwrap());
}
