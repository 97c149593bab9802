//! Tokens per second, and how close they come to what the memory allows.

use std::fmt;
use std::time::Duration;

use grok1::{Model, Result};

use crate::bandwidth;

/// How fast a model ran, beside the machine's limit.
pub(crate) struct Speed {
    /// Tokens of the prompt per second.
    pub(crate) prefill: f64,
    /// Generated tokens per second.
    pub(crate) decode: f64,
    /// Bytes of weights that one generated token reads.
    pub(crate) bytes_per_token: u64,
    /// Bytes per second that the memory of what computed gives: read by a processor, read and written in copies by a GPU.
    pub(crate) bandwidth: Option<f64>,
}

impl Speed {
    /// Measures the bandwidth and puts it beside what was measured of `model`.
    pub(crate) fn measured(model: &Model, prefill: f64, decode: f64) -> Result<Self> {
        let bytes_per_token = model.checkpoint().bytes_per_token();
        // "cpu (…)", "cuda:0 (…)"
        let device = model.device().split(' ').next().and_then(|name| name.parse().ok());
        let bandwidth = device.map(bandwidth::of).transpose()?.flatten();
        Ok(Self { prefill, decode, bytes_per_token, bandwidth })
    }

    /// The share of the bandwidth that decode used. Above 1 for a model that fits into caches.
    pub(crate) fn share(&self) -> Option<f64> {
        self.bandwidth.map(|bandwidth| self.decode * self.bytes_per_token as f64 / bandwidth)
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "prefill: {:.2} tok/s", self.prefill)?;
        writeln!(f, "decode: {:.2} tok/s", self.decode)?;
        writeln!(f, "read: {} bytes per token", self.bytes_per_token)?;
        if let (Some(bandwidth), Some(share)) = (self.bandwidth, self.share()) {
            writeln!(f, "bandwidth: {:.1} % of {:.1} GB/s measured", 100.0 * share, bandwidth / 1e9)?;
        }
        Ok(())
    }
}

/// Tokens per second; 0 of no tokens.
pub(crate) fn rate(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}
