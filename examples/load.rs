//! How fast the weights of a model get onto a GPU, beside what the link gives:
//! `cargo run --release --features cuda,hip --example load -- MODEL [cuda:0]`
//!
//! The model is loaded twice, so that the second time its files are in the page cache, if that is large enough; it has to fit on the GPU.

use grok1::Result;

#[cfg(any(feature = "cuda", feature = "hip"))]
fn main() -> Result<()> {
    use grok1::backend::gpu;
    use grok1::{Device, checkpoint};

    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: load MODEL [cuda:0]");
        return Ok(());
    };
    let checkpoint = checkpoint::open(path, None)?;
    match arguments.next().as_deref().unwrap_or("cuda:0").parse()? {
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => measure::measure::<gpu::Cuda>(&checkpoint, ordinal),
        #[cfg(feature = "hip")]
        Device::Hip(ordinal) => measure::measure::<gpu::Hip>(&checkpoint, ordinal),
        other => {
            eprintln!("{other} is no GPU that this was built for");
            Ok(())
        }
    }
}

#[cfg(any(feature = "cuda", feature = "hip"))]
mod measure {
    use std::sync::Arc;
    use std::time::Instant;

    use grok1::backend::Backend;
    use grok1::backend::gpu::{Device, Gpu, GpuError, GpuOptions, Runtime};
    use grok1::{Checkpoint, Control, Result};

    /// Bytes of a copy that measures the link, and how often it is done.
    const COPY: usize = 256 << 20;
    const COPIES: usize = 8;

    pub(crate) fn measure<R: Runtime>(checkpoint: &Checkpoint, ordinal: usize) -> Result<()> {
        let runtime = Arc::new(R::load()?);
        let link = link(&Device::open(&runtime, ordinal)?)?;
        let gpu = Gpu::open(&runtime, ordinal, checkpoint.config.clone(), GpuOptions::new())?;
        let first = load(&gpu, checkpoint)?;
        let second = load(&gpu, checkpoint)?;
        let rate = |bytes_per_second: f64| format!("{:.2} GB/s", bytes_per_second / 1e9);
        println!("{}", gpu.name());
        println!("link, from pinned memory: {}", rate(link));
        println!("first load, with compiling: {}", rate(first));
        println!("second load: {}, {:.0} % of the link", rate(second), second / link * 100.0);
        Ok(())
    }

    /// Bytes per second of the fastest of several copies.
    fn link<R: Runtime>(device: &Device<R>) -> Result<f64, GpuError> {
        let (stream, buffer, pinned) =
            (device.stream()?, device.allocate(COPY, "copies")?, device.pinned(COPY)?);
        let mut fastest = f64::INFINITY;
        for _ in 0..COPIES {
            let start = Instant::now();
            stream.write(&buffer, 0, &pinned)?;
            fastest = fastest.min(start.elapsed().as_secs_f64());
        }
        Ok(COPY as f64 / fastest)
    }

    /// Bytes per second of all weights.
    fn load<R: Runtime>(gpu: &Gpu<R>, checkpoint: &Checkpoint) -> Result<f64> {
        let (control, start) = (Control::new(), Instant::now());
        let head = gpu.load_head(&checkpoint.head, &control)?;
        let layers = checkpoint.layers.iter().map(|layer| gpu.load_layer(layer, &control));
        let layers: Vec<_> = layers.collect::<Result<_>>()?;
        gpu.loaded()?;
        let seconds = start.elapsed().as_secs_f64();
        drop((head, layers));
        Ok(checkpoint.bytes() as f64 / seconds)
    }
}

#[cfg(not(any(feature = "cuda", feature = "hip")))]
fn main() -> Result<()> {
    eprintln!("built without the features cuda and hip");
    Ok(())
}
