//! Which weights a model file holds, and in which order. Uses `weights`.

use crate::checkpoint::Checkpoint;
use crate::tensor::{Layout, Matrix, Vector};
use crate::weights::{Head, Layer};

/// What a weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Embedding,
    AttentionNorm,
    Query,
    Key,
    Value,
    AttentionOutput,
    PostAttentionNorm,
    MoeNorm,
    Router,
    Gate,
    Up,
    Down,
    PostMoeNorm,
    FinalNorm,
    Output,
}

impl Role {
    /// Whether it stays f32 whatever the rest becomes: norms and routers are few, and sensitive.
    pub(super) fn stays_f32(self) -> bool {
        self.is_norm() || self == Self::Router
    }

    /// Whether it is a vector.
    pub(super) fn is_norm(self) -> bool {
        use Role::{AttentionNorm, FinalNorm, MoeNorm, PostAttentionNorm, PostMoeNorm};
        matches!(self, AttentionNorm | PostAttentionNorm | MoeNorm | PostMoeNorm | FinalNorm)
    }
}

/// A weight by its role: one matrix, or one for each expert.
pub(super) struct Weight {
    pub(super) role: Role,
    /// The layer it belongs to, if it belongs to one.
    pub(super) layer: Option<usize>,
    pub(super) matrices: Vec<Matrix>,
}

/// The weights of a model, in the order in which they are used.
pub(super) fn weights(checkpoint: &Checkpoint) -> Vec<Weight> {
    let Head { embedding, norm, output } = &checkpoint.head;
    let alone = |role, matrix| Weight { role, layer: None, matrices: vec![matrix] };
    let mut weights = vec![alone(Role::Embedding, embedding.clone())];
    for (number, layer) in checkpoint.layers.iter().enumerate() {
        weights.extend(of_layer(layer).into_iter().map(|(role, matrices)| Weight {
            role,
            layer: Some(number),
            matrices,
        }));
    }
    weights.push(alone(Role::FinalNorm, row(norm)));
    weights.extend(output.clone().map(|output| alone(Role::Output, output)));
    weights
}

fn of_layer(layer: &Layer) -> [(Role, Vec<Matrix>); 12] {
    [
        (Role::AttentionNorm, vec![row(&layer.attention_norm)]),
        (Role::Query, vec![layer.query.clone()]),
        (Role::Key, vec![layer.key.clone()]),
        (Role::Value, vec![layer.value.clone()]),
        (Role::AttentionOutput, vec![layer.output.clone()]),
        (Role::PostAttentionNorm, vec![row(&layer.post_attention_norm)]),
        (Role::MoeNorm, vec![row(&layer.moe_norm)]),
        (Role::Router, vec![layer.router.clone()]),
        (Role::Gate, layer.gate.clone()),
        (Role::Up, layer.up.clone()),
        (Role::Down, layer.down.clone()),
        (Role::PostMoeNorm, vec![row(&layer.post_moe_norm)]),
    ]
}

/// A vector as a matrix of one output.
fn row(Vector { name, dtype, len, data }: &Vector) -> Matrix {
    let (name, data) = (name.clone(), data.clone());
    Matrix { name, dtype: *dtype, layout: Layout::OutIn, inputs: *len, outputs: 1, data, scales: None }
}
