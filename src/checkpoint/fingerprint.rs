//! Which model this is, in 128 bits. Uses `checkpoint`'s views.

use std::io;

use xxhash_rust::xxh3::Xxh3;

use super::{Checkpoint, Layer};
use crate::tensor::{Blob, Matrix, Vector};

/// Bytes looked at in each place.
const SAMPLE: u64 = 64;

impl Checkpoint {
    /// A hash of the hyperparameters, of every weight's name, type and shape, and of a few bytes of each: tells models apart
    /// without reading them. Not a protection against forgery.
    ///
    /// # Errors
    /// The sampled bytes could not be read.
    pub fn fingerprint(&self) -> io::Result<u128> {
        let mut hash = Xxh3::new();
        hash.update(format!("{:?}", self.config).as_bytes());
        add_matrix(&mut hash, &self.head.embedding)?;
        add_vector(&mut hash, &self.head.norm)?;
        for layer in &self.layers {
            let Layer { attention_norm, post_attention_norm, moe_norm, post_moe_norm, .. } = layer;
            for norm in [attention_norm, post_attention_norm, moe_norm, post_moe_norm] {
                add_vector(&mut hash, norm)?;
            }
            let Layer { query, key, value, output, router, gate, up, down, .. } = layer;
            for matrix in [query, key, value, output, router].into_iter().chain(gate).chain(up).chain(down) {
                add_matrix(&mut hash, matrix)?;
            }
        }
        Ok(hash.digest128())
    }
}

fn add_vector(hash: &mut Xxh3, vector: &Vector) -> io::Result<()> {
    hash.update(format!("{} {} {}", vector.name, vector.dtype, vector.len).as_bytes());
    add_sample(hash, &vector.data)
}

fn add_matrix(hash: &mut Xxh3, matrix: &Matrix) -> io::Result<()> {
    let Matrix { name, dtype, layout, inputs, outputs, data, scales } = matrix;
    hash.update(format!("{name} {dtype} {layout:?} {inputs} {outputs}").as_bytes());
    add_sample(hash, data)?;
    match scales {
        Some(scales) => add_sample(hash, &scales.data),
        None => Ok(()),
    }
}

/// The first bytes and those in the middle.
fn add_sample(hash: &mut Xxh3, data: &Blob) -> io::Result<()> {
    let len = data.len().min(SAMPLE);
    let mut sample = [0; SAMPLE as usize];
    let sample = &mut sample[..len as usize];
    for offset in [0, (data.len() - len) / 2] {
        data.read_at(offset, sample)?;
        hash.update(sample);
    }
    Ok(())
}
