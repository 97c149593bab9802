//! How fast the memory is that weights are read from: the limit of decode.

use std::hint::black_box;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use grok1::{Device, Pool, Result, Threads};
use memmap2::MmapMut;

use crate::error::CommandError;
use crate::machine;

/// Bytes of a part, which one thread reads at a time.
const PART: usize = 32 << 20;
/// Streams that a thread reads side by side within a part: one alone does not get all that the memory gives.
const STREAMS: usize = 4;
/// Bytes read in all, and per thread, before any is read again: more than caches hold.
const TOTAL: usize = 1 << 30;
const PER_THREAD: usize = 64 << 20;
/// Times that all is read for one measurement.
const PASSES: usize = 4;

/// Bytes per second that a device's memory gives; `None` if that cannot be measured.
pub(crate) fn of(device: Device) -> Result<Option<f64>> {
    match device {
        Device::Cpu => measure().map(Some),
        Device::Node(node) => {
            let pool = Threads::of_node(node, 0, false).map_err(CommandError::Threads)?;
            Ok(Some(Memory::new(Arc::new(pool))?.bandwidth()))
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => Ok(copies::<grok1::backend::gpu::Cuda>(ordinal)),
        #[cfg(feature = "hip")]
        Device::Hip(ordinal) => Ok(copies::<grok1::backend::gpu::Hip>(ordinal)),
        _ => Ok(None),
    }
}

/// Bytes per second that all cores together read.
pub(crate) fn measure() -> Result<f64> {
    let pool = Threads::new(0).map_err(CommandError::Threads)?;
    Ok(Memory::new(Arc::new(pool))?.bandwidth())
}

/// Of a GPU, which may have no room left for it.
#[cfg(any(feature = "cuda", feature = "hip"))]
fn copies<R: grok1::backend::gpu::Runtime>(ordinal: usize) -> Option<f64> {
    use grok1::backend::gpu::{Device, copy_bandwidth};

    let device = Device::open(&std::sync::Arc::new(R::load().ok()?), ordinal).ok()?;
    copy_bandwidth(&device).ok()
}

/// Memory of the processor's, larger than its caches.
pub(crate) struct Memory {
    pool: Arc<Threads>,
    parts: Vec<Mutex<MmapMut>>,
}

impl Memory {
    /// Makes it, for threads that read.
    pub(crate) fn new(pool: Arc<Threads>) -> Result<Self> {
        let affordable = machine::memory().map_or(TOTAL, |bytes| usize::try_from(bytes / 8).unwrap_or(TOTAL));
        let bytes = TOTAL.max(PER_THREAD * pool.width()).min(affordable);
        let parts = (0..bytes.div_ceil(PART)).map(|_| part().map(Mutex::new)).collect::<io::Result<_>>();
        let memory = Self { pool, parts: parts.map_err(CommandError::Memory)? };
        // Not zeros: pages that were never written are all one page, and in the cache.
        memory.each(|part| part.fill(1));
        Ok(memory)
    }

    /// Bytes of it.
    pub(crate) fn bytes(&self) -> usize {
        self.parts.len() * PART
    }

    /// Bytes per second that its threads together read, in the fastest of some passes.
    pub(crate) fn bandwidth(&self) -> f64 {
        let times = (0..PASSES).map(|_| {
            let start = Instant::now();
            self.each(|part| {
                black_box(read(part));
            });
            start.elapsed().as_secs_f64()
        });
        self.bytes() as f64 / times.fold(f64::INFINITY, f64::min)
    }

    fn each(&self, work: impl Fn(&mut [u8]) + Sync) {
        self.pool.run(self.parts.len(), &|part| {
            work(&mut self.parts[part].lock().unwrap_or_else(PoisonError::into_inner));
        });
    }
}

/// Memory in huge pages, where there are any: weights have them too.
fn part() -> io::Result<MmapMut> {
    let part = MmapMut::map_anon(PART)?;
    #[cfg(target_os = "linux")]
    // A hint; small pages do.
    let _ = part.advise(memmap2::Advice::HugePage);
    Ok(part)
}

/// Looks at every byte.
fn read(part: &[u8]) -> u64 {
    const WORD: usize = size_of::<u64>();
    let (lines, _) = part.as_chunks::<64>();
    let streams: [&[[u8; 64]]; STREAMS] = {
        let mut streams = lines.chunks(lines.len() / STREAMS);
        std::array::from_fn(|_| streams.next().unwrap_or_default())
    };
    let mut sums = [0; 64 / WORD];
    for index in 0..lines.len() / STREAMS {
        for line in streams.iter().filter_map(|stream| stream.get(index)) {
            for (sum, word) in sums.iter_mut().zip(line.as_chunks::<WORD>().0) {
                *sum ^= u64::from_ne_bytes(*word);
            }
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}
