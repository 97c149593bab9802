//! What models run on.

use std::ffi::{CStr, CString};
use std::ptr;

use grok1::capi::*;

use super::c::root;
use super::handles::{error_message, ok};

/// Loads the tiny model on a device: the name of that device, or what it fails with.
fn load(device: Option<&CStr>) -> Result<String, (grok1_status, String)> {
    let path = CString::new(root().join("assets/tiny").to_str().unwrap()).unwrap();
    let device = device.map_or(ptr::null(), CStr::as_ptr);
    let options = grok1_model_options { device, threads: 1, ..Default::default() };
    let (mut model, mut error) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: a path, options, and places for the results; the info's strings are read while the model lives.
    unsafe {
        let status = grok1_model_load(path.as_ptr(), &options, ptr::null(), &mut model, &mut error);
        if status != GROK1_OK {
            return Err((status, error_message(error)));
        }
        let mut info: grok1_model_info = std::mem::zeroed();
        ok(|error| grok1_model_get_info(model, &mut info, size_of_val(&info), error));
        let name = CStr::from_ptr(info.device).to_str().unwrap().to_owned();
        grok1_model_free(model);
        Ok(name)
    }
}

#[test]
fn a_model_runs_on_the_processor_unless_another_device_is_named() {
    assert!(load(None).unwrap().starts_with("cpu ("));
    assert!(load(Some(c"cpu")).unwrap().starts_with("cpu ("));
}

#[test]
fn a_device_that_is_none_is_refused() {
    let (status, message) = load(Some(c"gpu")).unwrap_err();
    assert_eq!(status, GROK1_ERR_ARGUMENT);
    assert!(message.starts_with("\"gpu\" is no device: expected cpu, "), "{message}");
    assert_eq!(
        load(Some(c"\xff")).unwrap_err(),
        (GROK1_ERR_UTF8, "device is not UTF-8 at byte 0".to_owned())
    );
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_says_why() {
    for (device, feature, is_built) in
        [(c"cuda:1000", c"cuda", cfg!(feature = "cuda")), (c"hip:1000", c"hip", cfg!(feature = "hip"))]
    {
        // SAFETY: a string.
        assert_eq!(unsafe { grok1_has(feature.as_ptr()) }, is_built);
        let (status, message) = load(Some(device)).unwrap_err();
        // No library, no driver that works, no device: of a thousand, some number is too high everywhere.
        assert!([GROK1_ERR_RESOURCE, GROK1_ERR_ARGUMENT].contains(&status), "{message}");
        assert_eq!(message.starts_with("not built in: "), !is_built, "{message}");
    }
}
