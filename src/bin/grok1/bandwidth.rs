//! How fast the memory is that weights are read from: the limit of decode.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use grok1::{Device, Pool, Result, Threads};

use crate::error::CommandError;
use crate::machine;

/// How long is read.
const TIME: Duration = Duration::from_millis(200);
/// Bytes of a part, which one thread reads at a time.
const PART: usize = 8 << 20;
/// Bytes read in all, and per CPU, before any is read again: more than caches hold.
const TOTAL: usize = 512 << 20;
const PER_CPU: usize = 64 << 20;

/// Bytes per second that a device's memory gives; `None` if that cannot be measured.
pub(crate) fn of(device: Device) -> Result<Option<f64>> {
    match device {
        Device::Cpu => measure().map(Some),
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => Ok(copies::<grok1::backend::gpu::Cuda>(ordinal)),
        #[cfg(feature = "hip")]
        Device::Hip(ordinal) => Ok(copies::<grok1::backend::gpu::Hip>(ordinal)),
        _ => Ok(None),
    }
}

/// Of a GPU, which may have no room left for it.
#[cfg(any(feature = "cuda", feature = "hip"))]
fn copies<R: grok1::backend::gpu::Runtime>(ordinal: usize) -> Option<f64> {
    use grok1::backend::gpu::{Device, copy_bandwidth};

    let device = Device::open(&std::sync::Arc::new(R::load().ok()?), ordinal).ok()?;
    copy_bandwidth(&device).ok()
}

/// Bytes per second that all CPUs together read, of the fastest of several passes.
pub(crate) fn measure() -> Result<f64> {
    let pool = Threads::new(0).map_err(CommandError::Threads)?;
    let affordable = machine::memory().map_or(TOTAL, |bytes| usize::try_from(bytes / 4).unwrap_or(TOTAL));
    let bytes = TOTAL.max(PER_CPU * pool.width()).min(affordable);
    let parts: Vec<OnceLock<Vec<u64>>> = (0..bytes.div_ceil(PART)).map(|_| OnceLock::new()).collect();
    // The first pass also makes the buffer. Not of zeros: pages that were never written are all one page, and in the cache.
    let pass = || {
        pool.run(parts.len(), &|part| {
            let words = parts[part].get_or_init(|| vec![1; PART / size_of::<u64>()]);
            black_box(words.iter().sum::<u64>());
        });
    };
    pass();
    let start = Instant::now();
    let mut fastest = Duration::MAX;
    while start.elapsed() < TIME {
        let start = Instant::now();
        pass();
        fastest = fastest.min(start.elapsed());
    }
    Ok((parts.len() * PART) as f64 / fastest.as_secs_f64())
}
