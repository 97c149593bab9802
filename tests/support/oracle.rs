//! The reference results: where they are, how they are read, how close one must come.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The folder of reference results; `None`, with a word on why, where there is none.
pub(crate) fn oracle() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var_os("GROK1_ORACLE").map_or_else(|| root.join("../shared/oracle"), PathBuf::from);
    if path.is_dir() {
        Some(path)
    } else {
        skipped(&format!("no reference results at {} (GROK1_ORACLE)", path.display()));
        None
    }
}

/// Says that the running test cannot run. Unlike what `eprintln` writes, it is seen of tests that pass.
pub(crate) fn skipped(why: &str) {
    let test = std::thread::current();
    let mut stderr = std::io::stderr();
    writeln!(stderr, "skipped: {}: {why}", test.name().unwrap_or_default()).unwrap();
}

/// A JSON file.
pub(crate) fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A safetensors file, as far as the oracle uses the format.
pub(crate) struct Tensors {
    header: HashMap<String, Value>,
    bytes: Vec<u8>,
}

impl Tensors {
    pub(crate) fn open(path: impl AsRef<Path>) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let (header, bytes) = bytes[8..].split_at(header);
        Self { header: serde_json::from_slice(header).unwrap(), bytes: bytes.to_vec() }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.header.contains_key(name)
    }

    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        let shape = self.header[name]["shape"].as_array().unwrap();
        shape.iter().map(|axis| axis.as_u64().unwrap() as usize).collect()
    }

    fn words(&self, name: &str) -> impl Iterator<Item = [u8; 4]> {
        let offsets = &self.header[name]["data_offsets"];
        let [start, end] = [0, 1].map(|i| offsets[i].as_u64().unwrap() as usize);
        self.bytes[start..end].chunks_exact(4).map(|word| word.try_into().unwrap())
    }

    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        assert_eq!(self.header[name]["dtype"], "F32", "{name}");
        self.words(name).map(f32::from_le_bytes).collect()
    }

    pub(crate) fn u32(&self, name: &str) -> Vec<u32> {
        assert_eq!(self.header[name]["dtype"], "I32", "{name}");
        self.words(name).map(|word| i32::from_le_bytes(word) as u32).collect()
    }
}

/// How far some logits are from the truth's.
#[derive(Debug, Default)]
pub(crate) struct Distance {
    positions: usize,
    max: f64,
    error: f64,
    truth: f64,
    kl: f64,
    agree: usize,
}

impl Distance {
    /// Adds one position, `[vocab]`.
    pub(crate) fn add(&mut self, found: &[f32], truth: &[f32]) {
        assert_eq!(found.len(), truth.len());
        for (&found, &truth) in found.iter().zip(truth) {
            let error = f64::from(found) - f64::from(truth);
            assert!(error.is_finite());
            self.max = self.max.max(error.abs());
            self.error += error * error;
            self.truth += f64::from(truth) * f64::from(truth);
        }
        let (p, q) = (log_softmax(truth), log_softmax(found));
        self.kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        self.agree += usize::from(argmax(found) == argmax(truth));
        self.positions += 1;
    }

    pub(crate) fn max_abs(&self) -> f64 {
        self.max
    }

    pub(crate) fn relative_rms(&self) -> f64 {
        (self.error / self.truth).sqrt()
    }

    pub(crate) fn mean_kl(&self) -> f64 {
        self.kl / self.positions as f64
    }

    pub(crate) fn top1(&self) -> f64 {
        self.agree as f64 / self.positions as f64
    }
}

pub(crate) fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a))).unwrap()
}

pub(crate) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = f64::from(logits[argmax(logits)]);
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    logits.iter().map(|&x| f64::from(x) - largest - sum.ln()).collect()
}
