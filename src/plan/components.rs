//! How the bytes of a model are shared out among its parts and their formats. Uses `checkpoint`.

use std::fmt;

use crate::checkpoint::Checkpoint;
use crate::tensor::{DType, Matrix, Vector};
use crate::weights::Layer;

/// A part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Component {
    /// The embedding; the output projection too, if that has no matrix of its own.
    Embedding,
    /// Query, key, value and output projections.
    Attention,
    /// What chooses the experts.
    Router,
    /// The experts.
    Experts,
    /// All norms.
    Norms,
    /// The output projection, if it is a matrix of its own.
    Output,
}

impl Component {
    /// The name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::Router => "router",
            Self::Experts => "experts",
            Self::Norms => "norms",
            Self::Output => "output",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The weights of a component that are stored in one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Share {
    /// The component.
    pub component: Component,
    /// The format.
    pub dtype: DType,
    /// Bytes of elements and of their scales.
    pub bytes: u64,
}

/// The shares of all weights, by component, those of one component by size.
pub(super) fn shares(checkpoint: &Checkpoint) -> Vec<Share> {
    let mut shares = Shares::default();
    let head = &checkpoint.head;
    shares.matrix(Component::Embedding, &head.embedding);
    shares.vector(&head.norm);
    if let Some(output) = &head.output {
        shares.matrix(Component::Output, output);
    }
    for layer in &checkpoint.layers {
        let Layer { query, key, value, output, router, gate, up, down, .. } = layer;
        for matrix in [query, key, value, output] {
            shares.matrix(Component::Attention, matrix);
        }
        shares.matrix(Component::Router, router);
        for matrix in [gate, up, down].into_iter().flatten() {
            shares.matrix(Component::Experts, matrix);
        }
        let Layer { attention_norm, post_attention_norm, moe_norm, post_moe_norm, .. } = layer;
        for norm in [attention_norm, post_attention_norm, moe_norm, post_moe_norm] {
            shares.vector(norm);
        }
    }
    shares.0.sort_by_key(|share| (share.component, std::cmp::Reverse(share.bytes)));
    shares.0
}

#[derive(Default)]
struct Shares(Vec<Share>);

impl Shares {
    fn matrix(&mut self, component: Component, matrix: &Matrix) {
        self.add(component, matrix.dtype, matrix.bytes());
    }

    fn vector(&mut self, vector: &Vector) {
        self.add(Component::Norms, vector.dtype, vector.data.len());
    }

    fn add(&mut self, component: Component, dtype: DType, bytes: u64) {
        match self.0.iter_mut().find(|share| share.component == component && share.dtype == dtype) {
            Some(share) => share.bytes += bytes,
            None => self.0.push(Share { component, dtype, bytes }),
        }
    }
}
