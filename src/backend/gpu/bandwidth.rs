//! How fast a device's memory is, for measurements. Uses `device`.

use super::{Device, GpuError, Runtime};

/// Copies, of which the fastest counts.
const COPIES: usize = 8;

/// Bytes per second that copying within a device's memory reads and writes.
///
/// # Errors
/// [`GpuError::OutOfMemory`]; the driver's.
pub fn copy_bandwidth<R: Runtime>(device: &Device<R>) -> Result<f64, GpuError> {
    let memory = device.memory()?;
    // Far more than caches hold, and less than what others may have left.
    let bytes = (memory.total / 64).min(memory.free / 4);
    let from = device.allocate(bytes, "a copy that is timed")?;
    let mut to = device.allocate(bytes, "a copy that is timed")?;
    let stream = device.stream()?;
    stream.fill(&from, 0, bytes, 0x5a)?;
    let mut fastest = f32::INFINITY;
    for _ in 0..COPIES {
        let [start, end] = [device.timed_event()?, device.timed_event()?];
        stream.record(&start)?;
        stream.copy(&mut to, 0, &from, 0, bytes)?;
        stream.record(&end)?;
        fastest = fastest.min(end.milliseconds_since(&start)?);
    }
    Ok(2.0 * bytes as f64 / (f64::from(fastest) / 1e3))
}
