//! The device of a test, its kernels and its files.

use std::fs;
use std::path::PathBuf;
use std::process::id;
use std::sync::Arc;

use grok1::backend::gpu::{CompileOptions, Device, Module, Program, Runtime, compile};

/// The first device.
pub(crate) fn open<R: Runtime>() -> Device<R> {
    Device::open(&Arc::new(R::load().unwrap()), 0).unwrap()
}

/// Threads of a block in `kernels.cu`.
pub(crate) const THREADS: u32 = 64;

/// The options of `kernels.cu` for a device.
pub(crate) fn options<R: Runtime>(device: &Device<R>) -> [String; 2] {
    [format!("-DTHREADS={THREADS}"), format!("-DWARP={}", device.properties().warp)]
}

/// `kernels.cu`, compiled and loaded; kept for other processes.
pub(crate) fn kernels<R: Runtime>(device: &Device<R>) -> Module<R> {
    let options = options(device);
    let options = options.each_ref().map(String::as_str);
    let program = Program::new("kernels.cu", include_str!("kernels.cu")).options(&options);
    let architecture = &device.properties().architecture;
    let options = CompileOptions::new().cache(crate::stand_in::cache());
    let code = compile(&**device.runtime(), &program, architecture, &options);
    device.load(code.unwrap()).unwrap()
}

/// A folder of the test's own, removed in the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = crate::stand_in::tmp().join(format!("gpu-{name}-{}", id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
