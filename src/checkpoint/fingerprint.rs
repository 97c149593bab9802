//! Which model this is, in 128 bits. Uses `checkpoint`'s views.

use xxhash_rust::xxh3::Xxh3;

use super::{Checkpoint, CheckpointError};
use crate::config::ModelConfig;
use crate::control::Control;
use crate::error::Result;
use crate::tensor::{Blob, Matrix, Scales, Vector};
use crate::weights::Layer;

impl Checkpoint {
    /// A hash of the hyperparameters that logits depend on, of every weight's name, type and shape, and of a few bytes of it and of
    /// its scales: tells models apart without reading them. Not a protection against forgery.
    ///
    /// # Errors
    /// The sampled bytes could not be read; [`Cancelled`](crate::Cancelled).
    pub fn fingerprint(&self, control: &Control) -> Result<u128> {
        let mut hash = Xxh3::new();
        add_config(&mut hash, &self.config);
        add_matrix(&mut hash, &self.head.embedding)?;
        add_vector(&mut hash, &self.head.norm)?;
        if let Some(output) = &self.head.output {
            add_matrix(&mut hash, output)?;
        }
        for layer in &self.layers {
            control.check()?;
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

/// Value by value, so that a field added later leaves the fingerprints of models without it as they are.
fn add_config(hash: &mut Xxh3, config: &ModelConfig) {
    let sizes = [
        config.layers,
        config.width,
        config.heads,
        config.kv_heads,
        config.head_dim,
        config.experts,
        config.selected_experts,
        config.ffn_width,
        config.vocab,
    ];
    for size in sizes {
        hash.update(&(size as u64).to_le_bytes());
    }
    let numbers = [
        config.embedding_scale,
        config.output_scale,
        config.attention_scale,
        config.attention_cap.unwrap_or(0.0),
        config.router_cap.unwrap_or(0.0),
        config.output_cap.unwrap_or(0.0),
        config.norm_epsilon,
        config.rope_base,
        f32::from(u8::from(config.renormalise_gates)),
    ];
    for number in numbers {
        hash.update(&number.to_le_bytes());
    }
}

fn add_vector(hash: &mut Xxh3, vector: &Vector) -> Result<()> {
    hash.update(format!("{} {} {}", vector.name, vector.dtype, vector.len).as_bytes());
    add_sample(hash, &vector.name, &vector.data)
}

fn add_matrix(hash: &mut Xxh3, matrix: &Matrix) -> Result<()> {
    let Matrix { name, dtype, layout, inputs, outputs, data, scales } = matrix;
    hash.update(format!("{name} {dtype} {layout:?} {inputs} {outputs}").as_bytes());
    add_sample(hash, name, data)?;
    match scales {
        None => Ok(()),
        Some(Scales { dtype, layout, inputs, outputs, data }) => {
            hash.update(format!("{dtype} {layout:?} {inputs} {outputs}").as_bytes());
            add_sample(hash, name, data)
        }
    }
}

/// The bytes in the middle.
fn add_sample(hash: &mut Xxh3, name: &str, data: &Blob) -> Result<()> {
    let mut sample = [0; 64];
    let len = data.len().min(sample.len() as u64);
    let sample = &mut sample[..len as usize];
    data.read_at((data.len() - len) / 2, sample)
        .map_err(|source| CheckpointError::Read { path: name.to_owned(), source })?;
    hash.update(sample);
    Ok(())
}
